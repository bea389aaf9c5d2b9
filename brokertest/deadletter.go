package brokertest

import (
	"slices"
	"time"
)

// Reasons a message is dead-lettered for, as x-death names them.
const (
	reasonExpired       = "expired"
	reasonRejected      = "rejected"
	reasonMaxLen        = "maxlen"
	reasonDeliveryLimit = "delivery_limit"
)

// deadLetterWindow is how many messages at-least-once dead-lettering has under
// way at a time; the others wait behind them, as in RabbitMQ.
const deadLetterWindow = 32

// deadLetters are the messages a queue with at-least-once dead-lettering holds
// until every queue they are routed to took them.
type deadLetters struct {
	waiting []*deadLetter
	pending []*deadLetter // at most deadLetterWindow
	retry   *alarm
}

// deadLetter is one of them.
type deadLetter struct {
	msg     *message
	settled []*queue // those that took it
}

func (d *deadLetters) count() int { return len(d.waiting) + len(d.pending) }

func (d *deadLetters) stop(b *Broker) {
	b.clock.cancel(d.retry)
	*d = deadLetters{}
}

// deadLetter sends a message that leaves the queue where its arguments say; a
// queue without a dead-letter exchange drops it.
func (q *queue) deadLetter(e *entry, reason string) {
	if !q.limits.hasDLX {
		return
	}
	m := q.deadMessage(e.msg, reason)
	if q.limits.atLeastOnce && reason != reasonMaxLen {
		q.dead.waiting = append(q.dead.waiting, &deadLetter{msg: m})
		q.forwardDead()
		return
	}
	for _, to := range q.deadTargets(m) {
		to.enqueue(m)
	}
}

// deadTargets are the queues to which a dead message is routed, without those that
// would make a cycle.
func (q *queue) deadTargets(m *message) []*queue {
	x, ok := q.vhost.exchanges[q.limits.dlx]
	if !ok {
		return nil
	}
	queues := q.vhost.route(x, m.keys, m.props.headers)
	return slices.DeleteFunc(queues, func(to *queue) bool { return isCycle(m.props.headers, to.name) })
}

// forwardDead passes on as many messages as the window of at-least-once
// dead-lettering allows.
func (q *queue) forwardDead() {
	d := &q.dead
	for len(d.waiting) > 0 && len(d.pending) < deadLetterWindow {
		dl := d.waiting[0]
		d.waiting = d.waiting[1:]
		if !q.tryDead(dl) {
			d.pending = append(d.pending, dl)
		}
	}
	if len(d.pending) > 0 && d.retry == nil {
		d.retry = q.broker.clock.after(q.broker.cfg.settleTimeout, q.retryDead)
	}
	q.touch()
}

// retryDead tries again what could not be passed on.
func (q *queue) retryDead() {
	d := &q.dead
	d.retry = nil
	d.pending = slices.DeleteFunc(d.pending, q.tryDead)
	q.forwardDead()
}

// tryDead passes a message on; true means that every target has it.
func (q *queue) tryDead(dl *deadLetter) bool {
	targets := q.deadTargets(dl.msg)
	done := len(targets) > 0 || len(dl.settled) > 0
	for _, to := range targets {
		switch {
		case slices.Contains(dl.settled, to):
		case to.enqueue(dl.msg):
			dl.settled = append(dl.settled, to)
		default:
			done = false
		}
	}
	return done
}

// deadMoves says whether the next try passes on a message that could not be passed on yet. Without one nothing will,
// until a queue is declared, bound or emptied.
func (q *queue) deadMoves() bool {
	return slices.ContainsFunc(q.dead.pending, func(dl *deadLetter) bool {
		return slices.ContainsFunc(q.deadTargets(dl.msg), func(to *queue) bool {
			return !slices.Contains(dl.settled, to) && !to.full(dl.msg)
		})
	})
}

// deadMessage is the message as it is published to the dead-letter exchange.
func (q *queue) deadMessage(m *message, reason string) *message {
	copies, _ := carbonCopies(m.props.headers) // they were checked when it was published
	death := table{
		{"reason", text(reason)},
		{"queue", text(q.name)},
		{"time", stamp(time.Now())},
		{"exchange", text(m.exchange)},
		{"routing-keys", texts(append([]string{m.keys[0]}, copies...))},
	}
	if m.props.has(flagExpiration) {
		death = append(death, field{"original-expiration", text(m.props.expiration)})
	}
	headers := recordDeath(m.props.headers, death)
	keys := m.keys
	if q.limits.hasDLKey {
		keys = []string{q.limits.dlKey}
		headers = headers.without("CC")
	}
	props := m.props
	props.clear(flagExpiration)
	props.setHeaders(headers)
	return newMessage(q.limits.dlx, keys, props, m.body)
}

func texts(ss []string) value {
	vs := make([]value, len(ss))
	for i, s := range ss {
		vs[i] = text(s)
	}
	return value{'A', vs}
}

// recordDeath adds a death to the x-death header: one entry for each queue and
// reason, the latest first, with a count.
func recordDeath(headers, death table) table {
	fresh := append(table{{"count", long64(1)}}, death...)
	v, ok := headers.lookup("x-death")
	if !ok {
		headers = headers.with("x-first-death-reason", text(death.str("reason"))).
			with("x-first-death-queue", text(death.str("queue"))).
			with("x-first-death-exchange", text(death.str("exchange")))
		return headers.with("x-death", value{'A', []value{{'F', fresh}}})
	}
	events, ok := v.v.([]value)
	if !ok {
		return headers.with("x-death", value{'A', []value{{'F', fresh}}})
	}
	same := func(v value) bool {
		t, ok := v.v.(table)
		return ok && t.str("queue") == death.str("queue") && t.str("reason") == death.str("reason")
	}
	others := slices.DeleteFunc(slices.Clone(events), same)
	if i := slices.IndexFunc(events, same); i >= 0 {
		fresh = events[i].v.(table)
		count, _ := fresh.lookup("count")
		n, _ := count.integer()
		fresh = fresh.with("count", long64(n+1))
	}
	return headers.with("x-death", value{'A', append([]value{{'F', fresh.sorted()}}, others...)})
}

// isCycle says whether a message that died in the queue called name comes back
// to it without anybody having rejected it in between.
func isCycle(headers table, name string) bool {
	v, _ := headers.lookup("x-death")
	events, _ := v.v.([]value)
	for _, event := range events {
		t, ok := event.v.(table)
		if ok && t.str("reason") == reasonRejected {
			return false
		}
		if ok && t.str("queue") == name {
			return true
		}
	}
	return false
}
