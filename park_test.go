package harebus_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/brokertest"
)

// TestParkingIsNotPossible: what has to be parked while the error queue takes nothing
// waits in a delay. It holds up nobody, its handler is not called again, and it is
// parked as it would have been when the queue is back.
func TestParkingIsNotPossible(t *testing.T) {
	for name, trouble := range map[string]func(r *rig) []*brokertest.Injection{
		"down": func(r *rig) []*brokertest.Injection {
			return []*brokertest.Injection{r.nodeDown("error"), r.broker.Inject(brokertest.Fault{
				On: "basic.publish", Times: -1, Do: brokertest.Return, Match: func(f brokertest.Frame) bool { return f.RoutingKey == "error" },
			})}
		},
		"full": func(r *rig) []*brokertest.Injection {
			return []*brokertest.Injection{r.broker.Inject(brokertest.Fault{
				On: "basic.publish", Times: -1, Do: brokertest.Nack, Match: func(f brokertest.Frame) bool { return f.RoutingKey == "error" },
			})}
		},
		"missing and refused": func(r *rig) []*brokertest.Injection {
			r.t.Helper()
			if err := r.broker.DeleteQueue("error"); err != nil {
				r.t.Fatal(err)
			}
			return []*brokertest.Injection{r.refuses("queue.declare", func(f brokertest.Frame) bool { return f.Queue == "error" })}
		},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, r *rig) { parkingIsNotPossible(t, r, trouble) })
		})
	}
}

func parkingIsNotPossible(t *testing.T, r *rig, trouble func(r *rig) []*brokertest.Injection) {
	const bad = 30
	cfg := r.config("orders")
	cfg.Consume = harebus.ConsumeConfig{Concurrency: 2, Prefetch: 5}
	cfg.Retry = harebus.RetryConfig{MaxRetries: -1}
	logger, logs := observed()
	cfg.Logger = logger
	s := r.setup(cfg)
	var mu sync.Mutex
	attempts := map[int]int{}
	got := make(chan int, 100)
	harebus.Handle(s, func(_ context.Context, _ *harebus.Bus, o order) error {
		mu.Lock()
		defer mu.Unlock()
		attempts[o.ID]++
		if o.ID < bad {
			return fmt.Errorf("order %d is bad", o.ID)
		}
		got <- o.ID
		return nil
	})
	r.start(s)
	faults := trouble(r)
	for id := range bad {
		if err := s.Bus().Send(r.ctx, "orders", order{id}); err != nil {
			t.Fatal(err)
		}
	}
	<-time.After(40 * time.Second) // the first attempts to park take a while
	r.works(s, got, bad+1)
	err := s.Ready()
	if err == nil {
		t.Fatal("ready, though nothing can be parked")
	}
	contains(t, err.Error(), "no message can be parked")
	<-time.After(time.Minute)
	r.works(s, got, bad+2)
	if n := logs.Len(); n > 40 {
		t.Errorf("%d lines in the log in %d seconds", n, 100)
	}
	for _, f := range faults {
		f.Remove()
	}
	r.quiet("error")
	if err := s.Ready(); err != nil {
		t.Error(err)
	}
	parked := map[string]bool{}
	for _, m := range r.await("error", bad) {
		parked[string(m.Body)] = true
		if m.Headers[prefixed("ErrorRetries")] == nil || m.Headers[prefixed("SourceQueue")] != "orders" || m.Headers[prefixed("Parking")] != nil {
			t.Errorf("parked with %v", m.Headers)
		}
		contains(t, fmt.Sprint(m.Headers[prefixed("ErrorDetails")]), "is bad")
	}
	for id := range bad {
		if attempts[id] != 1 {
			t.Errorf("order %d was handled %d times", id, attempts[id])
		}
	}
	if c := s.Stats(); len(parked) != bad || c.Parked != bad || c.Failed != bad {
		t.Errorf("%d parked, counts %+v", len(parked), c)
	}
}

// TestLongTroubleWithParking: the longer nothing can be parked, the more rarely a message comes back to be parked.
func TestLongTroubleWithParking(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		s := failing(r, r.config("orders"))
		full := r.broker.Inject(brokertest.Fault{
			On: "basic.publish", Times: -1, Do: brokertest.Nack, Match: func(f brokertest.Frame) bool { return f.RoutingKey == "error" },
		})
		if err := s.Bus().Send(r.ctx, "orders", order{1}); err != nil {
			t.Fatal(err)
		}
		<-time.After(8 * time.Minute)
		if n := s.Stats().Delivered; n > 8 {
			t.Errorf("%d deliveries in eight minutes", n)
		}
		full.Remove()
		r.setClock(time.Now()) // ten more minutes
		<-time.After(5*time.Minute + time.Second)
		r.await("error", 1)
	})
}

