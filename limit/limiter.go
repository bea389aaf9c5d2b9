// Package limit keeps handlers within what the systems behind them bear. A [Limiter] bounds how many
// messages are handled a second, and how many at once. A [Breaker] calls no handler while a system
// fails, but one now and then to see whether it is back.
//
//	provider, err := limit.New(limit.Limits{Rate: 50, Concurrency: 4})
//	…
//	cfg.Handling.Middleware = []harebus.Middleware{provider.For("Charge", "Refund")}
//
// A message that has to wait does so in its worker, so the others stay in the queue, in their
// order, and nothing is counted as a failure. docs/limits.md says what is promised.
package limit

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/harebus/harebus"
)

// Limits are those of a [Limiter]. They hold for this process: with three instances of a service
// a system gets three times as much.
type Limits struct {
	// Rate is how many messages are begun a second: 0.1 is one in ten seconds. Default: no limit.
	Rate float64
	// Burst is how many may begin at once after a time without messages. Default: 1.
	Burst int
	// Concurrency is how many are handled at once. Default: no limit.
	Concurrency int
}

// check reports every fault.
func (l Limits) check() error {
	var faults []error
	fault := func(format string, args ...any) { faults = append(faults, fmt.Errorf(format, args...)) }
	if l.Rate < 0 || math.IsNaN(l.Rate) || math.IsInf(l.Rate, 0) || l.Rate > 0 && l.Rate < 1e-6 {
		fault("Rate %v is neither 0 nor a number from 0.000001", l.Rate)
	}
	if l.Burst < 0 {
		fault("Burst %d is negative", l.Burst)
	}
	if l.Concurrency < 0 {
		fault("Concurrency %d is negative", l.Concurrency)
	}
	return errors.Join(faults...)
}

// Limiter bounds how often and how many messages are handled. One may be shared by handlers,
// endpoints and setups, and has no goroutine. [New] makes one.
type Limiter struct {
	turn chan struct{} // has an element while a message is the next one
	wake chan struct{} // tells that message to look again

	mu      sync.Mutex // guards what follows
	limits  Limits
	tokens  float64   // messages that may begin now
	counted time.Time // when tokens was right
	running int
}

// New makes a limiter, without a goroutine or a connection. It refuses limits that are negative or out of range.
func New(limits Limits) (*Limiter, error) {
	l := &Limiter{turn: make(chan struct{}, 1), wake: make(chan struct{}, 1)}
	if err := l.Set(limits); err != nil {
		return nil, err
	}
	l.tokens = float64(l.limits.Burst)
	return l, nil
}

// Set changes the limits. They hold at once, also for messages that wait; handlers that run are not
// disturbed. After an error the old ones hold.
func (l *Limiter) Set(limits Limits) error {
	if err := limits.check(); err != nil {
		return fmt.Errorf("limit: set limits: %w", err)
	}
	limits.Burst = max(limits.Burst, 1)
	l.mu.Lock()
	l.refill(time.Now())
	l.limits = limits
	l.tokens = min(l.tokens, float64(limits.Burst))
	l.mu.Unlock()
	l.look()
	return nil
}

// Limits are those that hold now.
func (l *Limiter) Limits() Limits {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.limits
}

// For is the middleware that limits the messages of these types, or of all types if none is named:
// for Handling.Middleware of a config. A message waits at most for half of its time limit, and
// without one for ten minutes. Then it is postponed, which is not counted as a failure.
func (l *Limiter) For(types ...string) harebus.Middleware {
	return func(next harebus.HandlerFunc) harebus.HandlerFunc {
		return func(ctx context.Context, bus *harebus.Bus, m *harebus.Message) error {
			if len(types) > 0 && !slices.Contains(types, m.Type) {
				return next(ctx, bus, m)
			}
			ctx, err := l.begin(ctx)
			if err != nil {
				return err
			}
			defer l.end()
			return next(ctx, bus, m)
		}
	}
}

// begin waits until a message may be handled. Messages wait in a line, and only the first one
// looks at the limits.
func (l *Limiter) begin(ctx context.Context) (context.Context, error) {
	inner, waited := patience(ctx)
	defer waited.Stop()
	select {
	case l.turn <- struct{}{}:
		defer func() { <-l.turn }()
	case <-waited.C:
		return nil, harebus.Postpone(least, errLimited)
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	for {
		due, ok := l.take(time.Now())
		if ok {
			return inner, nil
		}
		if l.rest(ctx, cmp.Or(due, longest), waited) {
			continue
		}
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		if due, ok = l.take(time.Now()); ok {
			return inner, nil
		}
		return nil, harebus.Postpone(max(due, least), errLimited)
	}
}

// rest waits until something may have changed. It returns false when the message has waited for
// too long, or is not to be handled.
func (l *Limiter) rest(ctx context.Context, due time.Duration, waited *time.Timer) bool {
	t := time.NewTimer(due)
	defer t.Stop()
	select {
	case <-t.C:
	case <-l.wake:
	case <-waited.C:
		return false
	case <-ctx.Done():
		return false
	}
	return true
}

// take begins a message if the limits allow it. If not, due is when to look again at the latest; it is
// zero if nobody knows, because another message has to end first.
func (l *Limiter) take(now time.Time) (due time.Duration, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.refill(now)
	if l.limits.Concurrency > 0 && l.running >= l.limits.Concurrency {
		return 0, false
	}
	if l.limits.Rate > 0 {
		if l.tokens < 1-tiny {
			missing := (1 - l.tokens) / l.limits.Rate
			return time.Duration(math.Ceil(min(missing, longest.Seconds()) * float64(time.Second))), false
		}
		l.tokens--
	}
	l.running++
	return 0, true
}

// tiny is what may be missing of a token because of rounding.
const tiny = 1e-9

// refill counts the tokens up to now. mu is held.
func (l *Limiter) refill(now time.Time) {
	if past := now.Sub(l.counted); past > 0 && l.limits.Rate > 0 {
		l.tokens = min(l.tokens+past.Seconds()*l.limits.Rate, float64(l.limits.Burst))
	}
	l.counted = now
}

func (l *Limiter) end() {
	l.mu.Lock()
	l.running--
	l.mu.Unlock()
	l.look()
}

// look has the first message of the line look at the limits.
func (l *Limiter) look() {
	select {
	case l.wake <- struct{}{}:
	default: // it has been told
	}
}
