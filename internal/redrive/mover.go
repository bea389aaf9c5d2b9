package redrive

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/harebus/harebus/internal/access"
)

// mover is a connection with channels that take and acknowledge and one that
// publishes. Only one message is published at a time, so whatever the broker
// says on the publishing channel is about that message.
type mover struct {
	conn    *access.Conn
	queue   string
	window  int // how many messages a taker can hold
	timeout time.Duration
	takers  []*taker      // in the order in which they were opened
	ask     *amqp.Channel // for how many messages are ready
	out     *amqp.Channel // nil until needed, and after it has failed
	returns chan amqp.Return
	closes  chan *amqp.Error
	late    atomic.Bool // guard has cut the connection
}

// taker is a consumer on a channel of its own. What it holds goes back when the
// channel is closed, in the order of the queue: a basic.get for each message would
// have it come back in any order from a quorum queue, for which each is a consumer.
type taker struct {
	ch         *amqp.Channel
	deliveries <-chan amqp.Delivery
	closes     chan *amqp.Error
	held       int // how many were taken and neither moved nor renewed
}

// consumerTag is the same on each channel.
const consumerTag = "harebus redrive"

// leftError says that a message was not moved and nothing is wrong with the
// connection: others can be.
type leftError struct{ reason string }

func (e *leftError) Error() string { return e.reason }

// connect returns a mover and how many messages of the queue are ready.
func connect(ctx context.Context, o Options) (m *mover, ready int, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, o.Timeout, fmt.Errorf("gave up after %v", o.Timeout))
	defer cancel()
	err = o.Broker.Use(ctx, "harebus redrive", func(conn *access.Conn) error {
		m = &mover{conn: conn, queue: o.Queue, window: cmp.Or(o.Window, defaultWindow), timeout: o.Timeout}
		if m.ask, err = conn.Channel(); err != nil {
			return fmt.Errorf("open a channel: %w", err)
		}
		if ready, err = m.ready(); err != nil || ready == 0 {
			return err
		}
		return m.consume()
	})
	return m, ready, err
}

// guard cuts the connection if stop is not called in time: the client waits for
// the broker without a limit of its own.
func (m *mover) guard() (stop func()) {
	t := time.AfterFunc(m.timeout, func() {
		m.late.Store(true)
		m.conn.Cut()
	})
	return func() { t.Stop() }
}

// ready is the number of messages that wait in the queue.
func (m *mover) ready() (int, error) {
	defer m.guard()()
	q, err := m.ask.QueueDeclarePassive(m.queue, true, false, false, false, nil)
	if err != nil {
		return 0, fmt.Errorf("look at the error queue %q: %w", m.queue, err)
	}
	return q.Messages, nil
}

// consume begins to take messages on a new channel.
func (m *mover) consume() error {
	defer m.guard()()
	ch, err := m.conn.Channel()
	if err != nil {
		return fmt.Errorf("open a channel: %w", err)
	}
	t := &taker{ch: ch, closes: ch.NotifyClose(make(chan *amqp.Error, 1))}
	if err := ch.Qos(m.window, 0, false); err != nil {
		return fmt.Errorf("open a channel: %w", err)
	}
	if t.deliveries, err = ch.Consume(m.queue, consumerTag, false, false, false, false, nil); err != nil {
		return fmt.Errorf("take messages from %q: %w", m.queue, err)
	}
	m.takers = append(m.takers, t)
	return nil
}

// idle is how long nothing comes before the broker is asked whether there is
// anything.
const idle = 300 * time.Millisecond

// next takes the next message; ok is false when there is none, because somebody
// else has taken what was ready, or ctx has ended.
func (m *mover) next(ctx context.Context) (d amqp.Delivery, from *taker, ok bool, err error) {
	from = m.takers[len(m.takers)-1]
	if from.held == m.window {
		if err := m.consume(); err != nil {
			return d, nil, false, err
		}
		from = m.takers[len(m.takers)-1]
	}
	began, empty := time.Now(), 0
	for {
		quiet := time.NewTimer(idle)
		select {
		case d, ok = <-from.deliveries:
			quiet.Stop()
			if !ok {
				return d, nil, false, m.ended(from)
			}
			from.held++
			return d, from, true, nil
		case <-ctx.Done():
			quiet.Stop()
			return d, nil, false, nil
		case <-quiet.C:
		}
		ready, err := m.ready()
		switch {
		case err != nil:
			return d, nil, false, err
		case ready > 0 && time.Since(began) > m.timeout:
			return d, nil, false, fmt.Errorf("take messages from %q: %d are ready and none came within %v; does another consumer hold the queue (x-single-active-consumer)?", m.queue, ready, m.timeout)
		case ready > 0:
			empty = 0
		default:
			if empty++; empty == 2 {
				return d, nil, false, nil
			}
		}
	}
}

