package harebus_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/harebus/harebus"
)

// holding is a service on a queue with a single active consumer. It holds the order 1 and
// handles all others.
type holding struct {
	*harebus.Setup
	held    chan *harebus.Hold
	handled chan int
}

func (r *rig) holding(queue string) *holding {
	r.t.Helper()
	cfg := r.config(queue)
	cfg.QueueOptions.Arguments = map[string]any{"x-single-active-consumer": true}
	cfg.Consume = harebus.ConsumeConfig{Concurrency: 1, Prefetch: 10}
	s := &holding{r.setup(cfg), make(chan *harebus.Hold, 10), make(chan int, 10)}
	var again bool
	harebus.Handle(s.Setup, func(ctx context.Context, bus *harebus.Bus, o order) error {
		if o.ID == 1 && !again {
			again = true
			if err := bus.Send(ctx, queue, order{99}); err != nil {
				return err
			}
			h := new(harebus.Hold)
			s.held <- h
			return h
		}
		s.handled <- o.ID
		return nil
	})
	r.start(s.Setup)
	return s
}

// send sends orders, one after the other.
func (s *holding) send(r *rig, ids ...int) {
	r.t.Helper()
	for _, id := range ids {
		if err := s.Bus().Send(r.ctx, s.Queue(), order{id}); err != nil {
			r.t.Fatal(err)
		}
	}
}

// TestHold: a held message takes no worker, is not acknowledged, sends nothing, and is handled
// again when it is released; that is acknowledged.
func TestHold(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		s := r.holding("held")
		s.send(r, 1, 2)
		h := receive(r, s.held)
		if got := receive(r, s.handled); got != 2 {
			t.Fatalf("handled %d, want 2", got)
		}
		time.Sleep(5 * time.Minute)
		if q, _ := r.broker.Queue("held"); q.Unacked != 1 || q.Ready != 0 || !h.Holds() {
			t.Fatalf("%d unacknowledged, %d ready, holds %v; want one held", q.Unacked, q.Ready, h.Holds())
		}
		h.Release()
		h.Release()
		if h.Holds() {
			t.Error("a released message is held")
		}
		if got := receive(r, s.handled); got != 1 {
			t.Fatalf("handled %d, want 1", got)
		}
		r.quiet()
		if stats := s.Stats(); stats.Delivered != 2 || stats.Handled != 2 || stats.Failed != 0 || stats.InFlight != 0 {
			t.Errorf("delivered %d, handled %d, failed %d, in flight %d", stats.Delivered, stats.Handled, stats.Failed, stats.InFlight)
		}
	})
}

// TestHoldGoesBack: a held message goes back to its queue at a stop, a pause and a lost
// connection, and is handled by whoever gets it next; to release it then does nothing.
func TestHoldGoesBack(t *testing.T) {
	for name, leave := range map[string]func(r *rig, s *holding) error{
		"stop":  func(_ *rig, s *holding) error { return s.Close() },
		"pause": func(r *rig, s *holding) error { return s.Pause(r.ctx) },
		"lost connection": func(r *rig, _ *holding) error {
			r.broker.CloseConnections("test")
			return nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, r *rig) {
				s := r.holding("held")
				s.send(r, 1)
				h := receive(r, s.held)
				time.Sleep(time.Second)
				if err := leave(r, s); err != nil {
					t.Fatal(err)
				}
				time.Sleep(10 * time.Millisecond)
				if h.Holds() {
					t.Error("the message is still held")
				}
				h.Release()
				if name != "lost connection" { // the instance itself gets it again
					if q, _ := r.broker.Queue("held"); q.Ready != 1 {
						t.Fatalf("%d messages are ready, want 1", q.Ready)
					}
					s = r.holding("held")
					receive(r, s.held).Release()
				}
				if got := receive(r, s.handled); got != 1 {
					t.Fatalf("handled %d, want 1", got)
				}
				r.quiet()
				if len(s.handled) > 0 {
					t.Errorf("handled %d as well", <-s.handled)
				}
			})
		})
	}
}

// TestHoldWithoutOrder: where the order of the queue is not kept a Hold is a failure.
func TestHoldWithoutOrder(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		cfg := r.config("orders")
		cfg.Retry.MaxRetries = -1
		s := r.setup(cfg)
		harebus.Handle(s, func(context.Context, *harebus.Bus, order) error { return new(harebus.Hold) })
		r.start(s)
		if err := s.Bus().Send(r.ctx, "orders", order{1}); err != nil {
			t.Fatal(err)
		}
		r.await("error", 1)
		contains(t, r.details(), "single active consumer")
	})
}

// TestHoldReleasedBefore: a Hold that is released before the handler returns it has the
// handler called again at once.
func TestHoldReleasedBefore(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		cfg := r.config("orders")
		cfg.Consume.Concurrency = 1
		s := r.setup(cfg)
		calls := 0
		harebus.Handle(s, func(context.Context, *harebus.Bus, order) error {
			if calls++; calls > 100 {
				return nil
			}
			h := new(harebus.Hold)
			h.Release()
			return errors.Join(errors.New("wrapped"), h)
		})
		r.start(s)
		if err := s.Bus().Send(r.ctx, "orders", order{1}); err != nil {
			t.Fatal(err)
		}
		r.quiet()
		if calls != 101 {
			t.Errorf("%d calls, want 101", calls)
		}
	})
}
