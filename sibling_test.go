package harebus_test

import (
	"context"
	"testing"
	"time"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/brokertest"
)

// TestDestinationThatEndsConnections: a queue that ends the connection when it is looked at
// keeps neither deferrals to other queues nor retries from working.
func TestDestinationThatEndsConnections(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.declare(r.channel(), "bad", "good")
		s := r.setup(r.config("orders"))
		attempts := make(chan int, 100)
		harebus.Handle(s, func(_ context.Context, _ *harebus.Bus, o order) error {
			attempts <- o.ID
			return errBoom
		})
		r.start(s)
		r.ends("queue.declare", 541, func(f brokertest.Frame) bool { return f.Queue == "bad" })
		before := s.Stats().Connections
		for range 20 {
			ctx, cancel := context.WithTimeout(r.ctx, 5*time.Second)
			if err := s.Bus().Defer(ctx, "bad", time.Minute, order{1}); err == nil {
				t.Fatal("deferred")
			}
			cancel()
			if err := s.Bus().Defer(r.ctx, "good", time.Minute, order{1}); err != nil {
				t.Fatal(err)
			}
			time.Sleep(5 * time.Second)
		}
		if err := s.Bus().Send(r.ctx, "orders", order{2}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(5 * time.Minute)
		if n := len(attempts); n != 6 {
			t.Errorf("%d attempts, want 6", n)
		}
		if n := s.Stats().Connections - before; n > 10 {
			t.Errorf("%d connections", n)
		}
		if err := s.Ready(); err != nil {
			t.Error(err)
		}
	})
}

// TestQueueGoesDuringAPause: a queue that was deleted during a pause is declared again at its
// end, and consumed from.
func TestQueueGoesDuringAPause(t *testing.T) {
	for name, change := range pausable {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, r *rig) {
				p := r.pausing(change)
				if err := p.Pause(r.ctx); err != nil {
					t.Fatal(err)
				}
				time.Sleep(time.Second)
				if err := r.broker.DeleteQueue("orders"); err != nil {
					t.Fatal(err)
				}
				if err := p.Resume(); err != nil {
					t.Fatal(err)
				}
				time.Sleep(10 * time.Second)
				r.fill("orders", 5)
				r.quiet()
				if n := len(p.got.ids); n != 5 {
					t.Errorf("%d handled", n)
				}
			})
		})
	}
}

// TestConsumeEndsTheConnection: when consuming from one queue ends the connection, the others
// are consumed from.
func TestConsumeEndsTheConnection(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		s, got := counting(r, r.config("orders"))
		bad := r.endpoint(s, harebus.EndpointConfig{Queue: "bad"})
		harebus.Handle(bad, func(context.Context, *harebus.Bus, order) error { return nil })
		r.start(s)
		deadly := r.ends("basic.consume", 541, func(f brokertest.Frame) bool { return f.Queue == "bad" })
		r.broker.CutConnections()
		time.Sleep(30 * time.Second)
		before := s.Stats().Connections
		for id := range 12 * 5 {
			r.works(s, got, id)
			time.Sleep(5 * time.Second)
		}
		if n := s.Stats().Connections - before; n > 10 {
			t.Errorf("%d connections in five minutes", n)
		}
		if err := s.Ready(); err == nil {
			t.Error("ready, though one queue is not consumed from")
		} else {
			contains(t, err.Error(), `queue "bad"`, "boom")
		}
		deadly.Remove()
		time.Sleep(5 * time.Minute)
		r.setClock(time.Now())
		time.Sleep(time.Minute)
		if err := s.Ready(); err != nil {
			t.Error(err)
		}
	})
}

// TestConsumingIsRefusedForLong: the log does not repeat once a second why a queue cannot be
// consumed from.
func TestConsumingIsRefusedForLong(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		cfg := r.config("orders")
		logger, logs := observed()
		cfg.Logger = logger
		s, got := counting(r, cfg)
		r.start(s)
		refused := r.refuses("basic.consume", nil)
		r.broker.CutConnections()
		time.Sleep(5 * time.Minute)
		if n := logs.FilterMessageSnippet("cannot consume; trying again").Len(); n == 0 || n > 10 {
			t.Errorf("%d lines in five minutes", n)
		}
		refused.Remove()
		r.works(s, got, 1)
	})
}
