package consume

import (
	"cmp"
	"context"
	"slices"
	"sync"

	"go.uber.org/zap"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/harebus/harebus/internal/wire"
)

// leftovers are the deliveries of one channel that are not handled here, because the
// consumer is about to end. The workers put them there, and one goroutine gives them back
// in their order. Several goroutines would change the order.
type leftovers struct {
	mu         sync.Mutex // guards what follows
	deliveries []*Delivery
}

func (l *leftovers) add(d *Delivery) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.deliveries = append(l.deliveries, d)
}

// take returns them in the order in which the broker has delivered them.
func (l *leftovers) take() []*Delivery {
	l.mu.Lock()
	defer l.mu.Unlock()
	all := l.deliveries
	l.deliveries = nil
	sortByTag(all)
	return all
}

// sortByTag puts deliveries into the order in which the broker has delivered them.
func sortByTag(all []*Delivery) {
	slices.SortFunc(all, func(a, b *Delivery) int { return cmp.Compare(a.Raw.DeliveryTag, b.Raw.DeliveryTag) })
}

// keep keeps a delivery whose handler has not begun. One that cannot be read is given
// back whatever its count is.
func (c *consumer) keep(f *feed, raw amqp.Delivery) {
	d := &Delivery{Raw: raw, Packed: raw.Body, consumer: c, feed: f}
	if err := wire.Unpack(&d.Raw); err != nil {
		d.Raw.Headers = nil
	}
	d.count()
	f.left.add(d)
}

// giveBack returns the leftovers to the queue, one by one and ascending, because a
// quorum queue keeps returned messages in the order in which they come.
func (u *subscription) giveBack() {
	for _, d := range u.republishWorn(u.remains.take()) {
		u.acks.GiveBack(d.Raw.DeliveryTag)
	}
}

// republishWorn publishes again, and acknowledges, messages whose delivery count is so high
// that more stops would move them to the error queue. It returns the others. Before
// 4.3 RabbitMQ counts each message that is given back, but a stop is no failure of
// the message. When the channel has ended nothing can be acknowledged: the messages come back
// by themselves, and a copy would be one more.
func (u *subscription) republishWorn(all []*Delivery) []*Delivery {
	var rest, worn []*Delivery
	for _, d := range all {
		if d.WornOut() {
			worn = append(worn, d)
		} else {
			rest = append(rest, d)
		}
	}
	if len(worn) == 0 {
		return rest
	}
	if u.ch.IsClosed() {
		return all
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(u.consumer.hard), Grace)
	defer cancel()
	for i, err := range u.consumer.cfg.Republish(ctx, worn) {
		d := worn[i]
		if err == nil {
			u.acks.Done(d.Raw.DeliveryTag)
			continue
		}
		u.consumer.log.Warn("cannot publish a message again to reset its delivery count; giving it back",
			zap.String("message_id", d.Raw.MessageId), zap.Error(err))
		rest = append(rest, d)
	}
	sortByTag(rest)
	return rest
}
