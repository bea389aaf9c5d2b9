package harebus_test

import (
	"context"
	"fmt"
	"sync"
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
