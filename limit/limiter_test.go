package limit_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/limit"
)

func limiter(t *testing.T, l limit.Limits) *limit.Limiter {
	t.Helper()
	made, err := limit.New(l)
	if err != nil {
		t.Fatal(err)
	}
	return made
}

func handled(context.Context, job) error { return nil }

// TestRate: Burst messages begin at once, and the others at the rate.
func TestRate(t *testing.T) {
	bubble(t, func(_ *testing.T, r *rig) {
		l := limiter(r.t, limit.Limits{Rate: 2, Burst: 5})
		r.start(handled, l.For())
		r.send(105)
		r.quiet()
		r.within("the last of the burst", r.at[4], 0)
		r.within("the next one", r.at[5]-r.at[0], 500*time.Millisecond)
		r.within("the last one", r.at[104]-r.at[0], 50*time.Second)
		if stats := r.setup.Stats(); stats.Handled != 105 || stats.Failed != 0 {
			r.t.Errorf("handled %d, failed %d", stats.Handled, stats.Failed)
		}
		time.Sleep(10 * time.Minute)
		r.send(7)
		r.quiet()
		r.within("the burst after a pause", r.at[109]-r.at[105], 0)
		r.within("the one after it", r.at[110]-r.at[105], 500*time.Millisecond)
	})
}

// TestConcurrency: no more than so many are handled at once, whatever the concurrency of the endpoint.
func TestConcurrency(t *testing.T) {
	bubble(t, func(_ *testing.T, r *rig) {
		l := limiter(r.t, limit.Limits{Concurrency: 3})
		r.start(func(context.Context, job) error { time.Sleep(time.Second); return nil }, l.For("Job"))
		r.send(30)
		r.quiet()
		if r.most != 3 {
			r.t.Errorf("%d at once, want 3", r.most)
		}
		r.within("the last one", r.at[29]-r.at[0], 9*time.Second)
	})
}

// TestSet: limits change at run time, also for a message that waits.
func TestSet(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		l := limiter(t, limit.Limits{Rate: 0.01})
		r.start(handled, l.For())
		r.send(10)
		time.Sleep(20 * time.Second)
		if n := r.calls(); n != 1 {
			t.Errorf("%d calls, want 1", n)
		}
		r.try(l.Set(limit.Limits{Rate: 1}))
		began := time.Now()
		r.quiet()
		if took := time.Since(began); r.calls() != 10 || took > 12*time.Second {
			t.Errorf("%d calls, %v after the change", r.calls(), took)
		}
		r.try(l.Set(limit.Limits{}))
		r.send(1000)
		began = time.Now()
		r.quiet()
		if took := time.Since(began); took > 2*time.Second || l.Limits().Rate != 0 {
			t.Errorf("1,000 messages without a limit took %v", took)
		}
	})
}

// TestOthers: messages of other types are not limited.
func TestOthers(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		l := limiter(t, limit.Limits{Rate: 0.001})
		r.start(handled, l.For("Job"))
		r.send(2)
		for range 50 {
			r.try(r.setup.Bus().Send(r.ctx, "jobs", []byte("x"), harebus.WithType("Other")))
		}
		time.Sleep(time.Second)
		if n := r.setup.Stats().Handled; n != 51 {
			t.Errorf("%d messages were handled, want the first job and 50 others", n)
		}
		r.try(l.Set(limit.Limits{}))
		r.quiet()
	})
}

// TestTooLong: a message that would wait for longer than half of its time is postponed until the
// limits may allow it, and no attempt is counted.
func TestTooLong(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.cfg.Handling.Timeout = time.Minute
		l := limiter(t, limit.Limits{Rate: 0.005}) // one in 200 s
		var attempts []int
		r.start(func(ctx context.Context, _ job) error {
			attempts = append(attempts, harebus.Incoming(ctx).Attempt)
			return nil
		}, l.For())
		r.send(3)
		r.quiet()
		if stats := r.setup.Stats(); stats.Handled != 3 || stats.Postponed == 0 || stats.Retried != 0 || stats.Parked != 0 {
			t.Errorf("handled %d, postponed %d, retried %d, parked %d", stats.Handled, stats.Postponed, stats.Retried, stats.Parked)
		}
		for _, a := range attempts {
			if a != 1 {
				t.Errorf("attempts %v", attempts)
			}
		}
		if last := r.at[2] - r.at[0]; last < 400*time.Second || last > 430*time.Second {
			t.Errorf("the last one after %v, want 400s", last)
		}
	})
}

// TestConcurrencyTooLong: when a message has waited for too long because others run, nobody knows when
// they end: it comes again at once, and not minutes later.
func TestConcurrencyTooLong(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.cfg.Handling.Timeout = time.Minute
		r.start(func(context.Context, job) error { time.Sleep(40 * time.Second); return nil }, limiter(t, limit.Limits{Concurrency: 1}).For())
		r.send(2)
		r.quiet()
		if stats := r.setup.Stats(); stats.Postponed != 1 {
			t.Errorf("%d postponements", stats.Postponed)
		}
		r.within("the second one", r.at[1]-r.at[0], 40*time.Second)
	})
}

// TestWaitOnce: a breaker and a limiter share the half of the time for which a message waits.
func TestWaitOnce(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		var p provider
		r.cfg.Handling.Timeout = time.Minute
		l := limiter(t, limit.Limits{Rate: 0.001})
		r.start(func(context.Context, job) error { return limit.Down(time.Now().Add(25*time.Second), errAway) }, p.breaker(t, limit.BreakerConfig{}).For(), l.For())
		r.send(1)
		time.Sleep(time.Second)
		r.send(1)
		time.Sleep(29 * time.Second) // it has waited for 24 s for the breaker, and for 5 s for the limiter
		before := r.setup.Stats().Postponed
		time.Sleep(2 * time.Second)
		if after := r.setup.Stats().Postponed; after != before+1 {
			t.Errorf("%d postponements, then %d", before, after)
		}
		r.try(r.setup.Close())
	})
}

// TestLimitedStop: a stop cuts off messages that wait: they go back to the queue, and are not counted.
func TestLimitedStop(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.cfg.ShutdownTimeout = 5 * time.Second
		r.start(handled, limiter(t, limit.Limits{Rate: 0.001}).For())
		r.send(4)
		time.Sleep(time.Second)
		began := time.Now()
		r.try(r.setup.Close())
		if took := time.Since(began); took > 6*time.Second {
			t.Errorf("it took %v", took)
		}
		if q, _ := r.broker.Queue("jobs"); q.Ready != 3 {
			t.Errorf("%d messages are ready, want 3", q.Ready)
		}
	})
}

// TestBadLimits: what cannot be is refused, and the old limits hold.
func TestBadLimits(t *testing.T) {
	t.Parallel()
	l := limiter(t, limit.Limits{Rate: 3})
	zero := 0.0
	for _, bad := range []limit.Limits{{Rate: -1}, {Rate: 1e-9}, {Rate: zero / zero}, {Rate: 1 / zero}, {Burst: -1}, {Concurrency: -1}} {
		if err := l.Set(bad); err == nil || !strings.HasPrefix(err.Error(), "limit: set limits: ") {
			t.Errorf("%+v: %v", bad, err)
		}
		if _, err := limit.New(bad); err == nil {
			t.Errorf("%+v is accepted", bad)
		}
	}
	if l.Limits().Rate != 3 {
		t.Errorf("%+v", l.Limits())
	}
}
