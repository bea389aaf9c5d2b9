package brokertest

import (
	"slices"
	"strconv"
	"time"
)

// segmentBytes is how large a segment of a stream becomes by default.
const segmentBytes = 500_000_000

// streamLog is what a stream keeps: messages with offsets, in chunks, in segments. What one operation publishes
// is one chunk.
type streamLog struct {
	segments []*segment // the last one grows
	next     int64      // the offset of the next message
	open     *chunk     // of the operation under way; nil outside of one
}

// segment is a file of a stream. Retention takes whole ones.
type segment struct {
	chunks []*chunk
	bytes  int64
}

// chunk is what a reader gets together.
type chunk struct {
	first   int64 // the offset of its first message
	at      time.Time
	entries []*entry // whose seq is the offset
}

// chunkOverhead and entryOverhead are what a stream writes besides a chunk and a message.
const (
	chunkOverhead = 48
	entryOverhead = 4
)

// append stores a message. It never rejects one.
func (q *queue) append(m *message) {
	l := q.log
	if l.open == nil {
		q.roll()
		s := l.segments[len(l.segments)-1]
		l.open = &chunk{first: l.next, at: time.Now()}
		s.chunks = append(s.chunks, l.open)
		s.bytes += chunkOverhead
	}
	m = q.streamed(m)
	l.open.entries = append(l.open.entries, &entry{msg: m, seq: uint64(l.next)}) //nolint:gosec // offsets are not negative
	l.segments[len(l.segments)-1].bytes += int64(len(m.header) + len(m.body) + entryOverhead)
	l.next++
	q.touch()
}

// roll begins a new segment when the last one is full. Its housekeeping takes an offset.
func (q *queue) roll() {
	l := q.log
	if len(l.segments) == 0 {
		l.segments = []*segment{{}}
	}
	if l.segments[len(l.segments)-1].bytes < q.limits.segmentBytes {
		return
	}
	l.segments = append(l.segments, &segment{})
	l.next++
	q.retain()
}

// retain drops the segments that retention does not keep. It never drops the last one.
func (q *queue) retain() {
	l := q.log
	var bytes int64
	for _, s := range l.segments {
		bytes += s.bytes
	}
	for len(l.segments) > 1 {
		s := l.segments[0]
		large := q.limits.hasMaxBytes && bytes > q.limits.maxBytes
		old := q.limits.maxAge > 0 && time.Since(s.chunks[len(s.chunks)-1].at) > q.limits.maxAge
		if !large && !old {
			return
		}
		bytes -= s.bytes
		l.segments = l.segments[1:]
	}
}

// chunks are those that are still there, in order.
func (l *streamLog) chunks() []*chunk {
	var all []*chunk
	for _, s := range l.segments {
		all = append(all, s.chunks...)
	}
	return all
}

// entries are the messages that are still there, in order.
func (l *streamLog) entries() []*entry {
	var all []*entry
	for _, c := range l.chunks() {
		all = append(all, c.entries...)
	}
	return all
}

// count is the number of messages that are still there.
func (l *streamLog) count() int {
	n := 0
	for _, s := range l.segments {
		for _, c := range s.chunks {
			n += len(c.entries)
		}
	}
	return n
}

// since returns the first chunk with something at or behind an offset; nil if there is none.
func (l *streamLog) since(offset int64) *chunk {
	for _, s := range l.segments {
		if n := len(s.chunks); n == 0 || s.chunks[n-1].end() <= offset {
			continue
		}
		i, _ := slices.BinarySearchFunc(s.chunks, offset, func(c *chunk, offset int64) int {
			if c.end() <= offset {
				return -1
			}
			return 1
		})
		return s.chunks[i]
	}
	return nil
}

// end is the offset behind the last message.
func (c *chunk) end() int64 { return c.first + int64(len(c.entries)) }

// truncate drops all messages before an offset.
func (l *streamLog) truncate(offset int64) {
	for _, s := range l.segments {
		s.chunks = slices.DeleteFunc(s.chunks, func(c *chunk) bool { return c.end() <= offset })
		for i, c := range s.chunks {
			if c.first < offset {
				s.chunks[i] = &chunk{first: offset, at: c.at, entries: c.entries[offset-c.first:]}
			}
		}
	}
	l.segments = slices.DeleteFunc(l.segments, func(s *segment) bool { return len(s.chunks) == 0 })
	l.next = max(l.next, offset)
}

// streamed is a message as a stream keeps it: exchange and key of the publish, headers without arrays and tables.
func (q *queue) streamed(m *message) *message {
	modern := q.broker.cfg.modernStreams
	props := m.props
	if props.has(flagHeaders) {
		props.headers = slices.DeleteFunc(slices.Clone(props.headers), func(f field) bool {
			named := f.key == "CC" || len(f.key) > 2 && f.key[:2] == "x-"
			return f.val.kind == 'D' || (f.val.kind == 'A' || f.val.kind == 'F') && !(modern && named)
		})
	}
	if modern && !m.persistent() {
		props.deliveryMode = 1
		props.set(flagDeliveryMode)
	}
	return newMessage(m.exchange, m.keys[:1], props, m.body)
}

// crashes says whether a stream among the queues cannot take the message: a decimal in its headers ends the connection
// of the publisher.
func crashes(queues []*queue, m *message) bool {
	return slices.ContainsFunc(queues, func(q *queue) bool { return q.log != nil }) &&
		slices.ContainsFunc(m.props.headers, func(f field) bool { return f.val.kind == 'D' })
}

// span reads a time such as 7D; 0 means that it is none.
func span(s string) time.Duration {
	if len(s) < 2 {
		return 0
	}
	n, err := strconv.ParseUint(s[:len(s)-1], 10, 31)
	if err != nil {
		return 0
	}
	const day = 24 * time.Hour
	unit := map[byte]time.Duration{'Y': 365 * day, 'M': 30 * day, 'D': day, 'h': time.Hour, 'm': time.Minute, 's': time.Second}[s[len(s)-1]]
	return time.Duration(n) * unit //nolint:gosec // 31 bits
}
