package resend

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"sync"
	"sync/atomic"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
	"go.uber.org/zap"

	"github.com/harebus/harebus/internal/consume"
	"github.com/harebus/harebus/internal/lanes"
	"github.com/harebus/harebus/internal/publish"
	"github.com/harebus/harebus/order"
)

// routing is what is known of the way of messages to the partitions of a queue.
type routing struct {
	turn atomic.Uint64 // of messages without a key

	mu     sync.Mutex // guards what follows
	under  map[lanes.Route]passage
	logged time.Time
}

// passage is a message that has not got to its partition.
type passage struct {
	partition string
	since     time.Time // when it was sent first
	last      time.Time // when the latest attempt ended; zero while one is under way
	err       error     // of that attempt
}

// begin notes that an attempt begins.
func (r *routing) begin(as lanes.Route, partition string, now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.under == nil {
		r.under = map[lanes.Route]passage{}
	}
	one, known := r.under[as]
	if !known {
		one.since = now
	}
	one.partition, one.last = partition, time.Time{}
	r.under[as] = one
}

// end notes the outcome of an attempt: nil also for a message that another router sends. It says whether that is to be logged.
func (r *routing) end(as lanes.Route, err error, now time.Time) (say bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err == nil {
		delete(r.under, as)
		return false
	}
	r.forget(now)
	one := r.under[as]
	one.err, one.last = err, now
	r.under[as] = one
	if say = now.Sub(r.logged) >= quiet; say {
		r.logged = now
	}
	return say
}

// forget forgets messages that were not tried again for a minute: another process has them, because those that could not be sent are tried again
// sooner. mu is held.
func (r *routing) forget(now time.Time) {
	const age = time.Minute
	maps.DeleteFunc(r.under, func(_ lanes.Route, one passage) bool { return !one.last.IsZero() && now.Sub(one.last) > age })
}

// trouble is why messages do not get to their partition.
func (r *routing) trouble() error {
	const patience = 5 * time.Second
	r.mu.Lock()
	defer r.mu.Unlock()
	now := time.Now()
	r.forget(now)
	oldest := passage{since: now.Add(-patience)}
	for _, one := range r.under {
		if one.since.Before(oldest.since) {
			oldest = one
		}
	}
	if oldest.partition == "" {
		return nil
	}
	return fmt.Errorf("a message has not got to its partition %s since %s; those of its key wait behind it: %w",
		oldest.partition, oldest.since.Format(time.RFC3339), cmp.Or(oldest.err, errUnconfirmed))
}

var errUnconfirmed = errors.New("the broker has not confirmed it so far")

// routed is the work of the router on a delivery: a copy, as the message came, goes to the partition of its key. What cannot
// be sent stays here, with those of its key behind it, and is tried again.
type routed struct {
	consume.Delivery
	queue *Queue
}

// Route is the work on a delivery from a divided queue.
func (q *Queue) Route() consume.Task { return &routed{queue: q} }

// Members is the queue in which the instances are counted that share a divided queue; empty for another one.
func (q *Queue) Members() string {
	if len(q.Partitions) == 0 {
		return ""
	}
	return order.MembersQueue(q.Name)
}

// Handle sends the copy, and acknowledges the message when it is confirmed. A crash in between repeats it.
func (d *routed) Handle() {
	place, key := d.Place()
	partition := d.partition(key)
	as := lanes.Route{Fence: order.Fence(d.Context()), Number: place.Number, Again: d.Repeated()}
	d.queue.routing.begin(as, partition, time.Now())
	err := d.send(partition, key, as)
	if d.Context().Err() != nil || !d.Connected() {
		d.queue.routing.end(as, nil, time.Now())
		return // another router has the queue, and sends it
	}
	if d.queue.routing.end(as, err, time.Now()) {
		d.Log().Error("a message cannot be sent to its partition; trying again", zap.String("partition", partition), zap.String("message_id", d.Raw.MessageId), zap.Error(err))
	}
	if err == nil {
		d.Ack()
	}
}

// partition is the one of a key. What has none goes to each in turn.
func (d *routed) partition(key string) string {
	all := d.queue.Partitions
	if key == "" {
		return all[d.queue.routing.turn.Add(1)%uint64(len(all))]
	}
	return all[order.Partition(key, len(all))]
}

func (d *routed) send(partition, key string, as lanes.Route) error {
	content, err := AsItCame(d.Packed)
	if err != nil {
		return err
	}
	names := &d.Order().Names
	if content.Headers == nil {
		content.Headers = amqp.Table{}
	}
	d.queue.leaveOut(content.Headers, disarm(content.Headers, func(string) bool { return false }))
	d.queue.keepIntent(content.Headers, d.Raw.Exchange)
	if names.Strip(content.Headers); key != "" {
		as.Write(names, content.Headers)
		if _, there := content.Headers[d.Order().Header]; !there { // it was left out, and is known by its text
			content.Headers[d.Order().Header] = key
		}
	}
	out := &publish.Message{Key: partition, Mandatory: true, Once: true, Copied: true, Publishing: content}
	return d.queue.tell(d.Ackable(), out)
}

// Store has a message wait here behind one of its key. With a cause it is sent all the same: a router runs no handler, so no message ends its process.
func (d *routed) Store(cause error) {
	if cause != nil {
		d.Handle()
	}
}

// Handling says that no handler runs.
func (*routed) Handling() ([]zap.Field, time.Duration, bool) { return nil, 0, false }
