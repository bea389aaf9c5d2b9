package consume

import "time"

// drain ends consuming: deliveries whose handler has not begun go back, handlers
// finish, and their acks are sent.
func (u *subscription) drain() error {
	c := u.consumer
	if u.inOrder {
		c.setFeed(nil, c.cfg.Stopped, true)
		c.hurry()
		u.drainInOrder()
		return nil
	}
	// Cancel comes first: acks followed by the end of a channel that still consumes
	// can be lost.
	err := u.cancel()
	c.setFeed(nil, c.cfg.Stopped, true)
	c.hurry()
	if err == nil && u.deliveries != nil {
		for d := range u.deliveries {
			c.keep(u.feed, d)
		}
	}
	u.giveBack()
	c.waitIdle()
	u.giveBack() // what was begun and cut off
	u.acks.Close()
	u.awaitAcks()
	return err
}

// drainInOrder ends consuming without cancelling the consumer. Closing the channel
// later gives back all remaining deliveries in the order of the queue. If the
// consumer were cancelled, another one could begin, or the queue could take back a
// message that is still on the network before earlier ones.
func (u *subscription) drainInOrder() {
	u.consumer.waitHands()
	u.acks.Flush()
	u.awaitAcks()
	if left := u.remains.take(); len(u.republishWorn(left)) < len(left) {
		u.acks.Flush()
		u.awaitAcks()
	}
	u.acks.Close()
}

// waitIdle waits until the workers have ended. If a handler ignores its cancelled context, it waits
// for Grace more. Only run's goroutine calls it.
func (c *consumer) waitIdle() {
	select {
	case <-c.idle:
		return
	case <-c.hard.Done():
	}
	if c.late {
		return
	}
	t := time.NewTimer(Grace)
	defer t.Stop()
	select {
	case <-c.idle:
	case <-t.C:
		c.late = true
	}
}

// waitHands waits until no worker handles a message. waitIdle would wait until all
// workers have ended, but here they still read from a channel that consumes.
func (c *consumer) waitHands() {
	for c.hard.Err() == nil {
		if c.busy.Load() == 0 {
			return
		}
		select {
		case <-c.moved:
		case <-c.hard.Done():
		}
	}
	grace := time.NewTimer(Grace)
	defer grace.Stop()
	for c.busy.Load() > 0 {
		select {
		case <-c.moved:
		case <-grace.C:
			c.late = true
			return
		}
	}
}
