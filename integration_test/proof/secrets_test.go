package proof_test

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode"

	"github.com/cenkalti/backoff/v4"
	amqp "github.com/rabbitmq/amqp091-go"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/integration_test/rabbit"
	"github.com/harebus/harebus/internal/access"
	"github.com/harebus/harebus/internal/redrive"
)

// The canaries: whoever finds one where it does not belong has found a leak.
const (
	inBody     = "c4n4ryb0dy"
	inNumber   = "470815001147"
	inHeader   = "c4n4ryh34d3r"
	inPassword = "c4n4ryp4ss" // with characters beside it that an address must encode
	inOwnError = "c4n4ry0wn3rr0r"
)

// password is the user's: it is hard on parsers of addresses.
const password = inPassword + "/%@:#? &x"

// A witness keeps all that the library says: its log, twice, the errors of all calls, what an observer is told, and what
// Config and Setup show of themselves.
type witness struct {
	mu    sync.Mutex // guards what follows
	json  bytes.Buffer
	text  bytes.Buffer
	told  []string // errors and the like, with a word about where each is from
	calls map[string]bool
}

func newWitness() *witness { return &witness{calls: map[string]bool{}} }

// logger logs everything, once for machines and once for people.
func (w *witness) logger() *zap.Logger {
	sink := func(to *bytes.Buffer) zapcore.WriteSyncer { return zapcore.AddSync(&lockedWriter{&w.mu, to}) }
	return zap.New(zapcore.NewTee(
		zapcore.NewCore(zapcore.NewJSONEncoder(zap.NewProductionEncoderConfig()), sink(&w.json), zap.DebugLevel),
		zapcore.NewCore(zapcore.NewConsoleEncoder(zap.NewDevelopmentEncoderConfig()), sink(&w.text), zap.DebugLevel),
	))
}

type lockedWriter struct {
	mu *sync.Mutex
	to *bytes.Buffer
}

func (l *lockedWriter) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.to.Write(p)
}

// hear keeps the error of a call.
func (w *witness) hear(from string, err error) {
	if err == nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.calls[from] = true
	for _, verb := range []string{"%v", "%+v", "%#v", "%q"} {
		w.told = append(w.told, from+" "+verb+": "+fmt.Sprintf(verb, err))
	}
}

// ObserveStart keeps the reason why a message is retried or parked.
func (w *witness) ObserveStart(ctx context.Context, e harebus.Observation) context.Context {
	w.hear("trace event of "+e.Operation.String(), e.Err)
	return ctx
}

// ObserveEnd keeps the error of an operation.
func (w *witness) ObserveEnd(_ context.Context, e harebus.Observation, err error) {
	w.hear("trace of "+e.Operation.String(), err)
}

// leaks lists where a canary was seen, in any of its disguises.
func (w *witness) leaks(canaries ...string) []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	var found []string
	logged := strings.Split(w.json.String()+w.text.String(), "\n")
	for _, line := range slices.Concat(logged, w.told) {
		for _, canary := range canaries {
			if slices.ContainsFunc(disguises(canary), func(d string) bool { return strings.Contains(line, d) }) {
				found = append(found, canary+" in: "+line)
			}
		}
	}
	return found
}

// disguises are the ways in which bytes get into texts.
func disguises(canary string) []string {
	decimal := fmt.Sprintf("%d", []byte(canary))
	encoded := hex.EncodeToString([]byte(canary))
	return []string{
		canary, encoded, strings.ToUpper(encoded), decimal[1 : len(decimal)-1], fmt.Sprintf("%#v", []byte(canary))[7:],
	}
}

// secretive is a message with canaries in it.
type secretive struct {
	Text   string
	Number json.Number
}

func (secretive) MessageType() string { return "Secretive" }

var secretBody = secretive{inBody, inNumber}

// A secrets is a scenario in which everything goes wrong, with canaries in all that passes.
type secrets struct {
	*testing.T
	node *rabbit.Node
	w    *witness
}

