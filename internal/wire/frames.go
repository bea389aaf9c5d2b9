package wire

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"sync"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/harebus/harebus/internal/field"
)

// Constants of AMQP 0-9-1.
const (
	frameMethod, frameHeader, frameBody = 1, 2, 3
	frameEnd                            = 0xCE
	frameOverhead                       = 8 // type, channel, length, end
	lengthAt                            = 3 // in a frame
	classBasic, methodPublish           = 60, 40
	bitMandatory                        = 1
)

// The bits of the properties that a header frame has.
const (
	hasContentType = 1 << (15 - iota)
	hasContentEncoding
	hasHeaders
	hasDeliveryMode
	hasPriority
	hasCorrelationID
	hasReplyTo
	hasExpiration
	hasMessageID
	hasTimestamp
	hasType
	hasUserID
	hasAppID
	hasClusterID
)

// ErrUnencodable means that a message cannot be encoded; nothing of it was sent.
var ErrUnencodable = errors.New("wire: cannot be encoded")

// Message is an encoded basic.publish without the number of its channel.
type Message struct {
	head   []byte // the method frame and the header frame
	header int    // where in head the header frame begins
	body   []byte // the caller's
	piece  int    // the most of the body that a frame takes; 0 is all
}

var messages = sync.Pool{New: func() any { return new(Message) }}

// Encode encodes a publish to the same bytes as the client, without the client's
// allocations. frameMax is the largest frame of the connection, 0 for no limit. A
// large body is not copied: it must not change before the message has been written
// to the socket. Free gives the result back for reuse.
func Encode(exchange, key string, mandatory bool, p *amqp.Publishing, frameMax int) (*Message, error) {
	return EncodeWith(nil, exchange, key, mandatory, p, frameMax)
}

// EncodeWith is Encode with a table, unless it is nil, in place of the headers of p.
func EncodeWith(table RawTable, exchange, key string, mandatory bool, p *amqp.Publishing, frameMax int) (*Message, error) {
	m := messages.Get().(*Message) //nolint:forcetypeassert // nothing else is put in
	m.body, m.piece = p.Body, max(0, frameMax-frameOverhead)
	e := encoder{buf: m.head[:0], headers: table}
	e.method(exchange, key, mandatory)
	m.header = len(e.buf)
	e.header(p)
	m.head = e.buf
	if e.err != nil {
		m.Free()
		return nil, fmt.Errorf("%w: %w", ErrUnencodable, e.err)
	}
	return m, nil
}

// HeaderFrame is the length of the frame with the properties and headers.
func (m *Message) HeaderFrame() int { return len(m.head) - m.header }

// Free gives a message back for reuse; the caller must not use it any more.
func (m *Message) Free() {
	m.body = nil
	if cap(m.head) <= keep {
		messages.Put(m)
	}
}

// appendTo appends the frames of the message, for a channel.
func (m *Message) appendTo(b *batch, channel []byte) {
	start := len(b.buf)
	b.append(m.head...)
	copy(b.buf[start+1:], channel)
	copy(b.buf[start+m.header+1:], channel)
	for body := m.body; len(body) > 0; {
		piece := body
		if m.piece > 0 && len(piece) > m.piece {
			piece = piece[:m.piece]
		}
		body = body[len(piece):]
		head := [frameOverhead - 1]byte{frameBody, channel[0], channel[1]}
		binary.BigEndian.PutUint32(head[lengthAt:], uint32(len(piece))) //nolint:gosec // AMQP has no longer frames
		b.append(head[:]...)
		b.refer(piece)
		b.append(frameEnd)
	}
}

// encoder appends to buf; the first error stays.
type encoder struct {
	buf     []byte
	err     error
	headers RawTable // in place of those of the message
}

func (e *encoder) fail(err error) {
	if e.err == nil {
		e.err = err
	}
}

func (e *encoder) method(exchange, key string, mandatory bool) {
	e.begin(frameMethod)
	e.short(classBasic)
	e.short(methodPublish)
	e.short(0) // once a ticket
	e.shortString(exchange)
	e.shortString(key)
	bits := byte(0)
	if mandatory {
		bits = bitMandatory
	}
	e.buf = append(e.buf, bits)
	e.end(0)
}

func (e *encoder) header(p *amqp.Publishing) {
	start := len(e.buf)
	e.begin(frameHeader)
	e.short(classBasic)
	e.short(0) // weight
	e.buf = binary.BigEndian.AppendUint64(e.buf, uint64(len(p.Body)))
	flags := len(e.buf)
	e.short(0)
	mask := e.properties(p)
	binary.BigEndian.PutUint16(e.buf[flags:], mask)
	e.end(start)
}

