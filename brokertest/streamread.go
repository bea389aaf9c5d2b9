package brokertest

import (
	"strings"
	"time"
)

// readStream begins to read a stream.
func (ch *channel) readStream(q *queue, m *basicConsume) *amqpError {
	switch {
	case m.noAck:
		return errNotImplemented("automatic acknowledgement not supported by stream queues")
	case ch.globalPrefetch > 0:
		return errPrecondition("stream queues do not support global prefetch in %s", q)
	case ch.prefetch == 0:
		return errPrecondition("consumer prefetch count is not set for '%s'", q.name)
	case time.Now().Before(q.noReplica):
		return errPrecondition("%s does not have a running replica on the local node", q)
	}
	from := text("next")
	for _, f := range m.arguments {
		switch {
		case f.key == "x-stream-offset":
			from = f.val
		case f.key == "x-priority":
			return errPrecondition("invalid arg '%s' for %s of queue type rabbit_stream_queue", f.key, q)
		case strings.HasPrefix(f.key, "x-"):
			return errPrecondition("invalid arg '%s' for %s: not modelled by brokertest", f.key, q)
		}
	}
	offset, ok := q.log.place(from)
	if !ok {
		return errInternal("%v", from)
	}
	c := ch.newConsumer(q, m)
	c.offset = offset
	ch.begin(c, m.noWait)
	return nil
}

// place is the offset that an x-stream-offset means.
func (l *streamLog) place(from value) (int64, bool) {
	if n, ok := from.integer(); ok {
		return max(n, 0), true
	}
	switch v := from.v.(type) {
	case uint64:
		return l.at(time.Unix(int64(v), 0)), true //nolint:gosec // a time that somebody means
	case string:
		switch {
		case v == "first":
			return 0, true
		case v == "last":
			if all := l.chunks(); len(all) > 0 {
				return all[len(all)-1].first, true
			}
			return l.next, true
		case v == "next":
			return l.next, true
		case span(v) > 0:
			return l.at(time.Now().Add(-span(v))), true
		}
	}
	return 0, false
}

// at is the offset of the first chunk that is not older than t.
func (l *streamLog) at(t time.Time) int64 {
	for _, c := range l.chunks() {
		if !c.at.Before(t) {
			return c.first
		}
	}
	return l.next
}

// runStream delivers until no reader can take more.
func (q *queue) runStream() {
	q.log.open = nil
	for _, c := range q.consumers {
		for c.ready() && c.readChunk() {
		}
	}
}

// readChunk delivers from the next chunk, and says whether there was one. A reader gets the whole of it, also beyond
// its prefetch, unless streams are those of RabbitMQ 4.
func (c *consumer) readChunk() bool {
	next := c.queue.log.since(c.offset)
	if next == nil {
		return false
	}
	c.offset = max(c.offset, next.first)
	for _, e := range next.entries[c.offset-next.first:] {
		if c.queue.broker.cfg.modernStreams && !c.ready() {
			return true
		}
		c.offset++
		c.deliver(&entry{msg: e.msg, seq: e.seq})
	}
	return true
}

// behind says whether a reader has something before it, or has not acknowledged everything.
func (q *queue) behind() bool {
	for _, c := range q.consumers {
		if c.unacked > 0 || q.log.since(c.offset) != nil {
			return true
		}
	}
	return false
}