// Nothing of a message's body or headers, and no password, is in a log, in an error of any call, in what an observer gets
// or in what Config and Setup print. Only the error queue holds bodies, and a handler's own words are logged as they
// are.
func TestSecrets(t *testing.T) {
	s := &secrets{T: t, node: private(t, rabbit.Options{}), w: newWitness()}
	s.ctl("add_user", "app", password)
	s.ctl("set_permissions", "app", ".*", ".*", ".*")
	t.Run("service", func(t *testing.T) { s.with(t).handle() })
	t.Run("sending", func(t *testing.T) { s.with(t).sendBadly() })
	t.Run("connecting", func(t *testing.T) { s.with(t).connectBadly() })
	t.Run("printing", func(t *testing.T) { s.with(t).show() })
	t.Run("log injection", func(t *testing.T) { (&secrets{t, s.node, newWitness()}).inject() })

	for _, leak := range s.w.leaks(inBody, inNumber, inHeader, inPassword, "%40%3A") {
		t.Errorf("leaked: %.600s", leak)
	}
	if len(s.w.leaks(inOwnError)) == 0 {
		t.Error("the error of a handler is not in the log: is anything?")
	}
	for _, from := range []string{
		"trace of send", "trace of commit", "trace of handle", "trace of connect",
		"trace event of park", "trace event of retry",
	} {
		if !s.w.calls[from] {
			t.Errorf("nothing was heard from %s: the scenario does not reach it", from)
		}
	}
	t.Logf("%d bytes of log, %d texts of errors, none with a canary", s.w.json.Len()+s.w.text.Len(), len(s.w.told))
}

// The search finds what it is meant to find, wherever it is.
func TestSecretsAreFound(t *testing.T) {
	t.Parallel()
	for name, leak := range map[string]func(w *witness){
		"log message": func(w *witness) { w.logger().Debug("got " + inBody) },
		"log field":   func(w *witness) { w.logger().Info("got", zap.String("body", `{"Text":"`+inBody+`"}`)) },
		"log bytes":   func(w *witness) { w.logger().Info("got", zap.ByteString("body", []byte(inBody))) },
		"error":       func(w *witness) { w.hear("call", fmt.Errorf("outer: %w", errors.New(inBody))) },
		"bytes":       func(w *witness) { w.hear("call", fmt.Errorf("%v", []byte(inBody))) },
		"hex":         func(w *witness) { w.hear("call", fmt.Errorf("%x", inBody)) },
		"trace":       func(w *witness) { w.ObserveEnd(t.Context(), harebus.Observation{}, errors.New(inBody)) },
		"event":       func(w *witness) { w.ObserveStart(t.Context(), harebus.Observation{Err: errors.New(inBody)}) },
	} {
		w := newWitness()
		leak(w)
		if len(w.leaks(inBody)) == 0 || len(w.leaks(inHeader)) != 0 {
			t.Errorf("%s: found %q", name, w.leaks(inBody))
		}
	}
}

func (s *secrets) with(t *testing.T) *secrets { return &secrets{t, s.node, s.w} }

func (s *secrets) try(err error) {
	s.Helper()
	if err != nil {
		s.Fatal(err)
	}
}

func (s *secrets) ctl(args ...string) {
	s.Helper()
	_, err := s.node.Ctl(s.Context(), args...)
	s.try(err)
}

// address is the node's for a user and a virtual host.
func (s *secrets) address(password, vhost string) string {
	u, err := url.Parse(s.node.URL())
	s.try(err)
	u.User, u.Path = url.UserPassword("app", password), vhost
	return u.String()
}

func (s *secrets) config(queue string) harebus.Config {
	return harebus.Config{
		URL: s.address(password, "/"), Queue: queue, Logger: s.w.logger(), Observers: []harebus.Observer{s.w},
		Payload: harebus.PayloadConfig{Codecs: []harebus.Codec{harebus.JSON{Strict: true}}},
		Retry: harebus.RetryConfig{MaxRetries: 1, BackOff: func() backoff.BackOff {
			return backoff.NewConstantBackOff(10 * time.Millisecond)
		}},
	}
}

// setup makes one and sees to its end. A queue gets handlers.
func (s *secrets) setup(cfg harebus.Config) *harebus.Setup {
	s.Helper()
	setup, err := harebus.New(cfg)
	s.try(err)
	s.Cleanup(func() { s.w.hear("close", setup.Close()) })
	if cfg.Queue != "" {
		harebus.Handle(setup, func(ctx context.Context, bus *harebus.Bus, m secretive) error {
			switch harebus.Incoming(ctx).Headers["want"] {
			case "panic":
				panic(inOwnError)
			case "nobody":
				return bus.Send(ctx, "nobody", m, harebus.WithHeader("secret", inHeader))
			case "reply":
				return bus.Reply(ctx, m)
			}
			return errors.New(inOwnError)
		})
	}
	return setup
}

