package deferred

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/harebus/harebus/internal/header"
	"github.com/harebus/harebus/internal/publish"
	"github.com/harebus/harebus/internal/refusal"
	"github.com/harebus/harebus/internal/session"
	"github.com/harebus/harebus/internal/wait"
	"github.com/harebus/harebus/internal/wire"
	"github.com/harebus/harebus/topology"
)

// Restored is what became of a cancelled message.
type Restored string

// The results.
const (
	// WillCome: the cancellation was removed before the message was due.
	WillCome Restored = "it comes when it is due"
	// Sent: the message was among the cancelled and was sent to its destination.
	Sent Restored = "it was due and has been sent"
)

// Restore takes back a cancellation. A message that was due since is taken from the queues
// of the cancelled and sent to its destination: it is removed there only when the broker
// has confirmed it, so an interruption can leave it in both. It fails with
// [ErrNotCancelled].
func (o Options) Restore(ctx context.Context, t topology.Ticket) (result Restored, err error) {
	err = o.with(ctx, "restore", func(ctx context.Context, s *session.Session) error {
		at := topology.Delays{}.Cancellation(t.ID)
		err := s.WithChannel(ctx, func(ch *amqp.Channel) error { return ch.QueueUnbind(at.Queue, at.Key, at.Exchange, nil) })
		if refusal.Missing(err) && !session.Unreachable(err) {
			return fmt.Errorf("message %q: %w", t.ID, ErrNotCancelled)
		}
		if err != nil {
			return fmt.Errorf("message %q: remove the cancellation: %w", t.ID, err)
		}
		if time.Until(t.Due) >= publish.Margin {
			result = WillCome
			return nil
		}
		result = Sent
		return o.send(ctx, s, t)
	})
	if err != nil {
		return "", err
	}
	return result, nil
}

// send finds a message among the cancelled and sends it to its destination. It looks again
// for a while, because the message may be on its way from one queue to the next.
func (o *Options) send(ctx context.Context, s *session.Session, t topology.Ticket) error {
	const rounds, pause = 4, 500 * time.Millisecond
	for range rounds {
		if left := time.Until(t.Due.Add(pause)); left > 0 {
			wait.Sleep(ctx, left)
		}
		for _, queue := range append((topology.Delays{}).Cancelled().Queues, topology.Queue{Name: lost}) {
			found, err := o.sendFrom(ctx, s, queue.Name, t.ID)
			if err != nil || found {
				return err
			}
		}
		if !wait.Sleep(ctx, pause) {
			return context.Cause(ctx)
		}
	}
	return fmt.Errorf("message %q: %w", t.ID, ErrNotCancelled)
}

// sendFrom looks for a message in one queue.
func (o *Options) sendFrom(ctx context.Context, s *session.Session, queue, id string) (sent bool, err error) {
	n, err := ready(ctx, s, queue)
	if err != nil || n == 0 {
		return false, err
	}
	err = o.look(ctx, s, queue, n, func(m *message) (bool, error) {
		if m.MessageId != id {
			return false, nil
		}
		if err := o.sendOne(ctx, s, m); err != nil {
			return false, fmt.Errorf("message %q: %w", id, err)
		}
		sent = true
		return true, nil
	})
	return sent, err
}

// sendOne sends a message to its exit and waits for the confirm.
func (o *Options) sendOne(ctx context.Context, s *session.Session, m *message) error {
	exit, _ := labels(m.Delivery)
	if exit == "" {
		return errors.New("it does not say where it was to go")
	}
	log := o.Broker.Logger()
	confirms := session.ConfirmConfig{Window: 1, Timeout: o.Timeout, Log: log, Waits: wait.Teller{Log: log}, Plain: func(bool) {}}
	ch, err := session.OpenConfirmChannel(ctx, s, confirms)
	if err != nil {
		return fmt.Errorf("open a channel: %w", err)
	}
	defer ch.Retire()
	if err := errors.Join(s.Ready(ctx), ch.Acquire(ctx)); err != nil {
		return err
	}
	out := session.Publishing{Exchange: topology.DefaultDelayPrefix + ".exits", Key: exit, Mandatory: true, Message: wire.FromDelivery(m.Delivery)}
	out.Message.DeliveryMode, out.Message.Expiration = amqp.Persistent, ""
	if m.table != nil {
		out.Table, out.Message.Headers = m.table.Without(header.OfBroker), nil
	} else {
		out.Message.Headers = maps.Clone(m.Headers)
		maps.DeleteFunc(out.Message.Headers, func(key string, _ any) bool { return header.OfBroker(key) })
	}
	r := ch.Wait(ctx, ch.Publish(ctx, &out, func() bool { return false }))
	if r.Verdict != session.Confirmed {
		return fmt.Errorf("send it to its destination: %v: %w", r.Verdict, errors.Join(r.Err, errors.New("it stays among the cancelled")))
	}
	return nil
}
