package harebus

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
	"go.uber.org/zap"

	"github.com/harebus/harebus/internal/refusal"
	"github.com/harebus/harebus/internal/session"
	"github.com/harebus/harebus/internal/wait"
)

// lastGrace is how long a stop waits for handlers after it has cancelled their
// contexts.
const lastGrace = 2 * time.Second

// survived is how long after its first delivery a trial ends by itself. Without
// this limit a slow message, or one that always comes back, would hold up the
// others.
const survived = 5 * time.Second

// consumer keeps one consumer on the listener queue. Its workers live as long as
// the consumer, and each session gives them a new feed. So a handler that outlives
// a connection still counts against the concurrency.
type consumer struct {
	setup *Setup
	link  *session.Link
	index int
	log   *zap.Logger

	hard   context.Context // the context of the handlers; ends when a stop takes too long
	soft   context.Context // ends when a stop begins
	halt   context.CancelFunc
	ready  chan attempt  // the latest, for Start
	idle   chan struct{} // closed when every worker has ended
	late   bool          // run has given up waiting for the workers
	began  bool          // it has consumed since Start
	since  time.Time     // when it last stopped consuming
	busy   atomic.Int64  // workers that handle a message
	moved  chan struct{} // signalled, once a stop has begun, when that number changes
	places []place       // one for each worker
	crew   sync.WaitGroup

	taking atomic.Int64  // the prefetch now; trying during a trial
	resize chan struct{} // signalled when it should be another one

	resting atomic.Int64 // workers that wait for the next feed

	mu      sync.Mutex // guards what follows
	paused  bool
	opening bool          // a basic.consume is under way
	rested  chan struct{} // closed when a pause has come into effect; nil while nobody pauses
	feed    *feed         // what the workers read from; nil between sessions
	err     error         // why there is no feed
	ended   bool          // no other feed will follow
	tell    func()        // ends the reports that there is no feed; nil while there is one
	changed chan struct{}
}

// feed is one basic.consume: its deliveries, and the acker for them.
type feed struct {
	session    *session.Session
	ch         *amqp.Channel
	deliveries <-chan amqp.Delivery
	acks       *session.Acker
	left       *leftovers
	trial      *session.Trial // nil when the trial is over
	first      sync.Once
	standing   bool        // nothing is consumed for now
	ending     atomic.Bool // no handler begins with what it still has
}

// place shows which delivery a worker handles. watch, Ready and Stats read it.
type place struct {
	hand      atomic.Pointer[receipt] // the delivery that the worker handles
	goroutine atomic.Int64
	warnAt    time.Duration // the age at which hand is logged next; only watch uses it
	warned    *receipt      // likewise
}

func newConsumer(ctx context.Context, s *Setup, l *session.Link, index int) *consumer {
	c := &consumer{
		setup: s, link: l, index: index, hard: ctx,
		log:   s.log.Named("consumer").With(zap.String("queue", s.cfg.Queue), zap.Int("consumer", index)),
		ready: make(chan attempt, 1), idle: make(chan struct{}), changed: make(chan struct{}), moved: make(chan struct{}, 1), resize: make(chan struct{}, 1),
		places: make([]place, s.cfg.Consume.Concurrency),
	}
	c.soft, c.halt = context.WithCancel(ctx)
	return c
}

// run consumes until halt is called, then drains.
func (c *consumer) run() {
	for i := range c.places {
		c.crew.Go(func() { c.work(&c.places[i]) })
	}
	go func() {
		c.crew.Wait()
		close(c.idle)
	}()
	c.keepConsuming()
	c.setFeed(nil, ErrStopped, true)
	c.waitIdle()
}

// waitIdle waits until the workers have ended. If a handler ignores its cancelled context, it waits
// for lastGrace more. Only run's goroutine calls it.
func (c *consumer) waitIdle() {
	select {
	case <-c.idle:
		return
	case <-c.hard.Done():
	}
	if c.late {
		return
	}
	t := time.NewTimer(lastGrace)
	defer t.Stop()
	select {
	case <-c.idle:
	case <-t.C:
		c.late = true
	}
}