// TestParkedCopyIsRefused: when the broker refuses one copy, the error queue is not to blame: others are parked, and
// the message goes back to its queue and is parked when it is not refused any more.
func TestParkedCopyIsRefused(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		logger, logs := observed()
		cfg := r.config("orders")
		cfg.Logger = logger
		s := failing(r, cfg)
		r.broker.Inject(brokertest.Fault{
			On: "basic.publish", Times: 3, Do: brokertest.Raise, Code: 406, Text: "PRECONDITION_FAILED - no",
			Match: func(f brokertest.Frame) bool { return f.RoutingKey == "error" },
		})
		if err := s.Bus().Send(r.ctx, "orders", order{1}); err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		r.await("error", 1)
		if took := time.Since(start); took > 10*time.Second {
			t.Errorf("parked after %v", took)
		}
		if err := s.Ready(); err != nil {
			t.Error(err)
		}
		if n := logs.FilterMessageSnippet("a copy of a message that failed is refused").Len(); n == 0 {
			t.Error("the log does not tell of the refusal")
		}
		if n := logs.FilterMessageSnippet("takes no messages").Len(); n > 0 {
			t.Error("the log blames the error queue")
		}
	})
}

// TestCopyIsRefusedAlways: a message whose copy is refused again and again is retried or parked
// without its custom headers. If that is refused, too, its handler is called more and more
// rarely, the log says so twice, and other messages are handled.
func TestCopyIsRefusedAlways(t *testing.T) {
	for _, kind := range []string{"parked always", "parked because of a header", "retried always", "retried because of a header"} {
		always, parked := strings.HasSuffix(kind, "always"), strings.HasPrefix(kind, "parked")
		t.Run(kind, func(t *testing.T) {
			bubble(t, func(t *testing.T, r *rig) {
				logger, logs := observed()
				cfg := r.config("orders")
				cfg.Logger = logger
				var calls atomic.Int32
				s := r.setup(cfg)
				got := make(chan int, 10)
				harebus.Handle(s, func(_ context.Context, _ *harebus.Bus, o order) error {
					if o.ID != 1 {
						got <- o.ID
						return nil
					}
					calls.Add(1)
					if parked {
						return harebus.NoRetry(errBoom)
					}
					return errBoom
				})
				r.start(s)
				r.broker.Inject(brokertest.Fault{
					On: "basic.publish", Times: -1, Do: brokertest.Raise, Code: 406, Text: "PRECONDITION_FAILED - no",
					Match: func(f brokertest.Frame) bool {
						return strings.HasPrefix(f.Exchange, "harebus.delay") != parked && f.RoutingKey != "orders" && (always || f.Headers["bad"] != nil)
					},
				})
				if err := s.Bus().Send(r.ctx, "orders", order{1}, harebus.WithHeaders(map[string]any{"bad": "one"})); err != nil {
					t.Fatal(err)
				}
				if !always {
					m := r.await("error", 1)[0]
					contains(t, fmt.Sprint(m.Headers[prefixed("ErrorDetails")]), "bad")
					if n := calls.Load(); n > 10 {
						t.Errorf("%d attempts", n)
					}
					return
				}
				time.Sleep(3 * time.Minute)
				r.works(s, got, 2)
				if n := calls.Load(); n > 20 {
					t.Errorf("the handler was called %d times in three minutes", n)
				}
				if n := logs.FilterMessageSnippet("a copy of a message that failed is refused").Len(); n != 2 {
					t.Errorf("%d lines in the log, want 2", n)
				}
				if err := s.Ready(); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

// failing starts a service whose handler fails for good.
func failing(r *rig, cfg harebus.Config) *harebus.Setup {
	s := r.setup(cfg)
	harebus.Handle(s, func(context.Context, *harebus.Bus, order) error { return harebus.NoRetry(errBoom) })
	r.start(s)
	return s
}

// TestHandleAfterStart: a handler that comes late handles what comes then. A faulty
// one is reported at once, and is no reason not to start again.
func TestHandleAfterStart(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		logger, logs := observed()
		cfg := r.config("orders")
		cfg.Logger = logger
		s, got := counting(r, cfg)
		r.start(s)
		late := make(chan int, 10)
		harebus.Handle(s, func(_ context.Context, _ *harebus.Bus, a answer) error {
			late <- a.ID
			return nil
		})
		if err := s.Bus().Send(r.ctx, "orders", answer{5}); err != nil {
			t.Fatal(err)
		}
		if id := receive(r, late); id != 5 {
			t.Errorf("got %d", id)
		}
		if err := s.Ready(); err != nil {
			t.Error(err)
		}
		harebus.Handle(s, func(context.Context, *harebus.Bus, order) error { return nil })
		if err := s.Ready(); err == nil {
			t.Error("ready despite a second handler for a type")
		} else {
			contains(t, err.Error(), `handler of "Order"`, "already")
		}
		if n := logs.FilterMessageSnippet("cannot register a handler").Len(); n != 1 {
			t.Errorf("%d lines", n)
		}
		if err := s.Stop(r.ctx); err != nil {
			t.Fatal(err)
		}
		r.start(s)
		if err := s.Ready(); err != nil {
			t.Error(err)
		}
		r.works(s, got, 1)
	})
}
