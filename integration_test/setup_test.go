package integration_test

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/integration_test/rabbit"
	"github.com/harebus/harebus/topology"
)

// A counter counts operations that have ended.
type counter struct {
	of harebus.Operation
	atomic.Int32
}

func (*counter) ObserveStart(ctx context.Context, _ harebus.Observation) context.Context { return ctx }

func (c *counter) ObserveEnd(_ context.Context, e harebus.Observation, _ error) {
	if e.Operation == c.of {
		c.Add(1)
	}
}

// note is the message most tests send.
type note struct {
	N int `json:"n"`
}

func (note) MessageType() string { return "Note" }

func number(p *place, m *harebus.Message) int {
	p.Helper()
	var n note
	if err := json.Unmarshal(m.Body, &n); err != nil {
		p.Fatalf("body %q: %v", m.Body, err)
	}
	return n.N
}

func TestInitDeclaresWithoutConsuming(t *testing.T) {
	t.Parallel()
	p := shared(t)
	cfg := p.ownExchanges(p.config("a"))
	cfg.Subscriptions = []string{"some.#"}
	s := p.setup(cfg)
	b := p.broker()
	t.Cleanup(func() { b.deleteExchange(cfg.Exchanges.Direct); b.deleteExchange(cfg.Exchanges.Topic) })
	for range 2 { // a deployment may be repeated
		p.try(s.Init(p.within(patience)))
	}
	q, err := b.look(cfg.Queue)
	p.try(err)
	if q.Consumers != 0 {
		t.Errorf("%d consumers after Init", q.Consumers)
	}
	var delays topology.Delays
	for _, q := range append(append(delays.Topology().Queues, delays.Exit("", cfg.Queue).Queues...), topology.Queue{Name: cfg.ErrorQueue.Name}) {
		if !b.exists(q.Name) {
			t.Errorf("queue %q does not exist after Init", q.Name)
		}
	}
	b.publish(cfg.Exchanges.Direct, cfg.Queue, amqp.Publishing{MessageId: "command"})
	b.publish(cfg.Exchanges.Topic, "some.thing", amqp.Publishing{MessageId: "event"})
	got := b.take(cfg.Queue, 2)
	if got[0].MessageId != "command" || got[1].MessageId != "event" {
		t.Errorf("got %q and %q", got[0].MessageId, got[1].MessageId)
	}
	if err := s.Ready(); err == nil {
		t.Error("a setup that only ran Init says that it is ready")
	}
}

func TestCheckOnly(t *testing.T) {
	t.Parallel()
	p := shared(t)
	cfg := p.config("a")
	check := cfg
	check.Declare.Mode = harebus.CheckOnly
	checking := p.setup(check)
	in := newInbox()
	checking.HandleMessage(harebus.AnyType, in.take)

	started := time.Now()
	err := checking.Start(p.within(patience))
	p.mentions(err, cfg.Queue, cfg.ErrorQueue.Name, "declare it, start the service that owns it, or correct the name")
	p.inTime("the refusal", started, soon)
	if p.broker().exists(cfg.Queue) {
		t.Fatal("a setup that only checks has declared its queue")
	}
	p.mentions(checking.Init(p.within(patience)), cfg.Queue)

	p.try(p.setup(cfg).Init(p.within(patience)))
	p.try(checking.Init(p.within(patience)))
	p.start(checking)
	p.try(checking.Bus().Send(p.within(patience), cfg.Queue, note{1}))
	p.try(checking.Bus().Defer(p.within(patience), cfg.Queue, 20*time.Millisecond, note{2}))
	in.await(p, 2)
}

// A user who may configure nothing can run a service whose objects are there.
func TestCheckOnlyNeedsNoConfigurePermission(t *testing.T) {
	t.Parallel()
	p := vhosted(t)
	cfg := p.config("a")
	p.try(p.setup(cfg).Init(p.within(4 * patience)))
	user := p.name
	p.ctl("add_user", user, "secret")
	t.Cleanup(func() {
		if _, err := p.node.Ctl(context.Background(), "delete_user", user); err != nil {
			t.Error(err)
		}
	})
	p.ctl("set_permissions", "-p", p.name, user, "^$", ".*", ".*")

	cfg.URL, cfg.Declare.Mode = p.withUser(user, "secret"), harebus.CheckOnly
	s, in := p.service(cfg)
	p.try(s.Bus().Send(p.within(patience), cfg.Queue, note{1}))
	p.try(s.Bus().Defer(p.within(patience), cfg.Queue, 20*time.Millisecond, note{2}))
	in.await(p, 2)

	cfg.Declare.Mode, cfg.Queue = harebus.DeclareAll, p.queue("new")
	declaring := p.setup(cfg)
	declaring.HandleMessage(harebus.AnyType, in.take)
	started := time.Now()
	p.mentions(declaring.Start(p.within(patience)), "configure pattern", "ACCESS_REFUSED")
	p.inTime("the refusal", started, soon)
}

