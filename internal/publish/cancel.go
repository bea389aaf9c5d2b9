package publish

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
	"go.uber.org/zap"

	"github.com/harebus/harebus/internal/refusal"
	"github.com/harebus/harebus/internal/session"
	"github.com/harebus/harebus/topology"
)

// A deferred message is cancelled by a binding at the gate that it passes when it is due:
// see [topology.Delays.Cancellation]. Nothing has to run until then. When the gate has
// caught the message, the binding is removed by whoever cancels next.

// Margin is how long before a message is due its cancellation must be made to be certain.
// It covers the difference of two clocks, and the time until all nodes of a cluster know
// the binding.
const Margin = time.Second

// ErrTooLate says that a message was due before it could be cancelled.
var ErrTooLate = errors.New("the message is due: it was delivered, or will be")

var (
	errUncertain = fmt.Errorf("the broker may have got the cancellation too late, less than %v before the message was due, so the message may be delivered", Margin)
	errNotAll    = errors.New("another message of the transaction was not confirmed, so nothing is cancelled")
	errNoGate    = fmt.Errorf("%w: nothing was ever deferred with a ticket on this virtual host; was the ticket made on another one?", session.ErrRefused)
)

// Cancellation stands among messages for the cancellation of a deferred one.
func Cancellation(op int8, t topology.Ticket) *Message {
	at := topology.Delays{}.Cancellation(t.ID)
	return &Message{Op: op, Exchange: at.Exchange, Key: at.Key, Due: t.Due, Cancels: true, Publishing: amqp.Publishing{MessageId: t.ID, Body: []byte{}}}
}

// cancels is what a publisher knows of the cancellations that were made.
type cancels struct {
	binding, tidying session.Endings
	busy             atomic.Bool // somebody tidies

	mu      sync.Mutex       // guards what follows
	on      *session.Session // the session on which the queues of the cancelled are known to exist
	pause   time.Time        // nobody tidies before then
	useless []useless
	spare   spare
}

// spare is a channel that is kept between cancellations: to open and to close one for each would cost two round trips more.
type spare struct {
	on *session.Session
	ch *amqp.Channel
}

// useless is a cancellation that may have come too late, and then never catches anything.
type useless struct {
	id    string
	until time.Time // when it is removed
}

const (
	// uselessTime is how long a cancellation that may have come too late is kept. The broker
	// may be that late itself.
	uselessTime = 10 * time.Minute
	maxUseless  = 10_000
	// tidyAtATime is how many bindings are removed after a cancellation at most.
	tidyAtATime = 100
	tidyPause   = time.Minute // after a failure
)

func newCancels() cancels {
	return cancels{
		binding: session.Endings{What: "a deferred message is cancelled"},
		tidying: session.Endings{What: "past cancellations are removed"},
	}
}

// thenCancel publishes the messages and, if all of them are confirmed, makes the
// cancellations. So a message that takes the place of another is there before the other
// goes.
func (p *Publisher) thenCancel(ctx context.Context, outs []*Message) []error {
	errs := make([]error, len(outs))
	var messages []*Message
	var places []int
	for i, out := range outs {
		if !out.Cancels {
			messages, places = append(messages, out), append(places, i)
		}
	}
	if len(messages) > 0 {
		for k, err := range p.PublishAll(ctx, messages) {
			errs[places[k]] = err
		}
	}
	failed := slices.ContainsFunc(errs, func(err error) bool { return err != nil })
	for i, out := range outs {
		switch {
		case out.Cancels && failed:
			errs[i] = p.cfg.Failed(out, session.NotSent, errNotAll)
		case out.Cancels:
			errs[i] = p.cancel(ctx, out)
		}
	}
	return errs
}

// cancel makes one cancellation. It returns nil only if the message is certain not to be
// delivered.
func (p *Publisher) cancel(ctx context.Context, out *Message) error {
	maybe := false // the broker has the cancellation, or may have it
	c := &p.delays.cancels
	err := p.link.With(ctx, func(s *session.Session) error {
		if err := s.Ready(ctx); err != nil {
			return err
		}
		if time.Until(out.Due) <= 0 {
			return ErrTooLate
		}
		out.Broker = s.HostPort()
		return c.binding.Try(ctx, s, func() error { return p.delays.cancel(ctx, s, out.Publishing.MessageId, &maybe) })
	})
	if maybe {
		defer p.tidy()
	}
	switch {
	case err == nil && time.Until(out.Due) >= Margin:
		return nil
	case err == nil, maybe && errors.Is(err, ErrTooLate): // an earlier request may have been in time
		err = errUncertain
	}
	verdict := session.NotSent
	switch {
	case maybe:
		c.mayBeUseless(out)
		verdict = session.Unknown
	case errors.Is(err, errNoGate):
		verdict = session.Refused
	}
	return p.cfg.Failed(out, verdict, err)
}

// cancel binds a message to the queue of the cancelled. It sets maybe if the broker may
// have done so.
func (d *delayer) cancel(ctx context.Context, s *session.Session, id string, maybe *bool) error {
	if err := d.declareCancelled(ctx, s); err != nil {
		return err
	}
	err := d.bindCancelled(ctx, s, id, maybe)
	if !refusal.Missing(err) || session.Unreachable(err) {
		return err
	}
	d.cancels.know(nil) // somebody has deleted the queue, or the gate is missing
	if err := d.declareCancelled(ctx, s); err != nil {
		return err
	}
	if err = d.bindCancelled(ctx, s, id, maybe); refusal.Missing(err) && !session.Unreachable(err) {
		return fmt.Errorf("%w: %w", errNoGate, err)
	}
	return err
}

