package consume

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
	"go.uber.org/zap"

	"github.com/harebus/harebus/internal/lanes"
	"github.com/harebus/harebus/internal/messageid"
	"github.com/harebus/harebus/internal/session"
	"github.com/harebus/harebus/order"
)

// An ordered queue is handled by one process at a time: by the one that is the active consumer of its
// parking queue. A tenure is the time for which this process waits for that, and is it. It goes
// through these phases.
type phase int8

const (
	// waiting: a note to join is sent. The first delivery from the parking queue says that this process is
	// the active one.
	waiting phase = iota
	// loading: a barrier is sent. When it comes back, everything that is parked is here.
	loading
	// fencing: a note with the fencing number is sent: one above that of the last owner.
	fencing
	// owning: parked messages are handled, and the queue is consumed from.
	owning
	// settling: the first delivery from the queue has come, so no other process has it any more. A
	// second barrier is sent: what the last owner has parked until then comes before it.
	settling
	// settled: messages of the queue are handled.
	settled
)

const (
	// parkingPrefetch is more than a parking queue can have.
	parkingPrefetch = 60_000
	// look is how often the owner looks at what it keeps: after refresh its note is replaced by a new one, and after
	// stale everything is taken up anew, because later the broker would take it back.
	look, refresh, stale = 10 * time.Second, 5 * time.Minute, 10 * time.Minute
)

// tenure is used by the consumer's goroutine, but for what mu guards.
type tenure struct {
	c       *consumer
	cfg     *lanes.Config
	id      string
	session *session.Session
	parking *subscription
	queue   *subscription // nil before it is consumed from
	feed    *feed         // the workers'
	phase   phase
	barrier string // that is awaited
	joined  time.Time
	token   *Delivery
	fence   int64       // the highest fencing number in a note that came
	ended   int64       // how many tenures before this one have ended well, in a row
	words   []*Delivery // of operators, that have come too soon
	early   []*Delivery // of the queue, likewise
	// strangers are messages in the parking queue that have no place there.
	strangers []*Delivery
	// unwarned is into how many partitions another instance has divided the queue, which is to be told that it will not get it.
	unwarned int

	ctx    context.Context // ends when something is lost
	work   context.Context // of the handlers: ctx with the fencing number, once that is known
	cancel context.CancelCauseFunc
	soft   context.Context // ends with ctx, and when a stop begins
	notes  sync.WaitGroup  // that are being sent
	failed chan error      // one that was not
	wake   chan struct{}   // there may be something to wait for

	asking sync.Mutex // one request at a time, of workers

	mu    sync.Mutex // guards what follows
	lanes *lanes.Lanes
	ready chan *Delivery
	open  bool // ready takes deliveries
	over  bool
	// trying are the ids of messages that perhaps end the process and are being handled, and trials the
	// notes that say so.
	trying map[string]bool
	trials map[string][]*Delivery
	// odd says that another instance has other settings, as was heard at oddSince.
	odd      error
	oddSince time.Time
}

// own consumes from an ordered queue: it waits until this process is the owner, and is it until the
// session or a channel ends, or ctx does.
func (c *consumer) own(ctx context.Context, s *session.Session) error {
	s.Trial().Pass(c.cfg.Queue, c.cfg.Queues) // nothing is tried
	parking, err := c.subscribe(s)
	if err != nil {
		return err
	}
	parking.turn, parking.over, parking.queue = nil, nil, c.cfg.Order.Parking
	if !c.mayOpen() {
		defer parking.close()
		return c.standAside(ctx, parking)
	}
	t := c.newTenure(s, parking)
	defer t.end()
	if err = t.attend(); err == nil {
		err = t.consume(parking, parkingPrefetch)
	}
	c.opened()
	if err != nil {
		return c.without(err)
	}
	t.feed = t.feedOf(parking)
	t.feed.lanes = t
	c.taking.Store(order.Window)
	c.setFeed(t.feed, nil, false)
	if !c.began {
		c.log.Info("waiting for the parking queue, or its owner", zap.String("broker", s.Version()))
	}
	c.began = true
	c.note(nil)
	t.join(0)
	end := c.cfg.consuming(s)
	err = t.run(ctx)
	if errors.Is(err, errChanging) || errors.Is(err, errHandOver) {
		end(nil)
	} else {
		end(err)
	}
	return err
}

