// Package queue looks at a queue and moves messages out of it, without losing or reordering
// the others. It is for the tools: it consumes from queues that no service consumes from.
package queue

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/harebus/harebus/internal/access"
	"github.com/harebus/harebus/internal/session"
	"github.com/harebus/harebus/internal/wait"
)

// Options say what to connect to.
type Options struct {
	Broker access.Broker
	// Name is what the broker shows of the connection.
	Name string
	// Queue is the queue that is looked at.
	Queue string
	// Hold is how many messages one consumer holds. A queue with more is read by several,
	// which are opened one after the other. Default: 5000.
	Hold int
	// Window is how many messages are published before the first must be confirmed. Default: 1.
	Window int
	// Begin, if not nil, is what is done first. It is done again if the connection ends meanwhile.
	Begin func(ctx context.Context, c *Conn) error
	// Timeout is how long the broker may take to be there, and for the messages of one window.
	Timeout time.Duration
}

const defaultHold, longestName = 5000, 255

// Conn is a connection with channels that take and acknowledge and one that publishes.
type Conn struct {
	o       Options
	link    *session.Link
	session *session.Session
	confirm session.ConfirmConfig
	takers  []*taker // in the order in which they were opened; all but the last are full and cancelled
	// expected is how many messages are still to be taken.
	expected int
	ask      *amqp.Channel           // for how many messages are ready
	out      *session.ConfirmChannel // nil until needed
}

// flight is a message on its way, and the channel that it is on.
type flight struct {
	session.Flight

	on *session.ConfirmChannel
}

// wait returns the result of the message.
func (f flight) wait(ctx context.Context) session.Result { return f.on.Wait(ctx, f.Flight) }

// LeftError says that a message was not stored, but the connection works and others
// can be.
type LeftError struct{ Reason string }

func (e *LeftError) Error() string { return e.Reason }

// Connect connects to the broker. The caller calls Close.
func Connect(ctx context.Context, o Options) (*Conn, error) {
	if o.Queue == "" || len(o.Queue) > longestName { // the client ends the connection at one that is too long, again and again
		return nil, fmt.Errorf("the name of a queue has 1 to %d bytes, and this one %d", longestName, len(o.Queue))
	}
	o.Hold, o.Window = cmp.Or(o.Hold, defaultHold), cmp.Or(o.Window, 1)
	o.Broker.RequestTimeout = o.Timeout
	link, err := o.Broker.Link(o.Name)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, o.Timeout, fmt.Errorf("gave up after %v", o.Timeout))
	defer cancel()
	c := &Conn{o: o, link: link, confirm: session.Confirms(o.Window, o.Timeout, o.Broker.Logger())}
	err = link.With(ctx, func(s *session.Session) error {
		c.session, c.takers = s, nil
		return c.begin(ctx)
	})
	if err != nil {
		link.Close()
		return nil, err
	}
	return c, nil
}

// begin opens the channel for questions.
func (c *Conn) begin(ctx context.Context) error {
	err := c.session.RPC(ctx, func() (err error) {
		c.ask, err = c.session.Channel()
		return err
	})
	if err != nil {
		return fmt.Errorf("open a channel: %w", err)
	}
	if _, err = c.Ready(ctx); err != nil || c.o.Begin == nil {
		return err
	}
	return c.o.Begin(ctx, c)
}

// User is who has logged in; empty if only the broker knows it.
func (c *Conn) User() string { return c.session.User() }

// Session is the session of the connection.
func (c *Conn) Session() *session.Session { return c.session }

// Ready is the number of messages that wait in the queue.
func (c *Conn) Ready(ctx context.Context) (int, error) {
	q, err := c.State(ctx)
	return q.Messages, err
}

// State is the number of messages that wait in the queue, and of its consumers.
func (c *Conn) State(ctx context.Context) (q amqp.Queue, err error) {
	err = c.session.RPC(ctx, func() (err error) {
		q, err = c.ask.QueueDeclarePassive(c.o.Queue, true, false, false, false, nil)
		return err
	})
	if err != nil {
		return q, fmt.Errorf("look at the queue %q: %w", c.o.Queue, err)
	}
	return q, nil
}

// Settled is State of a broker that has had time to answer. When a quorum queue does not answer
// RabbitMQ within a quarter of a second, RabbitMQ says that it has no messages and no consumers.
// So that must be said several times, in less than that, or very often, should the network be slow.
func (c *Conn) Settled(ctx context.Context) (amqp.Queue, error) {
	const quick, all, pause, prompt = 4, 20, 200 * time.Millisecond, 200 * time.Millisecond
	said := 0
	for try := 1; ; try++ {
		began := time.Now()
		q, err := c.State(ctx)
		if time.Since(began) < prompt {
			said++
		}
		if err != nil || q.Messages+q.Consumers > 0 || said == quick || try == all {
			return q, err
		}
		if !wait.Sleep(ctx, pause) {
			return q, context.Cause(ctx)
		}
	}
}