// handle has a service fail in every way it can, with canaries in the bodies and headers it fails on.
func (s *secrets) handle() {
	setup := s.setup(s.config("secrets"))
	s.try(setup.Start(s.Context()))
	p := newPlainClient(s.T, s.node.URL())
	const good = `{"Text":"` + inBody + `","Number":` + inNumber + `}`
	bad := []amqp.Publishing{
		{Body: []byte(inBody)},
		{Body: []byte(`{"Text":` + inNumber + `}`)},
		{Body: []byte(`{"` + inBody + `":1}`)},
		{Body: []byte(`{"Number":` + inNumber + `e9999}`)},
		{Body: []byte(good + inBody)},
		{Body: []byte(good), ContentType: "text/" + inHeader},
		{Body: []byte(good), ContentEncoding: inHeader},
		{Body: []byte(good), Headers: amqp.Table{"PikaBus.ErrorRetries": inHeader}},
		{Body: []byte(good), Headers: amqp.Table{"PikaBus.DeferredTime": inHeader}},
		{Body: []byte(good), Headers: amqp.Table{"PikaBus.ContentType": amqp.Table{inHeader: inHeader}}},
		{Body: []byte(good), Headers: amqp.Table{"want": "panic"}},
		{Body: []byte(good), Headers: amqp.Table{"want": "nobody"}},
		{Body: []byte(good), Headers: amqp.Table{"want": "reply", "secret": strings.Repeat(inHeader, 10_000)}},
		{Body: []byte(good)},
	}
	for _, m := range bad {
		m.Type = "Secretive"
		if m.Headers == nil {
			m.Headers = amqp.Table{}
		}
		m.Headers["x-secret"] = inHeader
		p.send("", "secrets", m)
	}
	p.until(func() error {
		if n := setup.Stats().Parked; int(n) != len(bad) {
			return fmt.Errorf("%d of %d parked", n, len(bad))
		}
		return nil
	})
	bodies, own := 0, 0
	for range bad {
		d, ok, err := p.ch.Get("error", true)
		if s.try(err); !ok {
			s.Fatal("fewer in the error queue than were parked")
		}
		if bytes.Contains(d.Body, []byte(inBody)) || bytes.Contains(d.Body, []byte(inNumber)) {
			bodies++
		}
		if details, _ := d.Headers["PikaBus.ErrorDetails"].(string); strings.Contains(details, inOwnError) {
			own++
		}
	}
	if bodies != len(bad) || own != 3 {
		s.Errorf("%d of %d bodies in the error queue, %d with the handler's own words; want all and 3", bodies, len(bad), own)
	}
}

// sendBadly has every call fail in every way.
func (s *secrets) sendBadly() {
	setup := s.setup(s.config(""))
	bus, ctx := setup.Bus(), s.Context()
	secret := harebus.WithHeader("secret", inHeader)
	heard := func(name string, err error, want error) {
		s.Helper()
		if !errors.Is(err, want) {
			s.Errorf("%s: %v, want %v", name, err, want)
		}
		s.w.hear(name, err)
	}
	heard("unroutable", bus.Send(ctx, "nobody", secretBody, secret), harebus.ErrUnroutable)
	heard("unroutable event", bus.Publish(ctx, "nobody", secretBody, secret), harebus.ErrUnroutable)
	heard("unroutable later", bus.Defer(ctx, "nobody", time.Second, secretBody, secret), harebus.ErrUnroutable)
	heard("commit", bus.Transaction(ctx, func(ctx context.Context, tx *harebus.Tx) error {
		return errors.Join(tx.Send(ctx, "nobody", secretBody, secret), tx.Publish(ctx, "nobody", secretBody))
	}), harebus.ErrUnroutable)
	heard("no encoding", bus.Send(ctx, "x", map[string]any{inBody: func() {}}, secret), harebus.ErrRefused)
	heard("large body", bus.Send(ctx, "x", strings.Repeat(inBody, 2<<20), secret), harebus.ErrRefused)
	for name, value := range map[string]any{
		"large": strings.Repeat(inHeader, 20<<10), "odd": struct{ S string }{inHeader}, "CC": []string{inHeader},
	} {
		heard(name+" header", bus.Send(ctx, "x", secretBody, harebus.WithHeader(name, value)), harebus.ErrRefused)
	}
	heard("reply", bus.Reply(ctx, secretBody), harebus.ErrReplyOutsideHandler)
	heard("subscribe", setup.Subscribe(ctx, "a"), harebus.ErrNoQueue)

	p := newPlainClient(s.T, s.node.URL())
	full := amqp.Table{"x-max-length": 0, "x-overflow": "reject-publish"}
	_, err := p.ch.QueueDeclare("full", true, false, false, false, full)
	s.try(err)
	heard("nacked", bus.Send(ctx, "full", secretBody, secret), harebus.ErrNacked)
	p.declare("good")
	s.try(bus.Send(ctx, "good", secretBody)) // so that there is a channel
	s.try(s.node.Pause())
	short, cancel := context.WithTimeout(ctx, time.Second)
	err = bus.Send(short, "good", secretBody, secret)
	cancel()
	s.try(s.node.Resume())
	heard("unknown", err, harebus.ErrUnknownOutcome)
	s.try(setup.Close())
	heard("stopped", bus.Send(ctx, "full", secretBody, secret), harebus.ErrStopped)
}

