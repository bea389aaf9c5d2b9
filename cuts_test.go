package harebus_test

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/harebus/harebus"
)

// TestCutsUseUpNothing: connections that are cut again and again while handlers are slow do
// not use up the deliveries of messages that no handler has begun, and make no copies of them.
func TestCutsUseUpNothing(t *testing.T) {
	for name, cfg := range map[string]harebus.ConsumeConfig{
		"one worker": {Concurrency: 1, Prefetch: 10}, "many fetched": {Concurrency: 1, Prefetch: 50}, "two workers": {Concurrency: 2, Prefetch: 10},
	} {
		for _, slow := range []time.Duration{10 * time.Second, 50 * time.Second, 4 * time.Minute} {
			t.Run(fmt.Sprint(name, slow), func(t *testing.T) {
				bubble(t, func(t *testing.T, r *rig) {
					c := r.config("orders")
					c.Consume = cfg
					s := r.setup(c)
					var begun [101]atomic.Bool
					var slowed atomic.Bool
					slowed.Store(true)
					harebus.Handle(s, func(_ context.Context, _ *harebus.Bus, o order) error {
						begun[o.ID].Store(true)
						if slowed.Load() {
							<-time.After(slow)
						}
						return nil
					})
					r.start(s)
					r.fill("orders", 100)
					for range 60 {
						<-time.After(2 * time.Minute)
						if q, _ := r.broker.Queue("orders"); q.Ready+q.Unacked > 100 {
							t.Fatalf("the queue has %d messages, and 100 were sent", q.Ready+q.Unacked)
						}
						r.broker.CutConnections()
					}
					slowed.Store(false)
					<-time.After(10 * time.Minute)
					for _, m := range r.broker.Messages("error") {
						var id int
						if _, err := fmt.Sscanf(string(m.Body), `{"ID":%d}`, &id); err != nil {
							t.Fatal(err)
						}
						if !begun[id].Load() {
							t.Errorf("%d is in the error queue, and no handler has begun with it", id)
						}
					}
					if q, _ := r.broker.Queue("orders"); q.Ready+q.Unacked > 0 {
						t.Errorf("%d messages are left", q.Ready+q.Unacked)
					}
				})
			})
		}
	}
}

// TestCutsMakeNoCopies: the connection that consumes is cut again and again, and that of the publisher is not. Messages that no
// handler has begun come back by themselves, so no copy of them is published, however often the broker has delivered them.
func TestCutsMakeNoCopies(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		c := r.config("orders")
		c.Consume, c.Connect.Name = harebus.ConsumeConfig{Concurrency: 1, Prefetch: 50}, "orders"
		s := r.setup(c)
		harebus.Handle(s, func(ctx context.Context, _ *harebus.Bus, _ order) error {
			<-ctx.Done()
			return ctx.Err()
		})
		r.start(s)
		r.fill("orders", 100)
		for range 60 {
			<-time.After(time.Minute)
			if r.broker.CutConnections("orders consume") != 1 {
				t.Fatal("there is no connection of this name")
			}
			if q, _ := r.broker.Queue("orders"); q.Ready+q.Unacked > 100 {
				t.Fatalf("the queue has %d messages, and 100 were sent", q.Ready+q.Unacked)
			}
		}
	})
}
