package harebus_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/harebus/harebus"
)

// details is the error text of the one message in the error queue.
func (r *rig) details() string {
	r.t.Helper()
	r.quiet("error")
	text, _ := r.await("error", 1)[0].Headers[prefixed("ErrorDetails")].(string)
	return text
}

// handling runs a service with one handler of order, sends it one, and waits.
func (r *rig) handling(cfg harebus.Config, h func(ctx context.Context, bus *harebus.Bus, o order) error, opts ...harebus.HandlerOption) *harebus.Setup {
	r.t.Helper()
	s := r.setup(cfg)
	harebus.Handle(s, h, opts...)
	r.start(s)
	if err := s.Bus().Send(r.ctx, "orders", order{1}); err != nil {
		r.t.Fatal(err)
	}
	r.quiet("error")
	return s
}

func TestPanicHasStack(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		cfg := r.config("orders")
		cfg.Retry.MaxRetries = -1
		var seen error
		cfg.Handling.ErrorHandler = func(_ *harebus.Message, err error, _ harebus.Decision) harebus.Decision {
			seen = err
			return harebus.Park()
		}
		r.handling(cfg, func(context.Context, *harebus.Bus, order) error { return explode() })
		contains(t, r.details(), "panic: runtime error: index out of range", "harebus_test.explode", "handler_test.go")
		var p *harebus.PanicError
		var fault runtime.Error
		if !errors.As(seen, &p) || len(p.Stack) == 0 || !errors.As(seen, &fault) {
			t.Errorf("got %T %v", seen, seen)
		}
	})
}

func explode() error {
	var none []error
	return none[len(none)]
}

// TestPanicNil: even that.
func TestPanicNil(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.handling(r.config("orders"), func(context.Context, *harebus.Bus, order) error {
			panic(nil) //nolint:govet // that is the test
		})
		contains(t, r.details(), "panic")
	})
}

func TestHandlerTimeout(t *testing.T) {
	for name, c := range map[string]struct {
		configured time.Duration
		opts       []harebus.HandlerOption
		want       time.Duration // 0: none
	}{
		"none":       {-1, nil, 0},
		"configured": {5 * time.Second, nil, 5 * time.Second},
		"own":        {5 * time.Second, []harebus.HandlerOption{harebus.WithTimeout(time.Second)}, time.Second},
		"own none":   {5 * time.Second, []harebus.HandlerOption{harebus.WithTimeout(0)}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, r *rig) {
				cfg := r.config("orders")
				cfg.Handling.Timeout, cfg.Retry.MaxRetries = c.configured, -1
				start := time.Now()
				var took time.Duration
				s := r.handling(cfg, func(ctx context.Context, _ *harebus.Bus, _ order) error {
					if deadline, ok := ctx.Deadline(); ok != (c.want != 0) || ok && deadline.Sub(start) > c.want {
						t.Errorf("the deadline is %v after the start, %v", deadline.Sub(start), ok)
					}
					start = time.Now()
					select {
					case <-ctx.Done():
						took = time.Since(start)
						return fmt.Errorf("query: %w", ctx.Err())
					case <-time.After(time.Minute):
						return nil
					}
				}, c.opts...)
				if c.want == 0 {
					if s.Stats().Handled != 1 {
						t.Errorf("counts %+v", s.Stats())
					}
					return
				}
				if took != c.want {
					t.Errorf("the context ended after %v", took)
				}
				contains(t, r.details(), "query: context deadline exceeded", "handler timeout of "+c.want.String())
			})
		})
	}
}

// TestHandlerErrors: the returned error is the instruction.
func TestHandlerErrors(t *testing.T) {
	for name, c := range map[string]struct {
		err      error
		attempts int
		parked   int
	}{
		"nil":         {nil, 1, 0},
		"error":       {errNo, 6, 1},
		"no retry":    {fmt.Errorf("x: %w", harebus.NoRetry(errNo)), 1, 1},
		"retry after": {harebus.RetryAfter(time.Minute, errNo), 6, 1},
		"reject":      {&harebus.RejectError{Reason: "mine", Err: errNo}, 1, 1},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, r *rig) {
				n := 0
				start := time.Now()
				s := r.handling(r.config("orders"), func(context.Context, *harebus.Bus, order) error {
					n++
					return c.err
				})
				if n != c.attempts || len(r.broker.Messages("error")) != c.parked || s.Stats().Parked != uint64(c.parked) {
					t.Errorf("%d attempts, %d parked", n, len(r.broker.Messages("error")))
				}
				if name == "retry after" && (time.Since(start) < 5*time.Minute || time.Since(start) > 5*time.Minute+3*time.Second) {
					t.Errorf("it took %v", time.Since(start))
				}
			})
		})
	}
}

