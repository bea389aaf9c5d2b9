package consume

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

// consumer keeps one consumer on the queue.
type consumer struct {
	cfg   *Config
	index int
	log   *zap.Logger

	hard    context.Context // the context of the handlers; ends when a stop takes too long
	soft    context.Context // ends when a stop begins
	halt    context.CancelFunc
	started chan result   // of the latest attempt to consume, for await
	idle    chan struct{} // closed when every worker has ended
	late    bool          // run has given up waiting for the workers
	began   bool          // it has consumed once
	since   time.Time     // when it last stopped consuming
	crew    sync.WaitGroup
	over    chan struct{} // closed when run has waited for the workers
	endings session.Endings
	said    struct {
		reason string
		at     time.Time
	} // what complain has logged last
	retired   sync.WaitGroup // subscriptions that others have replaced, until they are closed
	movedAway time.Time      // when elsewhere has given a connection up

	busy    atomic.Int64  // workers that handle a message
	resting atomic.Int64  // workers that wait for the next feed
	moved   chan struct{} // signalled when busy becomes 0
	taking  atomic.Int64  // the prefetch now; trying during a trial
	nudged  chan struct{} // signalled when it should perhaps be another one
	lost    atomic.Bool   // a channel has ended by itself, and no new message has come since
	careful atomic.Bool   // it fetches only what the workers have in hand; see heed

	mu       sync.Mutex // guards what follows
	workers  []*worker  // all that have not ended
	size     int        // how many there are to be
	prefetch int        // unless something is stuck
	paused   bool
	opening  bool // a basic.consume is under way
	patience patience
	rested   chan struct{} // closed when a pause has come into effect; nil while nobody pauses
	feed     *feed         // what the workers read from; nil between sessions
	err      error         // why there is no feed
	ended    bool          // no other feed will follow
	tell     func()        // ends the reports that there is no feed; nil while there is one
	changed  chan struct{} // closed when the feed changes
}

// result is that of an attempt to consume.
type result struct{ err error }

func newConsumer(ctx context.Context, cfg *Config, index int) *consumer {
	c := &consumer{
		cfg: cfg, index: index, hard: ctx,
		log:     cfg.Log.Named("consumer").With(zap.String("queue", cfg.Queue), zap.Int("consumer", index)),
		started: make(chan result, 1), idle: make(chan struct{}), over: make(chan struct{}), changed: make(chan struct{}),
		moved: make(chan struct{}, 1), nudged: make(chan struct{}, 1),
		patience: newPatience(), size: cfg.Workers, prefetch: cfg.Prefetch, endings: session.Endings{What: "the queue " + cfg.Queue + " is consumed from", OnlyExceptions: true},
	}
	c.soft, c.halt = context.WithCancel(ctx)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.hireLocked()
	return c
}

// run consumes until halt is called, then drains.
func (c *consumer) run() {
	go func() {
		c.crew.Wait()
		close(c.idle)
	}()
	c.keepConsuming()
	c.setFeed(nil, c.cfg.Stopped, true)
	c.hurry()
	c.waitIdle()
	close(c.over)
	c.retired.Wait()
}

// keepConsuming consumes on one session after the other.
func (c *consumer) keepConsuming() {
	policy := wait.NewPauses(c.log, c.cfg.BackOff)
	for c.soft.Err() == nil {
		started := time.Now()
		err := c.consume(c.soft)
		if c.soft.Err() != nil {
			break
		}
		if errors.Is(err, errHandOver) {
			continue // others consume from it, so it is there
		}
		c.since = time.Now()
		if errors.Is(err, errChanging) {
			continue
		}
		c.lost.Store(true)
		c.setFeed(nil, err, false)
		c.note(err)
		switch {
		case permanent(err) && !c.began:
			c.log.Error("cannot start consuming", zap.Error(err))
			return // await ends with it
		case permanent(err):
			c.complain(c.log.Error, "cannot consume; trying again", err)
		default:
			c.complain(c.log.Warn, "consumer interrupted; resuming", err)
		}
		if time.Since(started) > session.Stable {
			policy.Reset()
		}
		wait.Sleep(c.soft, max(wait.Next(policy), c.endings.Left()))
	}
	c.note(c.cfg.Stopped)
}

// complain logs why the consumer does not consume, and the same reason again only after a
// minute.
func (c *consumer) complain(log func(string, ...zap.Field), text string, err error) {
	const again = time.Minute
	if reason := err.Error(); reason != c.said.reason || time.Since(c.said.at) >= again {
		c.said.reason, c.said.at = reason, time.Now()
		log(text, zap.Error(err))
	}
}

// note gives await the result of the latest attempt. It does not block when nobody waits.
func (c *consumer) note(err error) {
	select {
	case <-c.started: // an earlier result that was not read
	default:
	}
	c.started <- result{err}
}

