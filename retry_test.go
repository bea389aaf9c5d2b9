package harebus_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"testing"
	"time"

	"github.com/cenkalti/backoff/v4"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/topology"
)

// steady pauses for a second, always.
func steady() backoff.BackOff { return backoff.NewConstantBackOff(time.Second) }

// TestRetryDecide checks the default error handler's answers.
func TestRetryDecide(t *testing.T) {
	t.Parallel()
	rules := []harebus.RetryRule{
		{Match: harebus.MatchIs(io.EOF), MaxRetries: 9},
		{Match: harebus.MatchAs[*net.OpError](), MaxRetries: -1},
		{Match: func(err error) bool { return err.Error() == "slow" }, BackOff: func() backoff.BackOff { return backoff.NewConstantBackOff(time.Hour) }},
		{Match: harebus.MatchIs(io.EOF), MaxRetries: 1},
	}
	policy := harebus.RetryConfig{MaxRetries: 3, BackOff: steady, Rules: rules}
	for name, c := range map[string]struct {
		policy  harebus.RetryConfig
		attempt int
		err     error
		retry   time.Duration // negative: park
	}{
		"first":                 {policy, 1, errNo, time.Second},
		"last retry":            {policy, 3, errNo, time.Second},
		"over":                  {policy, 4, errNo, -1},
		"rule more":             {policy, 9, fmt.Errorf("read: %w", io.EOF), time.Second},
		"rule over":             {policy, 10, io.EOF, -1},
		"rule never":            {policy, 1, fmt.Errorf("dial: %w", &net.OpError{Err: errNo}), -1},
		"rule pause":            {policy, 3, errors.New("slow"), time.Hour},
		"rule default retries":  {policy, 4, errors.New("slow"), -1},
		"no retry":              {policy, 1, fmt.Errorf("x: %w", harebus.NoRetry(errNo)), -1},
		"no retry inside":       {policy, 1, harebus.RetryAfter(time.Minute, harebus.NoRetry(errNo)), -1},
		"rejected":              {policy, 1, fmt.Errorf("x: %w", &harebus.RejectError{Reason: "bad-payload", Err: errNo}), -1},
		"retry after":           {policy, 3, fmt.Errorf("x: %w", harebus.RetryAfter(time.Minute, errNo)), time.Minute},
		"retry after, over":     {policy, 4, harebus.RetryAfter(time.Minute, errNo), -1},
		"retry after, negative": {policy, 1, harebus.RetryAfter(-time.Minute, errNo), 0},
		"retry after, for ever": {policy, 1, harebus.RetryAfter(1<<62, errNo), topology.MaxDelay},
		"never":                 {harebus.RetryConfig{MaxRetries: -1}, 1, errNo, -1},
		"policy stops":          {harebus.RetryConfig{MaxRetries: 9, BackOff: func() backoff.BackOff { return backoff.WithMaxRetries(steady(), 2) }}, 3, errNo, -1},
		"policy goes on":        {harebus.RetryConfig{MaxRetries: 9, BackOff: func() backoff.BackOff { return backoff.WithMaxRetries(steady(), 2) }}, 2, errNo, time.Second},
		"policy at once":        {harebus.RetryConfig{BackOff: func() backoff.BackOff { return &backoff.ZeroBackOff{} }}, 5, errNo, 0},
		"default over":          {harebus.RetryConfig{}, 6, errNo, -1},
	} {
		d := c.policy.Decide(&harebus.Message{Attempt: c.attempt}, c.err)
		pause, retries := d.Retries()
		if d.Discards() || retries == d.Parks() || retries != (c.retry >= 0) || retries && pause != c.retry {
			t.Errorf("%s: retry %v in %v, park %v", name, retries, pause, d.Parks())
		}
	}
}

// TestRetryDefaultPauses: 2 s, doubling to a minute, ± 20 %, different each time.
func TestRetryDefaultPauses(t *testing.T) {
	t.Parallel()
	seen := map[time.Duration]bool{}
	for attempt := 1; attempt <= 8; attempt++ {
		want := min(2*time.Second<<(attempt-1), time.Minute)
		for range 50 {
			d := harebus.RetryConfig{MaxRetries: 99}.Decide(&harebus.Message{Attempt: attempt}, errNo)
			pause, ok := d.Retries()
			if !ok || pause < want*8/10 || pause > want*12/10+1 {
				t.Fatalf("attempt %d: %v, want about %v", attempt, pause, want)
			}
			seen[pause] = true
		}
	}
	if len(seen) < 100 {
		t.Errorf("only %d different pauses", len(seen))
	}
}