func (c *consumer) newTenure(s *session.Session, parking *subscription) *tenure {
	const buffered = 256
	t := &tenure{
		c: c, cfg: c.cfg.Order, id: messageid.New(), session: s, parking: parking, failed: make(chan error, 1), wake: make(chan struct{}, 1),
		ready: make(chan *Delivery, buffered), trying: map[string]bool{}, trials: map[string][]*Delivery{},
	}
	t.lanes = lanes.New(t.id, t.cfg.MaxParked)
	t.ctx, t.cancel = context.WithCancelCause(c.hard)
	var soften context.CancelFunc
	t.soft, soften = context.WithCancel(t.ctx)
	unsoften := context.AfterFunc(c.soft, soften)
	context.AfterFunc(t.soft, func() { unsoften() }) // else each tenure would stay until the stop
	parking.lease = newLease(t.ctx)
	return t
}

// standAside consumes nothing while the consumer is paused.
func (c *consumer) standAside(ctx context.Context, u *subscription) error {
	u.standBy()
	c.began = true
	c.note(nil)
	for {
		select {
		case <-ctx.Done():
			c.setFeed(nil, c.cfg.Stopped, true)
			return nil
		case err := <-u.closes:
			return closed(err)
		case <-c.nudged:
			if !c.isPaused() {
				c.setFeed(nil, errChanging, false)
				return errChanging
			}
		}
	}
}

// consume begins to consume on a channel of its own.
func (t *tenure) consume(u *subscription, prefetch int) error {
	tag := fmt.Sprintf("harebus-%d", t.c.index)
	opened := make(chan (<-chan amqp.Delivery), 1)
	err := t.c.endings.Try(t.c.hard, t.session, func() error {
		return u.request(func() error {
			if err := u.ch.Qos(prefetch, 0, false); err != nil {
				return err
			}
			deliveries, err := u.ch.Consume(u.queue, tag, false, false, false, false, t.c.cfg.Arguments)
			opened <- deliveries
			return err
		})
	})
	if err == nil {
		u.tag, u.deliveries, u.inOrder = tag, <-opened, true
		u.feed = t.feedOf(u)
	}
	return err
}

func (t *tenure) feedOf(u *subscription) *feed {
	return &feed{session: t.session, ch: u.ch, of: u, acks: u.acks, left: &u.remains, lease: u.lease}
}

// run is the life of the tenure.
func (t *tenure) run(ctx context.Context) error {
	tick := time.NewTicker(look)
	defer tick.Stop()
	due := time.NewTimer(time.Hour)
	defer due.Stop()
	none := &subscription{}
	for {
		t.sleep(due)
		q := t.queue
		if q == nil {
			q = none
		}
		var err error
		select {
		case <-ctx.Done():
			t.leave(t.c.cfg.Stopped, true)
			return nil
		case ended := <-t.parking.closes:
			err = closed(ended)
		case ended := <-q.closes:
			err = closed(ended)
		case tag, ok := <-t.parking.cancels:
			err = t.parking.cancelled(tag, ok)
		case tag, ok := <-q.cancels:
			err = q.cancelled(tag, ok)
		case err = <-t.failed:
		case raw, ok := <-t.parking.deliveries:
			err = t.fromParking(raw, ok)
		case raw, ok := <-q.deliveries:
			t.fromQueue(raw, ok)
		case <-due.C:
		case <-t.wake:
		case <-tick.C:
			err = t.lookAfter()
		case <-t.c.nudged:
			err = t.yields()
		}
		switch {
		case errors.Is(err, errChanging), errors.Is(err, errHandOver):
			t.leave(err, false)
			return err
		case err != nil:
			t.abandon(err)
			return err
		}
	}
}