// properties appends those that are set, in the order of their bits.
func (e *encoder) properties(p *amqp.Publishing) (mask uint16) {
	mask |= e.text(hasContentType, p.ContentType)
	mask |= e.text(hasContentEncoding, p.ContentEncoding)
	switch {
	case e.headers != nil:
		mask |= hasHeaders
		e.buf = append(e.buf, e.headers...)
	case len(p.Headers) > 0:
		mask |= hasHeaders
		e.table(p.Headers)
	}
	mask |= e.octet(hasDeliveryMode, p.DeliveryMode)
	mask |= e.octet(hasPriority, p.Priority)
	mask |= e.text(hasCorrelationID, p.CorrelationId)
	mask |= e.text(hasReplyTo, p.ReplyTo)
	mask |= e.text(hasExpiration, p.Expiration)
	mask |= e.text(hasMessageID, p.MessageId)
	if !p.Timestamp.IsZero() {
		mask |= hasTimestamp
		e.time(p.Timestamp)
	}
	mask |= e.text(hasType, p.Type)
	mask |= e.text(hasUserID, p.UserId)
	mask |= e.text(hasAppID, p.AppId)
	return mask
}

func (e *encoder) text(bit uint16, s string) uint16 {
	if s == "" {
		return 0
	}
	e.shortString(s)
	return bit
}

func (e *encoder) octet(bit uint16, b byte) uint16 {
	if b == 0 {
		return 0
	}
	e.buf = append(e.buf, b)
	return bit
}

// begin starts a frame of channel 0 whose length is not known yet.
func (e *encoder) begin(kind byte) { e.buf = append(e.buf, kind, 0, 0, 0, 0, 0, 0) }

// end completes the frame that began at start.
func (e *encoder) end(start int) {
	e.lengthen(start+lengthAt, len(e.buf))
	e.buf = append(e.buf, frameEnd)
}

// lengthen writes, into the four bytes at at, how many follow them up to end.
func (e *encoder) lengthen(at, end int) {
	n := end - at - 4
	if n > math.MaxUint32 {
		e.fail(errors.New("longer than four gigabytes"))
	}
	binary.BigEndian.PutUint32(e.buf[at:], uint32(n)) //nolint:gosec // looked at above
}

func (e *encoder) short(n uint16) { e.buf = binary.BigEndian.AppendUint16(e.buf, n) }

func (e *encoder) time(t time.Time) {
	e.buf = binary.BigEndian.AppendUint64(e.buf, uint64(t.Unix())) //nolint:gosec // two's complement on the wire
}

func (e *encoder) shortString(s string) {
	if len(s) > field.MaxShortString {
		e.fail(fmt.Errorf("a string of %d bytes, more than %d", len(s), field.MaxShortString))
		return
	}
	e.buf = append(e.buf, byte(len(s)))
	e.buf = append(e.buf, s...)
}

// sized appends a length and what fill appends.
func (e *encoder) sized(fill func()) {
	at := len(e.buf)
	e.buf = append(e.buf, 0, 0, 0, 0)
	fill()
	e.lengthen(at, len(e.buf))
}

func (e *encoder) table(t amqp.Table) {
	e.sized(func() {
		for key, value := range t {
			e.shortString(key)
			e.field(value)
		}
	})
}

// field appends a value with its type, as amqp091-go writes it.
func (e *encoder) field(value any) {
	switch v := value.(type) {
	case string:
		e.kind('S')
		e.sized(func() { e.buf = append(e.buf, v...) })
	case []byte:
		e.kind('x')
		e.sized(func() { e.buf = append(e.buf, v...) })
	case []any:
		e.kind('A')
		e.sized(func() {
			for _, element := range v {
				e.field(element)
			}
		})
	case amqp.Table:
		e.kind('F')
		e.table(v)
	case time.Time:
		e.kind('T')
		e.time(v)
	case nil:
		e.kind('V')
	default:
		e.number(value)
	}
}

func (e *encoder) number(value any) {
	switch v := value.(type) {
	case bool:
		b := byte(0)
		if v {
			b = 1
		}
		e.buf = append(e.buf, 't', b)
	case uint8:
		e.buf = append(e.buf, 'B', v)
	case int8:
		e.buf = append(e.buf, 'b', byte(v)) //nolint:gosec // two's complement on the wire
	case int16:
		e.kind('s')
		e.short(uint16(v)) //nolint:gosec // two's complement on the wire
	case uint16:
		e.kind('u')
		e.short(v)
	case int32:
		e.long('I', uint32(v)) //nolint:gosec // two's complement on the wire
	case uint32:
		e.long('i', v)
	case int64:
		e.longLong('l', uint64(v)) //nolint:gosec // two's complement on the wire
	case float32:
		e.long('f', math.Float32bits(v))
	case float64:
		e.longLong('d', math.Float64bits(v))
	case amqp.Decimal:
		e.buf = append(e.buf, 'D', v.Scale)
		e.buf = binary.BigEndian.AppendUint32(e.buf, uint32(v.Value)) //nolint:gosec // two's complement on the wire
	default:
		e.fail(fmt.Errorf("a header has the type %T", value))
	}
}

func (e *encoder) kind(k byte) { e.buf = append(e.buf, k) }

func (e *encoder) long(kind byte, n uint32) {
	e.kind(kind)
	e.buf = binary.BigEndian.AppendUint32(e.buf, n)
}

func (e *encoder) longLong(kind byte, n uint64) {
	e.kind(kind)
	e.buf = binary.BigEndian.AppendUint64(e.buf, n)
}
