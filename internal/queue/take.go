package queue

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

// taker is a consumer on a channel of its own. What it holds goes back when the
// channel is closed, in the order of the queue: a basic.get for each message would
// have it come back in any order from a quorum queue, for which each is a consumer.
type taker struct {
	ch         *amqp.Channel
	deliveries <-chan amqp.Delivery
	closes     chan *amqp.Error
	limit      int    // how many the broker gives it before some are removed
	held       int    // how many were taken and not removed
	gone       uint64 // all deliveries up to this one were removed
	cancelled  bool
	removing   bool // acknowledgements are on their way
}

// consumerTag is the same on each channel.
const consumerTag = "harebus operator"

// Take begins to take n messages: no others leave the queue before some are removed. A second call continues.
func (c *Conn) Take(ctx context.Context, n int) error {
	if len(c.takers) > 0 {
		return nil
	}
	c.expected = n
	return c.consume(ctx)
}

// consume begins to take messages on a new channel.
func (c *Conn) consume(ctx context.Context) error {
	t := &taker{limit: min(c.o.Hold, c.expected)}
	err := c.session.RPCs(ctx, func(next func()) (err error) {
		if t.ch, err = c.session.Channel(); err != nil {
			return err
		}
		t.closes = t.ch.NotifyClose(make(chan *amqp.Error, 1))
		next()
		if err = t.ch.Qos(t.limit, 0, false); err != nil {
			return err
		}
		next()
		t.deliveries, err = t.ch.Consume(c.o.Queue, consumerTag, false, false, false, false, nil)
		return err
	})
	if err != nil {
		return fmt.Errorf("take messages from %q: %w", c.o.Queue, err)
	}
	c.takers = append(c.takers, t)
	return nil
}

// following has a new taker take what comes after the messages that one holds. That is cancelled first, at a moment at
// which nothing is on its way to it: what is removed of it later would let the broker give it more, which nobody reads.
func (c *Conn) following(ctx context.Context, full *taker) (*taker, error) {
	if err := c.session.RPC(ctx, func() error { return full.ch.Cancel(consumerTag, false) }); err != nil {
		return nil, fmt.Errorf("take messages from %q: %w", c.o.Queue, err)
	}
	full.cancelled = true
	if err := c.consume(ctx); err != nil {
		return nil, err
	}
	return c.takers[len(c.takers)-1], nil
}

// idle is how long nothing comes before the broker is asked whether there is
// anything.
const idle = 300 * time.Millisecond

// mostOnTheWay is how long a message may be on its way to a taker that nobody else can get. A
// quorum queue of RabbitMQ 3.10 assigns to a consumer all that its prefetch allows and then reads
// it from the disk: the first of 20,000 messages that were returned before came seconds later.
const mostOnTheWay = 10 * time.Second

// Next takes the next message, when some were ready; ok is false when there is none, because somebody
// else has taken what was ready, or ctx has ended.
func (c *Conn) Next(ctx context.Context) (m *Message, ok bool, err error) {
	if c.expected == 0 {
		return nil, false, nil
	}
	from := c.takers[len(c.takers)-1]
	if from.held == from.limit {
		if from, err = c.following(context.WithoutCancel(ctx), from); err != nil {
			return nil, false, err
		}
	}
	began, empty := time.Now(), 0
	for {
		quiet := time.NewTimer(idle)
		select {
		case d, ok := <-from.deliveries:
			quiet.Stop()
			if !ok {
				return nil, false, c.ended(from)
			}
			from.held++
			c.expected--
			m := Unpack(&d)
			m.from = from
			return m, true, nil
		case <-ctx.Done():
			quiet.Stop()
			return nil, false, nil
		case <-quiet.C:
		}
		q, err := c.State(context.WithoutCancel(ctx))
		ready, unanswered := q.Messages, q.Consumers == 0 // this consumer counts: see Settled
		switch {
		case err != nil:
			return nil, false, err
		case ready > 0 && time.Since(began) > c.o.Timeout:
			return nil, false, fmt.Errorf("take messages from %q: %d are ready and none came within %v; does another consumer hold the queue (x-single-active-consumer)?", c.o.Queue, ready, c.o.Timeout)
		case unanswered && time.Since(began) > c.o.Timeout:
			return nil, false, fmt.Errorf("take messages from %q: the broker does not say within %v whether there are more", c.o.Queue, c.o.Timeout)
		case ready > 0 || unanswered:
			empty = 0
		case q.Consumers > len(c.takers): // others may have taken what was ready
			if empty++; empty == 2 {
				return nil, false, nil
			}
		case time.Since(began) > min(c.o.Timeout, mostOnTheWay):
			return nil, false, nil
		}
	}
}

