package stream_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/stream"
)

// TestReads: every private reader reads everything from where it begins, and goes on with what comes.
func TestReads(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.publish(2)
		begin := time.Now()
		r.rest(time.Minute)
		r.publish(1)
		r.read("a", stream.Config{}, done)
		r.read("b", stream.Config{From: stream.FromEnd()}, done)
		r.read("c", stream.Config{From: stream.FromOffset(1)}, done)
		r.read("d", stream.Config{From: stream.FromTime(begin.Add(time.Second))}, done)
		r.rest(time.Second)
		r.wants("a1@0 a2@1 a3@2 c2@1 c3@2 d3@2")
		r.publish(1)
		r.wants("a4@3 b4@3 c4@3 d4@3")
	})
}

// TestTopics: other topics are passed over, and so are types without a handler.
func TestTopics(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.publishTo("order.placed")
		r.publishTo("payment.received")
		r.publishTo("order.paid.late")
		r.try(r.sender.Bus().Publish(r.ctx, "order.other", "text", harebus.WithType("Unknown")))
		s := r.read("a", stream.Config{Topics: []string{"order.#"}}, done)
		r.rest(time.Second)
		r.wants("a1@0 a3@2")
		if stats := s.Stats(); stats.Ignored != 1 || stats.Handled != 2 || stats.Parked != 0 {
			t.Errorf("%+v", stats)
		}
	})
}

// TestReconnect: after a lost connection a private reader goes on where it was, without a repetition of what it had kept.
func TestReconnect(t *testing.T) {
	bubble(t, func(_ *testing.T, r *rig) {
		r.read("a", stream.Config{From: stream.FromEnd()}, done)
		r.publish(3)
		r.rest(time.Second)
		r.wants("a1@0 a2@1 a3@2")
		r.broker.CutConnections("a consume")
		r.publish(2) // while it is away
		r.rest(5 * time.Second)
		r.wants("a4@3 a5@4")
	})
}

// TestReconnectAtTheEnd: what comes while a reader from the end is away is not lost, also when it has read nothing before.
func TestReconnectAtTheEnd(t *testing.T) {
	bubble(t, func(_ *testing.T, r *rig) {
		r.read("a", stream.Config{From: stream.FromEnd()}, done)
		r.broker.CutConnections("a consume")
		r.publish(2)
		r.rest(5 * time.Second)
		r.wants("a1@0 a2@1")
	})
}

// TestRetriesInPlace: what has failed is handled again where it is, before what follows it; then it is parked, with its offset.
func TestRetriesInPlace(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.cfg.Consume.Concurrency = 1
		attempts := map[int]int{}
		s := r.read("a", stream.Config{}, func(ctx context.Context, e happened) error {
			attempts[e.N]++
			if m := harebus.Incoming(ctx); m.Attempt != attempts[e.N] || m.LastAttempt != (m.Attempt == 3) {
				t.Errorf("attempt %d of %d is %d, last: %v", attempts[e.N], e.N, m.Attempt, m.LastAttempt)
			}
			if e.N == 2 && attempts[2] < 3 || e.N == 4 {
				return errors.New("not now")
			}
			return nil
		})
		r.publish(5)
		r.rest(time.Second / 2)
		r.wantsInOrder("a1@0")
		r.rest(10 * time.Second)
		r.wantsInOrder("a2@1 a3@2 a5@4")
		parked := r.broker.Messages("error")
		if len(parked) != 1 || parked[0].Headers["PikaBus.StreamOffset"] != int64(3) || parked[0].Headers["PikaBus.SourceQueue"] != "events" {
			t.Errorf("parked: %+v", parked)
		}
		if got := len(r.broker.Messages("events")); got != 5 {
			t.Errorf("the stream has %d messages, want 5", got)
		}
		if stats := s.Stats(); stats.Retried != 4 || stats.Failed != 5 || stats.Parked != 1 || stats.Handled != 4 || stats.InFlight != 0 || stats.Delivered != 5 {
			t.Errorf("%+v", stats)
		}
	})
}

// TestPostpones: a postponed message waits where it is, and that counts as no failure.
func TestPostpones(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.cfg.Consume.Concurrency = 1
		calls := 0
		r.read("a", stream.Config{}, func(ctx context.Context, _ happened) error {
			if calls++; calls <= 5 {
				return harebus.Postpone(time.Minute, errors.New("later"))
			}
			if m := harebus.Incoming(ctx); m.Attempt != 1 {
				t.Errorf("attempt %d", m.Attempt)
			}
			return nil
		})
		r.publish(2)
		r.rest(4*time.Minute + time.Second)
		r.wants("")
		r.rest(2 * time.Minute)
		r.wantsInOrder("a1@0 a2@1")
	})
}

// TestGoexit: a handler that ends its goroutine has failed, and its message is handled again.
func TestGoexit(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		calls := 0
		r.read("a", stream.Config{}, func(context.Context, happened) error {
			if calls++; calls == 1 {
				goexit()
			}
			return nil
		})
		r.publish(1)
		r.rest(5 * time.Second)
		r.wants("a1@0")
	})
}

// TestStop: a stop ends an attempt that waits, and nothing is parked or lost for it.
func TestStop(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		fail := true
		cfg := stream.Config{Group: "g"}
		s := r.read("a", cfg, func(_ context.Context, e happened) error {
			if fail && e.N == 2 {
				return harebus.RetryAfter(time.Hour, errors.New("much later"))
			}
			return nil
		})
		r.publish(3)
		r.rest(time.Second)
		begin := time.Now()
		r.try(s.Stop(r.ctx))
		if took := time.Since(begin); took > time.Second {
			t.Errorf("the stop took %v", took)
		}
		r.wants("a1@0 a3@2")
		fail = false
		r.read("b", cfg, done)
		r.rest(time.Second)
		r.wants("b2@1 b3@2")
	})
}

// TestPause: a pause ends reading at once, also while an attempt waits, and reading goes on where it was.
func TestPause(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		fail := true
		s := r.read("a", stream.Config{}, func(context.Context, happened) error {
			if fail {
				return harebus.RetryAfter(time.Hour, errors.New("much later"))
			}
			return nil
		})
		r.publish(2)
		r.rest(time.Second)
		begin := time.Now()
		r.try(s.Pause(r.ctx))
		if took := time.Since(begin); took > time.Second {
			t.Errorf("the pause took %v", took)
		}
		fail = false
		r.publish(1)
		r.rest(time.Minute)
		r.wants("")
		r.try(s.Ready())
		r.try(s.Resume())
		r.rest(time.Second)
		r.wants("a1@0 a2@1 a3@2")
	})
}

// TestErrorQueueAway: while nothing can be parked the stream is not read on, and nothing is lost.
func TestErrorQueueAway(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.cfg.Consume.Concurrency = 1
		s := r.read("a", stream.Config{}, func(_ context.Context, e happened) error {
			if e.N == 1 {
				return harebus.NoRetry(errors.New("never"))
			}
			return nil
		})
		away := r.refuseParking()
		r.publish(2)
		r.rest(2 * time.Minute)
		r.wants("")
		if err := s.Ready(); err == nil {
			t.Error("ready while nothing can be parked")
		}
		away.Remove()
		r.rest(time.Minute)
		r.wants("a2@1")
		if parked := r.broker.Messages("error"); len(parked) != 1 {
			t.Errorf("%d parked", len(parked))
		}
		if got := len(r.broker.Messages("events")); got != 2 {
			t.Errorf("the stream has %d messages", got)
		}
	})
}
