package harebus

import (
	"context"
	"sync"
	"time"
)

// handlerContext is the context of one run of a handler: it leads to the handler's bus
// and ends with the timeout. The timer is made when the context is first asked whether
// it has ended. Most handlers never ask, and a timer for each message would cost more
// than all the rest of the context.
type handlerContext struct {
	context.Context // of the consumer; ends when stopping takes too long
	bus             *Bus
	timeout         handlerTimeout // none if it is not positive
	deadline        time.Time

	mu     sync.Mutex // guards what follows
	timed  context.Context
	cancel context.CancelFunc
	over   bool
}

// newHandlerContext starts the time. The caller calls end.
func newHandlerContext(parent context.Context, bus *Bus, timeout time.Duration) *handlerContext {
	c := &handlerContext{Context: parent, bus: bus, timeout: handlerTimeout(timeout)}
	if timeout > 0 {
		c.deadline = time.Now().Add(timeout)
	}
	return c
}

// Deadline is that of the timeout, unless the parent's comes first.
func (c *handlerContext) Deadline() (time.Time, bool) {
	parent, ok := c.Context.Deadline()
	if c.timeout > 0 && (!ok || c.deadline.Before(parent)) {
		return c.deadline, true
	}
	return parent, ok
}

// Done is closed when the handler has returned, too.
func (c *handlerContext) Done() <-chan struct{} { return c.running().Done() }

// Err says whether the time has passed, also if nobody has asked for Done.
func (c *handlerContext) Err() error { return c.running().Err() }

// Value finds the bus of the handler. What package context keeps in its own contexts is
// looked for in the one with the timer, so that [context.Cause] finds the cause.
func (c *handlerContext) Value(key any) any {
	if key == (handlingKey{}) {
		return c.bus
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
func (c *handlerContext) running() context.Context {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.timed == nil {
		if c.timeout > 0 {
			c.timed, c.cancel = context.WithDeadlineCause(c.Context, c.deadline, c.timeout)
		} else {
			c.timed, c.cancel = context.WithCancel(c.Context)
		}
		if c.over {
			c.cancel()
		}
	}
	return c.timed
}

// expired says whether the handler's time has passed before end.
func (c *handlerContext) expired() bool {
	if c.timeout <= 0 || time.Now().Before(c.deadline) {
		return false
	}
	return context.Cause(c.running()) == c.timeout //nolint:errorlint // this very one
}

// end stops the timer. After that the context has ended, for code that still has
// it.
func (c *handlerContext) end() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.over = true
	if c.cancel != nil {
		c.cancel()
	}
}
