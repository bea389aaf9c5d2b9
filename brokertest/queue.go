package brokertest

import (
	"slices"
	"time"
)

// queue is a classic queue, a quorum queue or a stream.
type queue struct {
	broker     *Broker
	vhost      *vhost
	name       string
	durable    bool
	autoDelete bool
	exclusive  bool
	owner      *connection // of an exclusive queue
	args       table
	limits     queueLimits

	ready     []line // by rising precedence; the last one is served first
	unacked   map[*delivery]struct{}
	consumers []*consumer // by falling priority, then by turn
	active    *consumer   // with single active consumer
	consumed  bool        // it had a consumer, which auto-delete asks for
	dead      deadLetters
	log       *streamLog // of a stream, which has nothing ready
	noReplica time.Time  // until then nobody may begin to read the stream

	round   uint64 // counts calls of run
	nextSeq uint64
	dirty   bool
	deleted bool
	trim    bool // it is cut to its length before anything is delivered
	blocked bool // a quorum queue that rejects publishes until it has room
	expiry  *alarm
	idle    *alarm
}

// newQueue makes an empty queue.
func newQueue(b *Broker, v *vhost, name string, limits queueLimits) *queue {
	q := &queue{broker: b, vhost: v, name: name, limits: limits, unacked: map[*delivery]struct{}{}}
	switch {
	case limits.stream:
		q.log = &streamLog{}
	case limits.quorum:
		q.ready = make([]line, 2) // fresh messages and, before them, returned ones
	default:
		q.ready = make([]line, limits.maxPriority+1)
	}
	return q
}

func (q *queue) String() string { return q.vhost.resource("queue", q.name) }

// touch marks the queue; settle looks at it before the current operation ends.
func (q *queue) touch() {
	q.broker.moves++
	if !q.dirty && !q.deleted {
		q.dirty = true
		q.broker.dirty = append(q.broker.dirty, q)
	}
}

// depth is the number of ready messages, or of those that a stream keeps.
func (q *queue) depth() int {
	if q.log != nil {
		return q.log.count()
	}
	n := 0
	for i := range q.ready {
		n += q.ready[i].len()
	}
	return n
}

// size is the number of bytes in the bodies of the ready messages.
func (q *queue) size() int {
	n := 0
	for i := range q.ready {
		n += q.ready[i].bytes
	}
	return n
}

// head returns the line whose first message is next, or nil.
func (q *queue) head() *line {
	for i := len(q.ready) - 1; i >= 0; i-- {
		if q.ready[i].len() > 0 {
			return &q.ready[i]
		}
	}
	return nil
}

// enqueue adds a message; false means that the queue rejects it.
func (q *queue) enqueue(m *message) bool {
	if q.log != nil {
		q.append(m)
		return true
	}
	if q.rejects(m) {
		return false
	}
	q.nextSeq++
	e := &entry{msg: m, seq: q.nextSeq, round: q.round, expires: q.expiresAt(m)}
	if q.limits.quorum {
		q.ready[0].push(e)
	} else {
		e.priority = min(int(m.props.priority), q.limits.maxPriority)
		q.ready[e.priority].push(e)
	}
	q.touch()
	return true
}

// rejects decides about a message for a queue that may be full.
func (q *queue) rejects(m *message) bool {
	if !q.full(m) {
		return false
	}
	if !q.limits.quorum && q.limits.overflow == overflowRejectDLX {
		q.deadLetter(&entry{msg: m}, reasonMaxLen)
	}
	return true
}

// full says whether the queue has no room for a message and rejects it.
func (q *queue) full(m *message) bool {
	l := &q.limits
	if !l.bounded() || l.overflow == overflowDropHead {
		return false
	}
	if l.quorum {
		return q.blocked
	}
	return l.exceeded(q.depth()+1, q.size()+len(m.body))
}

// expiresAt is when a message that comes now expires here.
func (q *queue) expiresAt(m *message) time.Time {
	ttl, has := m.ttl()
	if q.limits.hasTTL && (!has || q.limits.ttl < ttl) {
		ttl, has = q.limits.ttl, true
	}
	if !has {
		return time.Time{}
	}
	if q.limits.quorum {
		ttl = max(ttl, time.Millisecond)
	}
	return time.Now().Add(ttl)
}

