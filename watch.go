package harebus

import (
	"context"
	"fmt"
	"time"

	"go.uber.org/zap"
)

const (
	// slow is the age at which a message in a handler is worth a line in the log.
	slow = time.Minute
	// hopeless is the age after which a message without a handler timeout is taken
	// for stuck: by default the broker then takes it back.
	hopeless = 30 * time.Minute
)

// watch looks at what the workers are busy with, and says which handlers run for
// long.
func (e *engine) watch(ctx context.Context) {
	for sleep(ctx, slow/4) {
		for _, c := range e.consumers {
			for i := range c.places {
				c.look(&c.places[i])
			}
		}
	}
}

// look logs a slow handler once it has run for a minute, and then ever more rarely.
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

// stuck says that every worker has been busy with one message for longer than it
// may be, so that nothing is handled any more.
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
	timeout := r.setup.cfg.Consume.HandlerTimeout
	if r.shown.Load() != nil {
		timeout = r.handler.timeout
	}
	if timeout <= 0 {
		return hopeless
	}
	return timeout
}
