package consume

import (
	"context"
	"errors"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
	"go.uber.org/zap"

	"github.com/harebus/harebus/internal/session"
	"github.com/harebus/harebus/internal/streams"
)

// A stream keeps its messages, so nothing is ever given back to it: what has failed is handled again where it is, and
// what was not done when a subscription ends comes again because the place before it was kept.

const (
	// nothing is how long the message of a stream waits of which nothing has become: it could not be parked, for example.
	nothing = time.Second
	// chunk is more than the messages by which a stream exceeds a prefetch.
	chunk = 1 << 14
	// moving is how often a connection is given up because its node has no replica of the stream: other queues use it, too.
	moving = 10 * time.Second
)

// readStream reads a stream while it is the turn of this instance.
func (c *consumer) readStream(ctx context.Context, s *session.Session) error {
	s.Trial().Pass(c.cfg.Queue, c.cfg.Queues) // nothing is tried
	u, err := c.subscribe(s)
	if err != nil {
		return err
	}
	u.turn, u.over = nil, nil
	if !c.mayOpen() {
		defer u.close()
		return c.standAside(ctx, u)
	}
	c.opened()
	if u.place, err = c.attach(ctx, u); err != nil {
		u.close()
		return c.elsewhere(s, c.without(err))
	}
	defer u.place.End()
	if err := u.open(c.wanted(), false); err != nil {
		u.close()
		return c.elsewhere(s, c.without(u.place.Refused(err)))
	}
	c.began = true
	c.note(nil)
	c.log.Info("reading", zap.Any("from", u.place.From()), zap.String("broker", s.Version()))
	end := c.cfg.consuming(s)
	err = c.follow(ctx, u)
	if errors.Is(err, errChanging) {
		end(nil)
	} else {
		end(err)
	}
	return err
}

// attach waits until this instance may read. A pause ends that.
func (c *consumer) attach(ctx context.Context, u *subscription) (*streams.Place, error) {
	type result struct {
		place *streams.Place
		err   error
	}
	waiting, give := context.WithCancelCause(ctx)
	defer give(nil)
	done, standing := make(chan result, 1), make(chan struct{}, 1)
	go func() {
		place, err := c.cfg.Stream.Attach(waiting, u.session, func() { standing <- struct{}{} })
		done <- result{place, err}
	}()
	lost := u.session.Done()
	for {
		select {
		case r := <-done:
			if r.err == nil && c.isPaused() {
				r.place.End()
				r.err = errChanging
			}
			return r.place, r.err
		case <-standing:
			c.log.Info("another instance of the group reads the stream; standing by")
			u.standBy()
			c.began = true
			c.note(nil)
		case <-c.nudged:
			if c.isPaused() {
				give(errChanging)
			}
		case <-lost:
			give(errLost)
			lost = nil
		}
	}
}

// elsewhere gives a connection up whose node has no replica of the stream, so that the next one is to another node.
func (c *consumer) elsewhere(s *session.Session, err error) error {
	if streams.NoReplica(err) && time.Since(c.movedAway) > moving {
		c.movedAway = time.Now()
		s.Abort()
	}
	return err
}

// permanent says whether no other attempt can end differently.
func permanent(err error) bool {
	return session.Permanent(err) || errors.As(err, new(*streams.FaultError))
}

// Reads says whether the delivery is of a stream.
func (d *Delivery) Reads() bool { return d.feed != nil && d.feed.place != nil }

// Repeat has the message of a stream handled again, here, after a pause; Ack then does nothing. It returns false for others.
func (d *Delivery) Repeat(after time.Duration, failed bool) bool {
	if !d.Reads() {
		return false
	}
	if d.repeat = &after; failed {
		d.Failures++
	}
	return true
}

// readOn handles a message of a stream until something has become of it.
func (c *consumer) readOn(f *feed, d *Delivery, w *worker) {
	for d != nil && d.repeat != nil && c.waitInPlace(f, d) {
		d = c.handle(f, d.asItCame(), w, d)
	}
}

// asItCame is the raw delivery, with its properties in front of the body.
func (d *Delivery) asItCame() amqp.Delivery {
	raw := d.Raw
	raw.Body = d.Packed
	return raw
}

// waitInPlace waits for the time of the next attempt. It returns false when this feed is read no more.
func (c *consumer) waitInPlace(f *feed, d *Delivery) bool {
	due := time.NewTimer(*d.repeat)
	defer due.Stop()
	for {
		changed, current := c.reading(f)
		if !current || c.ending(f) {
			return false
		}
		select {
		case <-due.C:
			return d.Connected()
		case <-changed:
		case <-c.soft.Done():
			return false
		case <-f.session.Done():
			return false
		}
	}
}

// reading says whether a feed is the current one. changed is closed when that changes.
func (c *consumer) reading(f *feed) (changed <-chan struct{}, current bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.changed, c.feed == f
}

// arrived says whether a delivery of a stream is to be handled.
func (d *Delivery) arrived() bool {
	switch d.feed.place.Came(&d.Raw, d.Unreadable) {
	case streams.Handle:
		return true
	case streams.Pass:
		d.Ack()
	case streams.Leave:
		d.ended.Store(true)
	}
	return false
}

// undone decides what follows when nothing has become of a message of a stream.
func (d *Delivery) undone(returned bool) {
	if d.ended.Load() {
		return
	}
	if d.repeat == nil {
		pause := nothing
		d.repeat = &pause
	}
	if !returned { // the handler has ended the goroutine: another worker goes on
		time.AfterFunc(*d.repeat, d.again)
	}
}