// requeue puts a delivered message back. A classic queue puts it where it was. A
// quorum queue puts it behind the other returned ones, which go first, unless
// it was delivered too often; one without a delivery limit has what its
// consumer gives back start again at the end. A stream has kept it.
func (q *queue) requeue(e *entry, lost bool) {
	if q.deleted || q.log != nil {
		return
	}
	q.touch()
	e.redelivered = true
	if !q.limits.quorum {
		q.ready[e.priority].insert(e)
		q.trim = true
		return
	}
	e.deliveries++
	if q.limits.hasDeliveryLimit && e.deliveries > q.limits.deliveryLimit {
		q.deadLetter(e, reasonDeliveryLimit)
		return
	}
	if q.limits.hasDeliveryLimit || lost {
		q.ready[1].push(e)
	} else {
		q.ready[0].push(e)
	}
}

// run delivers, expires and drops until there is nothing left to do.
func (q *queue) run() {
	if q.deleted {
		return
	}
	if q.log != nil {
		q.runStream()
		return
	}
	now := time.Now()
	if q.trim {
		q.trim = false
		q.overflow()
	}
	for {
		q.expire(now, false)
		l := q.head()
		if l == nil {
			break
		}
		c := q.nextConsumer()
		if c == nil {
			break
		}
		c.deliver(l.pop())
	}
	q.expire(now, true)
	q.overflow()
	q.round++
	q.unblock()
	q.armExpiry()
	q.armIdle()
}

// expire removes the messages at the head whose time is over. Unless all is set,
// messages that came in this round stay: they can be delivered once first.
func (q *queue) expire(now time.Time, all bool) {
	for {
		l := q.head()
		if l == nil {
			return
		}
		e := l.items[0]
		if e.expires.IsZero() || e.expires.After(now) || !all && e.round == q.round {
			return
		}
		q.deadLetter(l.pop(), reasonExpired)
	}
}

// overflow drops messages from the head until the limits are kept.
func (q *queue) overflow() {
	l := &q.limits
	if !l.bounded() || l.overflow != overflowDropHead {
		return
	}
	for q.depth() > 0 && l.exceeded(q.depth(), q.size()) {
		q.deadLetter(q.head().pop(), reasonMaxLen)
	}
}

// unblock lets a full quorum queue accept messages again once it is at 80 % of its
// limit.
func (q *queue) unblock() {
	l := &q.limits
	if !l.quorum || !l.bounded() || l.overflow == overflowDropHead {
		return
	}
	n, bytes := q.depth()+q.dead.count(), q.size()
	switch {
	case l.exceeded(n, bytes):
		q.blocked = true
	case l.belowSoft(n, bytes):
		q.blocked = false
	}
}

// armExpiry wakes the queue when its head expires.
func (q *queue) armExpiry() {
	l := q.head()
	if l == nil || l.items[0].expires.IsZero() {
		q.broker.clock.cancel(q.expiry)
		q.expiry = nil
		return
	}
	at := l.items[0].expires
	if q.expiry != nil && q.expiry.index >= 0 && q.expiry.at.Equal(at) {
		return
	}
	q.broker.clock.cancel(q.expiry)
	q.expiry = q.broker.clock.at(at, q.touch)
}

// armIdle starts the clock of x-expires when the last consumer went and stops
// it when one comes.
func (q *queue) armIdle() {
	if q.limits.expires == 0 {
		return
	}
	if len(q.consumers) > 0 {
		q.broker.clock.cancel(q.idle)
		q.idle = nil
	} else if q.idle == nil {
		q.idle = q.broker.clock.after(q.limits.expires, func() { q.remove("expired") })
	}
}

// used restarts the clock of x-expires.
func (q *queue) used() {
	if q.idle != nil {
		q.broker.clock.cancel(q.idle)
		q.idle = nil
		q.armIdle()
	}
}

// purge drops the ready messages and returns their number.
func (q *queue) purge() int {
	n := q.depth()
	for i := range q.ready {
		q.ready[i] = line{}
	}
	q.touch()
	return n
}

// remove deletes the queue: its consumers are told, its messages are gone.
func (q *queue) remove(why string) {
	if q.deleted {
		return
	}
	q.broker.logf("%s deleted (%s)", q, why)
	q.deleted = true
	delete(q.vhost.queues, q.name)
	q.broker.clock.cancel(q.expiry)
	q.broker.clock.cancel(q.idle)
	q.dead.stop(q.broker)
	for _, c := range slices.Clone(q.consumers) {
		c.cancelled()
	}
	q.consumers = nil
	q.vhost.unbindAll(func(b *binding) bool { return b.queue == q })
	if q.owner != nil {
		q.owner.owned = remove(q.owner.owned, q)
	}
}

// forget drops what a restart loses.
func (q *queue) forget() {
	if q.limits.quorum || q.log != nil {
		return
	}
	for i := range q.ready {
		kept := line{}
		for _, e := range q.ready[i].items {
			if e.msg.persistent() {
				kept.push(e)
			}
		}
		q.ready[i] = kept
	}
	q.touch()
}
