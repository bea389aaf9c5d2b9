package limit_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/limit"
)

var errAway = errors.New("the provider is away")

// provider is a system behind a handler, and what its breaker did.
type provider struct {
	away  atomic.Bool
	began time.Time

	mu      sync.Mutex // guards changes
	changes []string
}

func (p *provider) call(context.Context, job) error {
	if p.away.Load() {
		return errAway
	}
	return nil
}

// breaker makes a breaker that notes its changes.
func (p *provider) breaker(t *testing.T, cfg limit.BreakerConfig) *limit.Breaker {
	t.Helper()
	p.began = time.Now()
	cfg.Changed = func(s limit.State, err error) {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.changes = append(p.changes, fmt.Sprintf("%v %v %v", time.Since(p.began).Round(time.Second), s, err))
	}
	b, err := limit.NewBreaker(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func (p *provider) wants(t *testing.T, changes ...string) {
	t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	if got := strings.Join(p.changes, "\n"); got != strings.Join(changes, "\n") {
		t.Errorf("changes:\n%s\nwant:\n%s", got, strings.Join(changes, "\n"))
	}
}

// TestBreaker: the breaker opens when five attempts in a row have failed, tries one message
// every 10 s, and closes when that succeeds. Meanwhile nothing is parked and no other handler is called.
func TestBreaker(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		var p provider
		b := p.breaker(t, limit.BreakerConfig{})
		r.start(p.call, b.For())
		r.send(30)
		r.quiet()
		p.wants(t)
		p.away.Store(true)
		r.send(200)
		time.Sleep(35 * time.Second)
		if n := r.calls(); n > 30+5+10+3 { // those that open it, those that began meanwhile, three probes
			t.Errorf("%d calls", n)
		}
		if b.State() != limit.Open {
			t.Error(b.State())
		}
		p.away.Store(false)
		r.quiet()
		p.wants(t, "0s open the provider is away", "10s probing <nil>", "10s open the provider is away", "20s probing <nil>",
			"20s open the provider is away", "30s probing <nil>", "30s open the provider is away", "40s probing <nil>", "40s closed <nil>")
		if stats := r.setup.Stats(); stats.Handled != 230 || stats.Parked != 0 {
			t.Errorf("handled %d, parked %d", stats.Handled, stats.Parked)
		}
	})
}

// TestBreakerForHours: an outage of hours parks nothing, and what waits stays in the queue: a
// message goes round the broker once in a while, not again and again.
func TestBreakerForHours(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		var p provider
		p.away.Store(true)
		r.cfg.Handling.Timeout = 10 * time.Minute
		r.start(p.call, p.breaker(t, limit.BreakerConfig{Attempts: 5, Pause: time.Minute}).For())
		r.send(1000)
		time.Sleep(2 * time.Hour)
		p.away.Store(false)
		r.quiet()
		stats := r.setup.Stats()
		if stats.Handled != 1000 || stats.Parked != 0 || stats.Retried > 10 || stats.Postponed > 500 {
			t.Errorf("handled %d, parked %d, retried %d, postponed %d", stats.Handled, stats.Parked, stats.Retried, stats.Postponed)
		}
	})
}

// TestBreakerStaysClosed: fewer failures than the share, fewer attempts than are looked at, failures
// that lie too far apart, and errors that are about a message do not open it.
func TestBreakerStaysClosed(t *testing.T) {
	errBad := errors.New("a bad message")
	for name, c := range map[string]struct {
		cfg   limit.BreakerConfig
		pause time.Duration // between messages
		fails func(n int) error
	}{
		"share": {limit.BreakerConfig{}, 0, func(n int) error {
			if n%20 < 18 && n%2 == 0 { // 9 of 20
				return errAway
			}
			return nil
		}},
		"attempts": {limit.BreakerConfig{Attempts: 1000, InARow: 1000}, 0, func(int) error { return errAway }},
		"window":   {limit.BreakerConfig{Attempts: 5, InARow: 1000, Window: 30 * time.Second}, 10 * time.Second, func(int) error { return errAway }},
		"about the message": {limit.BreakerConfig{Failure: func(err error) bool { return !errors.Is(err, errBad) }}, 0,
			func(int) error { return errBad }},
		"by default": {limit.BreakerConfig{}, 0, func(n int) error {
			return []error{harebus.NoRetry(errBad), &harebus.RejectError{Reason: "bad-payload"}}[n%2]
		}},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, r *rig) {
				var p provider
				var n atomic.Int64
				r.cfg.Retry.MaxRetries = -1
				r.cfg.Consume.Concurrency = 1
				r.start(func(context.Context, job) error { return c.fails(int(n.Add(1)) - 1) }, p.breaker(t, c.cfg).For("Job"))
				for range 60 {
					r.send(1)
					time.Sleep(c.pause)
				}
				r.quiet()
				p.wants(t)
				if n.Load() != 60 {
					t.Errorf("%d calls", n.Load())
				}
			})
		})
	}
}

