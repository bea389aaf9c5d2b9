package harebus

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
	"go.uber.org/zap"

	"github.com/harebus/harebus/internal/publish"
	"github.com/harebus/harebus/internal/wire"
	"github.com/harebus/harebus/topology"
)

// leftovers are the deliveries of one channel that are not handled here, because
// the service is stopping. The workers put them there, and one goroutine gives them
// back in their order. Several goroutines would change the order.
type leftovers struct {
	mu         sync.Mutex // guards what follows
	deliveries []amqp.Delivery
}

func (l *leftovers) add(d *amqp.Delivery) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.deliveries = append(l.deliveries, *d)
}

// take returns them in the order in which the broker has delivered them.
func (l *leftovers) take() []amqp.Delivery {
	l.mu.Lock()
	defer l.mu.Unlock()
	all := l.deliveries
	l.deliveries = nil
	slices.SortFunc(all, func(a, b amqp.Delivery) int { return cmp.Compare(a.DeliveryTag, b.DeliveryTag) })
	return all
}

// keepsOrder says whether the order of the queue is promised. Then the prefetch
// must not change, and a stop must not cancel the consumer, because its deliveries
// could come back behind later ones. Closing the channel gives all of them back in
// order.
func (c *Config) keepsOrder() bool {
	single, _ := c.QueueOptions.Arguments["x-single-active-consumer"].(bool)
	return single || (c.QueueOptions.Type == topology.Quorum && c.Consume.Concurrency == 1 && c.Consume.Consumers == 1)
}

// deliveryLimit is the number of deliveries after which the broker moves a message
// away, as far as the setup knows.
func (c *Config) deliveryLimit() int {
	if limit, ok := c.queueArguments()["x-delivery-limit"]; ok {
		if n, err := parseCount(limit); err == nil {
			return n
		}
	}
	return defaultDeliveryLimit // RabbitMQ 4 has the same default
}

// giveBack returns the leftovers to the queue, one by one and ascending, because a
// quorum queue keeps returned messages in the order in which they come.
func (u *subscription) giveBack() {
	for _, d := range u.renew(u.left.take()) {
		u.acks.GiveBack(d.DeliveryTag)
	}
}

// renew publishes again, and acknowledges, messages whose delivery count is so high
// that more stops would move them to the error queue. It returns the others. Before
// 4.3 RabbitMQ counts each message that is given back, but a stop is no failure of
// the message.
func (u *subscription) renew(all []amqp.Delivery) []amqp.Delivery {
	s := u.consumer.setup
	limit := s.cfg.deliveryLimit()
	var rest []amqp.Delivery
	var worn []uint64
	var outs []*publish.Message
	for i := range all {
		d := &all[i]
		if !wornOut(d, limit) {
			rest = append(rest, *d)
			continue
		}
		worn, outs = append(worn, d.DeliveryTag), append(outs, s.renewed(d))
	}
	if len(outs) == 0 {
		return rest
	}
	eng, err := s.engine()
	if err != nil {
		return all
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(u.consumer.hard), lastGrace)
	defer cancel()
	for i, err := range eng.publisher.PublishAll(ctx, outs) {
		if err == nil {
			u.acks.Done(worn[i])
			continue
		}
		u.consumer.log.Warn("cannot publish a message again to reset its delivery count; giving it back",
			zap.String("message_id", outs[i].Publishing.MessageId), zap.Error(err))
		for _, d := range all {
			if d.DeliveryTag == worn[i] {
				rest = append(rest, d)
			}
		}
	}
	return rest
}

// renew is for a message that failed and can be neither retried nor parked now, for
// example because a declaration is refused. It goes back to its queue. If its
// delivery count is so high that this would use up the limit, it is published to the
// queue again instead. True means that the delivery can be acknowledged.
func (r *receipt) renew() bool {
	s := r.setup
	if !wornOut(r.delivery, s.cfg.deliveryLimit()) {
		return false
	}
	eng, err := s.engine()
	if err != nil {
		return false
	}
	ctx, cancel := context.WithTimeout(r.consumer.hard, lastGrace)
	defer cancel()
	if err := eng.publisher.Publish(ctx, s.renewed(r.delivery)); err != nil {
		r.consumer.log.Warn("cannot publish a message again to reset its delivery count; giving it back",
			append(r.fields(), zap.Error(err))...)
		return false
	}
	return true
}

// wornOut says whether the broker has counted half of the deliveries that a message
// may have. One with a user id is renewed only when it has none left: a copy would
// lose the id, which is the sender's.
func wornOut(d *amqp.Delivery, limit int) bool {
	count, err := parseCount(d.Headers["x-delivery-count"])
	if err != nil || count == 0 {
		return false
	}
	if d.UserId != "" {
		return count >= limit
	}
	return count >= limit/2
}

// renewed is a copy of a message as it came. It has a new delivery count, no user
// id, which only its owner may set, and no CC, because the message has been sent to
// these queues already.
func (s *Setup) renewed(d *amqp.Delivery) *publish.Message {
	return &publish.Message{
		Op: int8(OpRetry), Exchange: s.cfg.Exchanges.Direct, Key: s.cfg.Queue, Mandatory: true, ViaDefault: true,
		Publishing: asItCame(d),
	}
}

// asItCame is the content of a copy of a message as it came.
func asItCame(d *amqp.Delivery) amqp.Publishing {
	p := wire.FromDelivery(d)
	p.Headers = maps.Clone(d.Headers)
	maps.DeleteFunc(p.Headers, func(key string, _ any) bool { return wire.OfOneDelivery(key) })
	return p
}

// leave keeps a delivery whose handler has not begun. One that cannot be read is
// given back whatever its count is.
func (f *feed) leave(d *amqp.Delivery) {
	if err := wire.Unpack(d); err != nil {
		d.Headers = nil
	}
	f.left.add(d)
}

// drain ends consuming: deliveries whose handler has not begun go back, handlers
// finish, and their acks are sent.
func (u *subscription) drain() error {
	if u.consumer.setup.cfg.keepsOrder() {
		u.consumer.setFeed(nil, ErrStopped, true)
		u.drainInOrder()
		return nil
	}
	// Cancel comes first: acks followed by the end of a channel that still consumes
	// can be lost.
	err := u.cancel()
	u.consumer.setFeed(nil, ErrStopped, true)
	if err == nil && u.deliveries != nil {
		for d := range u.deliveries {
			u.feed.leave(&d)
		}
	}
	u.giveBack()
	u.consumer.waitIdle()
	u.giveBack() // what was begun and cut off
	u.acks.Close()
	u.settle()
	return err
}

// drainInOrder ends consuming without cancelling the consumer. Closing the channel
// later gives back all remaining deliveries in the order of the queue. If the
// consumer were cancelled, another one could begin, or the queue could take back a
// message that is still on the network before earlier ones.
func (u *subscription) drainInOrder() {
	u.consumer.waitHands()
	u.acks.Flush()
	u.settle()
	if left := u.left.take(); len(u.renew(left)) < len(left) {
		u.acks.Flush()
		u.settle()
	}
	u.acks.Close()
}

// waitHands waits until no worker handles a message. waitIdle would wait until all
// workers have ended, but here they still read from a channel that consumes.
func (c *consumer) waitHands() {
	for c.hard.Err() == nil {
		if c.busy.Load() == 0 {
			return
		}
		select {
		case <-c.moved:
		case <-c.hard.Done():
		}
	}
	grace := time.NewTimer(lastGrace)
	defer grace.Stop()
	for c.busy.Load() > 0 {
		select {
		case <-c.moved:
		case <-grace.C:
			c.late = true
			return
		}
	}
}