// keepConsuming consumes on one session after the other.
func (c *consumer) keepConsuming() {
	policy := wait.NewPauses(c.log, c.setup.cfg.Connect.BackOff)
	for c.soft.Err() == nil {
		started := time.Now()
		err := c.consume(c.soft)
		if c.soft.Err() != nil {
			break
		}
		c.since = time.Now()
		if errors.Is(err, errPausing) {
			continue
		}
		c.setFeed(nil, err, false)
		c.report(err)
		switch {
		case session.Permanent(err) && !c.began:
			c.log.Error("cannot start consuming", zap.Error(err))
			return // Start ends with it
		case session.Permanent(err):
			c.log.Error("cannot consume; trying again", zap.Error(err))
		default:
			c.log.Warn("consumer interrupted; resuming", zap.Error(err))
		}
		if time.Since(started) > session.Stable {
			policy.Reset()
		}
		wait.Sleep(c.soft, wait.Next(policy))
	}
	c.report(ErrStopped)
}

// attempt is the result of an attempt to consume.
type attempt struct{ err error }

// report gives Start the result of the latest attempt. It does not block when Start
// has returned.
func (c *consumer) report(err error) {
	select {
	case <-c.ready: // an earlier result that was not read
	default:
	}
	c.ready <- attempt{err}
}

// consume declares, then consumes until the session, the channel or the consumer
// has ended, or ctx has: then it cancels the consumer and waits until every
// delivery is acknowledged or given back.
func (c *consumer) consume(ctx context.Context) error {
	s, err := c.link.Session(ctx)
	if err != nil {
		return err
	}
	declare := c.setup.declarer.First
	if c.began {
		declare = c.setup.declarer.Again
	}
	if err := declare(ctx, s, c.since); err != nil {
		return err
	}
	sub, err := c.subscribe(s)
	if err != nil {
		return err
	}
	defer sub.close()
	if err := sub.begin(); err != nil {
		return c.without(err)
	}
	c.began = true
	c.report(nil)
	if !c.isPaused() {
		c.log.Info("consuming", zap.String("broker", s.Version()))
	}
	return c.follow(ctx, sub)
}

// follow consumes with sub, and then with the subscriptions that replace it, until
// the last one ends. Those that were replaced stay open until then, for the acks of
// their deliveries, and the latest is closed first.
func (c *consumer) follow(ctx context.Context, sub *subscription) error {
	for {
		select {
		case <-ctx.Done():
			return sub.drain()
		case err := <-sub.closes:
			if err == nil {
				return errors.New("channel closed")
			}
			return err
		case tag, ok := <-sub.cancels:
			if !ok { // the channel has ended; closes says why
				sub.cancels = nil
				continue
			}
			c.setup.declarer.Doubt(c.setup.cfg.Queue)
			return fmt.Errorf("the broker cancelled the consumer %q: the queue was deleted or has moved, or its consumer timeout has passed", tag)
		case sub.turn <- struct{}{}:
			if err := sub.goFirst(); err != nil {
				return err
			}
		case <-c.resize:
			next, err := sub.take(c.capacity())
			if err != nil {
				return err
			}
			if next != sub {
				defer next.close()
				sub = next
			}
		case <-sub.over:
			wide, err := sub.widen()
			if err != nil {
				return err
			}
			if wide != sub {
				defer wide.close()
				sub = wide
			}
		}
	}
}

// without adds to the error why the queue cannot be consumed from: it could not be
// declared either.
func (c *consumer) without(err error) error {
	if !refusal.Missing(err) {
		return err
	}
	c.setup.declarer.Doubt(c.setup.cfg.Queue)
	if refused := c.setup.declarer.UndeclaredOf(c.setup.cfg.Queue); refused != nil {
		return fmt.Errorf("%w; declaring it failed: %w", err, refused)
	}
	return err
}

// subscription is a channel that consumes. Only the goroutine in consume uses it.
type subscription struct {
	consumer *consumer
	session  *session.Session
	ch       *amqp.Channel
	acks     *session.Acker
	closes   chan *amqp.Error
	cancels  chan string
	turn     chan<- struct{} // the turn in the session's trial; nil when this consumer has it or no longer needs it
	over     <-chan struct{} // likewise
	first    bool            // it has the turn
	tag      string          // empty while it stands by
	left     leftovers
	// feed and deliveries of the latest basic.consume; nil while it stands by
	feed       *feed
	deliveries <-chan amqp.Delivery
}

