package harebus_test

import (
	"testing"
	"time"

	"github.com/harebus/harebus/brokertest"
)

// TestChannelReplacedMeanwhile: a message that was on its way to a channel when
// the channel was taken out of use goes out on the next one.
func TestChannelReplacedMeanwhile(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		s, got := counting(r, r.config("orders"))
		r.start(s)
		if err := s.Bus().Send(r.ctx, "orders", order{1}); err != nil {
			t.Fatal(err)
		}
		// The first deferral declares the delay queues: that takes long enough.
		slow := r.broker.Inject(brokertest.Fault{On: "exchange.declare", Do: brokertest.Delay, For: 10 * time.Second})
		deferred := make(chan error, 1)
		go func() { deferred <- s.Bus().Defer(r.ctx, "orders", time.Minute, order{2}) }()
		if err := slow.WaitFired(r.ctx, 1); err != nil {
			t.Fatal(err)
		}
		r.broker.Inject(brokertest.Fault{On: "basic.publish", Do: brokertest.Nack})
		if err := s.Bus().Send(r.ctx, "orders", order{3}); err != nil {
			t.Fatal(err)
		}
		if err := receive(r, deferred); err != nil {
			t.Error(err)
		}
		for range 3 {
			receive(r, got)
		}
	})
}