// What waiting cannot cure is returned at once by Start and by the first Send, and says what to do.
func TestRefusalsAreReturnedAtOnce(t *testing.T) {
	t.Parallel()
	p := shared(t)
	b := p.broker()
	b.declareQueue(p.queue("classic"), nil)
	b.declareQueue(p.queue("short"), nil)
	b.declareExchange(p.name+".topics", "fanout")

	cases := []struct {
		name     string
		change   func(*harebus.Config)
		mentions []string
		sends    bool // a setup that only sends meets it too
	}{
		{"credentials", func(c *harebus.Config) { c.URL = p.withUser("nobody", "wrong") }, []string{"username or password"}, true},
		{"vhost", func(c *harebus.Config) { c.URL = withVhost(t, p.url, p.name+"-nowhere") }, []string{"vhost", p.name + "-nowhere"}, true},
		{"queue type", func(c *harebus.Config) { c.Queue = p.queue("classic") },
			[]string{p.queue("classic"), "quorum", "queue type"}, false},
		{"queue arguments", func(c *harebus.Config) {
			c.Queue, c.QueueOptions.Type, c.QueueOptions.Arguments = p.queue("short"), topology.Classic, map[string]any{"x-max-length": 5}
		}, []string{p.queue("short"), "x-max-length=5", "change Arguments"}, false},
		{"exchange kind", func(c *harebus.Config) { c.Exchanges.Topic = p.name + ".topics" },
			[]string{p.name + ".topics", "topic", "choose the other kind"}, true},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			p := on(t, p.node) // its error queue is deleted while the others declare theirs
			cfg := p.config("a")
			c.change(&cfg)
			s := p.setup(cfg)
			s.HandleMessage(harebus.AnyType, newInbox().take)
			started := time.Now()
			p.mentions(s.Start(p.within(patience)), c.mentions...)
			p.inTime("the refusal of Start", started, 8*time.Second)
			if !c.sends {
				return
			}
			cfg.Queue = ""
			started = time.Now()
			err := p.setup(cfg).Bus().Send(p.within(patience), p.queue("anywhere"), note{1})
			p.mentions(err, c.mentions...)
			p.is(err, harebus.ErrNotSent)
			p.inTime("the refusal of Send", started, 8*time.Second)
		})
	}
}

func TestRefusedByVhostPermissions(t *testing.T) {
	t.Parallel()
	p := vhosted(t)
	p.ctl("clear_permissions", "-p", p.name, "guest")
	s := p.setup(p.config("a"))
	s.HandleMessage(harebus.AnyType, newInbox().take)
	started := time.Now()
	p.mentions(s.Start(p.within(patience)), "vhost", p.name)
	p.inTime("the refusal", started, soon)
}

func TestStartWaitsForTheBroker(t *testing.T) {
	t.Parallel()
	p := shared(t)
	way := p.road()
	cfg := p.config("a")
	cfg.URL = p.over(way)
	log := p.journal(cfg.Queue)
	cfg.Logger = log.logger()
	attempts := &counter{of: harebus.OpConnect}
	cfg.Observers = []harebus.Observer{attempts}
	s := p.setup(cfg)
	in := newInbox()
	s.HandleMessage(harebus.AnyType, in.take)

	done := make(chan error, 1)
	go func() { done <- s.Start(p.within(patience)) }()
	sent := make(chan error, 1)
	go func() { sent <- s.Bus().Send(p.within(patience), cfg.Queue, note{1}) }()
	p.eventually(patience, func() error {
		if !strings.Contains(log.text(), "no connection to the broker; trying again") {
			return errors.New("it does not say that it waits")
		}
		if n := attempts.Load(); n < 6 {
			return fmt.Errorf("%d attempts", n)
		}
		return nil
	})
	select {
	case err := <-done:
		t.Fatal("Start returned without a broker: ", err)
	case err := <-sent:
		t.Fatal("Send returned without a broker: ", err)
	default:
	}
	if err := s.Ready(); err == nil {
		t.Error("ready without a broker")
	}
	p.try(s.Live())

	short, cancel := context.WithTimeout(p.Context(), 100*time.Millisecond)
	defer cancel()
	err := s.Bus().Send(short, cfg.Queue, note{2})
	p.is(err, harebus.ErrNotSent)
	p.is(err, context.DeadlineExceeded)

	p.try(way.allow())
	p.try(<-done)
	p.try(<-sent)
	if got := in.await(p, 1); number(p, got[0].Message) != 1 {
		t.Errorf("got message %d", number(p, got[0].Message))
	}
}