// ended says why a taker gets nothing more.
func (m *mover) ended(t *taker) error {
	err := errors.New("the broker has ended the consumer; was the queue deleted?")
	if t.ch.IsClosed() {
		err = errors.New("the connection was lost")
		if cause := <-t.closes; cause != nil {
			err = cause
		}
	}
	return fmt.Errorf("take messages from %q: %w", m.queue, err)
}

// move publishes p to a queue, waits for the confirm and acknowledges d, which t
// holds. A *leftError means that p is nowhere and the run can go on. Any other error ends
// the connection: p may have arrived, or it has and d was not acknowledged.
func (m *mover) move(queue string, p amqp.Publishing, d *amqp.Delivery, t *taker) error {
	defer m.guard()()
	if err := m.publish(queue, p); err != nil {
		return err
	}
	if err := d.Ack(false); err != nil {
		return fmt.Errorf("it was sent to %q but could not be removed here, so it is in both: %w", queue, err)
	}
	t.held--
	return nil
}

func (m *mover) publish(queue string, p amqp.Publishing) error {
	if err := m.open(); err != nil {
		return err
	}
	confirm, err := m.out.PublishWithDeferredConfirm("", queue, true, false, p)
	if err != nil {
		return fmt.Errorf("send it to %q, where it may have arrived or not: %w", queue, err)
	}
	<-confirm.Done() // a channel that ends resolves it too
	if confirm.Acked() {
		select {
		case <-m.returns: // a return comes before its confirm
			return &leftError{fmt.Sprintf("there is no queue %q", queue)}
		default:
			return nil
		}
	}
	return m.refused(queue)
}

// refused says why there was no confirm. The channel is not used again.
func (m *mover) refused(queue string) error {
	out, closes := m.out, m.closes
	m.out = nil
	if !out.IsClosed() {
		_ = out.Close() // it has done its duty
		return &leftError{fmt.Sprintf("the broker does not take it into queue %q; is that full?", queue)}
	}
	cause := <-closes
	if cause != nil && !m.conn.IsClosed() {
		return &leftError{fmt.Sprintf("the broker refuses it: %v", cause)}
	}
	err := errors.New("the connection was lost")
	if m.late.Load() {
		err = fmt.Errorf("the broker did not answer within %v", m.timeout)
	} else if cause != nil {
		err = cause
	}
	return fmt.Errorf("send it to %q, where it may have arrived or not: %w", queue, err)
}

// open makes sure that there is a channel to publish on.
func (m *mover) open() error {
	if m.out != nil {
		return nil
	}
	ch, err := m.conn.Channel()
	if err != nil {
		return fmt.Errorf("open a channel: %w", err)
	}
	if err := ch.Confirm(false); err != nil {
		return fmt.Errorf("open a channel: %w", err)
	}
	m.out = ch
	m.returns = ch.NotifyReturn(make(chan amqp.Return, 1))
	m.closes = ch.NotifyClose(make(chan *amqp.Error, 1))
	return nil
}

// close ends the connection in order. The broker then gives back whatever was not
// acknowledged, all at once and in its order. Several takers are cancelled first, so that
// it does not give what the first of them held to the last. (A quorum queue gives back what
// is on its way to a consumer that is being cancelled before all else, so a message that
// comes to a long queue in just this moment can end up in front.) Giving back is left to it on purpose: a nack of many messages at once
// takes a classic queue of RabbitMQ 3.10 time that grows with their square (8,000
// messages: over a minute, in which the queue does nothing else; the end of the
// channel: 16 ms).
func (m *mover) close() error {
	defer m.guard()()
	if m.conn.IsClosed() {
		return nil
	}
	var faults []error
	for _, t := range m.takers {
		if len(m.takers) > 1 && !t.ch.IsClosed() {
			faults = append(faults, t.ch.Cancel(consumerTag, false))
		}
	}
	for _, t := range m.takers {
		if !t.ch.IsClosed() {
			faults = append(faults, m.giveBack(t))
		}
	}
	faults = append(faults, m.conn.Close())
	if err := errors.Join(faults...); err != nil {
		return fmt.Errorf("close: %w", err)
	}
	return nil
}

// giveBack closes a taker's channel; the answer says that all acknowledgements have been
// read. It returns when the queue has again what the taker held: a quorum queue hears of
// the end of a channel later, and of several in any order. Should others take the
// messages at once it does not wait for long.
func (m *mover) giveBack(t *taker) error {
	before, err := m.ready()
	if err != nil {
		return err
	}
	if err := t.ch.Close(); err != nil {
		return err
	}
	late := time.NewTimer(min(m.timeout, mostGiveBack))
	defer late.Stop()
	again := time.NewTicker(5 * time.Millisecond)
	defer again.Stop()
	for {
		if now, err := m.ready(); err != nil || now >= before+t.held {
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
