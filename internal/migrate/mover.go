package migrate

import (
	"context"
	"errors"
	"fmt"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/harebus/harebus/internal/queue"
	"github.com/harebus/harebus/internal/session"
)

// mover takes the messages of a queue before all other consumers, and publishes each to an
// exchange: one at a time, so that an interruption leaves at most one in both places.
type mover struct {
	r          *run
	to         string
	ch         *amqp.Channel
	deliveries <-chan amqp.Delivery
	out        *session.ConfirmChannel
	refuse     func(*amqp.Delivery) error  // may be nil
	key        func(*amqp.Delivery) string // nil keeps the routing key
	meanwhile  func(context.Context) error // is called again and again; may be nil
	moved      int
}

const (
	priority = 1000 // higher than that of any service
	// With one, a kill counts as a delivery of one message, and no more than that one is confirmed and
	// not yet acknowledged.
	prefetch    = 1
	answerLimit = 30 * time.Second
)

func (r *run) mover(ctx context.Context, queue, to string) (*mover, error) {
	m := &mover{r: r, to: to}
	err := r.s.On.RPCs(ctx, func(next func()) (err error) {
		if m.ch, err = r.s.On.Channel(); err != nil {
			return err
		}
		next()
		if err = m.ch.Qos(prefetch, 0, false); err != nil {
			return err
		}
		next()
		m.deliveries, err = m.ch.Consume(queue, "harebus migrate", false, false, false, false, amqp.Table{"x-priority": int64(priority)})
		return err
	})
	if err == nil {
		m.out, err = session.OpenConfirmChannel(ctx, r.s.On, session.Confirms(1, answerLimit, r.Broker.Logger()))
	}
	if err != nil {
		return nil, fmt.Errorf("take messages from %q: %w", queue, err)
	}
	return m, nil
}

// run moves messages as until says, and ends the mover.
func (m *mover) run(ctx context.Context, quiet time.Duration, free func() (bool, error)) error {
	err := m.until(ctx, quiet, free)
	return errors.Join(err, m.close(context.WithoutCancel(ctx)))
}

// until moves messages until none has come for a while and free agrees.
func (m *mover) until(ctx context.Context, quiet time.Duration, free func() (bool, error)) error {
	idle := time.NewTimer(quiet)
	defer idle.Stop()
	again := time.NewTicker(time.Second)
	defer again.Stop()
	for {
		select {
		case d, ok := <-m.deliveries:
			if !ok {
				return errors.New("the broker has ended the consumer")
			}
			if err := m.move(ctx, &d); err != nil {
				return err
			}
			m.moved++
			idle.Reset(quiet)
		case <-idle.C:
			done, err := free()
			if done || err != nil {
				return err
			}
			idle.Reset(often)
		case <-again.C:
			if m.meanwhile == nil {
				continue
			}
			if err := m.meanwhile(ctx); err != nil {
				return err
			}
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

func (m *mover) move(ctx context.Context, d *amqp.Delivery) error {
	p, err := m.copy(d)
	if err != nil {
		return err
	}
	if m.refuse != nil {
		if err := m.refuse(d); err != nil {
			return err
		}
	}
	// A message in hand is moved to its end, also when ctx ends.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), answerLimit)
	defer cancel()
	if err := m.r.s.On.Ready(ctx); err != nil {
		return err
	}
	if err := m.out.Acquire(ctx); err != nil {
		return err
	}
	if r := m.out.Wait(ctx, m.out.Publish(ctx, &p, func() bool { return false })); r.Verdict != session.Confirmed {
		return fmt.Errorf("move message %q through exchange %q: it is not confirmed: %w", d.MessageId, m.to, r.Err)
	}
	return d.Ack(false)
}

// copy is the message as it came, but for what belongs to one delivery.
func (m *mover) copy(d *amqp.Delivery) (session.Publishing, error) {
	in := queue.Unpack(d)
	if in.Broken {
		return session.Publishing{}, fmt.Errorf("message %q has properties that are not AMQP, so nobody can move it; remove it with the management page", d.MessageId)
	}
	out := in.Renewed(m.r.s.On.User())
	out.Exchange, out.Key, out.Mandatory = m.to, d.RoutingKey, true
	if m.key != nil {
		out.Key = m.key(d)
	}
	out.Message.Expiration = d.Expiration // it is not late yet: it begins anew in the holding queue
	return out, nil
}

// close ends the consumer. What it holds goes back.
func (m *mover) close(ctx context.Context) error {
	m.out.Retire()
	if m.ch.IsClosed() {
		return nil
	}
	return m.r.s.On.RPC(ctx, m.ch.Close)
}