func TestStartEndsWithItsContext(t *testing.T) {
	t.Parallel()
	p := shared(t)
	cfg := p.config("a")
	cfg.URL = p.over(p.road())
	s := p.setup(cfg)
	s.HandleMessage(harebus.AnyType, newInbox().take)
	ctx, cancel := context.WithTimeout(p.Context(), 200*time.Millisecond)
	defer cancel()
	started := time.Now()
	err := s.Start(ctx)
	p.is(err, context.DeadlineExceeded)
	p.mentions(err, "connection refused")
	p.inTime("Start", started, time.Second)
}

func TestSeveralAddresses(t *testing.T) {
	t.Parallel()
	p := shared(t)
	way := p.road()
	p.try(way.allow())
	cfg := p.config("a")
	cfg.URL = ""
	cfg.Connect.URLs = []string{p.over(p.road()), p.over(way), p.over(p.road())} // the others lead nowhere
	s, in := p.service(cfg)
	p.try(s.Bus().Send(p.within(patience), cfg.Queue, note{1}))
	in.await(p, 1)
	way.hiccup()
	p.try(s.Bus().Send(p.within(patience), cfg.Queue, note{2}))
	in.await(p, 2)
}

func TestConnectionNameIsVisible(t *testing.T) {
	t.Parallel()
	p := vhosted(t)
	cfg := p.config("a")
	cfg.Connect.Name = p.name + " under test"
	s, in := p.service(cfg)
	p.try(s.Bus().Send(p.within(patience), cfg.Queue, note{1}))
	in.await(p, 1)
	p.eventually(patience, func() error {
		list := p.ctl("list_connections", "client_properties")
		for _, name := range []string{cfg.Connect.Name + " publish", cfg.Connect.Name + " consume"} {
			if !strings.Contains(list, name) {
				return errors.New("no connection named " + name)
			}
		}
		return nil
	})
}

func TestTLS(t *testing.T) {
	t.Parallel()
	p := private(t, rabbit.Options{TLS: rabbit.ServerTLS})
	secure := func(p *place, queue, name string) harebus.Config {
		cfg := p.config(queue)
		cfg.URL = p.node.TLSURL()
		var err error
		cfg.Connect.TLS, err = p.node.Authority().ClientConfig(name)
		p.try(err)
		return cfg
	}
	p.ctl("add_user", "service-x", "unused")
	p.ctl("set_permissions", "service-x", ".*", ".*", ".*")

	works := func(t *testing.T, cfg harebus.Config) {
		p := &place{T: t, node: p.node, url: p.url, name: p.name}
		s, in := p.service(cfg)
		p.try(s.Bus().Send(p.within(patience), cfg.Queue, note{1}))
		in.await(p, 1)
	}
	refused := func(t *testing.T, cfg harebus.Config, target any, words ...string) {
		p := &place{T: t, node: p.node, url: p.url, name: p.name}
		s := p.setup(cfg)
		s.HandleMessage(harebus.AnyType, newInbox().take)
		started := time.Now()
		err := s.Start(p.within(patience))
		p.mentions(err, words...)
		if target != nil && !errors.As(err, target) {
			t.Errorf("the error holds no %T: %v", target, err)
		}
		p.inTime("the refusal", started, 8*time.Second)
	}
	t.Run("server certificate", func(t *testing.T) { works(t, secure(p, "server", "")) })
	t.Run("client certificate and EXTERNAL", func(t *testing.T) {
		cfg := secure(p, "external", "service-x")
		cfg.Connect.ExternalAuth = true
		works(t, cfg)
		if list := p.ctl("list_connections", "user", "auth_mechanism"); strings.Contains(list, "service-x\tPLAIN") {
			t.Errorf("it did not log in by its certificate: %s", list)
		}
	})
	t.Run("certificate of a user who does not exist", func(t *testing.T) {
		cfg := secure(p, "stranger", "stranger")
		cfg.Connect.ExternalAuth = true
		refused(t, cfg, nil, "username or password")
	})
	t.Run("authority that is not trusted", func(t *testing.T) {
		other, err := rabbit.NewAuthority()
		p.try(err)
		cfg := secure(p, "untrusting", "")
		cfg.Connect.TLS, err = other.ClientConfig("")
		p.try(err)
		refused(t, cfg, new(*tls.CertificateVerificationError))
	})
	t.Run("old protocol", func(t *testing.T) {
		cfg := secure(p, "old", "")
		cfg.Connect.TLS.MinVersion, cfg.Connect.TLS.MaxVersion = tls.VersionTLS10, tls.VersionTLS11
		s, err := harebus.New(cfg)
		if err == nil {
			s.HandleMessage(harebus.AnyType, newInbox().take)
			ctx, cancel := context.WithTimeout(p.Context(), time.Second)
			defer cancel()
			err = s.Start(ctx)
		}
		if err == nil {
			t.Error("it speaks TLS 1.1")
		}
	})
	t.Run("expired certificate", func(t *testing.T) {
		p.try(p.node.ReplaceCertificate(p.within(patience), time.Now().Add(-time.Hour)))
		refused(t, secure(p, "expired", ""), new(*tls.CertificateVerificationError), "expired")
	})
}

