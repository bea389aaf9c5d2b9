package limit

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"github.com/harebus/harebus"
)

// BreakerConfig says when a [Breaker] opens. The zero value of every field means its default.
type BreakerConfig struct {
	// Share of failures among the latest attempts that opens the breaker, above 0 and at most 1.
	// Default: 0.5.
	Share float64
	// Attempts is how many attempts are looked at. With fewer the breaker stays closed. Default: 20.
	Attempts int
	// Window is the time within which these attempts ended. Older ones do not count. Default: a
	// minute.
	Window time.Duration
	// Pause is how long the breaker is open before a message is tried. Default: 10 s.
	Pause time.Duration
	// Failure says whether an error is a failure of the system behind the handler. Default: every
	// error but a [*harebus.RejectError], which is about the message. Leave out what else is about
	// the message: a good message may be the one that is tried.
	Failure func(error) bool
	// Changed is called when the breaker opens, tries a message or closes, with the error that has
	// opened it. It must return soon. Default: nothing.
	Changed func(State, error)
}

func (c BreakerConfig) withDefaults() BreakerConfig {
	if c.Share == 0 {
		c.Share = 0.5
	}
	if c.Attempts == 0 {
		c.Attempts = 20
	}
	if c.Window == 0 {
		c.Window = time.Minute
	}
	if c.Pause == 0 {
		c.Pause = 10 * time.Second
	}
	if c.Failure == nil {
		c.Failure = func(err error) bool {
			var rejected *harebus.RejectError
			return !errors.As(err, &rejected)
		}
	}
	if c.Changed == nil {
		c.Changed = func(State, error) {}
	}
	return c
}

// check reports every fault.
func (c BreakerConfig) check() error {
	var faults []error
	fault := func(format string, args ...any) { faults = append(faults, fmt.Errorf(format, args...)) }
	if !(c.Share > 0 && c.Share <= 1) { // a NaN is neither
		fault("Share %v is not above 0 and at most 1", c.Share)
	}
	if c.Attempts < 1 || c.Attempts > 1000 {
		fault("Attempts %d is not between 1 and 1000", c.Attempts)
	}
	if c.Window < time.Millisecond {
		fault("Window %v is less than 1ms", c.Window)
	}
	if c.Pause < time.Millisecond {
		fault("Pause %v is less than 1ms", c.Pause)
	}
	return errors.Join(faults...)
}

// State is that of a [Breaker].
type State int8

// The states.
const (
	// Closed: messages are handled.
	Closed State = iota
	// Open: no handler is called.
	Open
	// Probing: one message is handled, and the others wait for its result.
	Probing
)

// String is the name of the state.
func (s State) String() string { return [...]string{"closed", "open", "probing"}[s] }

// Breaker is a circuit breaker. While it is open, messages wait: in their workers, so that the
// others stay in the queue, or in the broker. None of them is parked, and none uses up an attempt.
// One Breaker may be shared by handlers, endpoints and setups that use the same system, and has
// no goroutine. [NewBreaker] makes one.
type Breaker struct {
	cfg BreakerConfig

	mu      sync.Mutex // guards what follows
	state   State
	until   time.Time // while it is open
	latest  []attempt // at most Attempts, the oldest first
	changed chan struct{}
}

// attempt is one that has ended.
type attempt struct {
	at     time.Time
	failed bool
}

// NewBreaker makes a breaker, which is closed.
func NewBreaker(cfg BreakerConfig) (*Breaker, error) {
	cfg = cfg.withDefaults()
	if err := cfg.check(); err != nil {
		return nil, fmt.Errorf("limit: new breaker: %w", err)
	}
	return &Breaker{cfg: cfg, changed: make(chan struct{})}, nil
}

// State is the present one.
func (b *Breaker) State() State {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.state
}

// Down is an error with which a handler says that the system behind it is not to be used until a
// time. It opens the breaker at once, and the message comes again then, uncounted. It may
// be wrapped. Without a breaker it postpones the message. Down(t, nil) is nil.
func Down(until time.Time, err error) error {
	if err == nil {
		return nil
	}
	return &downError{harebus.Postpone(time.Until(until), err), until}
}

type downError struct {
	err   error
	until time.Time
}

func (e *downError) Error() string { return e.err.Error() }
func (e *downError) Unwrap() error { return e.err }

// For is the middleware for the messages of these types, or of all types if none is named: for
// Handling.Middleware of a config. While the breaker is open a message waits at most for half of its
// time limit, and without one for ten minutes; then it is postponed.
func (b *Breaker) For(types ...string) harebus.Middleware {
	return func(next harebus.HandlerFunc) harebus.HandlerFunc {
		return func(ctx context.Context, bus *harebus.Bus, m *harebus.Message) error {
			if len(types) > 0 && !slices.Contains(types, m.Type) {
				return next(ctx, bus, m)
			}
			return b.handle(ctx, func() error { return next(ctx, bus, m) })
		}
	}
}

