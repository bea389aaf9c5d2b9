package harebus_test

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/brokertest"
)

// TestNothingTakesFailedMessages: while neither the delay queues nor the error queue takes a
// message, Ready says so, whether it is to be retried or parked, and other messages are
// handled. It recovers by itself, also when the handler succeeds in the end.
func TestNothingTakesFailedMessages(t *testing.T) {
	for name, retries := range map[string]int{"to be retried": 0, "to be parked": -1} {
		for end, heal := range map[string]bool{"the broker recovers": true, "the handler succeeds": false} {
			t.Run(name+", "+end, func(t *testing.T) {
				bubble(t, func(t *testing.T, r *rig) { nothingTakes(t, r, retries, heal) })
			})
		}
	}
}

func nothingTakes(t *testing.T, r *rig, retries int, heal bool) {
	cfg := r.config("orders")
	cfg.Consume.Concurrency, cfg.Retry.MaxRetries = 2, retries
	s := r.setup(cfg)
	var well atomic.Bool
	got := make(chan int, 10)
	harebus.Handle(s, func(_ context.Context, _ *harebus.Bus, o order) error {
		if o.ID == 1 && !well.Load() {
			return errBoom
		}
		got <- o.ID
		return nil
	})
	r.start(s)
	fault := r.broker.Inject(brokertest.Fault{
		On: "basic.publish", Times: -1, Do: brokertest.Nack,
		Match: func(f brokertest.Frame) bool { return f.RoutingKey != "orders" || f.Exchange != "PikaBusDirect" },
	})
	if err := s.Bus().Send(r.ctx, "orders", order{1}); err != nil {
		t.Fatal(err)
	}
	time.Sleep(20 * time.Second)
	for range 30 {
		time.Sleep(4 * time.Second)
		if err := s.Ready(); err == nil {
			t.Fatal("ready, though nothing takes a failed message")
		} else {
			contains(t, err.Error(), "since 2000-", "the broker refused the message")
		}
	}
	r.works(s, got, 2)
	if heal {
		fault.Remove()
		time.Sleep(6 * time.Minute) // what was put off comes back
	} else {
		well.Store(true)
		time.Sleep(15 * time.Minute)
	}
	if err := s.Ready(); err != nil {
		t.Error(err)
	}
}
