package brokertest

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// stuckAfter is how long WaitQuiet continues when the only messages left are in queues without a
// consumer, because a client may connect soon. It is longer than the pause of a client between two
// attempts to connect.
const stuckAfter = 3 * time.Second

// tokens is how the names of the queues begin in which groups of package stream have their tokens. A reader holds one as
// long as it reads.
const tokens = "harebus.group/"

// errStuck ends a wait for a state that cannot come.
var errStuck = errors.New("nothing will change any more")

// waiter is a call that waits for a state of the broker.
type waiter struct {
	ok      func() bool // called with the lock held after every operation
	changed chan struct{}
	stuck   bool // ok will not become true
}

// WaitQuiet waits until all messages have been handled: no message is ready,
// unacknowledged or delayed in any queue, no fault holds or delays anything, and
// every byte that clients of Dial wrote was handled. Of the queues in except, such
// as an error queue, only the unacknowledged messages count. It looks at the state
// of the broker and needs no sleep, but it cannot know what a client will still
// send. Messages of a stream count until its readers have acknowledged them; the token queues of groups of readers do
// not count.
//
// If the only messages left are in queues without a consumer, such as one parked in
// an error queue that except does not name, nothing will change any more. Then it
// fails after three seconds (of virtual time in a testing/synctest bubble) in which
// no client connected, consumed or moved a message. The error lists the messages,
// with their ErrorDetails.
func (b *Broker) WaitQuiet(ctx context.Context, except ...string) error {
	return b.waitQuiet(ctx, &quietWait{broker: b, except: except})
}

func (b *Broker) waitQuiet(ctx context.Context, w *quietWait) error {
	w.waiter = &waiter{ok: w.look}
	err := b.waitFor(ctx, w.waiter)
	b.locked(func() { b.clock.cancel(w.alarm) })
	if err != nil {
		return fmt.Errorf("brokertest: wait quiet: %w; %s", err, w.why())
	}
	return nil
}

// quietWait is one call of WaitQuiet. It looks at all queues only when what kept it waiting last has ended.
type quietWait struct {
	broker *Broker
	except []string
	waiter *waiter
	last   *queue // that something still goes on in
	alarm  *alarm // set while nothing but stuck messages is left
	moves  uint64 // the broker's, when it was set
	looks  int    // at all queues; for a test
}

// look reports whether everything is quiet. When it never will be, it sets the alarm.
func (w *quietWait) look() bool {
	b := w.broker
	if w.last != nil && !w.last.deleted && w.goesOn(w.last) {
		return false
	}
	w.looks++
	stuck := false
	w.last = nil
	for _, v := range b.vhosts {
		for _, q := range v.queues {
			if w.goesOn(q) {
				w.last = q
				return false
			}
			stuck = stuck || w.counts(q)
		}
	}
	if b.holding > 0 || b.unhandled() != nil {
		return false
	}
	if stuck && w.alarm == nil {
		w.arm()
	}
	return !stuck
}

// counts says whether the queue has messages for which WaitQuiet waits.
func (w *quietWait) counts(q *queue) bool {
	if strings.HasPrefix(q.name, tokens) {
		return false
	}
	if q.log != nil {
		return q.behind()
	}
	return len(q.unacked) > 0 || (q.depth()+q.dead.count() > 0 && !slices.Contains(w.except, q.name))
}

// goesOn says whether the queue has such messages, and something is going to happen to them.
func (w *quietWait) goesOn(q *queue) bool {
	if !w.counts(q) {
		return false
	}
	if q.log != nil {
		return true
	}
	consumed := len(q.unacked) > 0 || (q.depth() > 0 && len(q.consumers) > 0)
	timed := q.idle != nil || (q.depth() > 0 && q.expiry != nil)
	return consumed || timed || q.deadMoves()
}

// arm has the broker look again, in a while, whether anything has moved.
func (w *quietWait) arm() {
	b := w.broker
	w.moves = b.moves
	at := time.Now()
	if at.Before(b.refusing) {
		at = b.refusing
	}
	w.alarm = b.clock.at(at.Add(stuckAfter), func() {
		w.alarm = nil
		moved := w.moves != b.moves
		if quiet := w.look(); quiet || w.alarm == nil || moved {
			return
		}
		b.clock.cancel(w.alarm)
		w.alarm = nil
		w.waiter.stuck = true
	})
}