// attempts runs a service whose handler always fails and returns when it was
// called, and how often the message says it has been.
func attempts(r *rig, change func(*harebus.Config), fail func(attempt int) error) (at []time.Time, counts []int) {
	cfg := r.config("orders")
	cfg.Retry.BackOff = steady
	change(&cfg)
	s := r.setup(cfg)
	harebus.Handle(s, func(ctx context.Context, _ *harebus.Bus, _ order) error {
		at, counts = append(at, time.Now()), append(counts, harebus.Incoming(ctx).Attempt)
		return fail(len(at))
	})
	r.start(s)
	if err := s.Bus().Send(r.ctx, "orders", order{1}); err != nil {
		r.t.Fatal(err)
	}
	r.quiet("error")
	return at, counts
}

// TestRetryEnds: a rule or an error handler that allows more retries than the
// others still comes to an end, and the count goes on all the way.
func TestRetryEnds(t *testing.T) {
	for name, change := range map[string]func(*harebus.Config){
		"policy": func(c *harebus.Config) { c.Retry.MaxRetries = 8 },
		"rule": func(c *harebus.Config) {
			c.Retry.Rules = []harebus.RetryRule{{Match: harebus.MatchIs(errNo), MaxRetries: 8}}
		},
		"error handler": func(c *harebus.Config) {
			c.Handling.ErrorHandler = func(m *harebus.Message, _ error, _ harebus.Decision) harebus.Decision {
				if m.Attempt > 8 {
					return harebus.Park()
				}
				return harebus.RetryIn(time.Second)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, r *rig) {
				at, counts := attempts(r, change, func(n int) error {
					if n > 20 {
						return harebus.NoRetry(errors.New("it does not end"))
					}
					return errNo
				})
				m := r.await("error", 1)[0]
				if len(at) != 9 || m.Headers[prefixed("ErrorRetries")] != int8(9) {
					t.Errorf("attempts %v, count %v", counts, m.Headers[prefixed("ErrorRetries")])
				}
				for i, n := range counts {
					if n != i+1 {
						t.Errorf("attempt %d was counted as %d", i+1, n)
					}
				}
			})
		})
	}
}

// TestRetryTiming: attempts come when the policy says, not earlier, and hardly
// later.
func TestRetryTiming(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		pauses := []time.Duration{time.Second, 90 * time.Second, 7 * time.Millisecond, time.Second, 0}
		at, _ := attempts(r, func(*harebus.Config) {}, func(n int) error {
			switch n {
			case 2:
				return harebus.RetryAfter(90*time.Second, errNo)
			case 3:
				return harebus.RetryAfter(7*time.Millisecond, errNo)
			case 5:
				return harebus.RetryAfter(0, errNo)
			}
			return errNo
		})
		if len(at) != 6 {
			t.Fatalf("%d attempts", len(at))
		}
		for i, pause := range pauses {
			late := at[i+1].Sub(at[i]) - pause
			if late < 0 || late > 10*time.Millisecond+pause/1000 {
				t.Errorf("pause %d of %v is late by %v", i+1, pause, late)
			}
		}
	})
}

// TestRetryKeepsTheMessage: a retried message that then succeeds was the same
// all the time.
func TestRetryKeepsTheMessage(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		s := r.setup(r.config("orders"))
		var seen []*harebus.Message
		harebus.Handle(s, func(ctx context.Context, _ *harebus.Bus, _ order) error {
			seen = append(seen, harebus.Incoming(ctx))
			if len(seen) < 3 {
				return errNo
			}
			return nil
		})
		r.start(s)
		if err := s.Bus().Publish(r.ctx, "a.b", order{1}, harebus.WithHeader("tenant", "t"), harebus.NonMandatory()); err != nil {
			t.Fatal(err)
		}
		if err := s.Subscribe(r.ctx, "a.*"); err != nil {
			t.Fatal(err)
		}
		if err := s.Bus().Publish(r.ctx, "a.b", order{1}, harebus.WithHeader("tenant", "t")); err != nil {
			t.Fatal(err)
		}
		r.quiet()
		if len(seen) != 3 || s.Stats().Retried != 2 {
			t.Fatalf("%d attempts, counts %+v", len(seen), s.Stats())
		}
		for i, m := range seen {
			if m.ID != seen[0].ID || m.CorrelationID != seen[0].CorrelationID || !m.TimeSent.Equal(seen[0].TimeSent) || m.Headers["tenant"] != "t" ||
				m.Intent != harebus.IntentEvent || string(m.Body) != `{"ID":1}` || m.Attempt != i+1 {
				t.Errorf("attempt %d sees %+v", i+1, m)
			}
		}
		if seen[2].SourceQueue != "orders" || seen[2].ErrorDetails != "no" || seen[2].DeferredUntil.IsZero() {
			t.Errorf("the last attempt sees %+v", seen[2])
		}
	})
}