func (c *consumer) subscribe(s *session.Session) (*subscription, error) {
	u := &subscription{consumer: c, session: s, turn: s.Trial().Turn, over: s.Trial().Over}
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
	u.acks = session.NewAcker(u.ch, c.setup.cfg.Consume.Prefetch)
	return u, nil
}

// begin starts to consume: with the whole prefetch, or as the session's trial
// allows.
func (u *subscription) begin() error {
	if u.consumer.setup.cfg.keepsOrder() {
		_, err := u.widen()
		return err
	}
	if u.session.Trial().Ended() {
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

// goFirst consumes one message at a time, while the other consumers of the session
// wait.
func (u *subscription) goFirst() error {
	u.turn, u.first = nil, true
	return u.open(1, u.session.Trial())
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
	u.consumer.setFeed(&feed{session: u.session, ch: u.ch, deliveries: none, acks: u.acks, standing: true}, nil, false)
}

// request makes a request on the channel. It does not end when a stop begins,
// because the client would give the answer to the next request.
func (u *subscription) request(fn func() error) error {
	return u.session.RPC(u.consumer.hard, fn)
}

// open starts to consume with a prefetch and hands the feed to the workers,
// unless stopping or a pause has begun.
func (u *subscription) open(prefetch int, on *session.Trial) error {
	if u.consumer.soft.Err() != nil {
		return nil //nolint:nilerr // stopping ends the subscription in another place
	}
	if !u.consumer.mayOpen() {
		u.standBy()
		return nil
	}
	defer u.consumer.opened()
	tag := fmt.Sprintf("harebus-%d", u.consumer.index)
	opened := make(chan (<-chan amqp.Delivery), 1)
	err := u.request(func() error {
		if err := u.ch.Qos(prefetch, 0, false); err != nil {
			return err
		}
		deliveries, err := u.ch.Consume(u.consumer.setup.cfg.Queue, tag, false, false, false, false, nil)
		opened <- deliveries
		return err
	})
	if err != nil {
		return err
	}
	u.tag, u.deliveries = tag, <-opened
	u.acks.Limit(prefetch)
	u.consumer.taking.Store(int64(prefetch))
	if on != nil {
		u.consumer.taking.Store(trying)
	}
	u.feed = &feed{session: u.session, ch: u.ch, deliveries: u.deliveries, acks: u.acks, left: &u.left, trial: on}
	u.consumer.setFeed(u.feed, nil, false)
	return nil
}

// widen consumes with the configured prefetch and returns the subscription that
// does: this one if it has not consumed yet, else a new one on its own channel. The
// old channel stays open for the acks of its deliveries. A new channel is needed:
// if both consumers used one channel and a quorum queue was deleted between them,
// the broker might not report it.
func (u *subscription) widen() (*subscription, error) {
	u.turn, u.over = nil, nil
	prefetch := u.consumer.setup.cfg.Consume.Prefetch
	if u.tag == "" {
		return u, u.open(prefetch, nil)
	}
	if prefetch == 1 {
		u.consumer.taking.Store(1)
		return u, nil
	}
	wide, err := u.consumer.subscribe(u.session)
	if err != nil {
		return nil, err
	}
	wide.turn, wide.over = nil, nil
	if err = u.cancel(); err == nil {
		err = wide.open(prefetch, nil)
	}
	if err != nil {
		wide.close()
		return nil, err
	}
	return wide, nil
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
	if !u.consumer.setup.cfg.keepsOrder() {
		u.giveBack()
	}
	u.acks.Close()
	_ = u.request(u.ch.Close)
	if u.first {
		<-u.session.Trial().Turn
	}
}

// settle gives the broker time to pass acks on to the queue. The broker's channel
// passes a few dozen at a time to a quorum queue, and loses the rest when the
// channel is closed. Then those messages are handled twice. So it waits also after
// a stop that took too long.
func (u *subscription) settle() {
	const least, atATime = 10, 32
	ctx, cancel := context.WithTimeout(context.WithoutCancel(u.consumer.hard), lastGrace)
	defer cancel()
	for range least + u.consumer.setup.cfg.Consume.Prefetch/atATime {
		err := u.session.RPC(ctx, func() error {
			_, err := u.ch.QueueDeclarePassive(u.consumer.setup.cfg.Queue, true, false, false, false, nil)
			return err
		})
		if err != nil || !wait.Sleep(ctx, 5*time.Millisecond) {
			return
		}
	}
}

// current returns the feed to read from, and the channel that is closed when the
// next one is there.
func (c *consumer) current() (f *feed, changed <-chan struct{}, ended bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.feed, c.changed, c.ended
}

func (c *consumer) setFeed(f *feed, err error, ended bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ended {
		return
	}
	c.feed, c.err, c.ended = f, err, ended
	switch waits := f == nil && !ended; {
	case waits && c.tell == nil:
		c.tell = c.setup.waits.While("the queue "+c.setup.cfg.Queue, c.notConsuming)
	case !waits && c.tell != nil:
		c.tell()
		c.tell = nil
	}
	close(c.changed)
	c.changed = make(chan struct{})
	c.noteRestLocked()
}

// notConsuming is why the consumer does not consume. It is nil if the consumer
// waits for its connection, because the link reports that itself.
func (c *consumer) notConsuming() error {
	if _, err := c.link.Up(); err != nil {
		return nil //nolint:nilerr // the link reports that
	}
	return c.state()
}

// state returns nil while the consumer consumes, else why it does not.
func (c *consumer) state() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.err != nil:
		return c.err
	case c.feed == nil:
		return errors.New("not consuming yet")
	case !c.feed.session.Alive():
		return errors.New("the connection is lost")
	case c.feed.ch.IsClosed():
		return errors.New("the channel is closed")
	}
	return nil
}

