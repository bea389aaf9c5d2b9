package ordered

import (
	"context"

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
	for name := order.MembersQueue(o.Queue); ; name = order.ParkingQueue(all[len(all)-1].Queue) {
		there, err := exists(ctx, s, name)
		if err != nil {
			return nil, err
		}
		if !there {
			return all[:max(len(all)-1, 1)], nil
		}
		one := *o
		one.Queue = order.PartitionQueue(o.Queue, len(all)-1)
		all = append(all, &one)
	}
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
