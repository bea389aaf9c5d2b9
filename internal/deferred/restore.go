package deferred

import (
	"context"
	"errors"
	"fmt"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/harebus/harebus/internal/header"
	"github.com/harebus/harebus/internal/publish"
	"github.com/harebus/harebus/internal/queue"
	"github.com/harebus/harebus/internal/refusal"
	"github.com/harebus/harebus/internal/session"
	"github.com/harebus/harebus/internal/wait"
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
		never := refusal.Missing(err) && !session.Unreachable(err) // nobody has cancelled anything yet
		if err != nil && !never {
			return fmt.Errorf("message %q: remove the cancellation: %w", t.ID, err)
		}
		early := time.Until(t.Due) >= publish.Margin
		result = Sent
		found, err := o.sendFrom(ctx, s, lost, t.ID, early)
		switch {
		case found || err != nil:
			return err
		case never:
			return fmt.Errorf("message %q: %w", t.ID, ErrNotCancelled)
		case early:
			result = WillCome
			return nil
		default:
			return o.send(ctx, s, t)
		}
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
		for _, q := range append((topology.Delays{}).Cancelled().Queues, topology.Queue{Name: lost}) {
			found, err := o.sendFrom(ctx, s, q.Name, t.ID, false)
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

// sendFrom looks for a message in one queue. One that is early stays there.
func (o *Options) sendFrom(ctx context.Context, s *session.Session, name, id string, early bool) (sent bool, err error) {
	n, err := ready(ctx, s, name)
	if err != nil || n == 0 {
		return false, err
	}
	err = o.look(ctx, s, held{name, n, patiently}, func(m *queue.Message) (bool, error) {
		if m.MessageId != id {
			return false, nil
		}
		err := ErrLost
		if !early {
			err = o.sending(ctx, s, func(out *session.ConfirmChannel) error { return sendOne(ctx, s, out, m) })
		}
		if err != nil {
			return false, fmt.Errorf("message %q: %w", id, err)
		}
		sent = true
		return true, nil
	})
	return sent, err
}

// sending calls fn with a channel to publish on.
func (o *Options) sending(ctx context.Context, s *session.Session, fn func(*session.ConfirmChannel) error) error {
	out, err := session.OpenConfirmChannel(ctx, s, session.Confirms(1, o.Timeout, o.Broker.Logger()))
	if err != nil {
		return fmt.Errorf("open a channel: %w", err)
	}
	defer out.Retire()
	return fn(out)
}

// sendOne sends a message to its exit and waits for the confirm.
func sendOne(ctx context.Context, s *session.Session, on *session.ConfirmChannel, m *queue.Message) error {
	exit, _ := labels(m.Delivery)
	if exit == "" || m.Broken {
		return errNoExit
	}
	if err := exists(ctx, s, exit); err != nil {
		return err
	}
	if err := errors.Join(s.Ready(ctx), on.Acquire(ctx)); err != nil {
		return err
	}
	out := m.Without("", header.OfBroker)
	out.Exchange, out.Key, out.Mandatory = topology.DefaultDelayPrefix+".exits", exit, true
	r := on.Wait(ctx, on.Publish(ctx, &out, func() bool { return false }))
	if r.Verdict != session.Confirmed {
		return fmt.Errorf("send it to its destination: %v: %w", r.Verdict, errors.Join(r.Err, errors.New("it stays where it was")))
	}
	return nil
}

var errNoExit = errors.New("it does not say where it was to go")

// exists sees to it that an exit exists. Without it the exchange of the exits would put the
// message into the queue of the lost again, and confirm it.
func exists(ctx context.Context, s *session.Session, label string) error {
	err := s.WithChannel(ctx, func(ch *amqp.Channel) error {
		_, err := ch.QueueDeclarePassive(topology.DefaultDelayPrefix+"."+label, true, false, false, false, nil)
		return err
	})
	exchange, key := destination(label)
	if !refusal.Missing(err) || session.Unreachable(err) {
		return err
	}
	if exchange == "" && key == "" {
		return fmt.Errorf("%w: its exit %q was deleted, and its name is cut", errNoExit, label)
	}
	return s.WithChannel(ctx, func(ch *amqp.Channel) error { return (topology.Delays{}).Exit(exchange, key).Declare(ch) })
}

// Lost is what became of the messages in the queue of the lost.
type Lost struct {
	// Sent were sent to their destinations.
	Sent int
	// Early stay, because they are not due yet, the first of them at Due.
	Early int
	Due   time.Time
	// Unclear stay, because they do not say where they were to go.
	Unclear int
}

// RestoreLost sends on the messages that met a deleted queue. Each is removed when the broker
// has confirmed it, so an interruption can leave one in both places.
func (o Options) RestoreLost(ctx context.Context) (all Lost, err error) {
	err = o.with(ctx, "restore", func(ctx context.Context, s *session.Session) error {
		n, err := ready(ctx, s, lost)
		if err != nil || n == 0 {
			return err
		}
		return o.sending(ctx, s, func(out *session.ConfirmChannel) error {
			return o.look(ctx, s, held{lost, n, patiently}, func(m *queue.Message) (bool, error) { return false, o.sendLost(ctx, s, out, m, &all) })
		})
	})
	return all, err
}

func (o *Options) sendLost(ctx context.Context, s *session.Session, out *session.ConfirmChannel, m *queue.Message, all *Lost) error {
	if due := o.item(m.Delivery).Due; time.Until(due) > 0 {
		if all.Early++; all.Due.IsZero() || due.Before(all.Due) {
			all.Due = due
		}
		return nil
	}
	err := sendOne(ctx, s, out, m)
	switch {
	case errors.Is(err, errNoExit):
		all.Unclear++
		return nil
	case err != nil:
		return fmt.Errorf("message %q: %w", m.MessageId, err)
	}
	all.Sent++
	return m.Ack(false)
}