// Store publishes messages, in their order, waits for their confirms and returns a result for
// each. A *[LeftError] means that no queue has the message and that others can be stored.
// Any other error ends the connection: the message may have arrived or not. Nothing is sent before
// the broker has read the acknowledgements of all that was stored before.
func (c *Conn) Store(ps []session.Publishing) []error {
	ctx, cancel := c.limited()
	defer cancel()
	errs := make([]error, len(ps))
	if err := c.removed(ctx); err != nil {
		for i := range errs {
			errs[i] = fmt.Errorf("send it to %q: %w", ps[i].Key, err)
		}
		return errs
	}
	for at := 0; at < len(ps); {
		at += c.storeSome(ctx, ps[at:], errs[at:])
		if !c.session.Alive() {
			for i := at; i < len(ps); i++ {
				errs[i] = fmt.Errorf("send it to %q: %w", ps[i].Key, c.session.Cause())
			}
			break
		}
	}
	return errs
}

// limited ends when the broker has had its time to answer.
func (c *Conn) limited() (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(context.Background(), c.o.Timeout, fmt.Errorf("the broker did not answer within %v", c.o.Timeout))
}

// storeSome stores the first messages of ps, as many as the window takes, and returns how
// many these are. Two of the same id and destination do not go together, because a returned
// message is known by these.
func (c *Conn) storeSome(ctx context.Context, ps []session.Publishing, errs []error) int {
	type identity struct{ id, key string }
	known := map[identity]bool{}
	var flights []flight
	for i := range ps {
		this := identity{ps[i].Message.MessageId, ps[i].Key}
		if len(flights) == c.o.Window || known[this] {
			break
		}
		known[this] = true
		flight, err := c.send(ctx, &ps[i])
		if err != nil {
			errs[i] = fmt.Errorf("send it to %q: %w", ps[i].Key, err)
			c.session.Abort()
			c.answers(ctx, ps, errs, flights)
			return i + 1
		}
		flights = append(flights, flight)
	}
	c.answers(ctx, ps, errs, flights)
	return len(flights)
}

// answers waits for the confirms. When one message of several has closed the channel, each
// is sent once more, alone: only then is it known which one.
func (c *Conn) answers(ctx context.Context, ps []session.Publishing, errs []error, flights []flight) {
	again := make([]bool, len(flights))
	for i, flight := range flights {
		r := flight.wait(ctx)
		again[i] = r.Raised && len(flights) > 1
		errs[i] = c.result(&ps[i], r)
	}
	for i := range again {
		if again[i] && c.session.Alive() {
			errs[i] = c.alone(ctx, &ps[i])
		}
	}
	for _, err := range errs[:len(flights)] {
		if err != nil && !errors.As(err, new(*LeftError)) {
			c.session.Abort()
		}
	}
}

// alone publishes one message and waits for its confirm.
func (c *Conn) alone(ctx context.Context, p *session.Publishing) error {
	flight, err := c.send(ctx, p)
	if err != nil {
		return fmt.Errorf("send it to %q: %w", p.Key, err)
	}
	return c.result(p, flight.wait(ctx))
}

// send hands a message to the network.
func (c *Conn) send(ctx context.Context, p *session.Publishing) (flight, error) {
	if err := c.open(ctx); err != nil {
		return flight{}, err
	}
	p.Mandatory = true
	return flight{c.out.Publish(ctx, p, func() bool { return false }), c.out}, nil
}

// result says what has become of a message.
func (c *Conn) result(p *session.Publishing, r session.Result) error {
	switch {
	case r.Verdict == session.Confirmed:
		return nil
	case r.Verdict == session.Returned:
		return &LeftError{fmt.Sprintf("there is no queue %q", p.Key)}
	case r.Verdict == session.Nacked:
		return &LeftError{fmt.Sprintf("the broker does not take it into queue %q; is that full?", p.Key)}
	case r.Raised:
		return &LeftError{fmt.Sprintf("the broker refuses it: %v", r.Err)}
	case r.Final || r.Verdict == session.NotSent && c.session.Alive():
		return &LeftError{fmt.Sprintf("it cannot be sent: %v", r.Err)}
	case r.Verdict == session.NotSent:
		return fmt.Errorf("send it to %q: %w", p.Key, r.Err)
	default:
		return fmt.Errorf("send it to %q, where it may have arrived or not: %w", p.Key, r.Err)
	}
}

// open makes sure that there is a channel to publish on, that it has a place for a
// message, and that the broker takes messages.
func (c *Conn) open(ctx context.Context) error {
	if c.out == nil || !c.out.Usable() {
		out, err := session.OpenConfirmChannel(ctx, c.session, c.confirm)
		if err != nil {
			return fmt.Errorf("open a channel: %w", err)
		}
		c.out = out
	}
	if err := c.session.Ready(ctx); err != nil {
		return err
	}
	return c.out.Acquire(ctx)
}

// Close gives back what was taken and ends the connection. An error says that the connection
// was lost before; the broker gives everything back then, too.
func (c *Conn) Close() error {
	defer c.link.Close()
	if !c.session.Alive() {
		return fmt.Errorf("close: %w", c.session.Cause())
	}
	if err := c.GiveBack(); err != nil {
		return fmt.Errorf("close: %w", err)
	}
	return nil
}
