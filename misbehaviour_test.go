package harebus_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/cenkalti/backoff/v4"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/harebus/harebus"
)

// misdeeds are what foreign code can do instead of returning.
var misdeeds = map[string]func(){
	"panics":             func() { panic("foreign") },
	"panics with nil":    func() { panic(nil) }, //nolint:govet // that is the test
	"ends its goroutine": runtime.Goexit,
}

// foreign is a place where the bus calls code that is not its own. The message
// with ID 1 makes it misbehave.
type foreign struct {
	name string
	// configure puts bad into the config, and into the handler if it is returned.
	configure func(c *harebus.Config, bad func()) harebus.HandlerFunc
	opts      func(bad func()) []harebus.HandlerOption
	// handled says that the message is handled all the same; else it is parked.
	handled bool
}

// foreigns are the places in the way of an incoming message.
var foreigns = []foreign{
	{name: "handler", configure: func(_ *harebus.Config, bad func()) harebus.HandlerFunc {
		return func(context.Context, *harebus.Bus, *harebus.Message) error { bad(); return nil }
	}},
	{name: "middleware", configure: func(c *harebus.Config, bad func()) harebus.HandlerFunc {
		c.Handling.Middleware = []harebus.Middleware{func(next harebus.HandlerFunc) harebus.HandlerFunc {
			return func(ctx context.Context, bus *harebus.Bus, m *harebus.Message) error {
				if m.ID == "1" {
					bad()
				}
				return next(ctx, bus, m)
			}
		}}
		return nil
	}},
	{name: "send middleware", configure: func(c *harebus.Config, bad func()) harebus.HandlerFunc {
		c.Publish.Middleware = []harebus.SendMiddleware{func(harebus.SendFunc) harebus.SendFunc {
			return func(context.Context, *harebus.Outgoing) error { bad(); return nil }
		}}
		return sendBack(answer{})
	}},
	{name: "encoding", configure: func(_ *harebus.Config, bad func()) harebus.HandlerFunc { return sendBack(badJSON{bad}) }},
	{name: "wire name", configure: func(_ *harebus.Config, bad func()) harebus.HandlerFunc { return sendBack(badName{bad}) }},
	{name: "codec", configure: func(c *harebus.Config, bad func()) harebus.HandlerFunc {
		c.Payload.Codecs = []harebus.Codec{badCodec{bad: bad}}
		return sendBack(answer{}, harebus.WithContentType("x/bad"))
	}},
	{name: "codec that accepts", configure: func(c *harebus.Config, bad func()) harebus.HandlerFunc {
		c.Payload.Codecs = []harebus.Codec{badAccepts{badCodec{bad: bad}}}
		return sendBack(answer{})
	}},
	{name: "reply policy", configure: func(c *harebus.Config, bad func()) harebus.HandlerFunc {
		c.Reply.Policy = func(*harebus.Message) error { bad(); return nil }
		return func(ctx context.Context, bus *harebus.Bus, _ *harebus.Message) error { return bus.Reply(ctx, answer{}) }
	}},
	{name: "receive", configure: func(c *harebus.Config, bad func()) harebus.HandlerFunc {
		c.Handling.Receive = func(_ context.Context, m *harebus.Message) error {
			if m.ID == "1" {
				bad()
			}
			return nil
		}
		return nil
	}},
	{name: "given up", configure: func(*harebus.Config, func()) harebus.HandlerFunc {
		return func(context.Context, *harebus.Bus, *harebus.Message) error { return errNo }
	}, opts: func(bad func()) []harebus.HandlerOption {
		return []harebus.HandlerOption{nil, harebus.WithGivenUp(func(context.Context, *harebus.Bus, *harebus.Message, error) error { bad(); return nil })}
	}},
	{name: "error handler", configure: func(c *harebus.Config, bad func()) harebus.HandlerFunc {
		c.Handling.ErrorHandler = func(*harebus.Message, error, harebus.Decision) harebus.Decision { bad(); return harebus.Discard() }
		return func(context.Context, *harebus.Bus, *harebus.Message) error { return errNo }
	}},
	{name: "observer of a retry", handled: true, configure: func(c *harebus.Config, bad func()) harebus.HandlerFunc {
		c.Observers = []harebus.Observer{&badObserver{bad: bad, on: harebus.OpRetry}}
		return func(_ context.Context, _ *harebus.Bus, m *harebus.Message) error {
			if m.Attempt == 1 {
				return errNo
			}
			return nil
		}
	}},
	{name: "logger", handled: true, configure: func(c *harebus.Config, bad func()) harebus.HandlerFunc {
		c.Logger = zap.New(badCore{bad: bad}, zap.ErrorOutput(zapcore.AddSync(io.Discard)))
		return func(_ context.Context, _ *harebus.Bus, m *harebus.Message) error {
			if m.Attempt == 1 {
				return errNo
			}
			return nil
		}
	}},
}

