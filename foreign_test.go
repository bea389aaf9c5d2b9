package harebus_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cenkalti/backoff/v4"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/topology"
)

// The errors of these types misbehave, each in its own way.
type (
	pointerError  struct{ text string }
	sulkyError    struct{} // its text panics
	lyingError    struct{} // Is and As panic
	stuckError    struct{ until <-chan struct{} }
	unwrapsError  struct{} // Unwrap panics
	circleError   struct{ next error }
	branchesError struct{} // wraps itself, many times
	quittingError struct{ quit func() }
)

func (e *pointerError) Error() string { return e.text }
func (sulkyError) Error() string      { panic("no text") }
func (lyingError) Error() string      { return "a lie" }
func (lyingError) Is(error) bool      { panic("is") }
func (lyingError) As(any) bool        { panic("as") }
func (e stuckError) Error() string    { <-e.until; return "late" }
func (unwrapsError) Error() string    { return "wrapped" }
func (unwrapsError) Unwrap() error    { panic("unwrap") }
func (e *circleError) Error() string  { return "circle" }
func (e *circleError) Unwrap() error  { return e.next }
func (branchesError) Error() string   { return "branches" }
func (branchesError) Unwrap() []error { return []error{branchesError{}, branchesError{}} }
func (e quittingError) Error() string { e.quit(); return "quit" }
func circle() error                   { e := &circleError{}; e.next = e; return e }
func typedNil() error                 { var e *pointerError; return e }
func vast() error                     { return errors.New(strings.Repeat("\xff", 100<<20)) }

// TestForeignErrors: whatever the error of a handler is like, its message is
// retried and parked as any other, and says why as well as it can.
func TestForeignErrors(t *testing.T) {
	for name, c := range map[string]struct {
		err  func(r *rig) error
		want string
	}{
		"typed nil":               {func(*rig) error { return typedNil() }, "a nil *harebus_test.pointerError was returned"},
		"text panics":             {func(*rig) error { return sulkyError{} }, "cannot be called: panic: no text"},
		"text panics in":          {func(*rig) error { return fmt.Errorf("in: %w", lyingError{}) }, "in: a lie"},
		"is and as panic":         {func(*rig) error { return lyingError{} }, "a lie"},
		"unwrap panics":           {func(*rig) error { return unwrapsError{} }, "wrapped"},
		"circle":                  {func(*rig) error { return circle() }, "circle"},
		"branches":                {func(*rig) error { return branchesError{} }, "branches"},
		"100 MB":                  {func(*rig) error { return vast() }, "(cut)"},
		"text hangs":              {func(r *rig) error { return stuckError{r.ctx.Done()} }, "cannot be called: no answer within 30s"},
		"text ends its goroutine": {func(*rig) error { return quittingError{quit} }, "runtime.Goexit"},
		"panics with it":          {func(*rig) error { panic(sulkyError{}) }, "panic: "},
		"reject nothing":          {func(*rig) error { return &harebus.RejectError{Reason: "mine"} }, "mine"},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, r *rig) {
				cfg := r.config("orders")
				cfg.Retry = harebus.RetryConfig{MaxRetries: 1, BackOff: steady, Rules: []harebus.RetryRule{
					{Match: harebus.MatchIs(errNo), MaxRetries: 5}, {Match: harebus.MatchAs[*pointerError](), MaxRetries: 5},
				}}
				cfg.Observers = []harebus.Observer{looking{}}
				cfg.Logger = zap.New(discarding{})
				s := r.setup(cfg)
				var n atomic.Int64
				harebus.Handle(s, func(_ context.Context, _ *harebus.Bus, o order) error {
					if n.Add(1); o.ID == 1 {
						return c.err(r)
					}
					return nil
				})
				r.start(s)
				for id := 1; id <= 2; id++ {
					if err := s.Bus().Send(r.ctx, "orders", order{id}); err != nil {
						t.Fatal(err)
					}
				}
				contains(t, r.details(), c.want)
				if got := s.Stats(); got.Handled != 1 || got.Parked != 1 || got.Connections != 2 {
					t.Errorf("%d attempts, counts %+v", n.Load(), got)
				}
			})
		})
	}
}

// looking is an observer that looks at every error, and panics.
type looking struct{}

func (looking) ObserveStart(_ context.Context, e harebus.Observation) context.Context {
	if e.Err != nil && errors.Is(e.Err, errNo) {
		panic("start")
	}
	return nil
}

func (looking) ObserveEnd(_ context.Context, _ harebus.Observation, err error) {
	if err != nil {
		panic(err.Error())
	}
}

// discarding is a core that encodes everything it gets.
type discarding struct{}

func (discarding) Enabled(zapcore.Level) bool          { return true }
func (c discarding) With([]zapcore.Field) zapcore.Core { return c }
func (discarding) Sync() error                         { return nil }
func (c discarding) Check(e zapcore.Entry, checked *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	return checked.AddCore(e, c)
}

