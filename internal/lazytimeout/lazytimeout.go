// Package lazytimeout has a context with a value and a timeout whose timer is made when
// somebody first asks whether it has ended. Most handlers never ask, and a timer for each
// message would cost more than all the rest of the context.
package lazytimeout

import (
	"context"
	"sync"
	"time"
)

// Context is a context with a timeout. [New] makes one.
type Context struct {
	context.Context // the parent
	key, value      any
	timeout         time.Duration // none if it is not positive
	cause           error         // of its end by the timeout
	deadline        time.Time

	mu     sync.Mutex // guards what follows
	timed  context.Context
	cancel context.CancelFunc
	over   bool
}

// New starts the time. value is what the context has for key, and cause is why it ends when
// the time has passed. The caller calls End.
func New(parent context.Context, key, value any, timeout time.Duration, cause error) *Context {
	c := &Context{Context: parent, key: key, value: value, timeout: timeout, cause: cause}
	if timeout > 0 {
		c.deadline = time.Now().Add(timeout)
	}
	return c
}

// Deadline is that of the timeout, unless the parent's comes first.
func (c *Context) Deadline() (time.Time, bool) {
	parent, ok := c.Context.Deadline()
	if c.timeout > 0 && (!ok || c.deadline.Before(parent)) {
		return c.deadline, true
	}
	return parent, ok
}

// Done is closed after End, too.
func (c *Context) Done() <-chan struct{} { return c.running().Done() }

// Err says whether the time has passed, also if nobody has asked for Done.
func (c *Context) Err() error { return c.running().Err() }

// Value finds the value. What package context keeps in its own contexts is looked for in
// the one with the timer, so that [context.Cause] finds the cause.
func (c *Context) Value(key any) any {
	if key == c.key {
		return c.value
	}
	c.mu.Lock()
	timed := c.timed
	c.mu.Unlock()
	if timed != nil {
		return timed.Value(key)
	}
	return c.Context.Value(key)
}

// running returns the context with the timer.
func (c *Context) running() context.Context {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.timed == nil {
		if c.timeout > 0 {
			c.timed, c.cancel = context.WithDeadlineCause(c.Context, c.deadline, c.cause)
		} else {
			c.timed, c.cancel = context.WithCancel(c.Context)
		}
		if c.over {
			c.cancel()
		}
	}
	return c.timed
}

// Expired says whether the time has passed before End.
func (c *Context) Expired() bool {
	if c.timeout <= 0 || time.Now().Before(c.deadline) {
		return false
	}
	return context.Cause(c.running()) == c.cause //nolint:errorlint // this very one
}

// End stops the timer. After that the context has ended, for code that still has it.
func (c *Context) End() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.over = true
	if c.cancel != nil {
		c.cancel()
	}
}
