package session

import (
	"slices"
	"sync"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

const (
	// ackDelay is how long an ack may wait, so that several go together.
	ackDelay = time.Millisecond
	// maxAckBatch is how many go together at most.
	maxAckBatch = 64
)

// Acker settles the deliveries of one channel. Acks are gathered: everything up
// to the first delivery that is still being handled goes as one ack with the
// multiple flag. Delivery tags count from 1 on each channel, so one acker serves
// all consumers of a channel and none outlives it: an ack after the channel has
// closed does nothing, and the broker delivers the message again.
type Acker struct {
	ch amqp.Acknowledger

	mu       sync.Mutex // guards what follows
	prefetch int
	next     uint64          // the lowest tag that is not settled
	top      uint64          // the highest tag that is settled
	due      uint64          // the highest tag below next whose ack is still to be sent
	acked    uint64          // the highest tag acked with everything below it
	settled  map[uint64]bool // tags above next; true if an ack is still to be sent
	single   []uint64        // those of them whose ack was still to be sent; next may have passed some since
	armed    bool
	timer    *time.Timer
	closed   bool
}

// NewAcker makes the acker of a channel that consumes with a prefetch.
func NewAcker(ch amqp.Acknowledger, prefetch int) *Acker {
	a := &Acker{ch: ch, next: 1, settled: make(map[uint64]bool, prefetch)}
	a.timer = time.AfterFunc(time.Hour, a.tick)
	a.timer.Stop()
	a.Limit(prefetch)
	return a
}

// Limit adapts to a prefetch: acks must not wait until the broker has run out
// of messages it may deliver.
func (a *Acker) Limit(prefetch int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.prefetch = prefetch
	if a.many() {
		a.flush()
	}
}

// many says whether so many acks have been put off that they are to be sent now: a quarter of what the
// broker may deliver besides the deliveries that are still being handled, or as many as go together. Those
// above a delivery that is still being handled are not among the latter: each would take a frame of its
// own, and one frame for all when that delivery is done, as for the messages of a batch.
func (a *Acker) many() bool {
	together := int(max(a.due, a.acked) - a.acked)            //nolint:gosec // bounded by the prefetch
	held := int(max(a.top+1, a.next)-a.next) - len(a.settled) //nolint:gosec // likewise
	return together >= maxAckBatch || together+len(a.single) >= max((a.prefetch-held)/4, 1)
}

// Done acks a delivery, now or within ackDelay.
func (a *Acker) Done(tag uint64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.settle(tag, true)
	switch {
	case a.many():
		a.flush()
	case !a.armed && !a.closed:
		a.armed = true
		a.timer.Reset(ackDelay)
	}
}

// GiveBack returns a delivery to its queue at once. It uses nack and not reject,
// because no handler has begun the message.
func (a *Acker) GiveBack(tag uint64) {
	_ = a.ch.Nack(tag, false, true) // a closed channel gives everything back
	a.mu.Lock()
	defer a.mu.Unlock()
	a.settle(tag, false)
}

// settle notes a tag and moves next past everything that is settled.
func (a *Acker) settle(tag uint64, ack bool) {
	a.top = max(a.top, tag)
	if tag != a.next {
		a.settled[tag] = ack
		if ack {
			a.single = append(a.single, tag)
		}
		return
	}
	for {
		if ack {
			a.due = a.next
		}
		a.next++
		var ok bool
		if ack, ok = a.settled[a.next]; !ok {
			return
		}
		delete(a.settled, a.next)
	}
}

func (a *Acker) tick() {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.closed {
		a.flush()
	}
}

// flush sends what is waiting. Writing to a session only appends to a buffer, so it
// is done under the lock. RabbitMQ closes the channel for an unknown tag, also with
// the multiple flag. due is always an unacknowledged tag.
func (a *Acker) flush() {
	a.armed = false
	a.timer.Stop()
	if a.due > a.acked {
		_ = a.ch.Ack(a.due, true)
		a.acked = a.due
	}
	a.singly()
}

// singly sends the acks above a delivery that is still being handled, in ascending
// order: if the connection is cut, a later delivery must not be acknowledged
// without the earlier ones. There may be thousands above it whose ack was sent before,
// so it does not look at them.
func (a *Acker) singly() {
	slices.Sort(a.single)
	for _, tag := range a.single {
		if tag > a.next {
			_ = a.ch.Ack(tag, false)
			a.settled[tag] = false
		}
	}
	a.single = a.single[:0]
}

// Flush sends what is waiting.
func (a *Acker) Flush() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.flush()
}

// Close sends what is waiting and stops the timer.
func (a *Acker) Close() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.flush()
	a.closed = true
}