func (discarding) Write(_ zapcore.Entry, fields []zapcore.Field) error {
	for _, f := range fields {
		f.AddTo(zapcore.NewMapObjectEncoder())
	}
	return nil
}

// TestDecisionsAreKept: what a policy answers is made possible, and one that does
// not answer costs its message, not the service.
func TestDecisionsAreKept(t *testing.T) {
	const years5 = 1 << 16 * time.Hour
	handler := func(h harebus.ErrorHandler) func(*harebus.Config, *rig) {
		return func(c *harebus.Config, _ *rig) { c.Handling.ErrorHandler = h }
	}
	policy := func(b func() backoff.BackOff) func(*harebus.Config, *rig) {
		return func(c *harebus.Config, _ *rig) { c.Retry.BackOff = b }
	}
	rule := func(match func(error) bool) func(*harebus.Config, *rig) {
		return func(c *harebus.Config, _ *rig) { c.Retry.Rules = []harebus.RetryRule{{Match: match}} }
	}
	for name, c := range map[string]struct {
		change func(*harebus.Config, *rig)
		err    error
		parked bool // else it waits as long as a message can
	}{
		"handler, five years and more": {handler(func(*harebus.Message, error, harebus.Decision) harebus.Decision { return harebus.RetryIn(years5) }), errNo, false},
		"handler, longest":             {handler(func(*harebus.Message, error, harebus.Decision) harebus.Decision { return harebus.RetryIn(1<<63 - 1) }), errNo, false},
		"handler postpones":            {handler(func(*harebus.Message, error, harebus.Decision) harebus.Decision { return harebus.PostponeBy(years5) }), errNo, false},
		"error asks":                   {func(*harebus.Config, *rig) {}, harebus.RetryAfter(years5, errNo), false},
		"error postpones":              {func(*harebus.Config, *rig) {}, harebus.Postpone(years5, errNo), false},
		"back-off":                     {policy(func() backoff.BackOff { return backoff.NewConstantBackOff(years5) }), errNo, false},
		"handler panics":               {handler(func(*harebus.Message, error, harebus.Decision) harebus.Decision { panic(sulkyError{}) }), errNo, true},
		"handler ends its goroutine":   {handler(func(*harebus.Message, error, harebus.Decision) harebus.Decision { quit(); return harebus.Discard() }), errNo, true},
		"handler hangs": {func(c *harebus.Config, r *rig) {
			c.Handling.ErrorHandler = func(*harebus.Message, error, harebus.Decision) harebus.Decision {
				<-r.ctx.Done()
				return harebus.Discard()
			}
		}, errNo, true},
		"rule panics":             {rule(func(error) bool { panic("rule") }), errNo, true},
		"rule ends its goroutine": {rule(func(error) bool { quit(); return true }), errNo, true},
		"rule with a bad error":   {rule(harebus.MatchIs(errNo)), lyingError{}, true},
		"back-off turns bad":      {policy(turning(func() backoff.BackOff { panic("policy") })), errNo, true},
		"back-off turns nil":      {policy(turning(func() backoff.BackOff { return nil })), errNo, true},
		"back-off is past":        {policy(turning(func() backoff.BackOff { return backoff.NewConstantBackOff(-time.Hour) })), errNo, true},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, r *rig) {
				cfg := r.config("orders")
				cfg.Consume.Concurrency = 1
				c.change(&cfg, r)
				s := r.setup(cfg)
				harebus.Handle(s, func(_ context.Context, _ *harebus.Bus, o order) error {
					if o.ID == 1 {
						return c.err
					}
					return nil
				})
				r.start(s)
				for id := 1; id <= 2; id++ {
					if err := s.Bus().Send(r.ctx, "orders", order{id}); err != nil {
						t.Fatal(err)
					}
				}
				if c.parked {
					r.quiet("error")
					r.await("error", 1)
				}
				for s.Stats().Handled < 1 || !c.parked && s.Stats().Retried+s.Stats().Postponed < 1 {
					time.Sleep(time.Second)
				}
				if err := r.ctx.Err(); err != nil {
					t.Fatal(err)
				}
				if waiting := r.waiting(); !c.parked && (waiting < topology.MaxDelay-time.Minute || waiting > topology.MaxDelay) {
					t.Errorf("it waits for %v", waiting)
				}
				if err := s.Ready(); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

// waiting is how long the one deferred message of the broker has to wait.
func (r *rig) waiting() time.Duration {
	for _, q := range r.broker.Queues() {
		for _, m := range r.broker.Messages(q.Name) {
			text, _ := m.Headers[prefixed("DeferredTime")].(string)
			if due, err := harebus.ParseTime(text); err == nil {
				return time.Until(due)
			}
		}
	}
	return 0
}

// turning is a factory that is as good as any when New tries it.
func turning(bad func() backoff.BackOff) func() backoff.BackOff {
	var made atomic.Int64
	return func() backoff.BackOff {
		if made.Add(1) <= 2 {
			return steady()
		}
		return bad()
	}
}

// quit ends the goroutine.
func quit() { runtime.Goexit() }