// work handles deliveries until no feed follows. If a handler ends the goroutine
// (runtime.Goexit), a new goroutine replaces it.
func (c *consumer) work(at *place) {
	ended := false
	defer func() {
		if !ended {
			c.crew.Go(func() { c.work(at) })
		}
	}()
	at.goroutine.Store(goroutine())
	var last *feed
	for {
		f, changed, over := c.current()
		if f != nil && f != last {
			last = f
			for d := range f.deliveries {
				c.take(f, &d, at)
			}
			continue
		}
		if over {
			ended = true
			return
		}
		c.resting.Add(1)
		c.noteRest()
		<-changed
		c.resting.Add(-1)
	}
}

// take handles one delivery, or keeps it for giving back when the service is
// stopping.
func (c *consumer) take(f *feed, d *amqp.Delivery, at *place) {
	c.busy.Add(1)
	defer c.free(f)
	if c.soft.Err() != nil || f.ending.Load() {
		f.leave(d)
		return
	}
	if f.trial != nil {
		f.first.Do(func() { time.AfterFunc(survived, f.trial.End) })
	}
	r := &receipt{consumer: c, setup: c.setup, feed: f, delivery: d, began: time.Now()}
	at.hand.Store(r)
	defer c.settle(r, at)
	defer r.goexit()
	r.settled = c.handleDelivery(r)
	r.returned = true
}

// free notes that a worker handles no message.
func (c *consumer) free(f *feed) {
	c.busy.Add(-1)
	if c.soft.Err() != nil || f.ending.Load() {
		select {
		case c.moved <- struct{}{}:
		default: // it has been signalled already
		}
	}
}

// settle acknowledges a delivery or gives it back, once. It is deferred, so that it
// also runs when a handler ends its goroutine.
func (c *consumer) settle(r *receipt, at *place) {
	at.hand.Store(nil)
	f, d := r.feed, r.delivery
	switch {
	case r.settled:
		f.acks.Done(d.DeliveryTag)
		if f.trial != nil && !d.Redelivered {
			f.trial.End()
		}
	case c.soft.Err() != nil || f.ending.Load():
		f.left.add(d)
	default:
		f.acks.GiveBack(d.DeliveryTag)
	}
}