// sendBack is a handler that sends.
func sendBack(message any, opts ...harebus.SendOption) harebus.HandlerFunc {
	return func(ctx context.Context, bus *harebus.Bus, _ *harebus.Message) error {
		return bus.Send(ctx, "orders", message, append(opts, nil)...)
	}
}

type badJSON struct{ bad func() }

func (badJSON) MessageType() string            { return "Bad" }
func (b badJSON) MarshalJSON() ([]byte, error) { b.bad(); return nil, nil }

type badName struct{ bad func() }

func (b badName) MessageType() string { b.bad(); return "Bad" }

type badCodec struct {
	harebus.JSON
	bad func()
}

func (badCodec) ContentType() string            { return "x/bad" }
func (c badCodec) Encode(any) ([]byte, error)   { c.bad(); return nil, nil }
func (c badCodec) Decode(_ []byte, _ any) error { c.bad(); return nil }

type badAccepts struct{ badCodec }

func (c badAccepts) Accepts(value any) bool {
	if _, ok := value.(answer); ok {
		c.bad()
	}
	return false
}

// badObserver misbehaves at the start and at the end of one operation.
type badObserver struct {
	bad func()
	on  harebus.Operation
}

func (b *badObserver) ObserveStart(_ context.Context, e harebus.Observation) context.Context {
	if e.Operation == b.on {
		b.bad()
	}
	return nil
}

func (b *badObserver) ObserveEnd(_ context.Context, e harebus.Observation, _ error) {
	if e.Operation == b.on {
		b.bad()
	}
}

// badCore misbehaves when it has something to say about a message.
type badCore struct {
	discarding
	bad func()
}

func (c badCore) With([]zapcore.Field) zapcore.Core { return c }
func (c badCore) Check(e zapcore.Entry, checked *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	return checked.AddCore(e, c)
}

func (c badCore) Write(e zapcore.Entry, _ []zapcore.Field) error {
	if strings.HasPrefix(e.Message, "message ") {
		c.bad()
	}
	return nil
}

// TestForeignCode: one message pays for foreign code that misbehaves. The others are
// handled, at concurrency 1 too, and the service is as well as before.
func TestForeignCode(t *testing.T) {
	for _, place := range foreigns {
		for misdeed, bad := range misdeeds {
			if place.name == "logger" && misdeed == "ends its goroutine" {
				continue // zap ends a goroutine only in Fatal, which the bus does not call
			}
			t.Run(place.name+" "+misdeed, func(t *testing.T) {
				bubble(t, func(t *testing.T, r *rig) { misbehave(t, r, place, bad) })
			})
		}
	}
}

func misbehave(t *testing.T, r *rig, place foreign, bad func()) {
	cfg := r.config("orders")
	cfg.Consume.Concurrency = 1
	cfg.Retry = harebus.RetryConfig{MaxRetries: 1, BackOff: steady}
	first := place.configure(&cfg, bad)
	s := r.setup(cfg)
	var opts []harebus.HandlerOption
	if place.opts != nil {
		opts = place.opts(bad)
	}
	s.HandleMessage("Order", func(ctx context.Context, bus *harebus.Bus, m *harebus.Message) error {
		if m.ID == "1" && first != nil {
			return first(ctx, bus, m)
		}
		return nil
	}, opts...)
	r.start(s)
	ch := r.channel()
	for _, id := range []string{"1", "2", "3"} {
		m := plain(`{}`)
		m.MessageId, m.ReplyTo = id, "orders"
		r.publish(ch, "orders", m)
	}
	r.quiet("error")
	want := harebus.MessageStats{Handled: 2, Parked: 1}
	if place.handled {
		want = harebus.MessageStats{Handled: 3}
	}
	if got := s.Stats(); got.Handled != want.Handled || got.Parked != want.Parked || got.InFlight != 0 || got.Connections != 2 {
		t.Errorf("counts %+v", got)
	}
	if err := s.Ready(); err != nil {
		t.Error(err)
	}
}

