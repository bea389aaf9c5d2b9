package ordered

import (
	"context"
	"fmt"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/harebus/harebus/internal/refusal"
	"github.com/harebus/harebus/internal/session"
	"github.com/harebus/harebus/order"
)

// whole are the options for the queue, and for each of its partitions if it is divided: each has a parking queue of its own.
func (o *Options) whole(ctx context.Context) ([]*Options, error) {
	link, err := o.Broker.Link("parked")
	if err != nil {
		return nil, err
	}
	defer link.Close()
	ctx, cancel := context.WithTimeout(ctx, o.Timeout)
	defer cancel()
	s, err := link.Session(ctx)
	if err != nil {
		return nil, err
	}
	all := []*Options{o}
	there, err := exists(ctx, s, order.MembersQueue(o.Queue))
	if refusal.Forbidden(err) { // from RabbitMQ 4.2.6 on, also if there is none
		err = fmt.Errorf("whether %q has partitions is not told; the user needs read on %q: %w", o.Queue, order.MembersQueue(o.Queue), err)
	}
	for n := 0; there && err == nil; n++ {
		one := *o
		one.Queue = order.PartitionQueue(o.Queue, n)
		if there, err = exists(ctx, s, order.ParkingQueue(one.Queue)); !there && err == nil {
			there, err = exists(ctx, s, one.Queue) // its parking queue was deleted; there are further ones
		}
		if there {
			all = append(all, &one)
		}
	}
	return all, err
}

func exists(ctx context.Context, s *session.Session, queue string) (bool, error) {
	err := s.WithChannel(ctx, func(ch *amqp.Channel) error {
		_, err := ch.QueueDeclarePassive(queue, true, false, false, false, nil)
		return err
	})
	if refusal.Missing(err) {
		return false, nil
	}
	return err == nil, err
}
