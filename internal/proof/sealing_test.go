package proof_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/internal/proof"
	"github.com/harebus/harebus/seal"
)

// canary is in the body of every sealed message, and in the error of every handler that fails. Nobody else may see it.
const canary = "canary-4111-1111"

// sealed says of a schedule that all its messages are sealed, and that what is not is refused: one in four.
func sealed(seed uint64) bool { return seed%4 == 1 && seed > 1 } // the first is that of the calm tests

const (
	outage = 10 * time.Minute // of the key service
	maxAge = 24 * time.Hour
)

// seal has the service seal its messages. What it writes to the broker and to its log is searched for the canary.
func (s *simulation) seal(cfg *harebus.Config, o *proof.Options) {
	s.vault = newVault(s.t.Context(), s)
	o.Guard = seal.New(s.vault, seal.Policy{Types: []string{"*"}, MaxAge: maxAge})
	o.Stray = s.vault.forged
	dial := cfg.Dial
	cfg.Dial = func(network, address string) (net.Conn, error) {
		conn, err := dial(network, address)
		if err != nil {
			return nil, err
		}
		return tapped{conn, s}, nil
	}
	encoder := zapcore.NewJSONEncoder(zap.NewDevelopmentEncoderConfig())
	cfg.Logger = zap.New(zapcore.NewCore(encoder, sink{s}, zap.DebugLevel))
}

// search reports a canary in what has left the service.
func (s *simulation) search(where string, b []byte) {
	if bytes.Contains(b, []byte(canary)) {
		s.t.Errorf("SECRET: seed %d: %s shows what a message carries", s.seed, where)
	}
}

// tapped is a connection to the broker.
type tapped struct {
	net.Conn

	sim *simulation
}

func (c tapped) Write(b []byte) (int, error) {
	c.sim.search("the connection", b)
	return c.Conn.Write(b)
}

// sink is a log.
type sink struct{ sim *simulation }

func (s sink) Write(b []byte) (int, error) {
	s.sim.search("the log", b)
	return len(b), nil
}

func (sink) Sync() error { return nil }

// vault are the keys of a sealed schedule, as if several instances of the service took part: most schedules change a
// key that all have; in the others, which take the simulator longer, a key service wraps data keys. What comes is opened with keys of its own, as another
// instance would have them.
type vault struct {
	sim    *simulation
	wraps  bool // with a key service
	mu     sync.Mutex
	out    []seal.Keys // each seals in its turn, as if it were an instance
	turn   int
	in     seal.Keys
	away   bool
	master map[string][]byte // wrapped → key
}

func newVault(ctx context.Context, s *simulation) *vault {
	v := &vault{sim: s, wraps: s.seed%16 == 9, master: map[string][]byte{}}
	if v.wraps {
		v.in = seal.Envelope(v)
		v.out = []seal.Keys{v.started(ctx)}
		return v
	}
	ring := v.ring(v.key("2026-08"))
	v.out, v.in = []seal.Keys{ring}, ring
	return v
}

// key makes a key.
func (v *vault) key(id string) *seal.Key {
	key, err := seal.NewKey(id, bytes.Repeat([]byte(id[len(id)-1:]), 32))
	if err != nil {
		v.sim.t.Error(err)
	}
	return key
}

func (v *vault) ring(current *seal.Key, accepted ...*seal.Key) seal.Keys {
	ring, err := seal.NewKeyring(current, accepted...)
	if err != nil {
		v.sim.t.Error(err)
	}
	return ring
}

// started is an instance that has just started and has its data key.
func (v *vault) started(ctx context.Context) seal.Keys {
	keys := seal.Envelope(v)
	if _, err := keys.Current(ctx); err != nil {
		v.sim.t.Error(err)
	}
	return keys
}

// Current is the key of one instance, and of another one the next time.
func (v *vault) Current(ctx context.Context) (*seal.Key, error) {
	v.mu.Lock()
	v.turn++
	keys := v.out[v.turn%len(v.out)]
	v.mu.Unlock()
	return keys.Current(ctx)
}

// Key is a key of a message that came.
func (v *vault) Key(ctx context.Context, id string) (*seal.Key, error) {
	v.mu.Lock()
	keys := v.in
	v.mu.Unlock()
	return keys.Key(ctx, id)
}

// set changes the keys of the instances.
func (v *vault) set(in seal.Keys, out ...seal.Keys) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.in, v.out = in, out
}

var errAway = errors.New("the key service is away")

// Wrap is a method of the key service.
func (v *vault) Wrap(_ context.Context, key []byte) ([]byte, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.away {
		return nil, errAway
	}
	wrapped := make([]byte, 16)
	_, _ = rand.Read(wrapped)
	v.master[string(wrapped)] = bytes.Clone(key)
	return wrapped, nil
}

// Unwrap is the other one.
func (v *vault) Unwrap(_ context.Context, wrapped []byte) ([]byte, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	key := v.master[string(wrapped)]
	switch {
	case v.away:
		return nil, errAway
	case key == nil:
		return nil, seal.ErrUnknownKey
	}
	return bytes.Clone(key), nil
}

func (v *vault) switchService(away bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.away = away
}