// TestForeignConnecting: what a connection is made with misbehaves once; the next
// attempt succeeds.
func TestForeignConnecting(t *testing.T) {
	for place, configure := range map[string]func(c *harebus.Config, bad func()){
		"credentials": func(c *harebus.Config, bad func()) {
			c.Connect.Credentials = func(context.Context) (string, string, error) { bad(); return "guest", "guest", nil }
		},
		"dial": func(c *harebus.Config, bad func()) {
			dial := c.Dial
			c.Dial = func(network, address string) (net.Conn, error) { bad(); return dial(network, address) }
		},
		"observer": func(c *harebus.Config, bad func()) {
			c.Observers = []harebus.Observer{&badObserver{bad: bad, on: harebus.OpConnect}}
		},
		"back-off": func(c *harebus.Config, bad func()) {
			dial, first := c.Dial, true
			c.Dial = func(network, address string) (net.Conn, error) {
				if first {
					first = false
					return nil, nil //nolint:nilnil // which is no connection either
				}
				return dial(network, address)
			}
			c.Connect.BackOff = turning(func() backoff.BackOff { return badBackOff{bad} })
		},
	} {
		for misdeed, bad := range misdeeds {
			t.Run(place+" "+misdeed, func(t *testing.T) {
				bubble(t, func(t *testing.T, r *rig) {
					cfg, times := r.config("orders"), 0
					configure(&cfg, func() {
						if times++; times == 1 {
							bad()
						}
					})
					s := r.setup(cfg)
					if err := s.Init(r.ctx); err != nil {
						t.Fatal(err)
					}
				})
			})
		}
	}
}

type badBackOff struct{ bad func() }

func (b badBackOff) NextBackOff() time.Duration { b.bad(); return time.Millisecond }
func (badBackOff) Reset()                       {}

// TestForeignCalls: a call that composes a message with foreign code is refused.
func TestForeignCalls(t *testing.T) {
	t.Parallel()
	bad := misdeeds["panics"]
	s, err := harebus.New(harebus.Config{Payload: harebus.PayloadConfig{Codecs: []harebus.Codec{badAccepts{badCodec{bad: bad}}}}})
	if err != nil {
		t.Fatal(err)
	}
	for name, message := range map[string]any{"encoding": badJSON{bad}, "wire name": badName{bad}, "codec": answer{}} {
		err := s.Bus().Send(t.Context(), "q", message)
		if !errors.Is(err, harebus.ErrRefused) || !strings.Contains(err.Error(), "foreign") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestForeignConstructors: what is called when a setup is made, or a handler
// registered, is a fault of the configuration.
func TestForeignConstructors(t *testing.T) {
	t.Parallel()
	for misdeed, bad := range misdeeds {
		for name, change := range map[string]func(c *harebus.Config){
			"codec": func(c *harebus.Config) { c.Payload.Codecs = []harebus.Codec{badContent{bad: bad}} },
			"send middleware": func(c *harebus.Config) {
				c.Publish.Middleware = []harebus.SendMiddleware{func(harebus.SendFunc) harebus.SendFunc { bad(); return nil }}
			},
			"back-off": func(c *harebus.Config) { c.Retry.BackOff = func() backoff.BackOff { bad(); return nil } },
			"connect":  func(c *harebus.Config) { c.Connect.BackOff = func() backoff.BackOff { bad(); return nil } },
			"middleware": func(c *harebus.Config) {
				c.Handling.Middleware = []harebus.Middleware{func(harebus.HandlerFunc) harebus.HandlerFunc { bad(); return nil }}
			},
		} {
			cfg := harebus.Config{Queue: "orders"}
			change(&cfg)
			s, err := harebus.New(cfg)
			if err == nil {
				s.HandleMessage("Order", func(context.Context, *harebus.Bus, *harebus.Message) error { return nil })
				err = s.Start(t.Context())
			}
			if err == nil || strings.Contains(err.Error(), "no handler") {
				t.Errorf("%s %s: %v", name, misdeed, err)
			}
		}
	}
}

type badContent struct {
	harebus.JSON
	bad func()
}

func (c badContent) ContentType() string { c.bad(); return "x/bad" }

var _ json.Marshaler = badJSON{}