func (d *delayer) bindCancelled(ctx context.Context, s *session.Session, id string, maybe *bool) error {
	at, before := d.delays.Cancellation(id), *maybe
	*maybe = true
	err := s.RPCs(ctx, func(next func()) error {
		ch, err := d.cancels.channel(s)
		if err != nil {
			return err
		}
		next()
		if err := ch.QueueBind(at.Queue, at.Key, at.Exchange, false, nil); err != nil {
			return err // it has ended the channel
		}
		d.cancels.keep(s, ch)
		return nil
	})
	if refusal.ByBroker(err) && s.Alive() {
		*maybe = before
	}
	return err
}

// declareCancelled declares the queues of the cancelled, once for each session.
func (d *delayer) declareCancelled(ctx context.Context, s *session.Session) error {
	if d.cancels.known(s) {
		return nil
	}
	select { // one at a time: the others find it done
	case d.declaring <- struct{}{}:
		defer func() { <-d.declaring }()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	if d.cancels.known(s) {
		return nil
	}
	if err := d.cfg.EstablishDelays(ctx, s, d.delays.Cancelled()); err != nil {
		return fmt.Errorf("queues of the cancelled: %w", err)
	}
	d.cancels.know(s)
	return nil
}

// channel takes the spare channel, or opens one.
func (c *cancels) channel(s *session.Session) (*amqp.Channel, error) {
	c.mu.Lock()
	kept := c.spare
	if kept.on == s { // else it is of an older connection, or of the next one
		c.spare = spare{}
	}
	c.mu.Unlock()
	if kept.on != s {
		return s.Channel()
	}
	<-s.Spare()
	if kept.ch.IsClosed() {
		return s.Channel()
	}
	return kept.ch, nil
}

// keep keeps a channel for the next cancellation, if there is none yet and the connection has room for it: more than one
// channel beside those that are needed, because there is one also where none is allowed.
func (c *cancels) keep(s *session.Session, ch *amqp.Channel) {
	c.mu.Lock()
	kept := false
	if c.spare.on != s && cap(s.Spare()) > 1 {
		select {
		case s.Spare() <- struct{}{}:
			c.spare, kept = spare{s, ch}, true
		default:
		}
	}
	c.mu.Unlock()
	if !kept {
		_ = ch.Close() // what it was for is done
	}
}

func (c *cancels) known(s *session.Session) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.on == s
}

func (c *cancels) know(s *session.Session) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.on = s
}

// mayBeUseless notes a cancellation that may catch nothing.
func (c *cancels) mayBeUseless(out *Message) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.useless) < maxUseless {
		c.useless = append(c.useless, useless{out.Publishing.MessageId, time.Now().Add(max(0, time.Until(out.Due)) + uselessTime)})
	}
}

// past are the cancellations that are useless by now.
func (c *cancels) past() (ids []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	c.useless = slices.DeleteFunc(c.useless, func(u useless) bool {
		over := !u.until.After(now) && len(ids) < tidyAtATime
		if over {
			ids = append(ids, u.id)
		}
		return over
	})
	return ids
}

// tidy begins to remove the bindings of past cancellations, in the background.
func (p *Publisher) tidy() {
	c := &p.delays.cancels
	s, err := p.link.Up()
	if err != nil || time.Now().Before(c.paused()) || !c.busy.CompareAndSwap(false, true) {
		return
	}
	ctx := p.link.Context()
	spawned := s.Spawn(func() {
		defer c.busy.Store(false)
		err := c.tidying.Try(ctx, s, func() error {
			return s.RPCs(ctx, func(next func()) error { return p.delays.tidy(s, next) })
		})
		if err != nil && ctx.Err() == nil {
			c.wait(tidyPause)
			p.cfg.Confirms.Log.Warn("cannot remove past cancellations of deferred messages", zap.Error(err))
		}
	})
	if !spawned {
		c.busy.Store(false)
	}
}

func (c *cancels) paused() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.pause
}

func (c *cancels) wait(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.pause = time.Now().Add(d)
}

// tidy removes the bindings of messages that were caught, and of cancellations that came
// too late.
func (d *delayer) tidy(s *session.Session, next func()) error {
	ch, err := s.Channel()
	if err != nil {
		return err
	}
	defer func() { _ = ch.Close() }() // which gives back what was not rejected
	unbind := func(id string) error {
		next()
		at := d.delays.Cancellation(id)
		return ch.QueueUnbind(at.Queue, at.Key, at.Exchange, nil)
	}
	for _, id := range d.cancels.past() {
		if err := unbind(id); err != nil {
			return err
		}
	}
	settled := d.delays.Cancelled().Queues[1].Name
	for range tidyAtATime {
		next()
		m, ok, err := ch.Get(settled, false)
		if err != nil || !ok {
			return err
		}
		if err := unbind(m.MessageId); err != nil {
			return err
		}
		if err := m.Reject(false); err != nil {
			return err
		}
	}
	return nil
}