// connectBadly has every call fail that connects, with the password in every place.
func (s *secrets) connectBadly() {
	host := strings.TrimSuffix(strings.TrimPrefix(s.node.URL(), "amqp://guest:guest@"), "/")
	for name, address := range map[string]string{
		"bad escape":   "amqp://app:" + inPassword + "%zz@" + host + "/",
		"bad port":     "amqp://app:" + inPassword + "@localhost:" + inPassword + "/",
		"not encoded":  "amqp://app:" + password + "@" + host + "/",
		"slash":        "amqp://app:" + inPassword + "/x@" + host + "/",
		"hash":         "amqp://app:" + inPassword + "#x@" + host + "/",
		"bad scheme":   "http://app:" + inPassword + "@" + host + "/",
		"parameters":   "amqp://app:" + inPassword + "@" + host + "/?password=" + inPassword,
		"no scheme":    "app:" + inPassword + "@" + host,
		"space":        "amqp://app: " + inPassword + "@" + host + "/",
		"control":      "amqp://app:" + inPassword + "\n@" + host + "/",
		"long vhost":   "amqp://app:" + inPassword + "@" + host + "/" + strings.Repeat("x", 300),
		"bad vhost":    "amqp://app:" + inPassword + "@" + host + "/a/b",
		"only a colon": "amqp://:" + inPassword,
	} {
		_, err := harebus.New(harebus.Config{URL: address})
		s.w.hear("new: "+name, err)
		o := redrive.Options{Broker: access.Broker{URLs: []string{address}}, Queue: "error", Timeout: time.Second}
		_, err = redrive.Run(s.Context(), o, func(redrive.Item) {})
		if err == nil {
			s.Errorf("%s: %q was taken for an address", name, address)
		}
		s.w.hear("redrive: "+name, err)
	}
	var attempts sync.WaitGroup
	separate := func(cfg *harebus.Config) {
		cfg.URL, cfg.Connect.Username, cfg.Connect.Password = s.node.URL(), "app", "no "+password
	}
	for name, change := range map[string]func(*harebus.Config){
		"bad password":      func(cfg *harebus.Config) { cfg.URL = s.address("no "+password, "/") },
		"separate password": separate,
		"asked for": func(cfg *harebus.Config) {
			cfg.Connect.Credentials = func(context.Context) (string, string, error) { return "app", "no " + password, nil }
		},
		"no vhost":    func(cfg *harebus.Config) { cfg.URL = s.address(password, "/nowhere") },
		"no listener": func(cfg *harebus.Config) { cfg.URL = "amqp://app:" + inPassword + "@127.0.0.1:1/" },
		"no host":     func(cfg *harebus.Config) { cfg.URL = "amqp://app:" + inPassword + "@nowhere.invalid/" },
		"no TLS":      func(cfg *harebus.Config) { cfg.URL = strings.Replace(cfg.URL, "amqp:", "amqps:", 1) },
	} {
		attempts.Go(func() { s.failToConnect(name, change) })
	}
	attempts.Wait()
}

// failToConnect has every call fail that connects.
func (s *secrets) failToConnect(name string, change func(*harebus.Config)) {
	cfg := s.config("secrets")
	change(&cfg)
	ctx, cancel := context.WithTimeout(s.Context(), 3*time.Second)
	defer cancel()
	setup, err := harebus.New(cfg)
	if err != nil {
		s.Errorf("%s: %v", name, err)
		return
	}
	setup.HandleMessage(harebus.AnyType, func(context.Context, *harebus.Bus, *harebus.Message) error { return nil })
	for call, err := range map[string]error{
		"send":  setup.Bus().Send(ctx, "x", secretBody, harebus.WithHeader("secret", inHeader)),
		"start": setup.Start(ctx), "init": setup.Init(ctx), "close": setup.Close(),
	} {
		if err == nil && call != "close" {
			s.Errorf("%s: %s succeeded", name, call)
		}
		s.w.hear(call+": "+name, err)
	}
}

