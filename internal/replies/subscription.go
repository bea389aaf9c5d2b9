package replies

import (
	"context"
	"errors"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/harebus/harebus/internal/session"
)

const (
	// prefetch is how many replies may be unacknowledged. Handing one over takes some
	// microseconds.
	prefetch = 300
	// tag names the consumer. There is one on its channel.
	tag = "harebus-replies"
	// goodbye is how long a stop tries to delete the queue.
	goodbye = 2 * time.Second
)

// subscription is a channel that consumes from the queue.
type subscription struct {
	queue      *Queue
	name       string
	on         *session.Session
	ch         *amqp.Channel
	acks       *session.Acker
	deliveries <-chan amqp.Delivery
	closes     chan *amqp.Error
	cancels    chan string
}

func (q *Queue) subscribe(on *session.Session, name string) (*subscription, error) {
	opened := make(chan *subscription, 1)
	err := on.RPC(q.ctx, func() error {
		s := &subscription{queue: q, name: name, on: on}
		err := s.open()
		opened <- s
		return err
	})
	if err != nil {
		return nil, err
	}
	return <-opened, nil
}

// open is called inside an RPC. A channel that could not consume is closed.
func (s *subscription) open() (err error) {
	if s.ch, err = s.on.Channel(); err != nil {
		return err
	}
	s.closes = s.ch.NotifyClose(make(chan *amqp.Error, 1))
	s.cancels = s.ch.NotifyCancel(make(chan string, 1))
	if err = s.ch.Qos(prefetch, 0, false); err == nil {
		s.deliveries, err = s.ch.Consume(s.name, tag, false, false, false, false, nil)
	}
	if err != nil {
		_ = s.ch.Close() // unless the broker has done so
	}
	s.acks = session.NewAcker(s.ch, prefetch)
	return err
}

// follow hands replies over until the consumer ends. A stop deletes the queue.
func (s *subscription) follow() error {
	defer s.acks.Close()
	for {
		select {
		case <-s.queue.ctx.Done():
			s.remove()
			return session.ErrStopped
		case err := <-s.closes:
			if err == nil {
				return errors.New("channel closed")
			}
			return err
		case _, ok := <-s.cancels:
			if ok {
				s.close()
				return errors.New("the broker cancelled the consumer: the queue was deleted, or its node is down")
			}
			s.cancels = nil // the channel has ended; closes says why
		case d, ok := <-s.deliveries:
			if !ok {
				s.deliveries = nil // likewise, or cancels
				continue
			}
			if err := s.queue.hand(d); err != nil {
				s.on.Abort()
				return err
			}
			s.acks.Done(d.DeliveryTag)
		}
	}
}

// close gives what is not acknowledged back to the queue.
func (s *subscription) close() {
	_ = s.on.RPC(s.queue.ctx, s.ch.Close) // an error means that it is closed
}

// remove deletes the queue. If that fails, the broker deletes it when it has not been used
// for a while.
func (s *subscription) remove() {
	ctx, cancel := context.WithTimeout(context.Background(), goodbye)
	defer cancel()
	_ = s.on.RPC(ctx, func() error {
		_, err := s.ch.QueueDelete(s.name, false, false, false)
		return err
	})
}