// trouble is what happens to the keys while messages are sent and while the other faults of the schedule happen.
func (v *vault) trouble(ctx context.Context, s *simulation) {
	time.Sleep(time.Duration(s.seed%5) * 300 * time.Millisecond) // virtual
	s.intrude()
	if v.wraps {
		v.outage(ctx, s)
	} else {
		v.rotate(ctx, s)
	}
	s.intrude()
}

// outage has the key service be away. Instances have just started, so what they send is sealed with keys that no receiver
// has seen.
func (v *vault) outage(ctx context.Context, s *simulation) {
	v.set(v.in, v.started(ctx), v.started(ctx))
	v.switchService(true)
	s.busy(ctx, 50, outage/20)
	v.switchService(false)
}

// rotate changes the key, with some time between the steps, in which instances differ.
func (v *vault) rotate(ctx context.Context, s *simulation) {
	old, next := v.key("2026-08"), v.key("2026-09")
	before, known, after := v.ring(old), v.ring(old, next), v.ring(next, old)
	v.set(known, before, known)
	s.busy(ctx, 50, 100*time.Millisecond)
	v.set(known, known, after)
	s.busy(ctx, 51, 100*time.Millisecond)
	v.set(after, after)
	s.busy(ctx, 52, 100*time.Millisecond)
}

// busy sends messages, with a pause after each.
func (s *simulation) busy(ctx context.Context, producer int, pause time.Duration) {
	for i, kind := range []proof.Kind{proof.Plain, proof.Parent, proof.Flaky, proof.Later, proof.Failing} {
		for j := range 4 {
			var delay time.Duration
			if kind == proof.Later {
				delay = 3 * time.Second
			}
			short, cancel := context.WithTimeout(ctx, time.Minute)
			_ = s.service.Send(short, s.work(producer, 4*i+j, kind), delay) // in the book
			cancel()
			time.Sleep(pause) // virtual
		}
	}
}

// forgeries are messages that somebody without a key can put into the queue, and why they are refused.
var forgeries = []struct{ kind, reason string }{
	{"clear", "in-the-clear"}, {"elsewhere", "wrong-destination"}, {"renamed", "tampered"}, {"answered", "tampered"}, {"old", "too-old"},
}

// intrude puts forged messages into the queue of the service, as somebody could who has seen sealed ones. The broker may be
// away.
func (s *simulation) intrude() {
	conn, err := amqp.DialConfig(s.broker.URL(), amqp.Config{Dial: s.broker.Dial})
	if err != nil {
		return
	}
	defer func() { _ = conn.Close() }()
	ch, err := conn.Channel()
	if err != nil {
		return
	}
	for _, f := range forgeries {
		m, err := s.vault.forge(s.t.Context(), f.kind)
		if err != nil {
			s.t.Error(err)
			return
		}
		if err := ch.Publish("", "proof", false, false, m); err != nil {
			return
		}
	}
}

// forge makes a message that the service must not handle.
func (v *vault) forge(ctx context.Context, kind string) (amqp.Publishing, error) {
	w := proof.Work{ID: "forged/" + kind, Kind: proof.Plain, To: "proof"}
	body, err := harebus.JSON{}.Encode(w)
	if err != nil {
		return amqp.Publishing{}, err
	}
	id := &harebus.Identity{
		ID: w.ID, CorrelationID: w.ID, Type: w.MessageType(), Intent: harebus.IntentCommand, TimeSent: time.Now().UTC().Truncate(time.Second),
		Queue: "proof",
	}
	p := &harebus.Payload{ContentType: "application/json", ContentEncoding: "utf-8", Body: body}
	switch kind {
	case "elsewhere":
		id.Queue = "refunds"
	case "old":
		id.TimeSent = id.TimeSent.Add(-maxAge - time.Minute)
	case "renamed":
		id.ID = "a genuine one"
	}
	if kind != "clear" {
		if err := seal.New(v, seal.Policy{Types: []string{"*"}}).Protect(ctx, id, p); err != nil {
			return amqp.Publishing{}, err
		}
	}
	headers := amqp.Table{"PikaBus.Intent": "command", "PikaBus.TimeSent": id.TimeSent.Format(time.RFC3339)}
	if kind == "answered" {
		headers["PikaBus.ReplyToAddress"] = "attacker"
	}
	return amqp.Publishing{
		MessageId: w.ID, CorrelationId: id.CorrelationID, Type: id.Type, ContentType: p.ContentType, ContentEncoding: p.ContentEncoding,
		DeliveryMode: amqp.Persistent, Headers: headers, Body: p.Body,
	}, nil
}

// forged says of a message that is left whether it is a forged one, which must be in the error queue for the right reason.
func (v *vault) forged(d *amqp.Delivery) bool {
	kind, ok := strings.CutPrefix(d.MessageId, "forged/")
	if !ok {
		return false
	}
	details := fmt.Sprint(d.Headers["PikaBus.ErrorDetails"])
	for _, f := range forgeries {
		if kind == f.kind && !strings.HasPrefix(details, f.reason) {
			v.sim.t.Errorf("NOPHANTOM: seed %d: a forged message (%s) is parked for %q", v.sim.seed, kind, details)
		}
	}
	return true
}
