package order_test

import (
	"context"
	"errors"
	"testing"
	"time"
)

// TestLanes: messages of a key are handled one after the other, those of others beside them.
func TestLanes(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		running := map[string]int{}
		most, all := 0, 0
		r.serve(func(_ context.Context, s step) error {
			r.mu.Lock()
			running[s.Key]++
			all++
			most = max(most, all)
			if running[s.Key] > 1 {
				t.Errorf("%d handlers of %s at once", running[s.Key], s.Key)
			}
			r.mu.Unlock()
			time.Sleep(time.Duration(s.N%3) * time.Second)
			r.mu.Lock()
			running[s.Key]--
			all--
			r.mu.Unlock()
			return nil
		})
		r.send(numbers("a", 20) + numbers("b", 20) + numbers("c", 20))
		r.rest(time.Hour)
		for _, key := range []string{"a", "b", "c"} {
			r.wants(key, upTo(20))
		}
		if most != 3 {
			t.Errorf("%d handlers at once, want one for each key", most)
		}
	})
}

// TestFailure: while a message is retried, those of its key wait, and others do not.
func TestFailure(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		failures, last := 0, time.Time{}
		r.serve(func(_ context.Context, s step) error {
			if s.Key != "a" || s.N != 2 {
				return nil
			}
			if since := time.Since(last); failures > 0 && (since < time.Second || since > 1100*time.Millisecond) {
				t.Errorf("tried again after %v", since)
			}
			if last = time.Now(); failures < 2 {
				failures++
				return errors.New("not now")
			}
			return nil
		})
		r.send("a1 b1 a2 a3 b2 a4 b3")
		r.rest(500 * time.Millisecond)
		r.wants("a", "1")
		r.wants("b", "1 2 3")
		r.rest(time.Minute)
		r.wants("a", "1 2 3 4")
		r.send("a5 b4")
		r.rest(time.Second)
		r.wants("a", "1 2 3 4 5")
		r.wants("b", "1 2 3 4")
	})
}