// ended says why a taker gets nothing more.
func (c *Conn) ended(t *taker) error {
	err := errors.New("the broker has ended the consumer; was the queue deleted?")
	if t.ch.IsClosed() {
		err = errors.New("the connection was lost")
		if cause := <-t.closes; cause != nil {
			err = cause
		}
	}
	return fmt.Errorf("take messages from %q: %w", c.o.Queue, err)
}

// Remove acknowledges messages, which are stored elsewhere. They are in the order in which they were taken.
func (c *Conn) Remove(ms ...*Message) error {
	for len(ms) > 0 {
		t := ms[0].from
		of := slices.IndexFunc(ms, func(m *Message) bool { return m.from != t })
		if of < 0 {
			of = len(ms)
		}
		if err := t.remove(ms[:of]); err != nil {
			return fmt.Errorf("it could not be removed here, so it is in both queues: %w", err)
		}
		ms = ms[of:]
	}
	return nil
}

// remove acknowledges messages. Those before which nothing is held any more go with one request: a quorum queue writes
// each request into its log.
func (t *taker) remove(ms []*Message) error {
	t.removing = true
	first := 0
	for ; first < len(ms) && ms[first].DeliveryTag == t.gone+1; first++ {
		t.gone++
	}
	if first > 0 {
		if err := t.ch.Ack(t.gone, true); err != nil {
			return err
		}
	}
	for _, m := range ms[first:] {
		if err := m.Ack(false); err != nil {
			return err
		}
	}
	t.held -= len(ms)
	return nil
}

// Removed returns nil when the broker has read all that [Conn.Remove] has acknowledged. After an error it may be here as well as
// where it was stored.
func (c *Conn) Removed() error {
	ctx, cancel := c.limited()
	defer cancel()
	return c.removed(ctx)
}

// removed returns when the broker has read all acknowledgements, which is what an answer on the same channel says. They
// go on other channels than what is published, and RabbitMQ reads each channel by itself: a confirm says nothing of them.
func (c *Conn) removed(ctx context.Context) error {
	for _, t := range c.takers {
		if !t.removing {
			continue
		}
		if err := c.session.RPC(ctx, func() error { return t.ch.Qos(t.limit, 0, false) }); err != nil {
			return fmt.Errorf("wait until what was moved is removed from %q: %w", c.o.Queue, err)
		}
		t.removing = false
	}
	return nil
}

// GiveBack ends all consumers. The broker then gives back whatever was not
// acknowledged, all at once and in its order. Several takers are cancelled first, so that
// it does not give what the first of them held to the last. (A quorum queue gives back what
// is on its way to a consumer that is being cancelled before all else, so a message that
// comes to a long queue in just this moment can end up in front.) Giving back is left to it on purpose: a nack of many messages at once
// takes a classic queue of RabbitMQ 3.10 time that grows with their square (8,000
// messages: over a minute, in which the queue does nothing else; the end of the
// channel: 16 ms).
// It is an error if the broker may not have read all that was removed.
func (c *Conn) GiveBack() error {
	ctx := context.Background() // each request has its limit
	takers := c.takers
	c.takers = nil
	var faults []error
	for _, t := range takers {
		if len(takers) > 1 && !t.cancelled && !t.ch.IsClosed() {
			faults = append(faults, c.session.RPC(ctx, func() error { return t.ch.Cancel(consumerTag, false) }))
		}
	}
	for _, t := range takers {
		switch {
		case !t.ch.IsClosed():
			faults = append(faults, c.giveBack(ctx, t))
		case t.removing:
			faults = append(faults, fmt.Errorf("what was moved last may still be here: %w", c.ended(t)))
		}
	}
	return errors.Join(faults...)
}

// giveBack closes a taker's channel; the answer says that all acknowledgements have been
// read. It returns when the queue has again what the taker held: a quorum queue hears of
// the end of a channel later, and of several in any order. Should others take the
// messages at once it does not wait for long.
func (c *Conn) giveBack(ctx context.Context, t *taker) error {
	before, err := c.Ready(ctx)
	if err != nil {
		return err
	}
	if err := c.session.RPC(ctx, t.ch.Close); err != nil {
		return err
	}
	late := time.NewTimer(min(c.o.Timeout, mostGiveBack))
	defer late.Stop()
	again := time.NewTicker(5 * time.Millisecond)
	defer again.Stop()
	for {
		if now, err := c.Ready(ctx); err != nil || now >= before+t.held {
			return err
		}
		select {
		case <-again.C:
		case <-late.C:
			return nil
		}
	}
}

const mostGiveBack = 5 * time.Second
