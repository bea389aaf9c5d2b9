package consume

import (
	"context"
	"fmt"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
	"go.uber.org/zap"

	"github.com/harebus/harebus/internal/session"
	"github.com/harebus/harebus/internal/streams"
	"github.com/harebus/harebus/internal/wait"
)

// subscription is a channel that consumes. Only the goroutine in consumer.consume uses it,
// and that of retire when another has replaced it.
type subscription struct {
	consumer *consumer
	session  *session.Session
	ch       *amqp.Channel
	queue    string
	acks     *session.Acker
	lease    *ackable       // of its channel
	inOrder  bool           // the order of the queue is promised
	place    *streams.Place // in a stream; nil in a queue
	closes   chan *amqp.Error
	cancels  chan string
	turn     chan<- struct{} // the turn in the session's trial; nil when this consumer has it or no longer needs it
	over     <-chan struct{} // likewise
	passed   <-chan struct{} // closed when the trial of the queue is over; nil unless this consumer has the turn
	first    bool            // it has the turn
	tag      string          // empty while it stands by
	dropped  bool            // the broker has cancelled the consumer of an ordered queue
	remains  leftovers
	claimed  bool            // it has room for a channel beside it; see claim
	room     chan<- struct{} // not nil while it waits for that
	then     func() (*subscription, error)
	replaced bool          // another has taken its place; the consumer's mu guards it
	readers  int           // workers that read from its feeds; likewise
	left     chan struct{} // closed when it is replaced and has no readers
	// feed and deliveries of the latest basic.consume; nil while it stands by
	feed       *feed
	deliveries <-chan amqp.Delivery
}

func (c *consumer) subscribe(s *session.Session) (*subscription, error) {
	u := &subscription{consumer: c, session: s, queue: c.cfg.Queue, inOrder: c.inOrder(), turn: s.Trial().Turn, over: s.Trial().Over, left: make(chan struct{})}
	opened := make(chan *amqp.Channel, 1)
	err := s.RPC(c.hard, func() error {
		ch, err := s.Channel()
		opened <- ch
		return err
	})
	if err != nil {
		return nil, err
	}
	u.ch = <-opened
	u.closes = u.ch.NotifyClose(make(chan *amqp.Error, 1))
	u.cancels = u.ch.NotifyCancel(make(chan string, 8))
	u.acks = session.NewAcker(u.ch, c.wanted())
	u.lease = newLease(c.hard)
	return u, nil
}

// begin starts to consume: with the whole prefetch, or as the session's trial
// allows.
func (u *subscription) begin() error {
	whole := u.inOrder || u.consumer.cfg.AutoDelete // after a trial the consumer would be cancelled
	if whole {
		u.pass() // nothing is tried
	}
	if whole || u.session.Trial().Ended() {
		_, err := u.widen() // on this channel, where nothing was consumed yet
		return err
	}
	select {
	case u.turn <- struct{}{}:
		return u.goFirst()
	default:
		u.standBy()
		return nil
	}
}

// pass ends the trial of the queue.
func (u *subscription) pass() {
	u.session.Trial().Pass(u.consumer.cfg.Queue, u.consumer.cfg.Queues)
}

// goFirst consumes one message at a time, while the other consumers of the session
// wait. If the trial of the queue is over, another queue has the turn.
func (u *subscription) goFirst() error {
	u.turn, u.first, u.passed = nil, true, u.session.Trial().Passed(u.consumer.cfg.Queue)
	select {
	case <-u.passed:
		u.yield()
		u.standBy()
		u.consumer.taking.Store(trying)
		return nil
	default:
		return u.open(1, true)
	}
}

// yield lets another consumer have the turn.
func (u *subscription) yield() {
	if u.first {
		<-u.session.Trial().Turn
	}
	u.first, u.passed = false, nil
}

// standBy lets the workers wait without deliveries: for their turn, or for the end of a
// pause or of what keeps them busy.
func (u *subscription) standBy() {
	u.consumer.taking.Store(0)
	if u.turn != nil {
		u.consumer.taking.Store(trying)
	}
	none := make(chan amqp.Delivery)
	close(none)
	u.consumer.setFeed(&feed{session: u.session, ch: u.ch, of: u, deliveries: none, acks: u.acks, standing: true}, nil, false)
}