// TestHandlerChoice: by name, by the lack of one, or whatever is left.
func TestHandlerChoice(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		s := r.setup(r.config("orders"))
		got := make(chan string, 10)
		note := func(name string) harebus.HandlerFunc {
			return func(_ context.Context, _ *harebus.Bus, m *harebus.Message) error {
				got <- name + " " + m.Type
				return nil
			}
		}
		s.HandleMessage("A", note("A"))
		s.HandleMessage(harebus.NoType, note("none"))
		s.HandleMessage(harebus.AnyType, note("any"))
		r.start(s)
		ch := r.channel()
		for kind, want := range map[string]string{"A": "A A", "": "none ", "B": "any B", "*": "any *"} {
			r.publish(ch, "orders", amqp.Publishing{Type: kind, Body: []byte("not json")})
			if name := receive(r, got); name != want {
				t.Errorf("type %q: %q", kind, name)
			}
		}
		r.quiet()
	})
}

// TestHandlerSees: typed handlers find the rest of the message in the context,
// middleware wraps them, first outermost, and sees the error.
func TestHandlerSees(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		var steps []string
		layer := func(name string) harebus.Middleware {
			return func(next harebus.HandlerFunc) harebus.HandlerFunc {
				return func(ctx context.Context, bus *harebus.Bus, m *harebus.Message) error {
					steps = append(steps, name+" in")
					err := next(context.WithValue(ctx, key(name), name), bus, m)
					steps = append(steps, fmt.Sprintf("%s out %v", name, err))
					return err
				}
			}
		}
		cfg := r.config("orders")
		cfg.Handling.Middleware = []harebus.Middleware{layer("a"), layer("b")}
		cfg.Retry.MaxRetries = -1
		r.handling(cfg, func(ctx context.Context, _ *harebus.Bus, o order) error {
			m := harebus.Incoming(ctx)
			if m == nil || m.Type != "Order" || m.Queue != "orders" || m.Exchange != "PikaBusDirect" || m.RoutingKey != "orders" || string(m.Body) != `{"ID":1}` {
				t.Errorf("incoming %+v", m)
			}
			steps = append(steps, fmt.Sprint("handler ", o.ID, ctx.Value(key("a")), ctx.Value(key("b"))))
			return errNo
		})
		if got := strings.Join(steps, ", "); got != "a in, b in, handler 1ab, b out no, a out no" {
			t.Errorf("got %s", got)
		}
		if harebus.Incoming(r.ctx) != nil {
			t.Error("there is a message outside of handlers")
		}
	})
}

type key string

// TestMiddlewareAnswers: middleware may answer for the handler, and sees
// messages that cannot be decoded.
func TestMiddlewareAnswers(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		cfg := r.config("orders")
		cfg.Handling.Middleware = []harebus.Middleware{func(next harebus.HandlerFunc) harebus.HandlerFunc {
			return func(ctx context.Context, bus *harebus.Bus, m *harebus.Message) error {
				if m.Headers["skip"] == true {
					return nil
				}
				err := next(ctx, bus, m)
				var rejected *harebus.RejectError
				if !errors.As(err, &rejected) || rejected.Reason != "bad-payload" {
					t.Errorf("got %v", err)
				}
				return nil // and so it is done
			}
		}}
		s := r.setup(cfg)
		harebus.Handle(s, func(context.Context, *harebus.Bus, order) error {
			t.Error("the handler was called")
			return nil
		})
		r.start(s)
		r.publish(r.channel(), "orders", ordered(amqp.Table{"skip": true}), plain("broken"))
		r.quiet()
		if s.Stats().Handled != 2 {
			t.Errorf("counts %+v", s.Stats())
		}
	})
}

