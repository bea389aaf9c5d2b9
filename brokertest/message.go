package brokertest

import (
	"slices"
	"strconv"
	"time"
)

// message is what was published. It is never changed: dead-lettering makes a
// new one. Several queues may share it.
type message struct {
	exchange string
	keys     []string // the routing key, then those of CC and BCC
	props    properties
	header   []byte // props in wire form
	body     []byte
}

// newMessage encodes the properties once for all deliveries.
func newMessage(exchange string, keys []string, props properties, body []byte) *message {
	return &message{exchange: exchange, keys: keys, props: props, header: props.encode(), body: body}
}

// persistent says whether the message outlives a restart in a durable queue.
func (m *message) persistent() bool { return m.props.deliveryMode == 2 }

// ttl is the message's own time to live.
func (m *message) ttl() (time.Duration, bool) {
	if !m.props.has(flagExpiration) {
		return 0, false
	}
	ms, err := strconv.ParseInt(m.props.expiration, 10, 64)
	return time.Duration(ms) * time.Millisecond, err == nil
}

// maxExpiry is the largest time RabbitMQ accepts, ten years in milliseconds.
const maxExpiry = 315360000000

// checkExpiration checks the expiration property.
func checkExpiration(p *properties) *amqpError {
	if !p.has(flagExpiration) {
		return nil
	}
	ms, err := strconv.ParseInt(p.expiration, 10, 64)
	switch {
	case err != nil:
		return errPrecondition("invalid expiration '%s': no_integer", p.expiration)
	case ms < 0:
		return errPrecondition("invalid expiration '%s': {value_negative,%d}", p.expiration, ms)
	case ms > maxExpiry:
		return errPrecondition("invalid expiration '%s': {value_too_large,%d}", p.expiration, ms)
	}
	return nil
}

// carbonCopies reads the routing keys in the CC and BCC headers.
func carbonCopies(headers table) ([]string, *amqpError) {
	var keys []string
	for _, name := range []string{"CC", "BCC"} {
		v, ok := headers.lookup(name)
		if !ok {
			continue
		}
		items, ok := v.v.([]value)
		if !ok {
			return nil, errPrecondition("invalid message: {unacceptable_type_in_header,\"%s\",%s}", name, v.typeName())
		}
		for _, item := range items {
			if key, ok := item.v.(string); ok {
				keys = append(keys, key)
			}
		}
	}
	return keys, nil
}

// entry is a message in a queue.
type entry struct {
	msg         *message
	seq         uint64    // position in the queue
	expires     time.Time // zero: never
	round       uint64    // the queue's round in which it came
	priority    int
	redelivered bool
	deliveries  int // failed ones, counted by quorum queues
}

// line is an ordered list of entries, the ready messages of one priority.
type line struct {
	items []*entry
	bytes int
}

func (l *line) len() int { return len(l.items) }

func (l *line) push(e *entry) {
	l.items = append(l.items, e)
	l.bytes += len(e.msg.body)
}

// insert puts e where its position belongs, looking from the front, where
// requeued messages belong.
func (l *line) insert(e *entry) {
	i, _ := slices.BinarySearchFunc(l.items, e.seq, func(a *entry, seq uint64) int {
		if a.seq < seq {
			return -1
		}
		return 1
	})
	l.items = slices.Insert(l.items, i, e)
	l.bytes += len(e.msg.body)
}

func (l *line) pop() *entry {
	e := l.items[0]
	l.items[0] = nil
	l.items = l.items[1:]
	l.bytes -= len(e.msg.body)
	return e
}
