package consume

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/harebus/harebus/internal/wait"
	"github.com/harebus/harebus/order"
)

// Group are the consumers of one queue.
type Group struct {
	cfg       Config
	consumers []*consumer
	running   sync.WaitGroup
	watching  context.CancelFunc
}

// Start begins to consume. Handlers run until Halt, and their work has to end with ctx.
func Start(ctx context.Context, cfg Config) *Group {
	g := &Group{cfg: cfg}
	watched, cancel := context.WithCancel(ctx)
	g.watching = cancel
	for i := range cfg.Consumers {
		c := newConsumer(ctx, &g.cfg, i)
		g.consumers = append(g.consumers, c)
		g.running.Go(c.run)
	}
	g.running.Go(func() { g.watch(watched) })
	return g
}

// Await waits until every consumer consumes, or one cannot.
func (g *Group) Await(ctx context.Context) error {
	for _, c := range g.consumers {
		if err := c.await(ctx); err != nil {
			return err
		}
	}
	return nil
}

// Halt begins to stop: no handler begins any more.
func (g *Group) Halt() {
	g.watching()
	for _, c := range g.consumers {
		c.halt()
	}
}

// Wait waits, after Halt, until every handler has ended, or has ignored the end of the
// context of Start for Grace.
func (g *Group) Wait() { g.running.Wait() }

// Pause stops consuming until Resume. It returns when no handler runs, or with the cause
// of ctx.
func (g *Group) Pause(ctx context.Context) error {
	rested := make([]<-chan struct{}, len(g.consumers))
	for i, c := range g.consumers {
		rested[i] = c.pause()
	}
	for i, c := range g.consumers {
		select {
		case <-rested[i]:
		case <-c.soft.Done():
			return g.cfg.Stopped
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}

// Resume ends a pause.
func (g *Group) Resume() {
	for _, c := range g.consumers {
		c.resume()
	}
}

// Paused says whether a pause was asked for.
func (g *Group) Paused() bool { return g.consumers[0].isPaused() }

// Resize changes how many messages each consumer handles at once, and its prefetch.
func (g *Group) Resize(workers, prefetch int) {
	for _, c := range g.consumers {
		c.resize(workers, prefetch)
	}
}

// Parked are the keys of an ordered queue that are parked, if this process has it. A nil group has none.
func (g *Group) Parked() []order.Parked {
	if g == nil {
		return nil
	}
	for _, c := range g.consumers {
		c.mu.Lock()
		f := c.feed
		c.mu.Unlock()
		if f != nil && f.lanes != nil {
			return f.lanes.parked()
		}
	}
	return nil
}

// Busy is the number of workers that handle a message.
func (g *Group) Busy() int64 {
	var n int64
	for _, c := range g.consumers {
		n += c.busy.Load()
	}
	return n
}

// Faults are why consumers do not consume.
func (g *Group) Faults() []error {
	var faults []error
	for _, c := range g.consumers {
		if err := c.state(); err != nil {
			faults = append(faults, fmt.Errorf("consumer %d: %w", c.index, err))
		}
	}
	return faults
}

// Inside says whether the caller is the goroutine of a handler, or match holds for the
// work that a worker does.
func (g *Group) Inside(match func(Task) bool) bool {
	self := goroutine()
	return g.any(func(w *worker) bool {
		d := w.hand.Load()
		return d != nil && (w.goroutine.Load() == self || d.helper.Load() == self || match(d.task))
	})
}

func (g *Group) any(found func(*worker) bool) bool {
	return slices.ContainsFunc(g.consumers, func(c *consumer) bool { return slices.ContainsFunc(c.all(), found) })
}

// Oldest is the age of the message that has been in a handler for longest.
func (g *Group) Oldest() time.Duration {
	var oldest time.Duration
	g.any(func(w *worker) bool {
		if d := w.hand.Load(); d != nil {
			if _, _, begun := d.task.Handling(); begun {
				oldest = max(oldest, d.Age())
			}
		}
		return false
	})
	return oldest
}

// grace is how long after its timeout a handler that heeds it has ended.
const grace = 5 * time.Second

// hopeless is the age after which a message without a time limit counts as stuck. By
// default the broker takes it back after this time.
const hopeless = 30 * time.Minute

// Stuck says whether every worker has handled its message for longer than its limit, or
// than limit if no handler has begun, so that no other message is handled.
func (g *Group) Stuck(limit time.Duration) error {
	var youngest *Delivery
	workers := 0
	free := g.any(func(w *worker) bool {
		d := w.hand.Load()
		if d == nil || d.Age() <= d.limit(limit)+grace || d.early.Load() && d.unlimited() {
			return true
		}
		if workers++; youngest == nil || d.Began.After(youngest.Began) {
			youngest = d
		}
		return false
	})
	if free || youngest == nil {
		return nil
	}
	return fmt.Errorf("nothing is handled: all %d workers are busy with messages that they should have been done with; the latest began %v ago",
		workers, youngest.Age().Round(time.Second))
}

// unlimited says that its handler may take any time.
func (d *Delivery) unlimited() bool {
	_, limit, begun := d.task.Handling()
	return begun && limit <= 0
}

// limit is how long the message may take.
func (d *Delivery) limit(unbegun time.Duration) time.Duration {
	_, limit, begun := d.task.Handling()
	if !begun {
		limit = unbegun
	}
	if limit <= 0 {
		return hopeless
	}
	return limit
}

// slow is the age at which a message in a handler is logged.
const slow = time.Minute

// watch checks regularly what the workers handle, and logs handlers that run for a
// long time.
func (g *Group) watch(ctx context.Context) {
	for wait.Sleep(ctx, slow/4) {
		for _, c := range g.consumers {
			for _, w := range c.all() {
				c.logSlow(w)
			}
			c.adjust()
		}
	}
}

// logSlow logs a slow handler once it has run for a minute, and after that in growing
// intervals.
func (c *consumer) logSlow(w *worker) {
	d := w.hand.Load()
	if d == nil {
		return
	}
	fields, _, begun := d.task.Handling()
	if !begun {
		return
	}
	if w.warned != d {
		w.warned, w.warnAt = d, slow
	}
	if age := d.Age(); age >= w.warnAt {
		w.warnAt = 4 * age
		c.log.Warn("a handler has been running for long", append(fields, zap.Duration("age", age.Round(time.Second)))...)
	}
}