// TestSendMiddleware: first outermost, header and body changes take effect, an
// error stops the call.
func TestSendMiddleware(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.bound(r.channel(), "out")
		cfg := r.config("")
		var seen []harebus.Operation
		cfg.Publish.Middleware = []harebus.SendMiddleware{
			func(next harebus.SendFunc) harebus.SendFunc {
				return func(ctx context.Context, m *harebus.Outgoing) error {
					seen = append(seen, m.Operation)
					m.Headers["order"] = "a"
					if string(m.Body) == `{"ID":13}` {
						return errNo
					}
					return next(ctx, m)
				}
			},
			func(next harebus.SendFunc) harebus.SendFunc {
				return func(ctx context.Context, m *harebus.Outgoing) error {
					m.Headers["order"] = fmt.Sprint(m.Headers["order"], "b")
					m.Body = append(m.Body, '\n')
					return next(ctx, m)
				}
			},
		}
		s := r.setup(cfg)
		if err := s.Bus().Send(r.ctx, "out", order{13}); !errors.Is(err, errNo) {
			t.Errorf("got %v", err)
		}
		if err := s.Bus().Send(r.ctx, "out", order{1}); err != nil {
			t.Fatal(err)
		}
		tx := s.Bus().Begin()
		if err := errors.Join(tx.Publish(r.ctx, "a.b", order{1}, harebus.NonMandatory()), tx.Defer(r.ctx, "out", 0, order{2})); err != nil {
			t.Fatal(err)
		}
		if len(seen) != 4 || seen[2] != harebus.OpPublish || seen[3] != harebus.OpDefer {
			t.Errorf("operations %v", seen)
		}
		tx.Rollback()
		m := r.await("out", 1)[0]
		if m.Headers["order"] != "ab" || string(m.Body) != "{\"ID\":1}\n" {
			t.Errorf("header %v, body %q", m.Headers["order"], m.Body)
		}
	})
}

// TestErrorHandler: it decides everything that happens to a failed message.
func TestErrorHandler(t *testing.T) {
	for name, c := range map[string]struct {
		decide   func(m *harebus.Message, err error, proposed harebus.Decision) harebus.Decision
		attempts int
		parked   int
	}{
		"park":    {func(*harebus.Message, error, harebus.Decision) harebus.Decision { return harebus.Park() }, 1, 1},
		"zero":    {func(*harebus.Message, error, harebus.Decision) harebus.Decision { return harebus.Decision{} }, 1, 1},
		"discard": {func(*harebus.Message, error, harebus.Decision) harebus.Decision { return harebus.Discard() }, 1, 0},
		"panics": {func(*harebus.Message, error, harebus.Decision) harebus.Decision {
			panic("the handler of errors has one")
		}, 1, 1},
		"retry once": {func(m *harebus.Message, _ error, _ harebus.Decision) harebus.Decision {
			if m.Attempt > 1 {
				return harebus.Discard()
			}
			return harebus.RetryIn(-time.Second)
		}, 2, 0},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, r *rig) {
				cfg := r.config("orders")
				n := 0
				cfg.Handling.ErrorHandler = func(m *harebus.Message, err error, proposed harebus.Decision) harebus.Decision {
					if m.ID == "" || !errors.Is(err, errNo) {
						t.Errorf("asked about %+v, %v", m, err)
					}
					return c.decide(m, err, proposed)
				}
				s := r.handling(cfg, func(context.Context, *harebus.Bus, order) error {
					n++
					return errNo
				})
				got := s.Stats()
				if n != c.attempts || got.Parked != uint64(c.parked) || len(r.broker.Messages("error")) != c.parked || got.Discarded != uint64(1-c.parked) {
					t.Errorf("%d attempts, counts %+v", n, got)
				}
				if err := s.Ready(); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

// TestRegistrationFaults: Start reports them all.
func TestRegistrationFaults(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		s := r.setup(r.config("orders"))
		if err := s.Start(r.ctx); err == nil || !strings.Contains(err.Error(), "no handler") {
			t.Errorf("start without handlers: %v", err)
		}
		ok := func(context.Context, *harebus.Bus, *harebus.Message) error { return nil }
		harebus.Handle(s, func(context.Context, *harebus.Bus, struct{}) error { return nil })
		harebus.Handle(s, func(context.Context, *harebus.Bus, order) error { return nil })
		harebus.Handle(s, func(context.Context, *harebus.Bus, *order) error { return nil })
		harebus.Handle(s, func(context.Context, *harebus.Bus, answer) error { return nil }, harebus.WithTimeout(-1))
		harebus.Handle[checked](s, nil)
		s.HandleMessage("Nil", nil)
		s.HandleMessage(long, ok)
		s.HandleMessage("Twice", ok)
		s.HandleMessage("Twice", ok)
		err := s.Start(r.ctx)
		if err == nil {
			t.Fatal("started")
		}
		contains(t, err.Error(), "no wire name", `"Order": there is one already`, "timeout -1ns is negative", `"Nil" is nil`, "longer than 255", `"Twice"`, `"Checked" is nil`)
		if r.tap.dialed() != 0 {
			t.Errorf("%d connections", r.tap.dialed())
		}
	})
}

