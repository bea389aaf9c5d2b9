package harebus_test

import (
	"context"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/brokertest"
)

// TestCommitWithoutConfirm: a handler's commit that the broker never confirms ends after
// five to six minutes, the attempt fails, and the message is parked by the policy.
func TestCommitWithoutConfirm(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		var cancel context.CancelFunc
		r.ctx, cancel = context.WithTimeout(t.Context(), 4*time.Hour)
		defer cancel()
		ch := r.channel()
		r.declare(ch, "stuck")
		cfg := r.config("orders")
		cfg.Retry = harebus.RetryConfig{MaxRetries: 2, BackOff: steady}
		s := r.setup(cfg)
		var runs atomic.Int32
		harebus.Handle(s, func(ctx context.Context, bus *harebus.Bus, _ order) error {
			runs.Add(1)
			return bus.Send(ctx, "stuck", answer{1})
		})
		r.start(s)
		copies := r.unconfirmed("stuck")
		start := time.Now()
		r.publish(ch, "orders", plain(`{"ID":1}`))
		contains(t, r.details(), "5m0s")
		const perRun = 12
		if took := time.Since(start); runs.Load() != 3 || took < 15*time.Minute || took > 20*time.Minute || copies.Load() > 3*perRun {
			t.Errorf("%d runs in %v, %d copies", runs.Load(), took, copies.Load())
		}
	})
}

// unconfirmed drops the confirms of the messages for a queue. It returns how many there were.
func (r *rig) unconfirmed(queue string) (copies *atomic.Int32) {
	copies = &atomic.Int32{}
	var last atomic.Bool // the latest message is one of them
	r.broker.Inject(brokertest.Fault{On: "basic.publish", Times: -1, Do: brokertest.Drop, Match: func(f brokertest.Frame) bool {
		if last.Store(f.RoutingKey == queue); last.Load() {
			copies.Add(1)
		}
		return false
	}})
	r.broker.Inject(brokertest.Fault{On: "basic.ack", From: brokertest.FromBroker, Times: -1, Do: brokertest.Drop, Match: func(brokertest.Frame) bool { return last.Load() }})
	return copies
}

// TestCommitOfALostDelivery: a commit ends when its delivery can no longer be acknowledged,
// and the worker handles the next delivery.
func TestCommitOfALostDelivery(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		ch := r.channel()
		r.declare(ch, "stuck")
		cfg := r.config("orders")
		cfg.Consume.Concurrency = 1
		s := r.setup(cfg)
		runs := make(chan time.Time, 10)
		harebus.Handle(s, func(ctx context.Context, bus *harebus.Bus, _ order) error {
			runs <- time.Now()
			return bus.Send(ctx, "stuck", answer{1})
		})
		r.start(s)
		r.unconfirmed("stuck")
		r.publish(ch, "orders", plain(`{"ID":1}`))
		receive(r, runs)
		synctest.Wait()
		for _, c := range r.broker.Connections() {
			if strings.Contains(c.Name, "consume") {
				r.broker.CutConnections(c.Name)
			}
		}
		cut := time.Now()
		if took := receive(r, runs).Sub(cut); took > 20*time.Second {
			t.Errorf("the next run began after %v", took)
		}
	})
}
