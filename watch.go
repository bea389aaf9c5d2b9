package harebus

import (
	"context"
	"fmt"
	"time"

	"go.uber.org/zap"

	"github.com/harebus/harebus/internal/wait"
)

const (
	// slow is the age at which a message in a handler is logged.
	slow = time.Minute
	// hopeless is the age after which a message without a handler timeout counts as
	// stuck. By default the broker takes it back after this time.
	hopeless = 30 * time.Minute
	// unbegun is how long deliveries may wait for a worker while all workers are
	// busy with the same messages. Then they go back, so that other instances can
	// handle them. Otherwise the broker's consumer timeout would raise their
	// delivery counts again and again.
	unbegun = 10 * time.Minute
	// trying stands for the prefetch of a trial, which adapt does not change.
	trying = -1
)

// watch checks regularly what the workers handle, and logs handlers that run for a
// long time.
func (e *engine) watch(ctx context.Context) {
	for wait.Sleep(ctx, slow/4) {
		for _, c := range e.consumers {
			for i := range c.places {
				c.look(&c.places[i])
			}
			c.adapt()
		}
	}
}

// look logs a slow handler once it has run for a minute, and after that in growing
// intervals.
func (c *consumer) look(at *place) {
	r := at.hand.Load()
	if r == nil {
		return
	}
	m := r.shown.Load()
	if m == nil {
		return
	}
	if at.warned != r {
		at.warned, at.warnAt = r, slow
	}
	if age := r.age(); age >= at.warnAt {
		at.warnAt = 4 * age
		c.log.Warn("a handler has been running for long", zap.String("message_id", m.ID), zap.String("message_type", m.Type),
			zap.Int("attempt", m.Attempt), zap.Duration("age", age.Round(time.Second)))
	}
}

func (r *receipt) age() time.Duration { return time.Since(r.began) }

// oldest is the age of the message that has been in a handler for longest.
func (e *engine) oldest() time.Duration {
	var oldest time.Duration
	for _, c := range e.consumers {
		for i := range c.places {
			if r := c.places[i].hand.Load(); r != nil && r.shown.Load() != nil {
				oldest = max(oldest, r.age())
			}
		}
	}
	return oldest
}

// stuck says whether every worker has handled its message for longer than its
// limit, so that no other message is handled.
func (e *engine) stuck() error {
	const grace = 5 * time.Second // a handler that heeds its timeout has ended then
	var youngest *receipt
	for _, c := range e.consumers {
		for i := range c.places {
			r := c.places[i].hand.Load()
			if r == nil || r.age() <= r.limit()+grace {
				return nil
			}
			if youngest == nil || r.began.After(youngest.began) {
				youngest = r
			}
		}
	}
	if youngest == nil {
		return nil
	}
	return fmt.Errorf("nothing is handled: all %d workers are busy with messages that they should have been done with; the latest began %v ago",
		len(e.consumers)*len(e.consumers[0].places), youngest.age().Round(time.Second))
}

// limit is how long the message may take.
func (r *receipt) limit() time.Duration {
	timeout := r.setup.cfg.Handling.Timeout
	if r.shown.Load() != nil {
		timeout = r.handler.timeout
	}
	if timeout <= 0 {
		return hopeless
	}
	return timeout
}

// adapt asks for another prefetch when the present one does not fit the number of
// free workers.
func (c *consumer) adapt() {
	if int64(c.capacity()) == c.taking.Load() {
		return
	}
	c.nudge()
}

// capacity is the prefetch for the free workers. Normally it is the configured one;
// when all workers are stuck it is 0; after that, until none is stuck, it is the
// number of free workers. Where order is kept it never changes.
func (c *consumer) capacity() int {
	cfg := &c.setup.cfg
	taking := c.taking.Load()
	if c.isPaused() {
		return 0
	}
	if taking == trying || cfg.keepsOrder() {
		return int(taking)
	}
	stuck := 0
	for i := range c.places {
		if r := c.places[i].hand.Load(); r != nil && r.age() >= unbegun {
			stuck++
		}
	}
	free := len(c.places) - stuck
	if stuck == 0 || (free > 0 && int(taking) == cfg.Consume.Prefetch) {
		return cfg.Consume.Prefetch
	}
	return free
}
