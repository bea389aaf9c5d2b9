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
	// InARow is how many failures without a success between them open the breaker, whatever time
	// they take: a system that hangs, and a queue with little to do, have few attempts. At most
	// 1,000. Default: 5.
	InARow int
	// Share of failures among the latest attempts that opens the breaker, too, above 0 and at most 1.
	// Default: 0.5.
	Share float64
	// Attempts is how many attempts are looked at for Share. With fewer only InARow opens the breaker.
	// Default: 20.
	Attempts int
	// Window is the time within which these attempts ended. Older ones do not count for Share.
	// Default: a minute.
	Window time.Duration
	// Pause is how long the breaker is open before a message is tried. Default: 10 s.
	Pause time.Duration
	// Failure says whether an error is a failure of the system behind the handler. What is none is
	// about the message, and is no attempt: it neither opens the breaker nor closes it. Default:
	// every error but a [*harebus.RejectError] and [harebus.NoRetry]. It is not asked about a
	// [harebus.Postpone], which is never a failure. If it panics, the attempt has failed.
	Failure func(error) bool
	// Changed is called when the breaker opens, tries a message or closes, with the error that has
	// opened it. It must return soon; a panic of it fails the message. Default: nothing.
	Changed func(State, error)
}

func (c BreakerConfig) withDefaults() BreakerConfig {
	if c.InARow == 0 {
		c.InARow = 5
	}
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
		c.Failure = func(err error) bool { return !about(err) }
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
	if c.InARow < 1 || c.InARow > 1000 {
		fault("InARow %d is not between 1 and 1000", c.InARow)
	}
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
	until   time.Time // before that no message is tried
	probe   int       // the number of the message that is tried, or was the last one
	expires time.Time // when another one is tried instead, while it is probing
	latest  []attempt // at most Attempts, the oldest first
	inARow  int       // failures since the last success
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

// State is the present one. It may be called at any time.
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
			return b.handle(ctx, func(ctx context.Context) error { return next(ctx, bus, m) })
		}
	}
}

func (b *Breaker) handle(ctx context.Context, next func(context.Context) error) (err error) {
	ctx, probe, err := b.admit(ctx)
	if err != nil {
		return err
	}
	// This is the outcome if the goroutine ends below. The breaker is told in any case, because it
	// would wait for the message that is tried.
	outcome, err := verdict{failed: true}, harebus.ErrGoexit
	defer func() {
		if v := recover(); v != nil { // of Failure
			err = errors.Join(err, &harebus.PanicError{Value: v, Stack: debug.Stack()})
		}
		err = b.settle(probe, outcome, err)
	}()
	err = guarded(func() error {
		if probe > 0 {
			b.cfg.Changed(Probing, nil)
		}
		return next(ctx)
	})
	outcome = b.judge(ctx, err)
	return err
}

// guarded turns a panic into an error.
func guarded(fn func() error) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = &harebus.PanicError{Value: v, Stack: debug.Stack()}
		}
	}()
	return fn()
}

// verdict is what an attempt says about the system.
type verdict struct {
	failed  bool
	nothing bool // it says nothing
	down    *downError
}

// judge calls Failure, which is foreign code.
func (b *Breaker) judge(ctx context.Context, err error) verdict {
	if errors.Is(ctx.Err(), context.Canceled) { // a stop has cut it off
		return verdict{nothing: true}
	}
	if err == nil {
		return verdict{}
	}
	if down, ok := find[*downError](err); ok {
		return verdict{failed: true, down: down}
	}
	if asked, ok := find[pauser](err); ok {
		if _, counted := asked.Pause(); !counted {
			return verdict{nothing: true}
		}
	}
	if !b.cfg.Failure(err) {
		return verdict{nothing: true}
	}
	return verdict{failed: true}
}

// admit waits until the message may be handled. probe is its number if it is the one that is tried.
func (b *Breaker) admit(ctx context.Context) (_ context.Context, probe int, err error) {
	inner, waited := patience(ctx)
	defer waited.Stop()
	for {
		probe, left, changed := b.look(ctx)
		if left <= 0 {
			return inner, probe, nil
		}
		if err := b.rest(ctx, left, changed, waited); err != nil {
			return nil, 0, err
		}
	}
}

// look returns for how long the state lasts at most unless changed is closed before; nothing is left
// if the message may be handled. When the time of the open breaker is over, or that of the message
// that is tried, it is probing for the caller alone, which gets a number.
func (b *Breaker) look(ctx context.Context) (probe int, left time.Duration, changed <-chan struct{}) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch b.state {
	case Closed:
		return 0, 0, b.changed
	case Open:
		left = time.Until(b.until)
	case Probing:
		left = time.Until(b.expires)
	}
	if left > 0 {
		return 0, left, b.changed
	}
	b.become(Probing)
	b.probe++
	b.expires = time.Now().Add(longest + b.cfg.Pause)
	if limit, ok := ctx.Deadline(); ok {
		b.expires = limit.Add(b.cfg.Pause)
	}
	return b.probe, 0, b.changed
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
	b.latest, b.inARow = nil, 0
	close(b.changed)
	b.changed = make(chan struct{})
}

// settle counts an attempt and returns what becomes of its message. What fails while the breaker is
// open, or opens it, is postponed, so that it uses up no attempt: for as long as it asks, if that is
// longer.
func (b *Breaker) settle(probe int, v verdict, err error) error {
	state, changed := b.count(probe, v)
	if changed {
		b.cfg.Changed(state, err)
	}
	if !v.failed || state == Closed {
		return err
	}
	later := b.later()
	if asked, ok := find[pauser](err); ok {
		d, _ := asked.Pause()
		later = max(later, d)
	}
	return harebus.Postpone(later, err)
}

// count counts an attempt, and returns the state and whether it has changed. Of the messages that are
// tried only the latest one decides; another one has outlasted its time.
func (b *Breaker) count(probe int, v verdict) (State, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	was, now := b.state, time.Now()
	if v.down != nil && v.down.until.After(b.until) {
		b.until = v.down.until
	}
	switch {
	case was == Probing && probe == b.probe:
		b.answered(v, now)
	case was != Probing && v.down != nil:
		b.become(Open)
	case was == Closed && !v.nothing:
		b.note(attempt{now, v.failed})
		if v.failed && b.tooMany(now) {
			b.until = now.Add(b.cfg.Pause)
			b.become(Open)
		}
	}
	return b.state, b.state != was && !(v.nothing && b.state == Open)
}

// answered ends the trial. Only a success closes the breaker, and not before the time that somebody
// else has named meanwhile. A message that says nothing about the system makes room for another
// one. mu is held.
func (b *Breaker) answered(v verdict, now time.Time) {
	if v.failed && v.down == nil {
		if pause := now.Add(b.cfg.Pause); pause.After(b.until) {
			b.until = pause
		}
	}
	if !v.failed && !v.nothing && !b.until.After(now) {
		b.become(Closed)
		return
	}
	b.become(Open)
}

// note notes an attempt. mu is held.
func (b *Breaker) note(a attempt) {
	if len(b.latest) == b.cfg.Attempts {
		b.latest = append(b.latest[:0], b.latest[1:]...)
	}
	b.latest = append(b.latest, a)
	if b.inARow++; !a.failed {
		b.inARow = 0
	}
}

// tooMany says whether so many attempts have failed that the breaker opens. mu is held.
func (b *Breaker) tooMany(now time.Time) bool {
	if b.inARow >= b.cfg.InARow {
		return true
	}
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