// show prints what holds a password, in every way in which Go prints a value.
func (s *secrets) show() {
	cfg := s.config("secrets")
	cfg.Connect.URLs, cfg.Connect.Username, cfg.Connect.Password = []string{cfg.URL, "amqp://" + inPassword + "%zz"}, "app", password
	shown := []any{cfg, &cfg, []harebus.Config{cfg}, struct{ C harebus.Config }{cfg}, map[string]any{"c": &cfg}}
	cfg.Connect.URLs = cfg.Connect.URLs[:1]
	setup := s.setup(cfg)
	bus := setup.Bus()
	shown = append(shown, setup, bus, *bus, bus.Begin(), struct{ S *harebus.Setup }{setup})
	var texts []string
	for _, value := range shown {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%d", "%x"} {
			texts = append(texts, fmt.Sprintf(verb, value))
		}
		encoded, err := json.Marshal(value)
		texts = append(texts, string(encoded), fmt.Sprint(err))
		s.w.logger().Info("print", zap.Any("value", value))
	}
	s.w.mu.Lock()
	s.w.told = append(s.w.told, texts...)
	s.w.mu.Unlock()
	if !strings.Contains(texts[0], "secrets") {
		s.Errorf("a config prints as %q: where is its queue?", texts[0])
	}
}

// inject proves that what strangers write into messages cannot forge a line of the log, nor command a terminal that
// shows it.
func (s *secrets) inject() {
	const evil = "\n" + `{"level":"error","msg":"FORGED"}` + "\n\x1b[31m\u202eesrever\u2028\u009b31m\x00"
	cfg := s.config("injection")
	cfg.URL, cfg.Subscriptions = s.node.URL(), []string{"#"}
	cfg.ErrorQueue.Name = "injection.error"
	setup := s.setup(cfg)
	handle := func(ctx context.Context, bus *harebus.Bus, m *harebus.Message) error {
		if m.ReplyTo == "" {
			return errors.New("no use: " + m.Type + m.RoutingKey)
		}
		return bus.Reply(ctx, secretBody)
	}
	setup.HandleMessage("fail"+evil, handle)
	setup.HandleMessage("reply", handle)
	s.try(setup.Start(s.Context()))
	p := newPlainClient(s.T, s.node.URL())
	messages := []amqp.Publishing{
		{Type: "unknown" + evil},
		{Type: "fail" + evil},
		{Type: "reply", ReplyTo: "nobody" + evil},
		{Type: "reply", ReplyTo: "nobody\u202e\u009b"[:len("nobody\u202e")]},
		{Type: "unknown", Headers: amqp.Table{"PikaBus.MessageId": evil, evil: evil, "PikaBus.CorrelationId": evil}},
		{Type: "unknown", ContentType: evil, ContentEncoding: evil, AppId: evil, CorrelationId: evil},
		{Type: "fail" + evil, Headers: amqp.Table{"PikaBus.DeferredTime": evil}},
	}
	for _, m := range messages {
		m.MessageId = "id" + evil
		p.send("PikaBusTopic", "key"+evil, m)
	}
	p.until(func() error {
		if n := setup.Stats().Parked; int(n) != len(messages) {
			return fmt.Errorf("%d of %d parked", n, len(messages))
		}
		return nil
	})
	s.try(setup.Close())
	s.checkLog(len(messages))
}

// checkLog demands that every line of the log is the library's, and that no value has anything but printable
// characters; only errors and stacks may be of several lines.
func (s *secrets) checkLog(atLeast int) {
	s.Helper()
	lines := strings.Split(strings.TrimSuffix(s.w.json.String(), "\n"), "\n")
	if len(lines) < atLeast {
		s.Errorf("%d lines in the log, want %d or more", len(lines), atLeast)
	}
	if n := strings.Count(s.w.text.String(), "\n"); n != len(lines) {
		s.Errorf("%d lines for people, %d for machines", n, len(lines))
	}
	for _, line := range lines {
		var fields map[string]any
		if err := json.Unmarshal([]byte(line), &fields); err != nil || fields["msg"] == "FORGED" {
			s.Errorf("not a line of ours: %v %q", err, line)
		}
		for name, value := range fields {
			text, _ := value.(string)
			if name == "error" || name == "stack" {
				text = strings.NewReplacer("\n", " ", "\t", " ").Replace(text)
			}
			if at := strings.IndexFunc(text, func(r rune) bool { return !unicode.IsPrint(r) }); at >= 0 {
				s.Errorf("%s of %q has %+q", name, fields["msg"], text[at:])
			}
		}
	}
}