// TestDown: a handler's word opens the breaker at once, until the time that it says.
func TestDown(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		var p provider
		b := p.breaker(t, limit.BreakerConfig{})
		until := time.Now().Add(90 * time.Second)
		r.start(func(context.Context, job) error {
			if time.Now().Before(until) {
				return fmt.Errorf("charge: %w", limit.Down(until, errAway))
			}
			return nil
		}, b.For())
		r.send(1)
		r.send(50)
		r.quiet()
		p.wants(t, "0s open charge: the provider is away", "1m30s probing <nil>", "1m30s closed <nil>")
		if n := r.calls(); n > 51+10 {
			t.Errorf("%d calls", n)
		}
		if stats := r.setup.Stats(); stats.Handled != 51 || stats.Retried != 0 || stats.Parked != 0 {
			t.Errorf("handled %d, retried %d, parked %d", stats.Handled, stats.Retried, stats.Parked)
		}
		if limit.Down(until, nil) != nil {
			t.Error("Down of nothing is an error")
		}
	})
}

// TestDownLonger: a later word counts if it names a later time.
func TestDownLonger(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		var p provider
		b := p.breaker(t, limit.BreakerConfig{})
		start := time.Now()
		r.start(func(_ context.Context, j job) error {
			if time.Since(start) > 10*time.Second {
				return nil
			}
			time.Sleep(time.Duration(j.ID+1) * time.Second) // all have begun
			return limit.Down(start.Add([]time.Duration{30, 90, 60}[j.ID]*time.Second), errAway)
		}, b.For())
		r.send(3)
		r.quiet()
		p.wants(t, "1s open the provider is away", "1m30s probing <nil>", "1m30s closed <nil>")
	})
}

// TestDownWithoutBreaker: the message is postponed until then.
func TestDownWithoutBreaker(t *testing.T) {
	bubble(t, func(_ *testing.T, r *rig) {
		until := time.Now().Add(time.Minute)
		r.start(func(ctx context.Context, _ job) error {
			if harebus.Incoming(ctx).Attempt != 1 {
				r.t.Error("it was counted")
			}
			if time.Now().Before(until) {
				return limit.Down(until, errAway)
			}
			return nil
		})
		r.send(1)
		r.quiet()
		if r.calls() != 2 {
			r.t.Errorf("%d calls", r.calls())
		}
		r.within("the second call", r.at[1]-r.at[0], time.Minute)
	})
}

// TestProbeMisbehaves: a message that is tried and panics, ends its goroutine, or runs into its time
// limit is a failure: the breaker does not wait for it for ever.
func TestProbeMisbehaves(t *testing.T) {
	for name, misdeed := range map[string]func(ctx context.Context) error{
		"panic":  func(context.Context) error { panic("boom") },
		"goexit": func(context.Context) error { runtime.Goexit(); return nil },
		"hangs":  func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() },
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, r *rig) {
				var p provider
				p.away.Store(true)
				r.cfg.Retry.MaxRetries = 100
				var bad atomic.Int64
				r.start(func(ctx context.Context, j job) error {
					if p.away.Load() && r.calls() > 5 && bad.Load() < 2 {
						bad.Add(1)
						return misdeed(ctx)
					}
					if bad.Load() == 2 {
						p.away.Store(false)
					}
					return p.call(ctx, j)
				}, p.breaker(t, limit.BreakerConfig{Attempts: 5}).For())
				r.send(5)
				r.quiet()
				if stats := r.setup.Stats(); stats.Handled != 5 || stats.Parked != 0 || bad.Load() != 2 {
					t.Errorf("handled %d, parked %d, %d misdeeds; %q", stats.Handled, stats.Parked, bad.Load(), p.changes)
				} else if stats.Retried != 4 && name != "goexit" {
					t.Errorf("%d retries were counted, want those of the four before it opened", stats.Retried)
				}
			})
		})
	}
}

