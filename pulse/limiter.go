package pulse

import (
	"cmp"
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/internal/routing"
)

// limiter spaces the messages of one queue. Without a rate a message costs one atomic load.
type limiter struct {
	queue       string // its name, or the beginning of it
	perInstance bool
	timeout     time.Duration // of the handlers, if none has its own; 0 is none
	interval    atomic.Int64  // between two messages, in nanoseconds; 0 is no limit

	mu      sync.Mutex // guards what follows
	next    time.Time  // when the next message may begin
	back    time.Time  // when the next message that is postponed comes back
	changed chan struct{}
}

func newLimiter(e *harebus.EndpointConfig) *limiter {
	const usual = 5 * time.Minute // as the setup has it
	return &limiter{
		queue: e.Queue, perInstance: e.QueueOptions.PerInstance, timeout: max(0, cmp.Or(e.Handling.Timeout, usual)), changed: make(chan struct{}),
	}
}

// patience is how long a message may wait for its turn: its handler needs time, too.
func (l *limiter) patience() time.Duration {
	if l.timeout == 0 {
		return patience
	}
	return min(patience, l.timeout/2) //nolint:mnd // half of it
}

// of says whether the limiter is that of a queue.
func (l *limiter) of(queue string) bool {
	return queue == l.queue || l.perInstance && routing.IsInstance(queue, l.queue)
}

// rate is how many messages a second may begin; 0 is no limit.
func (l *limiter) rate() float64 {
	interval := l.interval.Load()
	if interval == 0 {
		return 0
	}
	return float64(time.Second) / float64(interval)
}

// set changes the rate. Those who wait begin anew.
func (l *limiter) set(rate float64) {
	interval := int64(0)
	if rate > 0 {
		interval = int64(float64(time.Second) / rate)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.interval.Store(interval)
	l.next, l.back = time.Time{}, time.Time{}
	close(l.changed)
	l.changed = make(chan struct{})
}

// limit is the middleware.
func (l *limiter) limit(next harebus.HandlerFunc) harebus.HandlerFunc {
	return func(ctx context.Context, bus *harebus.Bus, m *harebus.Message) error {
		if l.interval.Load() != 0 {
			if err := l.wait(ctx); err != nil {
				return err
			}
		}
		return next(ctx, bus, m)
	}
}

// lag is by how much a message that begins late lets the next one begin early: timers are not
// exact.
const lag = 10 * time.Millisecond

// longestSpread is over how much time postponed messages come back. They come back then also if the
// limit has ended.
const longestSpread = 10 * time.Minute

// slot takes the next time at which a message may begin. If the wait needs more than half of the
// time that its ctx has left, at is when the message may come back: each a turn later than the one
// before, so that they do not all come back at once.
func (l *limiter) slot(ctx context.Context) (at time.Time, late bool, changed <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	at = time.Now().Add(-lag)
	if l.next.After(at) {
		at = l.next
	}
	interval := time.Duration(l.interval.Load())
	if deadline, ok := ctx.Deadline(); ok && time.Until(at) > time.Until(deadline)/2 { //nolint:mnd // half of it
		if l.back.Before(at) || l.back.After(at.Add(longestSpread)) {
			l.back = at
		}
		at = l.back
		l.back = at.Add(interval)
		return at, true, nil
	}
	l.next = at.Add(interval)
	return at, false, l.changed
}

var errRate = errors.New("the rate of this queue is limited, and the message would wait for its turn for more than half of its handler's timeout")

// wait waits for the turn of a message. One whose handler would have too little time left then is
// postponed.
func (l *limiter) wait(ctx context.Context) error {
	for {
		at, late, changed := l.slot(ctx)
		if late {
			return harebus.Postpone(time.Until(at), errRate)
		}
		turn := time.NewTimer(time.Until(at))
		select {
		case <-turn.C:
			return nil
		case <-changed:
			turn.Stop()
		case <-ctx.Done():
			turn.Stop()
			return context.Cause(ctx)
		}
	}
}
