package harebus

import (
	"errors"

	"go.uber.org/zap"
)

// paused says whether a pause was asked for.
func (e *engine) paused() bool { return len(e.consumers) > 0 && e.consumers[0].isPaused() }

// errPausing is why a consumer that keeps the order of its queue has no feed.
var errPausing = errors.New("pausing; a handler still runs")

// pause has the consumer stop consuming. The channel is closed when it has, and no
// worker has a message.
func (c *consumer) pause() (rested <-chan struct{}) {
	c.mu.Lock()
	if !c.paused {
		c.paused, c.rested = true, make(chan struct{})
		defer c.log.Info("paused")
	}
	c.noteRestLocked()
	rested = c.rested
	c.mu.Unlock()
	c.nudge()
	return rested
}

func (c *consumer) resume() {
	c.mu.Lock()
	was := c.paused
	c.paused = false
	c.mu.Unlock()
	if was {
		c.nudge()
		c.log.Info("resumed")
	}
}

func (c *consumer) isPaused() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.paused
}

// nudge has the consumer's goroutine look at what it should consume.
func (c *consumer) nudge() {
	select {
	case c.resize <- struct{}{}:
	default: // it has been told already
	}
}

// mayOpen says whether the consumer may start to consume. If so, no pause comes into
// effect before opened is called.
func (c *consumer) mayOpen() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.opening = !c.paused
	return c.opening
}

func (c *consumer) opened() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.opening = false
	c.noteRestLocked()
}

// noteRest tells those who pause when there is nothing to wait for any more.
func (c *consumer) noteRest() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.noteRestLocked()
}

// noteRestLocked is noteRest with mu held. A worker that rests has seen the end of its
// feed, so nothing that was delivered is on its way to a handler. While there is a feed
// to read from, a worker rests only for the moment before it looks at that feed.
func (c *consumer) noteRestLocked() {
	if !c.paused || c.opening || (c.feed != nil && !c.feed.standing) || c.resting.Load() != int64(len(c.places)) {
		return
	}
	select {
	case <-c.rested: // closed before
	default:
		close(c.rested)
	}
}

// take consumes with another prefetch on a new channel, or stops consuming for now.
// Deliveries whose handler has not begun go back. The old channel stays open for the acks
// of the others.
func (u *subscription) take(prefetch int) (*subscription, error) {
	c := u.consumer
	if int64(prefetch) == c.taking.Load() && (prefetch != 0 || c.isPaused()) || c.soft.Err() != nil {
		return u, nil //nolint:nilerr // stopping ends the subscription in another place
	}
	if c.setup.cfg.keepsOrder() {
		return u, u.takeInOrder()
	}
	if err := u.cancel(); err != nil {
		return nil, err
	}
	if u.deliveries != nil {
		for d := range u.deliveries {
			u.feed.leave(&d)
		}
		u.giveBack()
	}
	if !c.isPaused() && prefetch != c.setup.cfg.Consume.Prefetch {
		c.log.Warn("the prefetch was changed to the number of free workers, because handlers are or were stuck", zap.Int("prefetch", prefetch))
	}
	if prefetch == 0 {
		u.standBy()
		return u, nil
	}
	return u.again(prefetch)
}

// again consumes on a new channel, as the first of the session if this subscription was
// that and its trial is not over.
func (u *subscription) again(prefetch int) (*subscription, error) {
	next, err := u.consumer.subscribe(u.session)
	if err != nil {
		return nil, err
	}
	next.turn = nil
	if u.first && !u.session.Trial().Ended() {
		next.first, u.first = true, false
		err = next.open(1, u.session.Trial())
	} else {
		next.over = nil
		err = next.open(prefetch, nil)
	}
	if err != nil {
		next.close()
		return nil, err
	}
	return next, nil
}

// takeInOrder is take where the order of the queue is kept. For a pause it ends the
// subscription, as a stop does; after one it begins to consume.
func (u *subscription) takeInOrder() error {
	c := u.consumer
	if !c.isPaused() {
		_, err := u.widen()
		return err
	}
	if u.feed == nil {
		return nil // it stands by
	}
	u.feed.ending.Store(true)
	c.setFeed(nil, errPausing, false)
	u.drainInOrder()
	return errPausing
}
