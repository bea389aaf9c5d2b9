package order_test

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/harebus/harebus/order"
)

// TestFence: each owner has a higher fencing number than those before it, also after a crash and when nothing is parked; it is
// the same for a retry of the same owner.
func TestFence(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		var fences []int64
		failed := false
		fn := func(ctx context.Context, m step) error {
			r.mu.Lock()
			defer r.mu.Unlock()
			fences = append(fences, order.Fence(ctx))
			if m.N == 1 && !failed {
				failed = true
				return errBad
			}
			return nil
		}
		s := r.serve(fn)
		r.send("a1 a2")
		r.rest(time.Minute)
		r.broker.CutConnections()
		r.send("a3")
		r.rest(time.Hour) // the note is replaced meanwhile
		r.try(s.Close())
		r.serve(fn)
		r.serve(fn) // it stands by, and leaves a note without a number
		r.send("a4")
		r.rest(time.Minute)
		r.broker.Restart()
		r.send("a5")
		r.rest(time.Minute)
		r.try(r.broker.DeleteQueue("steps.parked")) // and the note with it
		r.rest(time.Minute)
		r.send("a6")
		r.rest(time.Minute)
		if len(fences) != 7 || fences[0] < 1 || fences[0] != fences[2] || !slices.IsSorted(fences) || len(slices.Compact(slices.Clone(fences))) != 5 {
			t.Error(fences)
		}
		r.empty()
	})
}

// TestFenceElsewhere: where there is no order there is no fencing number, and a test of a handler can set one.
func TestFenceElsewhere(t *testing.T) {
	t.Parallel()
	if n := order.Fence(t.Context()); n != 0 {
		t.Error(n)
	}
	if n := order.Fence(order.WithFence(t.Context(), 7)); n != 7 {
		t.Error(n)
	}
}
