package harebus_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/harebus/harebus"
)

// TestExitEndsWithItsQueue: the listener queue of an instance expires when the
// instance is gone, and the exit of delays to it follows. While the instance
// lives both stay, however long a message waits.
func TestExitEndsWithItsQueue(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		const exit = "harebus.delay.due//instance"
		cfg := r.config("instance")
		cfg.QueueArguments = map[string]any{"x-expires": 60_000}
		s := r.setup(cfg)
		handled := make(chan int, 1)
		harebus.Handle(s, func(ctx context.Context, _ *harebus.Bus, o order) error {
			if harebus.Incoming(ctx).Attempt == 1 {
				return harebus.RetryAfter(8*time.Minute, errors.New("not yet"))
			}
			handled <- o.ID
			return nil
		})
		r.start(s)
		if err := s.Bus().Send(r.ctx, "instance", order{1}); err != nil {
			t.Fatal(err)
		}
		receive(r, handled)
		// Others use the exit as it is.
		if err := r.setup(r.config("")).Bus().Defer(r.ctx, "instance", time.Second, order{2}); err != nil {
			t.Error(err)
		}
		if _, ok := r.broker.Queue(exit); !ok {
			t.Fatal("there is no exit")
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		<-time.After(8 * time.Minute)
		for _, queue := range []string{"instance", exit} {
			if _, ok := r.broker.Queue(queue); ok {
				t.Errorf("%q has outlived its instance", queue)
			}
		}
	})
}