// why lists what keeps the broker from being quiet.
func (w *quietWait) why() string {
	b := w.broker
	b.mu.Lock()
	defer b.mu.Unlock()
	const shown = 5
	var busy []string
	for _, v := range b.vhosts {
		for _, name := range slices.Sorted(mapKeys(v.queues)) {
			if q := v.queues[name]; w.counts(q) {
				busy = append(busy, q.contents())
			}
		}
	}
	if n := len(busy); n > shown {
		busy = append(busy[:shown], fmt.Sprintf("and %d other queues", n-shown))
	}
	if b.holding > 0 {
		busy = append(busy, fmt.Sprintf("faults hold %d methods", b.holding))
	}
	if c := b.unhandled(); c != nil {
		busy = append(busy, strings.TrimSpace(fmt.Sprintf("connection %d %s sent more than was handled", c.id, c.props.str("connection_name"))))
	}
	return strings.Join(busy, "; ")
}

// contents says what is in a queue, with the reason of what was parked.
func (q *queue) contents() string {
	const shown = 3
	var s strings.Builder
	fmt.Fprintf(&s, "%s has %d ready, %d unacknowledged", q, q.depth()+q.dead.count(), len(q.unacked))
	if len(q.consumers) == 0 {
		s.WriteString(" and no consumer")
	}
	for i, m := range q.messages() {
		if i == shown {
			s.WriteString(", …")
			break
		}
		fmt.Fprintf(&s, ", message %q of type %q", m.MessageId, m.Type)
		for _, key := range slices.Sorted(mapKeys(m.Headers)) {
			if strings.HasSuffix(key, "ErrorDetails") {
				fmt.Fprintf(&s, " with %s %q", key, fmt.Sprint(m.Headers[key]))
			}
		}
	}
	return s.String()
}

// messages describes what is in the queue: first what consumers have.
func (q *queue) messages() []Message {
	if q.log != nil {
		var out []Message
		for _, e := range q.log.entries() {
			m := e.describe(false)
			m.Offset = int64(e.seq) //nolint:gosec // it was one
			out = append(out, m)
		}
		return out
	}
	var unacked []*entry
	for d := range q.unacked {
		unacked = append(unacked, d.entry)
	}
	slices.SortFunc(unacked, func(a, b *entry) int { return cmp.Compare(a.seq, b.seq) })
	var out []Message
	for _, e := range unacked {
		out = append(out, e.describe(true))
	}
	for i := len(q.ready) - 1; i >= 0; i-- {
		for _, e := range q.ready[i].items {
			out = append(out, e.describe(false))
		}
	}
	return out
}

// unhandled returns a connection whose client sent more than was handled, or nil.
func (b *Broker) unhandled() *connection {
	for _, c := range b.conns {
		if c.pipe != nil && c.state < connClosing && c.pipe.in.written.Load() != c.handled {
			return c
		}
	}
	return nil
}

// WaitQueue waits until ok accepts a queue of the virtual host "/". Until the
// queue exists ok is given one that has only a name.
func (b *Broker) WaitQueue(ctx context.Context, name string, ok func(Queue) bool) error {
	last := Queue{Name: name}
	err := b.waitFor(ctx, &waiter{ok: func() bool {
		last = Queue{Name: name}
		if v, found := b.vhosts["/"]; found && v.queues[name] != nil {
			last = v.queues[name].describe()
		}
		return ok(last)
	}})
	if err != nil {
		return fmt.Errorf("brokertest: wait queue %q (%d ready, %d unacknowledged): %w", name, last.Ready, last.Unacked, err)
	}
	return nil
}

// waitFor waits until w.ok returns true.
func (b *Broker) waitFor(ctx context.Context, w *waiter) error {
	for {
		b.mu.Lock()
		switch {
		case w.ok():
			b.mu.Unlock()
			return nil
		case w.stuck:
			b.mu.Unlock()
			return errStuck
		case b.closed:
			b.mu.Unlock()
			return ErrClosed
		}
		w.changed = make(chan struct{})
		b.waiters = append(b.waiters, w)
		b.mu.Unlock()
		select {
		case <-w.changed:
		case <-ctx.Done():
			b.mu.Lock()
			b.waiters = remove(b.waiters, w)
			b.mu.Unlock()
			return context.Cause(ctx)
		}
	}
}

// wakeWaiters lets every waiter check its state again.
func (b *Broker) wakeWaiters() {
	b.waiters = slices.DeleteFunc(b.waiters, func(w *waiter) bool {
		over := b.closed || w.ok() || w.stuck
		if over {
			close(w.changed)
		}
		return over
	})
}
