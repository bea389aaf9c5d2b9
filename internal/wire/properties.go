package wire

import (
	"errors"
	"math"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/harebus/harebus/internal/field"
)

var errProperties = errors.New("the properties of a delivery cannot be read")

// decoder reads the properties of a message as the client does, but without its seventy
// allocations. It refuses two things that the client reads: a list that ends in the
// middle of an element, which no broker lets through, and a table of more than 8,192
// entries some of which have the same key, which AMQP forbids.
type decoder struct {
	b    []byte
	text string // b again, for strings to share, or empty
	at   int
	bad  bool   // b ended too soon, or has something unknown
	raw  []byte // the headers, if they cannot be read
}

// properties reads what stands behind the size of the body in a header frame.
func (d *decoder) properties(to *amqp.Delivery) error {
	flags := uint16(d.number(2)) //nolint:gosec // two bytes
	short := func(bit uint16, to *string) {
		if flags&bit != 0 {
			*to = d.string(d.number(1))
		}
	}
	octet := func(bit uint16, to *uint8) {
		if flags&bit != 0 {
			*to = uint8(d.number(1)) //nolint:gosec // one byte
		}
	}
	short(hasContentType, &to.ContentType)
	short(hasContentEncoding, &to.ContentEncoding)
	if flags&hasHeaders != 0 {
		to.Headers = d.headers()
	}
	octet(hasDeliveryMode, &to.DeliveryMode)
	octet(hasPriority, &to.Priority)
	short(hasCorrelationID, &to.CorrelationId)
	short(hasReplyTo, &to.ReplyTo)
	short(hasExpiration, &to.Expiration)
	short(hasMessageID, &to.MessageId)
	if flags&hasTimestamp != 0 {
		to.Timestamp = seconds(d.number(8))
	}
	short(hasType, &to.Type)
	short(hasUserID, &to.UserId)
	short(hasAppID, &to.AppId)
	short(hasClusterID, new(string)) // of older versions of AMQP
	if d.bad {
		return errProperties
	}
	return nil
}

// headers reads the table of headers. One that cannot be read is passed over.
func (d *decoder) headers() amqp.Table {
	start := d.at
	t := d.table(0)
	if !d.bad {
		return t
	}
	d.at, d.bad = start, false
	size := d.number(4)
	if !d.has(size) {
		return nil
	}
	d.at += int(size) //nolint:gosec // no more than len(b)
	d.raw = d.b[start:d.at]
	return nil
}

// has says whether n more bytes are there.
func (d *decoder) has(n uint64) bool {
	if n > uint64(len(d.b)-d.at) {
		d.bad = true
	}
	return !d.bad
}

func (d *decoder) number(size int) uint64 {
	if !d.has(uint64(size)) { //nolint:gosec // not negative
		return 0
	}
	var n uint64
	for _, octet := range d.b[d.at : d.at+size] {
		n = n<<8 | uint64(octet)
	}
	d.at += size
	return n
}

func (d *decoder) string(size uint64) string {
	if !d.has(size) {
		return ""
	}
	start := d.at
	d.at += int(size) //nolint:gosec // no more than len(b)
	if d.text == "" {
		return string(d.b[start:d.at])
	}
	return d.text[start:d.at]
}

// within reads something that begins with its size, part by part.
func (d *decoder) within(depth int, part func()) {
	size := d.number(4)
	if depth > field.MaxDepth || !d.has(size) {
		d.bad = true
		return
	}
	all := d.b
	d.b = all[:d.at+int(size)] //nolint:gosec // no more than len(b)
	for n := 0; d.at < len(d.b) && !d.bad; n++ {
		if n == field.MaxElements {
			d.bad = true
		}
		part()
	}
	d.b = all
}

func (d *decoder) table(depth int) (t amqp.Table) {
	t = make(amqp.Table)
	d.within(depth, func() {
		key := d.string(d.number(1))
		t[key] = d.field(depth)
	})
	return t
}

func (d *decoder) array(depth int) (a []any) {
	d.within(depth, func() {
		a = append(a, d.field(depth))
	})
	return a
}

func (d *decoder) field(depth int) any {
	switch kind := d.number(1); kind {
	case 'S':
		return d.string(d.number(4))
	case 'x':
		return []byte(d.string(d.number(4)))
	case 'A':
		return d.array(depth + 1)
	case 'F':
		return d.table(depth + 1)
	case 'V':
		return nil
	default:
		return d.scalar(byte(kind)) //nolint:gosec // one byte
	}
}

// sizes are those of the values that are a number in some way.
var sizes = [256]int{
	't': 1, 'b': 1, 'B': 1, 's': 2, 'u': 2, 'I': 4, 'i': 4, 'f': 4, 'D': 5, 'l': 8, 'd': 8, 'T': 8,
}

func (d *decoder) scalar(kind byte) any {
	size := sizes[kind]
	if size == 0 {
		d.bad = true
	}
	return scalar(kind, d.number(size))
}

//nolint:gosec // two's complement on the wire, in the size of the kind
func scalar(kind byte, n uint64) any {
	switch kind {
	case 't':
		return n != 0
	case 'b':
		return int8(n)
	case 'B':
		return uint8(n)
	case 's':
		return int16(n)
	case 'u':
		return uint16(n)
	case 'I':
		return int32(n)
	case 'i':
		return uint32(n)
	case 'f':
		return math.Float32frombits(uint32(n))
	case 'D':
		return amqp.Decimal{Scale: uint8(n >> 32), Value: int32(n)}
	case 'd':
		return math.Float64frombits(n)
	case 'T':
		return seconds(n)
	default:
		return int64(n)
	}
}

func seconds(n uint64) time.Time { return time.Unix(int64(n), 0) } //nolint:gosec // two's complement on the wire
