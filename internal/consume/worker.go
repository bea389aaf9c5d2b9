package consume

import (
	"bytes"
	"context"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/harebus/harebus/internal/session"
	"github.com/harebus/harebus/internal/streams"
)

const (
	// survived is how long after its first delivery a trial ends by itself. Without
	// this limit a slow message, or one that always comes back, would hold up the
	// others.
	survived = 5 * time.Second
	// silent is how long a queue has the turn while it delivers nothing and other queues
	// wait for theirs.
	silent = 100 * time.Millisecond
)

// feed is one basic.consume: its deliveries, and the acker for them.
type feed struct {
	session    *session.Session
	ch         *amqp.Channel
	of         *subscription
	deliveries <-chan amqp.Delivery
	acks       *session.Acker
	left       *leftovers
	lease      *ackable
	place      *streams.Place  // in a stream; nil in a queue
	patient    context.Context // see Patient
	again      chan *Delivery  // held ones to be handled again; nil if the order is not promised
	lanes      *tenure         // of an ordered queue, instead of deliveries; else nil
	trial      func()          // ends the trial of the queue; nil when it is over
	first      sync.Once
	standing   bool        // nothing is consumed for now
	ending     atomic.Bool // no handler begins with what it still has
}

// worker handles one message at a time. Workers live as long as their consumer, and each
// session gives them a new feed. So a handler that outlives a connection still counts
// against the concurrency.
type worker struct {
	hand      atomic.Pointer[Delivery] // what it handles
	goroutine atomic.Int64
	retire    chan struct{} // closed when there are to be fewer workers

	warnAt time.Duration // the age at which hand is logged next; only logSlow uses it
	warned *Delivery     // likewise
}

// work handles deliveries until no feed follows or the worker retires. If a handler ends
// the goroutine (runtime.Goexit), a new goroutine replaces it.
func (c *consumer) work(w *worker) {
	ended := false
	defer func() {
		if !ended {
			c.crew.Go(func() { c.work(w) })
		}
	}()
	w.goroutine.Store(goroutine())
	var last *feed
	for !w.retired() {
		f, changed, over := c.enter(last)
		if f != nil {
			last = f
			c.read(f, w)
			continue
		}
		if over {
			break
		}
		c.rest(w, changed)
	}
	c.leave(w)
	ended = true
}

// read handles the deliveries of a feed.
func (c *consumer) read(f *feed, w *worker) {
	defer c.exit(f)
	if f.lanes != nil {
		for d, ok := w.nextOf(f.lanes); ok; d, ok = w.nextOf(f.lanes) {
			c.carryOut(d, w)
		}
		return
	}
	for d, held, ok := w.next(f); ok; d, held, ok = w.next(f) {
		c.readOn(f, c.handle(f, d, w, held), w)
	}
}

// rest waits for another feed.
func (c *consumer) rest(w *worker, changed <-chan struct{}) {
	c.resting.Add(1)
	c.noteRest()
	select {
	case <-changed:
	case <-w.retire:
	}
	c.resting.Add(-1)
}

// handle handles one delivery, for the first time or one that was held, or keeps it for giving back when the consumer is about
// to end. It returns what it has handled.
func (c *consumer) handle(f *feed, raw amqp.Delivery, w *worker, held *Delivery) *Delivery {
	c.busy.Add(1)
	defer c.free()
	if c.ending(f) {
		if held == nil {
			f.place.Left(raw.DeliveryTag)
		}
		c.keep(f, raw)
		return nil
	}
	if f.trial != nil {
		f.first.Do(func() { time.AfterFunc(survived, f.trial) })
	}
	task := c.cfg.Task()
	d := task.base()
	d.Raw, d.consumer, d.feed, d.task, d.Began = raw, c, f, task, time.Now()
	if held != nil {
		d.Again, d.Failures = true, held.Failures
	}
	returned := false
	w.hand.Store(d)
	defer func() {
		w.hand.Store(nil)
		d.leave(returned)
		if d.early.Load() {
			c.adjust()
		}
	}()
	switch {
	case !d.unpack():
		f.place.Left(raw.DeliveryTag)
		d.ended.Store(f.place != nil)
	case f.place == nil || held != nil || d.arrived():
		c.heed(d)
		task.Handle()
	}
	returned = true
	return d
}

// ending says that no handler begins any more with what a feed has.
func (c *consumer) ending(f *feed) bool { return c.soft.Err() != nil || f.ending.Load() }

// free notes that a worker handles no message. The last one is always told of: its delivery
// may be of a feed before the one that ends.
func (c *consumer) free() {
	if c.busy.Add(-1) == 0 {
		select {
		case c.moved <- struct{}{}:
		default: // it has been signalled already
		}
	}
}

// goroutine is the number of the calling goroutine, from the first line of its
// stack. It is slow, so it is for rare calls only.
func goroutine() int64 {
	var stack [64]byte
	fields := bytes.Fields(stack[:runtime.Stack(stack[:], false)])
	if len(fields) < 2 {
		return 0
	}
	n, err := strconv.ParseInt(string(fields[1]), 10, 64)
	if err != nil {
		return 0 // no goroutine has it
	}
	return n
}
