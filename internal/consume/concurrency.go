package consume

import (
	"slices"
	"time"

	"go.uber.org/zap"
)

const (
	// unbegun is how long deliveries may wait for a worker while all workers are
	// busy with the same messages. Then they go back, so that other instances can
	// handle them. Otherwise the broker's consumer timeout would raise their
	// delivery counts again and again.
	unbegun = 10 * time.Minute
	// trying stands for the prefetch of a trial, which nudge does not change.
	trying = -1
)

// resize changes the number of workers and the prefetch. Workers that are too many finish
// their message first, and new ones begin only when those have ended.
func (c *consumer) resize(workers, prefetch int) {
	c.mu.Lock()
	c.size, c.prefetch = workers, prefetch
	c.retireLocked()
	c.hireLocked()
	c.mu.Unlock()
	c.nudge()
	c.log.Info("changed", zap.Int("concurrency", workers), zap.Int("prefetch", prefetch))
}

// retireLocked retires the workers that are too many, the latest first. mu is held.
func (c *consumer) retireLocked() {
	active := 0
	for _, w := range c.workers {
		switch {
		case w.retired():
		case active < c.size:
			active++
		default:
			close(w.retire)
		}
	}
}

// hireLocked adds workers until there are as many as wanted, unless the consumer has
// ended. mu is held.
func (c *consumer) hireLocked() {
	for len(c.workers) < c.size && !c.ended {
		w := &worker{retire: make(chan struct{})}
		c.workers = append(slices.Clip(c.workers), w) // all hands out the slice
		c.crew.Go(func() { c.work(w) })
	}
}

// leave notes that a worker has ended.
func (c *consumer) leave(w *worker) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.workers = slices.DeleteFunc(slices.Clone(c.workers), func(other *worker) bool { return other == w })
	c.hireLocked()
	c.noteRestLocked()
}

// all are the workers, also those that retire after their message.
func (c *consumer) all() []*worker {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.workers
}

// wanted is the prefetch when nothing is stuck or paused.
func (c *consumer) wanted() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.careful.Load() {
		return min(c.prefetch, c.size)
	}
	return c.prefetch
}

// heed looks at the delivery count of what a worker begins with. When a message has used
// half of its deliveries and connections were lost, the consumer fetches one message for
// each worker, because the next loss would count a delivery for each that waits behind. Not
// sooner, and not after stops and pauses, because one message that is fetched alone and comes
// back is put behind others that came back before. When a message comes for the first time,
// so do those behind it.
func (c *consumer) heed(d *Delivery) {
	switch {
	case !d.Raw.Redelivered:
		if c.lost.Load() {
			c.lost.Store(false)
			c.careful.Store(false)
		}
	case c.lost.Load() && d.delivered >= int64(c.cfg.DeliveryLimit/2) && c.careful.CompareAndSwap(false, true):
		c.log.Warn("connections were lost again and again, so this consumer fetches only one message for each worker until new ones come;" +
			" the log of the broker and of the connections says why they end")
	}
}

// inOrder says whether the order of the queue is promised now.
func (c *consumer) inOrder() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.cfg.inOrder(c.size)
}

// capacity is the prefetch for the free workers. Normally it is the wanted one;
// when all workers are stuck, or have a message that was acknowledged early, it is 0; after that, until none is stuck, it is the
// number of free workers. Where order is kept it is the wanted one, or 0 while all
// workers are hung.
func (c *consumer) capacity() int {
	wanted, taking, workers := c.wanted(), c.taking.Load(), c.all()
	switch {
	case c.isPaused():
		return 0
	case c.cfg.Order != nil:
		return int(taking) // which never changes
	case c.inOrder() && c.hung():
		return 0
	case c.inOrder(), c.cfg.AutoDelete:
		return wanted
	case taking == trying:
		return trying
	}
	stuck := 0
	for _, w := range workers {
		if d := w.hand.Load(); d != nil && (d.early.Load() || d.Age() >= unbegun) {
			stuck++
		}
	}
	free := len(workers) - stuck
	if stuck == 0 || (free > 0 && int(taking) == wanted) {
		return wanted
	}
	return free
}

// overdue says whether a worker has had a message that is not acknowledged for longer than unbegun.
func (c *consumer) overdue() bool {
	return slices.ContainsFunc(c.all(), func(w *worker) bool {
		d := w.hand.Load()
		return d != nil && !d.early.Load() && d.Age() >= unbegun
	})
}

// occupied says whether every worker has a message that was acknowledged early.
func (c *consumer) occupied() bool {
	return !slices.ContainsFunc(c.all(), func(w *worker) bool {
		d := w.hand.Load()
		return d == nil || !d.early.Load()
	})
}

// hung says whether every worker has had its message for longer than unbegun, and for
// longer than its handler may take. A handler without a limit is never hung: it may be
// meant to take so long, and its message must not be taken from it.
func (c *consumer) hung() bool {
	workers := c.all()
	return len(workers) > 0 && !slices.ContainsFunc(workers, func(w *worker) bool {
		d := w.hand.Load()
		if d == nil || d.Age() < unbegun {
			return true
		}
		_, limit, begun := d.task.Handling()
		return begun && (limit <= 0 || d.Age() < limit+grace)
	})
}

// adjust asks for another prefetch when the present one does not fit the number of
// free workers.
func (c *consumer) adjust() {
	if int64(c.capacity()) != c.taking.Load() {
		c.nudge()
	}
}
