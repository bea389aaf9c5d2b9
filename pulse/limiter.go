package pulse

import (
	"context"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/harebus/harebus"
)

// limiter spaces the messages of one queue. Without a rate a message costs one atomic load.
type limiter struct {
	queue       string // its name, or the beginning of it
	perInstance bool
	interval    atomic.Int64 // between two messages, in nanoseconds; 0 is no limit

	mu      sync.Mutex // guards what follows
	next    time.Time  // when the next message may begin
	changed chan struct{}
}

func newLimiter(queue string, perInstance bool) *limiter {
	return &limiter{queue: queue, perInstance: perInstance, changed: make(chan struct{})}
}

// of says whether the limiter is that of a queue.
func (l *limiter) of(queue string) bool {
	const digits = 12
	return queue == l.queue || l.perInstance && strings.HasPrefix(queue, l.queue+".") && len(queue) == len(l.queue)+1+digits
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
	l.next = time.Time{}
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

// slot takes the next time at which a message may begin, unless it comes too late for its ctx.
func (l *limiter) slot(ctx context.Context) (at time.Time, late bool, changed <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	at = time.Now().Add(-lag)
	if l.next.After(at) {
		at = l.next
	}
	if deadline, ok := ctx.Deadline(); ok && at.After(deadline) {
		return at, true, nil
	}
	l.next = at.Add(time.Duration(l.interval.Load()))
	return at, false, l.changed
}

var errRate = errors.New("the rate of this queue is limited, and the turn of the message comes after the timeout of its handler")

// wait waits for the turn of a message. One that would come after the handler's timeout is
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
