package harebus_test

import (
	"context"
	"errors"
	"io"
	"net"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/brokertest"
)

// delayQueues are the quorum queues that delays have cost so far.
func (r *rig) delayQueues() []string {
	var names []string
	for _, q := range r.broker.Queues() {
		if name, ok := strings.CutPrefix(q.Name, "harebus.delay."); ok {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// slowDeclares has the broker take its time for each queue.
func (r *rig) slowDeclares(d time.Duration) {
	r.broker.Inject(brokertest.Fault{On: "queue.declare", Times: -1, Do: brokertest.Delay, For: d})
}

// TestDeferDeclaresOnDemand: a deferral declares what is on its way, and no more.
func TestDeferDeclaresOnDemand(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.declare(r.channel(), "out")
		bus := r.setup(r.config("")).Bus()
		for _, step := range []struct {
			delay  time.Duration
			queues []string
		}{
			{10 * time.Minute, []string{"10m", "due//out", "lost"}},
			{10 * time.Minute, []string{"10m", "due//out", "lost"}},
			{time.Hour + time.Second, []string{"10m", "1h", "1s", "due//out", "lost"}},
		} {
			if err := bus.Defer(r.ctx, "out", step.delay, order{1}); err != nil {
				t.Fatal(err)
			}
			if got := r.delayQueues(); !slices.Equal(got, step.queues) {
				t.Errorf("after %v: %q, want %q", step.delay, got, step.queues)
			}
		}
	})
}

// TestRetriesShareQueues: the pauses of retries differ a little each time, and
// take few queues.
func TestRetriesShareQueues(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		s := r.setup(r.config("orders"))
		harebus.Handle(s, func(context.Context, *harebus.Bus, order) error { return errors.New("no") })
		r.start(s)
		const messages = 100
		for i := range messages {
			if err := s.Bus().Send(r.ctx, "orders", order{i}); err != nil {
				t.Fatal(err)
			}
		}
		r.await("error", messages)
		if got := r.delayQueues(); len(got) > 18 {
			t.Errorf("%d queues for %d messages that failed six times: %q", len(got), messages, got)
		}
	})
}

// TestDeletedDelayQueueIsDeclaredAgain: whether the first queue of the way is
// gone or a later one.
func TestDeletedDelayQueueIsDeclaredAgain(t *testing.T) {
	for name, queue := range map[string]string{"first": "harebus.delay.5s", "later": "harebus.delay.1s", "exit": "harebus.delay.due//out"} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, r *rig) {
				r.declare(r.channel(), "out")
				bus := r.setup(r.config("")).Bus()
				deferOne := func() {
					t.Helper()
					if err := bus.Defer(r.ctx, "out", 6*time.Second, order{1}); err != nil {
						t.Fatal(err)
					}
				}
				deferOne()
				r.await("out", 1)
				if err := r.broker.DeleteQueue(queue); err != nil {
					t.Fatal(err)
				}
				<-time.After(5 * time.Minute) // what is believed to exist is looked at again
				deferOne()
				r.await("out", 2)
			})
		})
	}
}

// TestDeferIsOverBeforeItsWayExists: a message that becomes due while its way is being
// declared goes straight to its queue.
func TestDeferIsOverBeforeItsWayExists(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.declare(r.channel(), "out")
		r.slowDeclares(20 * time.Millisecond)
		bus := r.setup(r.config("")).Bus()
		began := time.Now()
		if err := bus.Defer(r.ctx, "out", 30*time.Millisecond, order{1}); err != nil {
			t.Fatal(err)
		}
		m := r.await("out", 1)[0]
		if _, died := m.Headers["x-death"]; died || time.Since(began) < 30*time.Millisecond {
			t.Errorf("after %v: %v", time.Since(began), m.Headers)
		}
	})
}

// TestSlowDeclaringMakesNoOtherQueues: ten minutes stay ten minutes, although
// less is left when their queue exists.
func TestSlowDeclaringMakesNoOtherQueues(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.declare(r.channel(), "out")
		r.slowDeclares(200 * time.Millisecond)
		bus := r.setup(r.config("")).Bus()
		if err := bus.Defer(r.ctx, "out", time.Minute, order{1}); err != nil {
			t.Fatal(err)
		}
		if got, want := r.delayQueues(), []string{"1m", "due//out", "lost"}; !slices.Equal(got, want) {
			t.Errorf("%q, want %q", got, want)
		}
	})
}

