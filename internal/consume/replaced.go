package consume

import (
	"time"

	"github.com/harebus/harebus/internal/wait"
)

// A subscription that another has replaced stays open for the acks of what it has
// delivered. It is closed when nothing of that is unacknowledged: its channel would
// otherwise be left until the connection ends, and a connection has only so many.

// enter returns the feed to read from, unless that is still the last one, and counts the
// worker as its reader until exit. changed is closed when the next one is there.
func (c *consumer) enter(last *feed) (f *feed, changed <-chan struct{}, ended bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.feed == nil || c.feed == last {
		return nil, c.changed, c.ended
	}
	c.feed.of.readers++
	return c.feed, nil, false
}

// exit notes that a worker reads no more from a feed. Everything that it has taken from it
// has ended.
func (c *consumer) exit(f *feed) {
	c.mu.Lock()
	defer c.mu.Unlock()
	f.of.readers--
	f.of.leftLocked()
}

// leftLocked tells the goroutine that waits for the last reader. The consumer's mu is held.
func (u *subscription) leftLocked() {
	if !u.replaced || u.readers > 0 {
		return
	}
	select {
	case <-u.left: // a worker has looked at it once more
	default:
		close(u.left)
	}
}

// claim says whether the connection has room for another channel beside this one. If not,
// then is called when it has.
func (u *subscription) claim(then func() (*subscription, error)) bool {
	if u.claimed {
		return true
	}
	select {
	case u.session.Spare() <- struct{}{}:
		u.claimed = true
	default:
		if u.room == nil {
			u.consumer.log.Warn("the broker allows no more channels on the connection, so a change of the prefetch, or the end of a pause," +
				" waits until a handler has returned that keeps an earlier channel; raise channel_max in rabbitmq.conf")
		}
		u.room, u.then = u.session.Spare(), then
	}
	return u.claimed
}

// unclaim gives up the room that claim has taken.
func (u *subscription) unclaim() {
	if u.claimed {
		u.claimed = false
		<-u.session.Spare()
	}
}

// retire closes a subscription that another has replaced, when nothing of it is
// unacknowledged any more, its session has ended, or a stop does not wait any longer.
// From now on only its goroutine uses it.
func (u *subscription) retire() {
	c := u.consumer
	c.mu.Lock()
	u.replaced = true
	u.leftLocked()
	c.mu.Unlock()
	c.retired.Go(func() {
		defer u.close()
		select {
		case <-u.left:
			u.wrapUp()
		case <-u.closes: //nolint:errcheck // the broker has closed it, for example because a handler took too long
		case <-u.session.Done():
		case <-c.over:
		}
	})
}

// calm is how long a replaced channel stays open after its last ack, so that the queue has
// the acks for certain, also when its leader was frozen for a while. While channels are short,
// it is closed as soon as the broker's channel has had the time to pass them on.
const calm = 15 * time.Second

// wrapUp gives back what no worker has taken, sends the acks, and waits until the queue
// should have them.
func (u *subscription) wrapUp() {
	if u.deliveries != nil {
		for d := range u.deliveries {
			u.consumer.keep(u.feed, d)
		}
	}
	u.giveBack()
	u.acks.Close()
	const step = 50 * time.Millisecond
	soft, spare := u.consumer.soft, u.session.Spare()
	for range calm / step {
		if len(spare) == cap(spare) || !u.session.Alive() || !wait.Sleep(soft, step) {
			break
		}
	}
	if soft.Err() != nil {
		u.awaitAcks()
		return
	}
	u.await(func() error { return u.ch.Qos(1, 0, false) }) // a declaration could end the connection
}
