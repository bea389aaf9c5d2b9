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

// leftovers are the deliveries of one channel that nobody will handle here,
// because the service is stopping. The workers put them there, and one goroutine
// gives them back in their order: given back by several they would change places.
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

// keepsOrder says whether the order of the queue is promised, so that nothing may
// disturb it: no prefetch that changes, and no cancelled consumer whose deliveries
// come back behind later ones. A closed channel gives all of them back in order.
func (c *Config) keepsOrder() bool {
	single, _ := c.QueueArguments["x-single-active-consumer"].(bool)
	return single || (c.QueueType == topology.Quorum && c.Consume.Concurrency == 1 && c.Consume.Consumers == 1)
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

// giveBack returns to the queue what has been left over. Ascending, one by one: a
// quorum queue keeps what is returned in the order in which it comes.
func (u *subscription) giveBack() {
	for _, d := range u.renew(u.left.take()) {
		u.acks.GiveBack(d.DeliveryTag)
	}
}

// renew publishes anew what the broker has counted so many deliveries of that
// more stops would move it to the error queue, and acknowledges it. It returns the
// others. Stops are nobody's failure, and before 4.3 RabbitMQ counts each message
// that is given back.
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
		u.consumer.log.Warn("cannot put a message into its queue anew, for which it has been delivered too often; giving it back",
			zap.String("message_id", outs[i].Publishing.MessageId), zap.Error(err))
		for _, d := range all {
			if d.DeliveryTag == worn[i] {
				rest = append(rest, d)
			}
		}
	}
	return rest
}

// renew is for a message that failed and can be neither retried nor parked at the
// moment, because a declaration is refused, say. It goes back to its queue; when the
// broker has counted so many deliveries that going back more often would use up the
// limit, it is put there anew. True means that the delivery can be acknowledged.
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
		r.consumer.log.Warn("cannot put a message into its queue anew, for which it has been delivered too often; giving it back",
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

// renewed is a message exactly as it came, but for the count of its deliveries, the
// user id, which nobody else may set, and addresses that it has been sent to
// already.
func (s *Setup) renewed(d *amqp.Delivery) *publish.Message {
	headers := maps.Clone(d.Headers)
	for _, key := range []string{"x-delivery-count", "x-acquired-count", "CC", "BCC"} {
		delete(headers, key)
	}
	return &publish.Message{
		Op: int8(OpRetry), Exchange: s.cfg.DirectExchange, Key: s.cfg.Queue, Mandatory: true, ViaDefault: true,
		Publishing: amqp.Publishing{
			Headers:         headers,
			ContentType:     d.ContentType,
			ContentEncoding: d.ContentEncoding,
			DeliveryMode:    d.DeliveryMode,
			Priority:        d.Priority,
			CorrelationId:   d.CorrelationId,
			ReplyTo:         d.ReplyTo,
			Expiration:      d.Expiration,
			MessageId:       d.MessageId,
			Timestamp:       d.Timestamp,
			Type:            d.Type,
			AppId:           d.AppId,
			Body:            d.Body,
		},
	}
}

// leave puts a delivery aside that no handler has begun. One that cannot be read is
// given back without a look at its count.
func (f *feed) leave(d *amqp.Delivery) {
	if err := wire.Unpack(d); err != nil {
		d.Headers = nil
	}
	f.left.add(d)
}

// drain ends consuming: what no handler has begun goes back, handlers finish, and
// their acks are sent.
func (u *subscription) drain() error {
	if u.consumer.setup.cfg.keepsOrder() {
		return u.drainInOrder()
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

// drainInOrder ends consuming without a word to the broker, until the channel is
// closed: that gives back all that is left in the order of the queue. A cancelled
// consumer would make way for another one, or let the queue take back a message
// that is still on its way before those that came earlier.
func (u *subscription) drainInOrder() error {
	u.consumer.setFeed(nil, ErrStopped, true)
	u.consumer.waitHands()
	u.acks.Flush()
	u.settle()
	if left := u.left.take(); len(u.renew(left)) < len(left) {
		u.acks.Flush()
		u.settle()
	}
	u.acks.Close()
	return nil
}

// waitHands waits until no worker has a message in its hands, as waitIdle does
// until all have ended: they still listen to a channel that consumes.
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