// Credentials are asked for at every connect, so a password that is changed is no outage.
func TestCredentialsAreAskedForAtEveryConnect(t *testing.T) {
	t.Parallel()
	p := shared(t)
	way := p.road()
	p.try(way.allow())
	uri, err := amqp.ParseURI(p.url)
	p.try(err)
	cfg := p.config("a")
	cfg.URL = p.over(way)
	cfg.Connect.Username, cfg.Connect.Password = "nobody", "wrong"
	var asked atomic.Int32
	cfg.Connect.Credentials = func(context.Context) (string, string, error) {
		if asked.Add(1) == 2 {
			return "", "", errors.New("the vault is sealed")
		}
		return uri.Username, uri.Password, nil
	}
	s, in := p.service(cfg)
	p.try(s.Bus().Send(p.within(patience), cfg.Queue, note{1}))
	in.await(p, 1)
	before := asked.Load()
	if before < 3 { // two connections and the time it failed
		t.Errorf("asked %d times", before)
	}
	way.hiccup()
	p.try(s.Bus().Send(p.within(patience), cfg.Queue, note{2}))
	in.await(p, 2)
	if asked.Load() < before+2 {
		t.Errorf("asked %d times before the reconnect and %d after", before, asked.Load())
	}
}

// The Dial hook opens every socket.
func TestDialHook(t *testing.T) {
	t.Parallel()
	p := shared(t)
	cfg := p.config("a")
	var dialled atomic.Int32
	cfg.Dial = func(network, address string) (net.Conn, error) {
		dialled.Add(1)
		return net.Dial(network, address)
	}
	s, in := p.service(cfg)
	p.try(s.Bus().Send(p.within(patience), cfg.Queue, note{1}))
	in.await(p, 1)
	if n := dialled.Load(); n != 2 {
		t.Errorf("%d sockets; want 2", n)
	}
}

func TestStartStopStart(t *testing.T) {
	t.Parallel()
	p := shared(t)
	cfg := p.config("a")
	s, in := p.service(cfg)
	ctx := p.within(patience)
	bus := s.Bus()
	p.is(s.Start(ctx), harebus.ErrStarted)
	p.is(s.Run(ctx), harebus.ErrStarted)
	for round := range 3 {
		p.try(bus.Send(ctx, cfg.Queue, note{round}))
		in.await(p, round+1)
		p.try(s.Ready())
		p.try(s.Stop(ctx))
		p.try(s.Stop(ctx))
		p.is(s.Live(), harebus.ErrStopped)
		p.is(s.Ready(), harebus.ErrStopped)
		p.is(bus.Send(ctx, cfg.Queue, note{99}), harebus.ErrStopped)
		p.is(s.Subscribe(ctx, "a"), harebus.ErrStopped)
		q, err := p.broker().look(cfg.Queue)
		p.try(err)
		if q.Consumers != 0 || q.Messages != 0 {
			t.Errorf("after Stop: %d consumers, %d messages", q.Consumers, q.Messages)
		}
		p.start(s)
	}
	if copies := in.copies(); len(copies) != 3 {
		t.Errorf("%d messages; want 3", len(copies))
	}
}