// yields is why the tenure ends although nothing is lost.
func (t *tenure) yields() error {
	switch {
	case t.c.isPaused():
		return errChanging
	case t.shares().surplus(t.c):
		return errHandOver
	}
	return nil
}

// shares are those that the tenure is about: nil unless it is one of a partition.
func (t *tenure) shares() *Shares {
	if t.c.cfg.Members != "" {
		return nil
	}
	return t.c.cfg.Shares
}

// cancelled is why the broker has cancelled the consumer.
func (u *subscription) cancelled(tag string, ok bool) error {
	if !ok {
		u.cancels = nil // the channel has ended; closes says why
		return nil
	}
	u.dropped = true
	u.consumer.cfg.Doubt()
	return fmt.Errorf("the broker cancelled the consumer %q of the queue %s: the queue was deleted or has moved, or its consumer timeout has passed", tag, u.queue)
}

// sleep sets the timer to when something can be done that cannot be done now, after doing what can.
func (t *tenure) sleep(due *time.Timer) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.pump()
	pause := time.Hour
	if when := t.lanes.When(); !when.IsZero() {
		pause = time.Until(when)
	}
	due.Reset(max(pause, 0))
}

// leave ends the tenure as a stop does: handlers finish, and their acks are sent. Then the channels are
// closed, which gives back all else in its order. A consumer is not cancelled: another one could begin
// while handlers run here.
func (t *tenure) leave(why error, stopped bool) {
	defer t.watch()()
	t.shut()
	t.c.setFeed(nil, why, stopped)
	t.c.waitHands()
	t.resign()
	for _, u := range []*subscription{t.queue, t.parking} {
		if u != nil {
			u.acks.Flush()
			u.await(func() error { return cmp.Or(context.Cause(t.ctx), u.answers()) }) // what is lost is to be closed soon
		}
	}
}

// resign replaces the note of this owner by one that says that it has ended well: what its channel gives back is counted as delivered, and the
// next owner must not take that for a crash.
func (t *tenure) resign() {
	if t.phase < owning || t.token == nil || t.c.hard.Err() != nil {
		return
	}
	ctx, cancel := context.WithTimeout(t.ctx, Grace)
	defer cancel()
	note := lanes.Note{Kind: lanes.Join, About: t.cfg.Settings(), Owner: t.id, Fence: t.fence, Ended: t.ended + 1}
	if t.c.cfg.Note(ctx, t.cfg.Parking, note.Write(&t.cfg.Names)) == nil { // else messages are handled alone, and that is all
		t.token.feed.acks.Done(t.token.Raw.DeliveryTag)
	}
}

// watch ends the contexts of the handlers when a channel is lost while they are waited for: another process may have
// the queue then. The function that it returns ends it.
func (t *tenure) watch() (end func()) {
	left := make(chan struct{})
	var watching sync.WaitGroup
	for _, u := range []*subscription{t.queue, t.parking} {
		if u != nil {
			watching.Go(func() {
				if why := u.lost(left); why != nil {
					t.cancel(fmt.Errorf("%w: %w", errLost, why))
				}
			})
		}
	}
	return func() {
		close(left)
		watching.Wait()
	}
}

// lost waits until the channel or the consumer is lost, and returns why; or until left is closed.
func (u *subscription) lost(left <-chan struct{}) error {
	for {
		select {
		case err := <-u.closes:
			return closed(err)
		case tag, ok := <-u.cancels:
			if err := u.cancelled(tag, ok); err != nil {
				return err
			}
		case <-left:
			return nil
		}
	}
}

// abandon ends the tenure because something is lost: another process may have the queue now. So handlers
// are told to end, and the next tenure begins when they have.
func (t *tenure) abandon(err error) {
	t.cancel(fmt.Errorf("%w: %w", errLost, err))
	t.shut()
	t.c.setFeed(nil, err, false)
	t.c.waitHands()
}