// await waits until the consumer consumes or cannot.
func (c *consumer) await(ctx context.Context) error {
	var last error // why the latest attempt failed
	for {
		select {
		case latest := <-c.started:
			switch last = latest.err; {
			case last == nil:
				return nil
			case permanent(last) || errors.Is(last, c.cfg.Stopped):
				return last
			}
		case <-ctx.Done():
			if _, err := c.cfg.Link.Up(); err == nil && last != nil {
				return fmt.Errorf("consumer %d of queue %s does not consume: %w: %w", c.index, c.cfg.Queue, context.Cause(ctx), last)
			}
			return c.cfg.Link.NotConnected(ctx)
		}
	}
}

// consume declares, then consumes until the session, the channel or the consumer
// has ended, or ctx has: then it cancels the consumer and waits until every
// delivery is acknowledged or given back.
func (c *consumer) consume(ctx context.Context) error {
	s, err := c.cfg.Link.Session(ctx)
	if err != nil {
		return err
	}
	err = c.consumeOn(ctx, s)
	if c.cfg.Queues > 1 && !errors.Is(err, errChanging) && !errors.Is(err, errHandOver) {
		s.Trial().Pass(c.cfg.Queue, c.cfg.Queues) // other queues need not wait for this one
	}
	return err
}

func (c *consumer) consumeOn(ctx context.Context, s *session.Session) error {
	if err := c.cfg.Declare(ctx, s, c.since, !c.began); err != nil {
		return c.redivided(err)
	}
	switch {
	case c.cfg.Order != nil:
		return c.own(ctx, s)
	case c.cfg.Stream != nil:
		return c.readStream(ctx, s)
	}
	sub, err := c.subscribe(s)
	if err != nil {
		return err
	}
	if err := sub.begin(); err != nil {
		sub.close()
		return c.without(err)
	}
	c.began = true
	c.note(nil)
	if !c.isPaused() {
		c.log.Info("consuming", zap.String("broker", s.Version()))
	}
	end := c.cfg.consuming(s)
	err = c.follow(ctx, sub)
	if errors.Is(err, errChanging) {
		end(nil)
		return err
	}
	end(err)
	return err
}

// follow consumes with sub, and then with the subscriptions that replace it, until
// the last one ends.
func (c *consumer) follow(ctx context.Context, sub *subscription) error {
	defer func() { sub.close() }()
	for {
		next, err := sub, error(nil)
		select {
		case <-ctx.Done():
			return sub.drain()
		case err := <-sub.closes:
			return closed(err)
		case <-sub.place.Over():
			return sub.place.Err()
		case tag, ok := <-sub.cancels:
			if ok {
				c.cfg.Doubt()
				return fmt.Errorf("the broker cancelled the consumer %q: the queue was deleted or has moved, or its consumer timeout has passed", tag)
			}
			sub.cancels = nil // the channel has ended; closes says why
		case sub.turn <- struct{}{}:
			err = sub.goFirst()
		case <-sub.passed:
			sub.yield()
		case <-c.nudged:
			next, err = sub.adapt()
		case <-sub.over:
			next, err = sub.widen()
		case sub.room <- struct{}{}:
			sub.room, sub.claimed = nil, true
			next, err = sub.then()
		}
		if err != nil {
			return err
		}
		if next != sub {
			sub.retire()
			sub = next
		}
		sub.unclaim() // nothing has replaced it
	}
}

// closed is why a channel has ended.
func closed(err *amqp.Error) error {
	if err == nil {
		return errors.New("channel closed")
	}
	return err
}

// without adds to the error why the queue cannot be consumed from: it could not be
// declared either.
func (c *consumer) without(err error) error {
	if !refusal.Missing(err) {
		return err
	}
	c.cfg.Doubt()
	if refused := c.cfg.Undeclared(); refused != nil {
		return fmt.Errorf("%w; declaring it failed: %w", err, refused)
	}
	return err
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
		c.tell = c.cfg.Waits.While("the queue "+c.cfg.Queue, c.notConsuming)
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
	if _, err := c.cfg.Link.Up(); err != nil {
		return nil //nolint:nilerr // the link reports that
	}
	return c.state()
}

// state returns nil while the consumer consumes, else why it does not.
func (c *consumer) state() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case errors.Is(c.err, errHandOver):
		return nil
	case c.err != nil:
		return c.err
	case c.feed == nil:
		return errors.New("not consuming yet")
	case !c.feed.session.Alive():
		return errors.New("the connection is lost")
	case c.feed.ch.IsClosed():
		return errors.New("the channel is closed")
	case c.feed.lanes != nil:
		return c.feed.lanes.trouble()
	}
	return c.feed.place.Trouble()
}