// Run drains: what a handler has begun it finishes, and nothing is delivered twice.
func TestRunDrains(t *testing.T) {
	t.Parallel()
	bothTypes(t, func(t *testing.T, queueType topology.QueueType) {
		p := shared(t)
		cfg := p.config("a")
		cfg.QueueOptions.Type = queueType
		cfg.Consume.Concurrency, cfg.Consume.Prefetch = 10, 50
		s := p.setup(cfg)
		in := newInbox()
		begun, finish := make(chan struct{}, 100), make(chan struct{})
		out := p.queue("out")
		p.broker().declareQueue(out, nil)
		s.HandleMessage(harebus.AnyType, func(ctx context.Context, bus *harebus.Bus, m *harebus.Message) error {
			begun <- struct{}{}
			<-finish
			in.add(m)
			return bus.Send(ctx, out, note{number(p, m)})
		})
		ctx, cancel := context.WithCancel(p.Context())
		defer cancel()
		p.try(s.Init(p.within(patience)))
		sender := p.bus()
		const messages = 40
		for n := range messages {
			p.try(sender.Send(p.within(patience), cfg.Queue, note{n}))
		}
		done := make(chan error, 1)
		go func() { done <- s.Run(ctx) }()
		<-begun // the first one comes alone
		finish <- struct{}{}
		for range 10 {
			<-begun
		}
		cancel()
		p.eventually(patience, func() error {
			if err := s.Ready(); err == nil || !strings.Contains(err.Error(), "stopping") {
				return errors.New("not stopping yet")
			}
			return nil
		})
		close(finish)
		p.try(<-done)
		handled := in.all()
		b := p.broker()
		p.eventually(patience, func() error { // a quorum queue counts what was given back a moment later
			q, err := b.look(cfg.Queue)
			if err == nil && q.Messages != messages-len(handled) {
				err = errors.New("the given back messages are not all there")
			}
			return err
		})
		left := b.take(cfg.Queue, messages-len(handled))
		var all []int
		for _, a := range handled {
			all = append(all, number(p, a.Message))
		}
		for _, d := range left {
			all = append(all, number(p, &harebus.Message{Body: d.Body}))
		}
		slices.Sort(all)
		if len(slices.Compact(all)) != messages {
			t.Errorf("%d handled and %d left are not %d different messages", len(handled), len(left), messages)
		}
		if sent := b.take(out, len(handled)); len(sent) != len(handled) {
			t.Errorf("%d messages sent by %d handlers", len(sent), len(handled))
		}
		b.empty(out)
	})
}

// When handlers take longer than the shutdown timeout their contexts end, and their messages go to somebody else.
func TestStopGivesUpOnSlowHandlers(t *testing.T) {
	t.Parallel()
	p := shared(t)
	cfg := p.config("a")
	cfg.ShutdownTimeout = 200 * time.Millisecond
	s := p.setup(cfg)
	begun := make(chan struct{})
	s.HandleMessage(harebus.AnyType, func(ctx context.Context, _ *harebus.Bus, _ *harebus.Message) error {
		close(begun)
		<-ctx.Done()
		return context.Cause(ctx)
	})
	p.start(s)
	p.try(s.Bus().Send(p.within(patience), cfg.Queue, note{1}))
	<-begun
	started := time.Now()
	p.try(s.Stop(p.within(patience)))
	p.inTime("Stop", started, 10*time.Second)
	d := p.broker().take(cfg.Queue, 1)[0]
	if retries, ok := d.Headers["PikaBus.ErrorRetries"]; ok {
		t.Errorf("being cut off counted as failure %v", retries)
	}
}

func TestSendOnly(t *testing.T) {
	t.Parallel()
	p := shared(t)
	b := p.broker()
	b.declareQueue(p.queue("a"), nil)
	s := p.setup(p.config(""))
	ctx := p.within(patience)
	p.ready(s, soon) // asking has it connect
	p.try(s.Bus().Send(ctx, p.queue("a"), note{1}))
	p.try(s.Ready())
	p.is(s.Start(ctx), harebus.ErrNoQueue)
	p.is(s.Subscribe(ctx, "a"), harebus.ErrNoQueue)
	d := b.take(p.queue("a"), 1)[0]
	if d.ReplyTo != "" || d.Headers["PikaBus.ReplyToAddress"] != nil || d.Headers["PikaBus.OriginatingAddress"] != nil {
		t.Errorf("a setup without a queue asks for replies: %q, %v", d.ReplyTo, d.Headers)
	}
	p.try(s.Close())
	p.is(s.Bus().Send(ctx, p.queue("a"), note{2}), harebus.ErrStopped)
}