// shut hands nothing more to the workers.
func (t *tenure) shut() {
	t.feed.ending.Store(true)
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.over {
		t.over = true
		close(t.ready)
	}
}

// end closes the channels: first that of the queue, because the next owner of the parking queue will want it. If the broker has
// cancelled our consumer of the parking queue, the next owner has that already. Then what we had parked goes back first: the next one gets nothing
// from the queue before we close that channel.
func (t *tenure) end() {
	t.cancel(errLost)
	t.notes.Wait()
	channels := []*subscription{t.queue, t.parking}
	if t.parking.dropped {
		slices.Reverse(channels)
	}
	for _, u := range channels {
		if u != nil {
			u.close()
		}
	}
	t.shares().release(t.c)
}

// attach begins to consume from the queue.
func (t *tenure) attach() error {
	queue, err := t.c.subscribe(t.session)
	if err != nil {
		return err
	}
	queue.turn, queue.over, queue.lease = nil, nil, newLease(t.ctx)
	t.queue = queue
	if err := t.consume(queue, order.Window); err != nil {
		return t.c.without(err)
	}
	t.c.log.Info("consuming", zap.String("broker", t.session.Version()), zap.String("tenure", t.id))
	return nil
}

// lookAfter replaces the note that says who the owner is, forgets accusations, and begins anew when deliveries have become
// too old.
func (t *tenure) lookAfter() error {
	t.remind()
	t.reconcile()
	if t.phase < owning {
		return nil
	}
	if t.token != nil && time.Since(t.token.came) > refresh {
		t.join(t.fence)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.forget()
	for _, one := range t.lanes.Keys() {
		if d, ok := one.First.Of.(*Delivery); ok && time.Since(d.came) > stale {
			t.c.log.Info("consuming anew, because messages have been parked for a while, and the broker takes back what is held for too long")
			return errChanging
		}
	}
	return nil
}

// remind sends the note that is awaited once more: somebody may have purged the parking queue.
func (t *tenure) remind() {
	switch {
	case t.barrier != "":
		t.send(lanes.Note{Kind: lanes.Barrier, About: t.barrier, Owner: t.id})
	case t.phase == fencing:
		t.join(t.nextFence())
	case t.phase == waiting && time.Since(t.joined) > refresh:
		t.join(0)
	}
}

// send sends a note to the parking queue, in the background: the goroutine of the tenure has to go on taking
// deliveries.
func (t *tenure) send(n lanes.Note) {
	t.notes.Go(func() {
		if err := t.c.cfg.Note(t.ctx, t.cfg.Parking, n.Write(&t.cfg.Names)); err != nil {
			t.fail(fmt.Errorf("send a note to the parking queue %s: %w", t.cfg.Parking, err))
		}
	})
}

// fail has the tenure end because of something that is done in the background, unless it ends already.
func (t *tenure) fail(err error) {
	if t.ctx.Err() != nil {
		return
	}
	select {
	case t.failed <- err:
	default: // something else has failed
	}
}

// join leaves a note.
func (t *tenure) join(fence int64) {
	t.joined = time.Now()
	t.send(lanes.Note{Kind: lanes.Join, About: t.cfg.Settings(), Owner: t.id, Fence: fence})
}

// await sends a barrier.
func (t *tenure) await(next phase) {
	t.phase, t.barrier = next, messageid.New()
	t.send(lanes.Note{Kind: lanes.Barrier, About: t.barrier, Owner: t.id})
}

// trouble is why messages are not handled, for the health check.
func (t *tenure) trouble() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if n, full := t.lanes.Parked(); full {
		return fmt.Errorf("%d messages are parked in %s, as many as may be, so the queue stands still for the keys that wait there;"+
			" see the command harebus parked", n, t.cfg.Parking)
	}
	return t.odd
}
