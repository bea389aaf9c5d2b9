package redrive

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/harebus/harebus/internal/session"
	"github.com/harebus/harebus/internal/wait"
)

// mover is a session with channels that take and acknowledge and one that
// publishes. Only one message is published at a time, so every answer on the
// publishing channel is about that message.
type mover struct {
	link    *session.Link
	session *session.Session
	queue   string
	window  int // how many messages a taker can hold
	timeout time.Duration
	confirm session.ConfirmConfig
	takers  []*taker                // in the order in which they were opened
	ask     *amqp.Channel           // for how many messages are ready
	out     *session.ConfirmChannel // nil until needed
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

// leftError says that a message was not moved, but the connection works and others
// can be moved.
type leftError struct{ reason string }

func (e *leftError) Error() string { return e.reason }

// connect returns a mover and how many messages of the queue are ready.
func connect(ctx context.Context, o Options) (m *mover, ready int, err error) {
	o.Broker.RequestTimeout = o.Timeout
	link, err := o.Broker.Link("redrive")
	if err != nil {
		return nil, 0, err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, o.Timeout, fmt.Errorf("gave up after %v", o.Timeout))
	defer cancel()
	log := o.Broker.Logger()
	err = link.With(ctx, func(s *session.Session) error {
		m = &mover{
			link: link, session: s, queue: o.Queue, window: cmp.Or(o.Window, defaultWindow), timeout: o.Timeout,
			confirm: session.ConfirmConfig{Window: 1, Timeout: o.Timeout, Log: log, Waits: wait.Teller{Log: log}, Plain: func(bool) {}},
		}
		ready, err = m.begin(ctx)
		return err
	})
	if err != nil {
		link.Close()
		return nil, 0, err
	}
	return m, ready, nil
}

// begin opens the channels and returns how many messages are ready.
func (m *mover) begin(ctx context.Context) (ready int, err error) {
	err = m.session.RPC(ctx, func() (err error) {
		m.ask, err = m.session.Channel()
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("open a channel: %w", err)
	}
	if ready, err = m.ready(ctx); err != nil || ready == 0 {
		return ready, err
	}
	return ready, m.consume(ctx)
}

// ready is the number of messages that wait in the queue.
func (m *mover) ready(ctx context.Context) (n int, err error) {
	err = m.session.RPC(ctx, func() error {
		q, err := m.ask.QueueDeclarePassive(m.queue, true, false, false, false, nil)
		n = q.Messages
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("look at the error queue %q: %w", m.queue, err)
	}
	return n, nil
}

// consume begins to take messages on a new channel.
func (m *mover) consume(ctx context.Context) error {
	t := &taker{}
	err := m.session.RPCs(ctx, func(next func()) (err error) {
		if t.ch, err = m.session.Channel(); err != nil {
			return err
		}
		t.closes = t.ch.NotifyClose(make(chan *amqp.Error, 1))
		next()
		if err = t.ch.Qos(m.window, 0, false); err != nil {
			return err
		}
		next()
		t.deliveries, err = t.ch.Consume(m.queue, consumerTag, false, false, false, false, nil)
		return err
	})
	if err != nil {
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
func (m *mover) next(ctx context.Context) (l look, ok bool, err error) {
	from := m.takers[len(m.takers)-1]
	if from.held == m.window {
		if err := m.consume(context.WithoutCancel(ctx)); err != nil {
			return look{}, false, err
		}
		from = m.takers[len(m.takers)-1]
	}
	began, empty := time.Now(), 0
	for {
		quiet := time.NewTimer(idle)
		select {
		case d, ok := <-from.deliveries:
			quiet.Stop()
			if !ok {
				return look{}, false, m.ended(from)
			}
			from.held++
			return unpack(&d, from), true, nil
		case <-ctx.Done():
			quiet.Stop()
			return look{}, false, nil
		case <-quiet.C:
		}
		ready, err := m.ready(context.WithoutCancel(ctx))
		switch {
		case err != nil:
			return look{}, false, err
		case ready > 0 && time.Since(began) > m.timeout:
			return look{}, false, fmt.Errorf("take messages from %q: %d are ready and none came within %v; does another consumer hold the queue (x-single-active-consumer)?", m.queue, ready, m.timeout)
		case ready > 0:
			empty = 0
		default:
			if empty++; empty == 2 {
				return look{}, false, nil
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

// move publishes p to a queue, waits for the confirm and acknowledges l. A *leftError
// means that no queue has p and the run can go on. Any other error ends
// the connection: p may have arrived, or it has and l was not acknowledged.
func (m *mover) move(queue string, p session.Publishing, l look) error {
	p.Key, p.Mandatory = queue, true
	ctx, cancel := context.WithTimeoutCause(context.Background(), m.timeout, fmt.Errorf("the broker did not answer within %v", m.timeout))
	defer cancel()
	if err := m.publish(ctx, p); err != nil {
		if !errors.As(err, new(*leftError)) {
			m.session.Abort()
		}
		return err
	}
	if err := l.Ack(false); err != nil {
		return fmt.Errorf("it was sent to %q but could not be removed here, so it is in both: %w", queue, err)
	}
	l.from.held--
	return nil
}

func (m *mover) publish(ctx context.Context, p session.Publishing) error {
	if err := m.open(ctx); err != nil {
		return fmt.Errorf("send it to %q: %w", p.Key, err)
	}
	r := m.out.Wait(ctx, m.out.Publish(ctx, &p, func() bool { return false }))
	switch {
	case r.Verdict == session.Confirmed:
		return nil
	case r.Verdict == session.Returned:
		return &leftError{fmt.Sprintf("there is no queue %q", p.Key)}
	case r.Verdict == session.Nacked:
		return &leftError{fmt.Sprintf("the broker does not take it into queue %q; is that full?", p.Key)}
	case r.Raised:
		return &leftError{fmt.Sprintf("the broker refuses it: %v", r.Err)}
	case r.Final || r.Verdict == session.NotSent && m.session.Alive():
		return &leftError{fmt.Sprintf("it cannot be sent: %v", r.Err)}
	case r.Verdict == session.NotSent:
		return fmt.Errorf("send it to %q: %w", p.Key, r.Err)
	default:
		return fmt.Errorf("send it to %q, where it may have arrived or not: %w", p.Key, r.Err)
	}
}

// open makes sure that there is a channel to publish on, that it has a place for a
// message, and that the broker takes messages.
func (m *mover) open(ctx context.Context) (err error) {
	if m.out == nil || !m.out.Usable() {
		if m.out, err = session.OpenConfirmChannel(ctx, m.session, m.confirm); err != nil {
			return fmt.Errorf("open a channel: %w", err)
		}
	}
	if err := m.session.Ready(ctx); err != nil {
		return err
	}
	return m.out.Acquire(ctx)
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
	defer m.link.Close()
	if !m.session.Alive() {
		return fmt.Errorf("close: %w", m.session.Cause())
	}
	ctx := context.Background() // each request has its limit
	var faults []error
	for _, t := range m.takers {
		if len(m.takers) > 1 && !t.ch.IsClosed() {
			faults = append(faults, m.session.RPC(ctx, func() error { return t.ch.Cancel(consumerTag, false) }))
		}
	}
	for _, t := range m.takers {
		if !t.ch.IsClosed() {
			faults = append(faults, m.giveBack(ctx, t))
		}
	}
	if err := errors.Join(faults...); err != nil {
		return fmt.Errorf("close: %w", err)
	}
	return nil
}

// giveBack closes a taker's channel; the answer says that all acknowledgements have been
// read. It returns when the queue has again what the taker held: a quorum queue hears of
// the end of a channel later, and of several in any order. Should others take the
// messages at once it does not wait for long.
func (m *mover) giveBack(ctx context.Context, t *taker) error {
	before, err := m.ready(ctx)
	if err != nil {
		return err
	}
	if err := m.session.RPC(ctx, t.ch.Close); err != nil {
		return err
	}
	late := time.NewTimer(min(m.timeout, mostGiveBack))
	defer late.Stop()
	again := time.NewTicker(5 * time.Millisecond)
	defer again.Stop()
	for {
		if now, err := m.ready(ctx); err != nil || now >= before+t.held {
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
