package survey

import (
	"context"
	"errors"
	"strings"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/harebus/harebus/internal/messageid"
	"github.com/harebus/harebus/internal/refusal"
)

// MayConfigure says whether the user may declare a queue of this name. The question has an
// argument that no broker takes, so it declares nothing.
func (s Survey) MayConfigure(ctx context.Context, queue string) (bool, error) {
	return s.may(ctx, queue, func(ch *amqp.Channel) error {
		_, err := ch.QueueDeclare(queue, true, false, false, false, amqp.Table{"x-expires": "no number"})
		return err
	})
}

// MayConsume says whether the user may consume from a queue that exists. The question has a
// priority that no broker takes, so it consumes nothing.
func (s Survey) MayConsume(ctx context.Context, queue string) (bool, error) {
	return s.may(ctx, queue, func(ch *amqp.Channel) error {
		_, err := ch.Consume(queue, "", false, false, false, false, amqp.Table{"x-priority": "no number"})
		return err
	})
}

// MayBind says whether the user may bind a queue to an exchange, and which of the two names
// is refused. Both exist. The question is to remove a binding that nobody has.
func (s Survey) MayBind(ctx context.Context, queue, exchange string) (refusedQueue, refusedExchange bool, err error) {
	remove := func(ch *amqp.Channel) error { return ch.QueueUnbind(queue, absent(), exchange, nil) }
	mayWrite, err := s.may(ctx, queue, remove)
	if err != nil || !mayWrite {
		return !mayWrite, false, err
	}
	mayRead, err := s.may(ctx, exchange, remove)
	return false, !mayRead, err
}

// MayPublish says whether the user may publish to an exchange that exists; the empty name is
// the default exchange. Nothing reaches a queue.
func (s Survey) MayPublish(ctx context.Context, exchange string) (bool, error) {
	if exchange == "" {
		return s.may(ctx, "amq.default", func(ch *amqp.Channel) error { return ToNobody(ctx, ch) })
	}
	return s.may(ctx, exchange, func(ch *amqp.Channel) error { return ch.ExchangeUnbind(exchange, absent(), "amq.direct", false, nil) })
}

// ToNobody publishes a message that reaches no queue, and waits until the broker has read it.
func ToNobody(ctx context.Context, ch *amqp.Channel) error {
	if err := ch.PublishWithContext(ctx, "", absent(), false, false, amqp.Publishing{}); err != nil {
		return err
	}
	return ch.Qos(1, 0, false) // its answer comes after a refusal of what was published
}

// may says whether a question is not refused because of a permission for name. A refusal that
// names another object comes after the permission for name was looked at.
func (s Survey) may(ctx context.Context, name string, question func(*amqp.Channel) error) (bool, error) {
	err := s.On.WithChannel(ctx, question)
	var answer *amqp.Error
	switch {
	case refusal.Forbidden(err) && errors.As(err, &answer):
		return !strings.Contains(answer.Reason, "queue '"+name+"' in") && !strings.Contains(answer.Reason, "exchange '"+name+"' in"), nil
	case err == nil || errors.As(err, &answer) && answer.Server:
		return true, nil
	default:
		return false, err
	}
}

// absent is the name of an object that does not exist.
func absent() string { return "harebus.absent." + messageid.New() }
