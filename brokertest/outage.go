package brokertest

import (
	"fmt"
	"slices"
	"time"
)

// Restart has the effects of a broker's crash and restart: every connection is cut
// without connection.close; durable queues, exchanges and bindings stay, with their
// persistent messages; everything else is lost.
func (b *Broker) Restart() {
	b.locked(func() {
		b.logf("restart")
		b.cutAll()
		for _, v := range b.vhosts {
			v.restart()
		}
		b.blocked = ""
	})
}

// restart drops what is not durable.
func (v *vhost) restart() {
	for _, name := range slices.Sorted(mapKeys(v.queues)) {
		q := v.queues[name]
		if !q.durable {
			q.remove("restart")
			continue
		}
		q.forget()
	}
	for _, name := range slices.Sorted(mapKeys(v.exchanges)) {
		if x := v.exchanges[name]; x != nil && !x.durable {
			v.removeExchange(x)
		}
	}
}

// Refuse refuses new connections for d; 0 ends that. Open connections stay.
func (b *Broker) Refuse(d time.Duration) {
	b.locked(func() {
		b.refusing = time.Now().Add(d)
		b.moves++
	})
}

// CutConnections ends the connections with the given client-provided names, or all
// when none is given, without connection.close, like a network that breaks.
// Unacknowledged messages are requeued. It returns how many it ended.
func (b *Broker) CutConnections(names ...string) int {
	n := 0
	b.locked(func() {
		for _, c := range b.named(names) {
			b.logf("connection %d: cut on request", c.id)
			c.terminate()
			n++
		}
	})
	return n
}

// named returns the connections with the given names, or all.
func (b *Broker) named(names []string) []*connection {
	var out []*connection
	for _, c := range b.conns {
		if len(names) == 0 || slices.Contains(names, c.props.str("connection_name")) {
			out = append(out, c)
		}
	}
	return out
}

func (b *Broker) cutAll() {
	for _, c := range slices.Clone(b.conns) {
		c.terminate()
	}
}

// CloseConnections ends the connections with the given client-provided names,
// or all when none is given, with connection.close and code 320, as an operator
// or an orderly shutdown does. It returns how many it ended.
func (b *Broker) CloseConnections(reason string, names ...string) int {
	n := 0
	b.locked(func() {
		for _, c := range b.named(names) {
			c.fail(errConnectionForced("%s", reason))
			n++
		}
	})
	return n
}

// Block makes the broker act as if it had run out of memory: until Unblock, a
// connection that publishes gets connection.blocked with the reason, and the broker
// reads nothing more from it. As on RabbitMQ, the first such publish is still
// handled.
func (b *Broker) Block(reason string) {
	b.locked(func() { b.blocked = reason })
}

// Unblock ends Block: the broker reads from publishers again.
func (b *Broker) Unblock() {
	b.locked(func() {
		b.blocked = ""
		for _, c := range b.conns {
			c.unthrottle()
		}
	})
}

// TruncateStream drops the messages of a stream of the virtual host "/" before an offset; see [VHost.TruncateStream].
func (b *Broker) TruncateStream(queue string, offset int64) error {
	return b.VHost("/").TruncateStream(queue, offset)
}

// SkipOffsets makes the broker use offsets of a stream of the virtual host "/"; see [VHost.SkipOffsets].
func (b *Broker) SkipOffsets(queue string, n int64) error { return b.VHost("/").SkipOffsets(queue, n) }

// RecreateStream makes a stream of the virtual host "/" anew; see [VHost.RecreateStream].
func (b *Broker) RecreateStream(queue string) error { return b.VHost("/").RecreateStream(queue) }

// LoseReplica makes the broker one without a replica of a stream of the virtual host "/"; see [VHost.LoseReplica].
func (b *Broker) LoseReplica(queue string, d time.Duration) error {
	return b.VHost("/").LoseReplica(queue, d)
}

// CancelConsumers ends every subscription to a queue of the virtual host "/"
// from the broker's side, as a queue that loses its leader does.
func (b *Broker) CancelConsumers(queue string) error { return b.VHost("/").CancelConsumers(queue) }

// DeleteQueue deletes a queue of the virtual host "/", also while clients use it.
func (b *Broker) DeleteQueue(queue string) error { return b.VHost("/").DeleteQueue(queue) }

// TruncateStream drops the messages of a stream before an offset, as retention does when segments roll.
func (v *VHost) TruncateStream(name string, offset int64) error {
	return v.withStream(name, func(q *queue) { q.log.truncate(offset) })
}

// SkipOffsets makes the broker use n offsets of a stream, as it does to keep the places of clients of the stream protocol.
func (v *VHost) SkipOffsets(name string, n int64) error {
	return v.withStream(name, func(q *queue) {
		q.log.open = nil
		q.log.next += max(n, 0)
	})
}

// RecreateStream deletes a stream and declares it again with the same arguments and bindings: its readers are
// cancelled, and its offsets start at 0.
func (v *VHost) RecreateStream(name string) error {
	return v.withStream(name, func(q *queue) {
		var bound []*binding
		for _, b := range q.vhost.bindings {
			if b.queue == q {
				bound = append(bound, b)
			}
		}
		q.remove("to be made anew")
		next := newQueue(q.broker, q.vhost, q.name, q.limits)
		next.durable, next.args = q.durable, q.args
		q.vhost.queues[q.name] = next
		for _, b := range bound {
			q.vhost.bind(&binding{source: b.source, queue: next, key: b.key, args: b.args})
		}
		next.touch()
	})
}

// LoseReplica makes the broker one that has no replica of a stream, for d: readers are cancelled, and until then nobody
// can begin to read (406). Publishing goes on.
func (v *VHost) LoseReplica(name string, d time.Duration) error {
	return v.withStream(name, func(q *queue) {
		q.noReplica = time.Now().Add(d)
		for _, c := range slices.Clone(q.consumers) {
			c.cancelled()
			q.removeConsumer(c)
		}
	})
}

// withStream is with for a stream.
func (v *VHost) withStream(name string, f func(*queue)) error {
	err := fmt.Errorf("brokertest: %q in vhost %q is no stream", name, v.name)
	if missing := v.with(name, func(q *queue) {
		if q.log != nil {
			err = nil
			f(q)
		}
	}); missing != nil {
		return missing
	}
	return err
}

// CancelConsumers ends every subscription to a queue from the broker's side.
func (v *VHost) CancelConsumers(name string) error {
	return v.with(name, func(q *queue) {
		for _, c := range slices.Clone(q.consumers) {
			c.cancelled()
			q.removeConsumer(c)
		}
	})
}

// DeleteQueue deletes a queue, also while clients use it.
func (v *VHost) DeleteQueue(name string) error {
	return v.with(name, func(q *queue) { q.remove("on request") })
}

// with runs f on a queue as one operation.
func (v *VHost) with(name string, f func(*queue)) error {
	err := fmt.Errorf("brokertest: no queue %q in vhost %q", name, v.name)
	v.broker.locked(func() {
		if vh, ok := v.broker.vhosts[v.name]; ok {
			if q, ok := vh.queues[name]; ok {
				err = nil
				f(q)
			}
		}
	})
	return err
}