// TestProbeIsCutOff: when a stop cuts the tried message off, another one is tried.
func TestProbeIsCutOff(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		var p provider
		p.away.Store(true)
		b := p.breaker(t, limit.BreakerConfig{Attempts: 1})
		r.cfg.ShutdownTimeout = time.Second
		var hang atomic.Bool
		fn := func(ctx context.Context, j job) error {
			if hang.Load() {
				<-ctx.Done()
			}
			return p.call(ctx, j)
		}
		r.start(fn, b.For())
		r.send(3)
		time.Sleep(5 * time.Second)
		hang.Store(true)
		time.Sleep(10 * time.Second)
		if b.State() != limit.Probing {
			t.Fatal(b.State())
		}
		r.try(r.setup.Close())
		hang.Store(false)
		p.away.Store(false)
		r.start(fn, b.For())
		r.quiet()
		if b.State() != limit.Closed || r.setup.Stats().Handled != 3 {
			t.Errorf("%v, handled %d", b.State(), r.setup.Stats().Handled)
		}
	})
}

// TestPostponeIsNoFailure: what a handler, a batch or a limiter postpones is no attempt, and is
// postponed for as long as it asks, also while the breaker is open.
func TestPostponeIsNoFailure(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		var p provider
		r.start(func(context.Context, job) error {
			if r.calls() <= 20 {
				return harebus.Postpone(time.Hour, errAway)
			}
			return nil
		}, p.breaker(t, limit.BreakerConfig{Failure: func(error) bool { return true }}).For())
		r.send(20)
		r.quiet()
		p.wants(t)
		r.within("the next call", r.at[20]-r.at[0], time.Hour)
	})
}

// TestBreakerShare: with successes between them, half of the latest attempts open it, and errors
// about messages do not count.
func TestBreakerShare(t *testing.T) {
	bubble(t, func(_ *testing.T, r *rig) {
		var p provider
		r.cfg.Consume.Concurrency = 1
		r.cfg.Retry.MaxRetries = -1
		n := 0
		r.start(func(context.Context, job) error {
			n++
			switch n % 4 {
			case 0:
				return errAway
			case 1:
				return nil
			}
			return harebus.NoRetry(errors.New("a bad message"))
		}, p.breaker(r.t, limit.BreakerConfig{Pause: 2 * time.Hour}).For())
		r.send(60)
		time.Sleep(time.Minute)
		p.wants(r.t, "0s open the provider is away")
		if n != 40 {
			r.t.Errorf("it opened after %d messages, want 40, of which 20 count", n)
		}
		r.try(r.setup.Close())
	})
}

// TestBreakerFewAttempts: failures in a row open it with the defaults, also when minutes lie between
// them, as with a system that hangs, or a queue with little to do. So nothing is parked.
func TestBreakerFewAttempts(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		var p provider
		p.away.Store(true)
		r.cfg.Retry.MaxRetries = 3
		r.start(func(ctx context.Context, j job) error {
			if p.away.Load() {
				<-ctx.Done() // five minutes
				return ctx.Err()
			}
			return nil
		}, p.breaker(t, limit.BreakerConfig{}).For())
		r.send(2)
		time.Sleep(100 * time.Minute)
		p.away.Store(false)
		r.quiet()
		if stats := r.setup.Stats(); stats.Handled != 2 || stats.Parked != 0 || stats.Retried != 4 {
			t.Errorf("handled %d, parked %d, retried %d; %q", stats.Handled, stats.Parked, stats.Retried, p.changes)
		}
	})
}

// circular is an error that wraps itself.
type circular struct{}

func (circular) Error() string   { return "circular" }
func (c circular) Unwrap() error { return c }

// broken is an error whose methods panic.
type broken struct{}

func (broken) Error() string { panic("no text") }
func (broken) Unwrap() error { panic("no cause") }

// TestBreakerIsTold: code that judges a message that is tried, and misbehaves, does not leave the
// breaker waiting for ever. The attempt has failed.
func TestBreakerIsTold(t *testing.T) {
	misjudge := func(fn func()) func(error) bool {
		calls := 0
		return func(error) bool {
			if calls++; calls == 6 { // the first one that is tried
				fn()
			}
			return true
		}
	}
	for name, c := range map[string]struct {
		err     error
		failure func(error) bool
	}{
		"circular error": {circular{}, nil},
		"broken error":   {broken{}, nil},
		"panic":          {errAway, misjudge(func() { panic("boom") })},
		"goexit":         {errAway, misjudge(runtime.Goexit)},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, r *rig) {
				var p provider
				r.cfg.Consume.Concurrency = 5
				b := p.breaker(t, limit.BreakerConfig{Failure: c.failure})
				r.start(func(context.Context, job) error {
					if r.calls() <= 6 {
						return c.err
					}
					return nil
				}, b.For())
				r.send(5)
				r.quiet()
				if len(p.changes) != 5 || b.State() != limit.Closed {
					t.Errorf("%q", p.changes)
				}
				if stats := r.setup.Stats(); stats.Handled != 5 || stats.Parked != 0 {
					t.Errorf("handled %d, parked %d", stats.Handled, stats.Parked)
				}
			})
		})
	}
}

