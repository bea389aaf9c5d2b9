package harebus_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/harebus/harebus"
)

// The context of a handler is one like any other: it has the deadline, ends with it or with
// the handler, tells the cause, and so do the contexts made of it.
func TestHandlerContext(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		cfg := r.config("orders")
		cfg.Handling.Timeout = time.Minute
		cfg.Retry.MaxRetries = -1
		kept := make(chan context.Context, 1)
		s := r.setup(cfg)
		harebus.Handle(s, func(ctx context.Context, _ *harebus.Bus, o order) error {
			began := time.Now()
			if end, ok := ctx.Deadline(); !ok || !end.Equal(began.Add(time.Minute)) {
				t.Errorf("deadline %v, %v", end, ok)
			}
			if o.ID == 1 {
				kept <- ctx // nobody has asked for Done
				return nil
			}
			derived, cancel := context.WithCancel(ctx)
			defer cancel()
			<-derived.Done()
			if got := time.Since(began); got != time.Minute {
				t.Errorf("it ended after %v", got)
			}
			if !errors.Is(ctx.Err(), context.DeadlineExceeded) || !errors.Is(derived.Err(), context.DeadlineExceeded) {
				t.Errorf("errors %v, %v", ctx.Err(), derived.Err())
			}
			for _, cause := range []error{context.Cause(ctx), context.Cause(derived)} {
				if cause == nil || errors.Is(cause, context.DeadlineExceeded) {
					t.Errorf("cause %v", cause)
				}
			}
			return derived.Err()
		})
		r.start(s)
		r.publish(r.channel(), "orders", plain(`{"ID":1}`))
		ctx := receive(r, kept)
		r.quiet()
		if !errors.Is(ctx.Err(), context.Canceled) {
			t.Errorf("after the handler: %v", ctx.Err())
		}
		select {
		case <-ctx.Done():
		default:
			t.Error("the context goes on after the handler")
		}
		r.publish(r.channel(), "orders", plain(`{"ID":2}`))
		parked := r.await("error", 1)[0]
		if details, _ := parked.Headers["PikaBus.ErrorDetails"].(string); details == "" {
			t.Error("no details")
		} else {
			contains(t, details, "timeout of 1m0s")
		}
	})
}
