package consume

import (
	"context"
	"errors"
	"slices"
	"sync/atomic"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
	"go.uber.org/zap"

	"github.com/harebus/harebus/internal/lanes"
	"github.com/harebus/harebus/internal/session"
	"github.com/harebus/harebus/internal/wire"
)

// Task is the work on one delivery. An implementation embeds Delivery.
type Task interface {
	// Handle does the work. The delivery is acknowledged if Handle has called Ack; otherwise
	// it goes back to the queue, also when Handle has ended its goroutine.
	Handle()
	// Store stores a copy of a message that is not to be handled now in the parking queue of an ordered
	// queue: behind one of its key; or, with a cause, for good.
	Store(cause error)
	// Handling is what a log says of the message, and how long its handler may take (0: no
	// limit); false while no handler has begun.
	Handling() (fields []zap.Field, limit time.Duration, ok bool)

	base() *Delivery
}

// Delivery is a message under way: from the broker until it is acknowledged or given back,
// once.
type Delivery struct {
	Raw amqp.Delivery
	// Packed are the properties and the body, as they came; Unreadable is not nil when the
	// headers cannot be read.
	Packed     []byte
	Unreadable *wire.UnreadableError
	// Began is when a worker began with it. Again says that it was held before.
	Began time.Time
	Again bool
	// Failures is how often it has failed here, in a stream.
	Failures int

	consumer *consumer
	feed     *feed
	task     Task
	ended    atomic.Bool
	early    atomic.Bool // acknowledged before it was handled: see AckEarly
	// delivered is how often the broker has delivered it before, as far as it counts that. It
	// is read once, because the headers are given to handlers, which may change them.
	delivered int64
	held      func(again func(), lives func() bool) // see Hold
	repeat    *time.Duration                        // see Repeat
	helper    atomic.Int64                          // the goroutine that works on it apart from the worker

	// Of an ordered queue.
	tenure *tenure
	lane   *lanes.Message
	step   lanes.Step
	// suspected says that it has perhaps ended a process, so it is handled alone; entered that it is handled: see solitude.
	suspected, entered bool
	moved              *lanes.Place // a copy that is stored in the parking queue
	came               time.Time
}

// Enter says that the calling goroutine works on the delivery, too, for [Group.Inside].
func (d *Delivery) Enter() { d.helper.Store(goroutine()) }

func (d *Delivery) base() *Delivery { return d }

// Rehearse makes a delivery that no broker has sent: for work that is tried without one.
func (d *Delivery) Rehearse(ctx context.Context, log *zap.Logger) {
	d.consumer = &consumer{hard: ctx, soft: ctx, log: log}
}

// Context is that of the handlers: it ends when a stop takes too long, and in an ordered queue also when
// another process may have the queue.
func (d *Delivery) Context() context.Context {
	if d.tenure != nil {
		return d.tenure.work
	}
	return d.consumer.hard
}

// Ackable is Context for what has to be done before the ack. It also ends when the delivery
// can no longer be acknowledged, and after Longest.
func (d *Delivery) Ackable() context.Context {
	if d.early.Load() {
		return d.Context()
	}
	return d.feed.lease.take()
}

// Patient is for what waits before its handler: it ends when a stop or a pause begins, and
// when the delivery can no longer be acknowledged.
func (d *Delivery) Patient() context.Context { return d.feed.patient }

// Stopping ends when a stop begins.
func (d *Delivery) Stopping() context.Context {
	if d.tenure != nil {
		return d.tenure.soft
	}
	return d.consumer.soft
}

// Log names the queue and the consumer.
func (d *Delivery) Log() *zap.Logger { return d.consumer.log }

// Age is how long a worker has had it.
func (d *Delivery) Age() time.Duration { return time.Since(d.Began) }

// Session is the session that it came from.
func (d *Delivery) Session() *session.Session { return d.feed.session }

// Connected says whether it can still be acknowledged, or was before it was handled.
func (d *Delivery) Connected() bool {
	return d.early.Load() || d.feed.session.Alive() && !d.feed.ch.IsClosed() && (d.tenure == nil || d.tenure.ctx.Err() == nil)
}

// Ended says whether it was acknowledged or given back.
func (d *Delivery) Ended() bool { return d.ended.Load() }

// Ack acknowledges it. After Ack or GiveBack it does nothing.
func (d *Delivery) Ack() {
	if d.repeat != nil || !d.ended.CompareAndSwap(false, true) {
		return
	}
	now, others := d.feed.place.Done(d.Raw.DeliveryTag)
	if now {
		d.feed.acks.Done(d.Raw.DeliveryTag)
	}
	for _, tag := range others {
		d.feed.acks.Done(tag)
	}
	if d.feed.trial != nil && !d.Raw.Redelivered {
		d.feed.trial()
	}
}

// AckEarly acknowledges it although the work on it goes on, perhaps for longer than the broker waits for an
// ack: the message is stored elsewhere. Its worker then counts as one that is not there, so that the
// consumer does not fetch messages that would wait behind it.
func (d *Delivery) AckEarly() {
	d.early.Store(true)
	d.Ack()
	d.consumer.adjust()
}

// GiveBack puts it back into its queue: at once, or together with others, in their order,
// when the consumer is about to end. After Ack or GiveBack it does nothing. One of an ordered queue
// stays here, and is handled again.
func (d *Delivery) GiveBack() {
	if d.tenure != nil || !d.ended.CompareAndSwap(false, true) {
		return
	}
	if d.consumer.ending(d.feed) {
		d.feed.left.add(d)
		return
	}
	d.feed.acks.GiveBack(d.Raw.DeliveryTag)
}

// ExpiredIn says whether it was in a queue from which the broker moved it on when its time
// was over.
func (d *Delivery) ExpiredIn(queue string) bool {
	deaths, _ := d.Raw.Headers["x-death"].([]any)
	return slices.ContainsFunc(deaths, func(death any) bool {
		entry, _ := death.(amqp.Table)
		return entry["queue"] == queue && entry["reason"] == "expired"
	})
}

// WornOut says whether the broker has counted half of the deliveries that a message may
// have. One with a user id counts as such only when it has none left: a copy would lose
// the id, which is the sender's.
func (d *Delivery) WornOut() bool {
	limit, count := d.consumer.cfg.DeliveryLimit, d.delivered
	switch {
	case count <= 0:
		return false
	case d.Raw.UserId != "":
		return count >= int64(limit)
	default:
		return count >= int64(limit/2)
	}
}

const deliveryCount = "x-delivery-count"

// count reads how often the broker has delivered it before. A stream counts nothing: there its publisher has written that.
func (d *Delivery) count() {
	if !d.Reads() {
		d.delivered, _ = d.Raw.Headers[deliveryCount].(int64)
	}
}

// unpack decodes properties and headers. False means that the delivery cannot be read at
// all, because it was never packed.
func (d *Delivery) unpack() bool {
	d.Packed = d.Raw.Body
	err := wire.Unpack(&d.Raw)
	d.count()
	if errors.As(err, &d.Unreadable) || err == nil {
		return true
	}
	d.consumer.log.Error("a delivery cannot be read; reconnecting", zap.Error(err))
	d.feed.session.Abort()
	return false
}