// TestProbeNeverReturns: when the time of a message that is tried is over, another one is tried, even
// if the handler of the first one goes on. What that says later is the result of any attempt.
func TestProbeNeverReturns(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		var p provider
		r.cfg.Handling.Timeout = 2 * time.Minute
		r.cfg.Consume.Concurrency = 5
		r.start(func(context.Context, job) error {
			switch n := r.calls(); {
			case n == 6:
				time.Sleep(10 * time.Minute)
				return errAway
			case n <= 6:
				return errAway
			}
			return nil
		}, p.breaker(t, limit.BreakerConfig{}).For())
		r.send(5)
		r.quiet()
		p.wants(t, "0s open the provider is away", "10s probing <nil>", "2m11s probing <nil>", "2m11s closed <nil>")
		if stats := r.setup.Stats(); stats.Handled != 5 || stats.Parked != 0 {
			t.Errorf("handled %d, parked %d", stats.Handled, stats.Parked)
		}
	})
}

// TestBadProbe: a message that is bad itself says nothing about the system: the next one is tried.
func TestBadProbe(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		var p provider
		r.cfg.Consume.Concurrency = 5
		until := time.Now().Add(time.Minute)
		b := p.breaker(t, limit.BreakerConfig{})
		r.start(func(context.Context, job) error {
			switch n := r.calls(); {
			case n == 6:
				return harebus.NoRetry(errors.New("a bad message"))
			case time.Now().Before(until):
				return errAway
			}
			return nil
		}, b.For())
		r.send(5)
		time.Sleep(15 * time.Second)
		if r.calls() != 7 || b.State() != limit.Open {
			t.Errorf("%d calls, %v; want that the next message was tried at once, and failed", r.calls(), b.State())
		}
		r.quiet()
		if stats := r.setup.Stats(); stats.Handled != 4 || stats.Parked != 1 {
			t.Errorf("handled %d, parked %d", stats.Handled, stats.Parked)
		}
	})
}

// TestAsksForLonger: a message that fails while the breaker is open comes again when its handler has
// asked for it, if that is later.
func TestAsksForLonger(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		var p provider
		r.start(func(ctx context.Context, _ job) error {
			if harebus.Incoming(ctx).Attempt != 1 {
				t.Error("it was counted")
			}
			if r.calls() == 1 {
				return harebus.RetryAfter(time.Hour, errAway)
			}
			return nil
		}, p.breaker(t, limit.BreakerConfig{InARow: 1}).For())
		r.send(1)
		r.quiet()
		r.within("the second call", r.at[1]-r.at[0], time.Hour)
	})
}

// TestDownWhileProbing: the word of a handler that began before the breaker opened has nobody else
// tried, and holds although the message that is tried succeeds.
func TestDownWhileProbing(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		var p provider
		start := time.Now()
		seen := map[int]bool{}
		var mu sync.Mutex
		r.start(func(_ context.Context, j job) error {
			mu.Lock()
			again := seen[j.ID]
			seen[j.ID] = true
			mu.Unlock()
			switch {
			case j.ID == 0 && !again:
				time.Sleep(time.Second)
				return errAway
			case j.ID == 0 && time.Since(start) < 30*time.Second:
				time.Sleep(5 * time.Second)
			case !again:
				time.Sleep(12 * time.Second)
				return limit.Down(start.Add(time.Minute), errAway)
			}
			return nil
		}, p.breaker(t, limit.BreakerConfig{InARow: 1}).For())
		r.send(2)
		time.Sleep(13 * time.Second)
		r.send(2) // these wait
		r.quiet()
		p.wants(t, "1s open the provider is away", "11s probing <nil>", "16s open <nil>", "1m0s probing <nil>", "1m0s closed <nil>")
	})
}

// TestBadBreaker: every fault is reported at once.
func TestBadBreaker(t *testing.T) {
	t.Parallel()
	_, err := limit.NewBreaker(limit.BreakerConfig{InARow: -1, Share: 1.5, Attempts: -1, Window: -1, Pause: -1})
	for _, part := range []string{"limit: new breaker: ", "InARow -1", "Share 1.5", "Attempts -1", "Window -1ns", "Pause -1ns"} {
		if err == nil || !strings.Contains(err.Error(), part) {
			t.Errorf("%v does not say %q", err, part)
		}
	}
}