// TestRoomIsSoughtWithinTheContext: a deferral that is first to need a delay queue ends with its context, also when the
// broker does not greet, or answers neither the declaration of the reserve nor its deletion.
func TestRoomIsSoughtWithinTheContext(t *testing.T) {
	for name, silence := range map[string]func(r *rig, mute *atomic.Bool){
		"no greeting": func(_ *rig, mute *atomic.Bool) { mute.Store(true) },
		"no answer": func(r *rig, _ *atomic.Bool) {
			for _, method := range []string{"queue.declare", "queue.delete"} {
				r.broker.Inject(brokertest.Fault{On: method, Times: -1, Do: brokertest.Hold, Match: func(f brokertest.Frame) bool {
					return strings.Contains(f.Queue, ".reserve.")
				}})
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, r *rig) {
				r.declare(r.channel(), "out")
				var mute atomic.Bool
				cfg := r.config("")
				cfg.Dial = func(network, address string) (net.Conn, error) {
					if !mute.Load() {
						return r.broker.Dial(network, address)
					}
					ours, theirs := net.Pipe()
					go func() { _, _ = io.Copy(io.Discard, theirs) }()
					return ours, nil
				}
				bus := r.setup(cfg).Bus()
				if err := bus.Send(r.ctx, "out", order{0}); err != nil {
					t.Fatal(err)
				}
				silence(r, &mute)
				ctx, cancel := context.WithTimeout(r.ctx, time.Second)
				defer cancel()
				began := time.Now()
				err := bus.Defer(ctx, "out", time.Minute, order{1})
				if took := time.Since(began); !errors.Is(err, context.DeadlineExceeded) || took > 1100*time.Millisecond {
					t.Errorf("after %v: %v", took, err)
				}
			})
		})
	}
}

// TestNoRoomForDelayQueues: a broker that would let nobody in any more, because
// it has no file descriptors left for queues, is left as it was.
func TestNoRoomForDelayQueues(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.declare(r.channel(), "out")
		var full atomic.Bool
		cfg := r.config("")
		cfg.Dial = func(network, address string) (net.Conn, error) {
			if !full.Load() {
				return r.broker.Dial(network, address)
			}
			ours, theirs := net.Pipe() // taken, and then nothing is said
			go func() { _, _ = io.Copy(io.Discard, theirs) }()
			return ours, nil
		}
		bus := r.setup(cfg).Bus()
		if err := bus.Send(r.ctx, "out", order{0}); err != nil {
			t.Fatal(err)
		}
		full.Store(true)
		for range 2 {
			began := time.Now()
			err := bus.Defer(r.ctx, "out", time.Minute, order{1})
			if !errors.Is(err, harebus.ErrNotSent) || time.Since(began) > 5*time.Second {
				t.Fatalf("after %v: %v", time.Since(began), err)
			}
			contains(t, err.Error(), "file descriptors", "65536")
		}
		if left := r.delayQueues(); len(left) != 0 {
			t.Errorf("%q are left", left)
		}
		full.Store(false)
		<-time.After(10 * time.Second)
		if err := bus.Defer(r.ctx, "out", time.Minute, order{1}); err != nil {
			t.Fatal(err)
		}
		if got, want := r.delayQueues(), []string{"1m", "due//out", "lost"}; !slices.Equal(got, want) {
			t.Errorf("%q, want %q", got, want)
		}
		r.await("out", 2)
	})
}

// TestDelayExchangeIsGone: somebody has deleted the exchange into the delay queues; the next
// message that needs a queue which is not declared yet declares everything again.
func TestDelayExchangeIsGone(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		got := make(chan int, 2)
		s := r.setup(r.config("orders"))
		harebus.Handle(s, func(_ context.Context, _ *harebus.Bus, o order) error { got <- o.ID; return nil })
		r.start(s)
		if err := s.Bus().Defer(r.ctx, "orders", 40*time.Millisecond, order{1}); err != nil {
			t.Fatal(err)
		}
		receive(r, got)
		if err := r.channel().ExchangeDelete("harebus.delay.in", false, false); err != nil {
			t.Fatal(err)
		}
		if err := s.Bus().Defer(r.ctx, "orders", 90*time.Second, order{2}); err != nil {
			t.Fatal(err)
		}
		if id := receive(r, got); id != 2 {
			t.Errorf("got %d", id)
		}
	})
}