// request makes a request on the channel. It does not end when a stop begins,
// because the client would give the answer to the next request.
func (u *subscription) request(fn func() error) error {
	return u.session.RPC(u.consumer.hard, fn)
}

// open starts to consume with a prefetch and hands the feed to the workers,
// unless stopping or a pause has begun.
func (u *subscription) open(prefetch int, trial bool) error {
	c := u.consumer
	if c.soft.Err() != nil {
		return nil //nolint:nilerr // stopping ends the subscription in another place
	}
	if u.inOrder && c.hung() || !c.mayOpen() {
		u.standBy()
		if c.cfg.Queues > 1 {
			u.pass() // others would wait for the end of the pause
		}
		return nil
	}
	defer c.opened()
	tag := fmt.Sprintf("harebus-%d", c.index)
	opened := make(chan (<-chan amqp.Delivery), 1)
	consume := func() error {
		if err := u.ch.Qos(prefetch, 0, false); err != nil {
			return err
		}
		deliveries, err := u.ch.Consume(c.cfg.Queue, tag, false, c.cfg.Exclusive, false, false, u.place.Arguments(c.cfg.Arguments))
		opened <- deliveries
		return err
	}
	if err := c.endings.Try(c.hard, u.session, func() error { return u.request(consume) }); err != nil {
		return err
	}
	u.tag, u.deliveries = tag, <-opened
	u.acks.Limit(prefetch)
	c.taking.Store(int64(prefetch))
	f := &feed{session: u.session, ch: u.ch, of: u, deliveries: u.deliveries, acks: u.acks, left: &u.remains, lease: u.lease, patient: c.patient(u.lease.life)}
	if u.inOrder {
		f.again = make(chan *Delivery, prefetch)
	}
	if f.place = u.place; f.place != nil {
		f.again = make(chan *Delivery, prefetch+chunk)
	}
	if trial {
		c.taking.Store(trying)
		f.trial = u.pass
		if c.cfg.Queues > 1 {
			time.AfterFunc(silent, func() { f.first.Do(u.pass) })
		}
	}
	u.feed = f
	c.setFeed(f, nil, false)
	c.adjust()
	return nil
}

// widen consumes with the wanted prefetch and returns the subscription that
// does: this one if it has not consumed yet, else a new one on its own channel. The
// old channel stays open for the acks of its deliveries (see retire). A new channel is needed:
// if both consumers used one channel and a quorum queue was deleted between them,
// the broker might not report it.
func (u *subscription) widen() (*subscription, error) {
	u.turn, u.over = nil, nil
	prefetch := u.consumer.wanted()
	if u.tag == "" {
		return u, u.open(prefetch, false)
	}
	if prefetch == 1 {
		u.consumer.taking.Store(1)
		return u, nil
	}
	if !u.claim(u.widen) {
		return u, nil
	}
	wide, err := u.consumer.subscribe(u.session)
	if err != nil {
		return nil, err
	}
	wide.turn, wide.over = nil, nil
	if err = u.cancel(); err == nil {
		if u.consumer.occupied() && u.deliveries != nil { // no worker would come to what was fetched
			for d := range u.deliveries {
				u.consumer.keep(u.feed, d)
			}
			u.giveBack()
		}
		err = wide.open(prefetch, false)
	}
	if err != nil {
		wide.close()
		return nil, err
	}
	return wide, nil
}

// adapt consumes with the prefetch that is right now, on a new channel, or stops consuming
// for now. Deliveries whose handler has not begun go back. The old channel stays open for
// the acks of the others.
func (u *subscription) adapt() (*subscription, error) {
	c := u.consumer
	prefetch, inOrder := c.capacity(), c.inOrder()
	switch {
	case c.soft.Err() != nil: // stopping ends the subscription in another place
		return u, nil //nolint:nilerr // likewise
	case u.inOrder || inOrder:
		return u, u.adaptInOrder(prefetch, inOrder)
	case int64(prefetch) == c.taking.Load() && (prefetch != 0 || c.isPaused()):
		return u, nil
	case prefetch != 0 && !u.claim(u.adapt):
		return u, nil
	case c.cfg.AutoDelete && u.tag != "" && prefetch != 0:
		return u.replace(prefetch)
	}
	if err := u.cancel(); err != nil {
		return nil, err
	}
	if c.isPaused() {
		c.hurry()
	}
	if u.deliveries != nil {
		for d := range u.deliveries {
			c.keep(u.feed, d)
		}
		u.giveBack()
	}
	if !c.isPaused() && prefetch != c.wanted() && c.overdue() {
		c.log.Warn("the prefetch was changed to the number of free workers, because handlers are or were stuck", zap.Int("prefetch", prefetch))
	}
	if prefetch == 0 {
		u.standBy()
		return u, nil
	}
	return u.again(prefetch)
}