func (b *Breaker) handle(ctx context.Context, next func() error) (err error) {
	probe, err := b.admit(ctx)
	if err != nil {
		return err
	}
	returned := false
	defer func() {
		if returned {
			return
		}
		if v := recover(); v != nil {
			err = b.judge(probe, &harebus.PanicError{Value: v, Stack: debug.Stack()})
			return
		}
		_ = b.judge(probe, harebus.ErrGoexit) // its goroutine ends, and nobody gets a result
	}()
	if probe {
		b.cfg.Changed(Probing, nil)
	}
	err = next()
	returned = true
	if errors.Is(ctx.Err(), context.Canceled) {
		b.withdraw(probe)
		return err
	}
	return b.judge(probe, err)
}

// admit waits until the message may be handled. probe says that it is the one that is tried.
func (b *Breaker) admit(ctx context.Context) (probe bool, err error) {
	waited := patience(ctx)
	defer waited.Stop()
	for {
		state, left, changed := b.look()
		switch state {
		case Closed:
			return false, nil
		case Probing:
			if left <= 0 {
				return true, nil
			}
		}
		if err := b.rest(ctx, left, changed, waited); err != nil {
			return false, err
		}
	}
}

// look returns the state, and for how long it lasts at most unless changed is closed before. When
// the time of the open breaker is over it becomes Probing, with nothing left, for the caller alone.
func (b *Breaker) look() (state State, left time.Duration, changed <-chan struct{}) {
	b.mu.Lock()
	defer b.mu.Unlock()
	left = time.Until(b.until)
	switch {
	case b.state == Probing:
		left = longest
	case b.state == Open && left <= 0:
		b.become(Probing)
		left = 0
	}
	return b.state, left, b.changed
}

// rest waits for a change. Its error is what becomes of a message that has waited for too long.
func (b *Breaker) rest(ctx context.Context, most time.Duration, changed <-chan struct{}, waited *time.Timer) error {
	due := time.NewTimer(most)
	defer due.Stop()
	select {
	case <-due.C:
	case <-changed:
	case <-waited.C:
		return harebus.Postpone(b.later(), errOpen)
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	return nil
}

// later is for how long a message is postponed now.
func (b *Breaker) later() time.Duration {
	b.mu.Lock()
	defer b.mu.Unlock()
	return max(time.Until(b.until), least)
}

// become changes the state and tells those who wait. mu is held.
func (b *Breaker) become(state State) {
	b.state = state
	b.latest = nil
	close(b.changed)
	b.changed = make(chan struct{})
}

// judge counts an attempt and returns what becomes of its message. What fails while the breaker is
// open, or opens it, is postponed, so that it uses up no attempt.
func (b *Breaker) judge(probe bool, err error) error {
	var down *downError
	failed := err != nil && (errors.As(err, &down) || b.cfg.Failure(err))
	state, changed := b.count(probe, failed, down)
	if changed {
		b.cfg.Changed(state, err)
	}
	if failed && state != Closed {
		return harebus.Postpone(b.later(), err)
	}
	return err
}

// count counts an attempt, and returns the state and whether it has changed.
func (b *Breaker) count(probe, failed bool, down *downError) (State, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := time.Now()
	if b.state == Closed {
		b.note(now, failed)
	}
	switch {
	case down != nil && b.state == Open:
		if down.until.After(b.until) {
			b.until = down.until
			b.become(Open)
		}
		return Open, false
	case down != nil:
		b.until = down.until
		b.become(Open)
	case probe && !failed:
		b.become(Closed)
	case probe, failed && b.state == Closed && b.tooMany(now):
		b.until = now.Add(b.cfg.Pause)
		b.become(Open)
	default:
		return b.state, false
	}
	return b.state, true
}

// withdraw gives the place of a message that was tried, and was cut off by a stop, to another one.
func (b *Breaker) withdraw(probe bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if probe && b.state == Probing {
		b.become(Open)
	}
}

// note notes an attempt. mu is held.
func (b *Breaker) note(now time.Time, failed bool) {
	if len(b.latest) == b.cfg.Attempts {
		b.latest = append(b.latest[:0], b.latest[1:]...)
	}
	b.latest = append(b.latest, attempt{now, failed})
}

// tooMany says whether so many attempts have failed that the breaker opens. mu is held.
func (b *Breaker) tooMany(now time.Time) bool {
	if len(b.latest) < b.cfg.Attempts || now.Sub(b.latest[0].at) > b.cfg.Window {
		return false
	}
	failures := 0
	for _, a := range b.latest {
		if a.failed {
			failures++
		}
	}
	return float64(failures) >= b.cfg.Share*float64(len(b.latest))
}
