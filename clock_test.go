package harebus_test

import (
	"context"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/topology"
)

// deferRaw sends a message the way of a deferral, with a time in its header that
// somebody else's clock has made.
func (r *rig) deferRaw(ch *amqp.Channel, queue string, delay time.Duration, due time.Time) {
	r.t.Helper()
	way, err := topology.Delays{}.Route(delay, "", queue)
	if err != nil {
		r.t.Fatal(err)
	}
	var parts []topology.Topology
	for _, name := range way.Queues {
		parts = append(parts, topology.Delays{}.Queue(name))
	}
	parts = append(parts, topology.Delays{}.Base(), topology.Delays{}.Exit("", queue))
	if err := topology.Join(parts...).Declare(ch); err != nil {
		r.t.Fatal(err)
	}
	cc := make([]any, len(way.CC))
	for i, label := range way.CC {
		cc[i] = label
	}
	m := plain(`{"ID":1}`)
	m.DeliveryMode = amqp.Persistent
	m.Headers = amqp.Table{"CC": cc, "PikaBus.DeferredTime": due.UTC().Format(time.RFC3339Nano)}
	r.publishTo(ch, way.Exchange, way.Key, m)
}

// TestClocksDiffer: how long a deferred message waits is decided by the broker.
// The receiver's clock may be behind the sender's, or be set back meanwhile.
func TestClocksDiffer(t *testing.T) {
	const delay = 2 * time.Second
	for name, ahead := range map[string]time.Duration{
		"equal": 0, "seconds": 5 * time.Second, "an hour": time.Hour, "years": 6 * 366 * 24 * time.Hour, "the other way": -time.Hour,
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, r *rig) {
				s, got := counting(r, r.config("orders"))
				r.start(s)
				began := time.Now()
				r.deferRaw(r.channel(), "orders", delay, began.Add(delay+ahead))
				receive(r, got)
				if took := time.Since(began); took < delay || took > delay+50*time.Millisecond {
					t.Errorf("handled after %v", took)
				}
				r.quiet()
				if stats := s.Stats(); stats.Postponed != 0 || stats.Parked != 0 {
					t.Errorf("postponed %d times, parked %d times", stats.Postponed, stats.Parked)
				}
			})
		})
	}
}

// TestForwardedBeforeItsTime: a message that was deferred to another queue, and
// passed on from there with everything it had, has not waited for this one.
func TestForwardedBeforeItsTime(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		s, got := counting(r, r.config("orders"))
		r.start(s)
		ch := r.channel()
		r.declare(ch, "elsewhere")
		r.deferRaw(ch, "elsewhere", time.Second, time.Now().Add(time.Second))
		m := r.await("elsewhere", 1)[0].Publishing
		due := time.Now().Add(3 * time.Second)
		m.Headers["PikaBus.DeferredTime"] = due.UTC().Format(time.RFC3339Nano)
		r.publish(ch, "orders", m)
		receive(r, got)
		if early := time.Until(due); early > 0 {
			t.Errorf("handled %v early", early)
		}
	})
}

// TestDueAtOnce: a copy that is sent straight says nothing about a time, because the clock
// of the instance that gets it may be behind.
func TestDueAtOnce(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		cfg := r.config("orders")
		cfg.Handling.ErrorHandler = func(*harebus.Message, error, harebus.Decision) harebus.Decision { return harebus.RetryIn(0) }
		s := r.setup(cfg)
		seen := make(chan *harebus.Message, 2)
		s.HandleMessage("Order", func(_ context.Context, _ *harebus.Bus, m *harebus.Message) error {
			if seen <- m; m.Attempt == 1 {
				return errNo
			}
			return nil
		})
		r.start(s)
		if err := s.Bus().Defer(r.ctx, "orders", 0, order{1}); err != nil {
			t.Fatal(err)
		}
		for attempt := 1; attempt <= 2; attempt++ {
			m := receive(r, seen)
			if _, ok := m.Headers[prefixed("DeferredTime")]; ok || m.Attempt != attempt {
				t.Errorf("attempt %d of %d: headers %v", m.Attempt, attempt, m.Headers)
			}
		}
	})
}