// TestReplies: address, correlation, and what the policy is asked.
func TestReplies(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.bound(r.channel(), "friend", "stranger")
		cfg := r.config("orders")
		cfg.Retry.MaxRetries = -1
		cfg.Reply.Policy = harebus.RepliesTo("friend", "error")
		s := r.setup(cfg)
		harebus.Handle(s, func(ctx context.Context, bus *harebus.Bus, o order) error { return bus.Reply(ctx, answer(o)) })
		r.start(s)
		client := r.setup(r.config("client")).Bus()
		for i, to := range []string{"friend", "stranger", "error"} {
			if err := client.Send(r.ctx, "orders", order{i}, harebus.WithReplyTo(to), harebus.WithCorrelationID("c")); err != nil {
				t.Fatal(err)
			}
		}
		r.quiet("friend", "error")
		m := r.await("friend", 1)[0]
		if m.CorrelationId != "c" || m.Type != "Answer" || string(m.Body) != `{"ID":0}` || m.Headers[prefixed("Intent")] != "command" {
			t.Errorf("the reply is %+v", m)
		}
		r.await("error", 2)
		if q, _ := r.broker.Queue("stranger"); q.Ready != 0 {
			t.Error("a stranger got a reply")
		}
	})
}

// TestManyHandlers: what it costs to register a handler does not grow with the number of those that are registered.
func TestManyHandlers(t *testing.T) {
	setup, err := harebus.New(harebus.Config{Queue: "orders"})
	if err != nil {
		t.Fatal(err)
	}
	const handlers = 10_000
	names := make([]string, handlers)
	for n := range names {
		names[n] = fmt.Sprint("type ", n)
	}
	nothing := func(context.Context, *harebus.Bus, *harebus.Message) error { return nil }
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for _, name := range names {
		setup.HandleMessage(name, nothing)
	}
	runtime.ReadMemStats(&after)
	t.Logf("%d bytes each", (after.TotalAlloc-before.TotalAlloc)/handlers)
	if each := (after.TotalAlloc - before.TotalAlloc) / handlers; each > 4<<10 {
		t.Errorf("%d bytes for each of %d handlers", each, handlers)
	}
	for _, name := range []string{names[0], names[handlers-1]} {
		if i, err := setup.Invoke(t.Context(), order{1}, harebus.WithType(name)); err != nil || i.Err != nil {
			t.Errorf("%s: %v, %v", name, err, i)
		}
	}
}

// TestHandlerOfTwoTypes: a handler for one wire name that is given another one is refused.
func TestHandlerOfTwoTypes(t *testing.T) {
	t.Parallel()
	setup, err := harebus.New(harebus.Config{Queue: "orders"})
	if err != nil {
		t.Fatal(err)
	}
	setup.HandleMessage("Order", func(context.Context, *harebus.Bus, *harebus.Message) error { return nil }, harebus.WithType("Order.v2"))
	_, err = setup.Invoke(t.Context(), order{1})
	if err == nil {
		t.Fatal("no error")
	}
	contains(t, err.Error(), `handler of "Order": WithType("Order.v2") names another type; leave it out`)
}
