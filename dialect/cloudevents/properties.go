package cloudevents

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
	"strconv"
	"time"

	"github.com/harebus/harebus/internal/field"
)

// RabbitMQ 4 makes headers of what a client of AMQP 1.0 calls application properties. RabbitMQ 3 hands them on encoded, in this header.
const encodedProperties = "x-amqp-1.0-app-properties"

// attributesIn are the headers in which attributes are looked for. encoded says that they are not among those of the message.
func attributesIn(headers map[string]any) (all map[string]any, encoded bool) {
	section := field.Said(headers[encodedProperties])
	if section == "" {
		return headers, false
	}
	all, ok := decodeProperties([]byte(section))
	if !ok {
		return headers, false
	}
	return all, true
}

// decodeProperties reads a section with application properties: a map of texts to simple values.
func decodeProperties(section []byte) (map[string]any, bool) {
	const map8, map32 = 0xc1, 0xd1
	rest, ok := bytes.CutPrefix(section, []byte{0x00, 0x53, 0x74})
	if !ok || len(rest) == 0 {
		return nil, false
	}
	v := values{rest: rest[1:]}
	var size, count int
	switch rest[0] {
	case map8:
		size, count = int(v.number(1)), int(v.number(1))
		size-- // which counts the count
	case map32:
		const word = 4
		size, count = int(v.number(word)), int(v.number(word))
		size -= word
	}
	if v.bad || size != len(v.rest) || count%2 != 0 {
		return nil, false
	}
	all := map[string]any{}
	for len(v.rest) > 0 && !v.bad {
		key, isText := v.next().(string)
		value := v.next()
		if v.bad || !isText {
			return nil, false
		}
		all[key] = value
	}
	return all, true
}

// values are encoded values of AMQP 1.0, one after the other.
type values struct {
	rest []byte
	bad  bool
}

// take is the next n bytes; zeros if there are not so many.
func (v *values) take(n uint64) []byte {
	if n > uint64(len(v.rest)) {
		v.bad, v.rest = true, nil
		return make([]byte, min(n, 16)) //nolint:mnd // no number has more
	}
	taken := v.rest[:n]
	v.rest = v.rest[n:]
	return taken
}

// number is an unsigned number of n bytes.
func (v *values) number(n uint64) uint64 {
	var all [8]byte
	copy(all[8-n:], v.take(n))
	return binary.BigEndian.Uint64(all[:])
}

// next is the next value as the Go type that stands for it. What is no attribute (a decimal, a character) is nil.
func (v *values) next() any {
	code := byte(v.number(1))
	switch code >> 4 { // says how long it is
	case 0x4:
		v.bad = v.bad || code > 0x44 // an empty list
		return constants[code]
	case 0x5, 0x6, 0x7, 0x8:
		n := uint64(1) << (code>>4 - 0x5)
		return numeric(code, v.number(n))
	case 0x9:
		b := v.take(16) //nolint:mnd // of a UUID
		if code == 0x98 {
			return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:16])
		}
		return nil
	case 0xa:
		return text(code, v.take(v.number(1)))
	case 0xb:
		return text(code, v.take(v.number(4))) //nolint:mnd // the bytes of a length
	}
	v.bad = true // a list, or what does not exist
	return nil
}

var constants = map[byte]any{0x41: true, 0x42: false, 0x43: int64(0), 0x44: int64(0)}

// numeric is what a number stands for.
func numeric(code byte, n uint64) any {
	switch code {
	case 0x56:
		return n != 0
	case 0x50, 0x52, 0x53, 0x60, 0x70:
		return int64(n) //nolint:gosec // it has 32 bits
	case 0x80:
		if n > math.MaxInt64 {
			return strconv.FormatUint(n, 10)
		}
		return int64(n)
	case 0x51, 0x54, 0x55:
		return int64(int8(n)) //nolint:gosec // it is signed
	case 0x61:
		return int64(int16(n)) //nolint:gosec // likewise
	case 0x71:
		return int64(int32(n)) //nolint:gosec // likewise
	case 0x81:
		return int64(n) //nolint:gosec // likewise
	case 0x72:
		return float64(math.Float32frombits(uint32(n))) //nolint:gosec // it has 32 bits
	case 0x82:
		return math.Float64frombits(n)
	case 0x83:
		return time.UnixMilli(int64(n)).UTC() //nolint:gosec // it is signed
	}
	return nil
}

// text is a text, a symbol or bytes.
func text(code byte, b []byte) any {
	switch code & 0xf {
	case 0x1, 0x3:
		return string(b)
	case 0x0:
		return b
	}
	return nil
}