// replace consumes with another prefetch before it cancels the consumer, because the queue
// goes with its last one.
func (u *subscription) replace(prefetch int) (*subscription, error) {
	next, err := u.again(prefetch)
	if err != nil {
		return nil, err
	}
	if err := u.cancel(); err != nil {
		next.close()
		return nil, err
	}
	for d := range u.deliveries {
		u.consumer.keep(u.feed, d)
	}
	u.giveBack()
	return next, nil
}

// again consumes on a new channel, as the first of the session if this subscription was
// that and its trial is not over.
func (u *subscription) again(prefetch int) (*subscription, error) {
	next, err := u.consumer.subscribe(u.session)
	if err != nil {
		return nil, err
	}
	next.turn = nil
	switch {
	case u.session.Trial().Ended(), u.consumer.cfg.AutoDelete:
		next.over = nil
		err = next.open(prefetch, false)
	case u.first:
		next.first, next.passed, u.first, u.passed = true, u.passed, false, nil
		err = next.open(1, true)
	default: // another queue is tried
		next.standBy()
		u.consumer.taking.Store(trying)
	}
	if err != nil {
		next.close()
		return nil, err
	}
	return next, nil
}

// adaptInOrder is adapt where the order of the queue is or will be kept: for a pause, or
// for another prefetch, it ends the subscription as a stop does, and after a pause it
// begins to consume. While all workers are hung it does not wait for them.
func (u *subscription) adaptInOrder(prefetch int, inOrder bool) error {
	c := u.consumer
	standing := u.feed == nil
	switch {
	case standing && prefetch == 0, !standing && int64(prefetch) == c.taking.Load() && inOrder == u.inOrder:
		return nil
	case standing && inOrder && u.inOrder:
		_, err := u.widen()
		return err
	case standing:
		return errChanging
	}
	hung := c.hung()
	u.feed.ending.Store(true)
	c.setFeed(nil, errChanging, false)
	c.hurry()
	if !hung {
		u.drainInOrder()
		return errChanging
	}
	c.log.Warn("no handler has returned long after its timeout, so this consumer gives its messages back, and consumes again when one returns;" +
		" have handlers return when their context ends")
	u.acks.Flush()
	u.awaitAcks()
	return errChanging
}

func (u *subscription) cancel() error {
	tag := u.tag
	if tag == "" {
		return nil
	}
	u.tag = ""
	return u.request(func() error { return u.ch.Cancel(tag, false) })
}

func (u *subscription) close() {
	u.lease.end(errLost)
	if !u.inOrder {
		u.giveBack()
	}
	u.acks.Close()
	_ = u.request(u.ch.Close)
	u.yield()
	u.unclaim()
}

// awaitAcks gives the broker time to pass acks on to the queue. The broker's channel
// passes a few dozen at a time to a quorum queue, and loses the rest when the
// channel is closed. Then those messages are handled twice. So it waits also after
// a stop that took too long.
func (u *subscription) awaitAcks() { u.await(u.answers) }

// answers has the broker answer on the channel.
func (u *subscription) answers() error {
	_, err := u.ch.QueueDeclarePassive(u.queue, true, false, false, false, nil)
	return err
}

// await makes a request again and again while the broker passes acks on.
func (u *subscription) await(request func() error) {
	const least, atATime = 10, 32
	ctx, cancel := context.WithTimeout(context.WithoutCancel(u.consumer.hard), Grace)
	defer cancel()
	for range least + u.consumer.wanted()/atATime {
		err := u.session.RPC(ctx, request)
		if err != nil || !wait.Sleep(ctx, 5*time.Millisecond) {
			return
		}
	}
}
