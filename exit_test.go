package harebus_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/harebus/harebus"
)

// TestExitMayNotBeRead: a user who may not keep the exit from expiring, as the documented
// one of a service with CheckOnly, is told once, with the remedy.
func TestExitMayNotBeRead(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		cfg := r.config("instance")
		cfg.QueueOptions.Arguments = map[string]any{"x-expires": 600_000}
		if err := r.setup(cfg).Init(r.ctx); err != nil {
			t.Fatal(err)
		}
		cfg.Declare.Mode = harebus.CheckOnly
		logger, logs := observed()
		cfg.Logger = logger
		s, got := counting(r, cfg)
		r.start(s)
		reads := r.refuses("basic.get", nil)
		if err := s.Bus().Defer(r.ctx, "instance", time.Second, order{1}); err != nil {
			t.Fatal(err)
		}
		receive(r, got)
		<-time.After(5 * time.Minute)
		lines := logs.FilterMessageSnippet("cannot keep the exit").All()
		if len(lines) != 1 || reads.Fired() < 4 {
			t.Fatalf("%d lines after %d refusals", len(lines), reads.Fired())
		}
		contains(t, fmt.Sprint(lines[0].ContextMap()["error"]), "403", `read permission on "harebus.delay.due//instance"`)
	})
}

// TestExitEndsWithItsQueue: the listener queue of an instance expires when the
// instance is gone, and the exit of delays to it follows. While the instance
// lives both stay, however long a message waits.
func TestExitEndsWithItsQueue(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		const exit = "harebus.delay.due//instance"
		cfg := r.config("instance")
		cfg.QueueOptions.Arguments = map[string]any{"x-expires": 60_000}
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
