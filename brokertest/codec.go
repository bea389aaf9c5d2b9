package brokertest

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
)

// errMalformed is what every decoder returns for bytes that are no AMQP value.
var errMalformed = errors.New("malformed")

// coder reads or writes the fields of a method, so that one list of fields serves
// both directions.
type coder interface {
	octet(*uint8)
	short(*uint16)
	long(*uint32)
	longlong(*uint64)
	shortstr(*string)
	longstr(*string)
	table(*table)
	bits(...*bool)
}

// decoder reads AMQP values from a byte slice. The first fault sticks.
type decoder struct {
	buf []byte
	err error
}

func (d *decoder) fail(format string, args ...any) {
	if d.err == nil {
		d.err = fmt.Errorf("%w: %s", errMalformed, fmt.Sprintf(format, args...))
	}
	d.buf = nil
}

// take returns the next n bytes, or nil after a fault.
func (d *decoder) take(n int) []byte {
	if d.err != nil || n < 0 || n > len(d.buf) {
		d.fail("%d bytes wanted, %d left", n, len(d.buf))
		return nil
	}
	p := d.buf[:n]
	d.buf = d.buf[n:]
	return p
}

func (d *decoder) u8() uint8 {
	if p := d.take(1); p != nil {
		return p[0]
	}
	return 0
}

func (d *decoder) u16() uint16 {
	if p := d.take(2); p != nil {
		return binary.BigEndian.Uint16(p)
	}
	return 0
}

func (d *decoder) u32() uint32 {
	if p := d.take(4); p != nil {
		return binary.BigEndian.Uint32(p)
	}
	return 0
}

func (d *decoder) u64() uint64 {
	if p := d.take(8); p != nil {
		return binary.BigEndian.Uint64(p)
	}
	return 0
}

func (d *decoder) octet(v *uint8)     { *v = d.u8() }
func (d *decoder) short(v *uint16)    { *v = d.u16() }
func (d *decoder) long(v *uint32)     { *v = d.u32() }
func (d *decoder) longlong(v *uint64) { *v = d.u64() }
func (d *decoder) shortstr(v *string) { *v = string(d.take(int(d.u8()))) }

func (d *decoder) longstr(v *string) { *v = string(d.longBytes()) }

// longBytes reads a 32 bit length and that many bytes.
func (d *decoder) longBytes() []byte {
	n := d.u32()
	if uint64(n) > uint64(len(d.buf)) {
		d.fail("length %d, %d left", n, len(d.buf))
		return nil
	}
	return d.take(int(n))
}

func (d *decoder) table(v *table) { *v = d.fields() }

func (d *decoder) bits(vs ...*bool) {
	p := d.u8()
	for i, v := range vs {
		*v = p&(1<<i) != 0
	}
}

// fields reads a length-prefixed table.
func (d *decoder) fields() table {
	sub := decoder{buf: d.longBytes()}
	if d.err != nil {
		return nil
	}
	var t table
	for len(sub.buf) > 0 && sub.err == nil {
		var f field
		sub.shortstr(&f.key)
		f.val = sub.value()
		t = append(t, f)
	}
	if sub.err != nil {
		d.fail("table: %v", sub.err)
		return nil
	}
	return t
}

// value reads a type letter and the value it announces.
func (d *decoder) value() value {
	v := value{kind: d.u8()}
	switch v.kind {
	case 't':
		v.v = d.u8() != 0
	case 'b':
		v.v = int8(d.u8())
	case 'B':
		v.v = d.u8()
	case 's':
		v.v = int16(d.u16())
	case 'u':
		v.v = d.u16()
	case 'I':
		v.v = int32(d.u32())
	case 'i':
		v.v = d.u32()
	case 'l':
		v.v = int64(d.u64())
	case 'f':
		v.v = math.Float32frombits(d.u32())
	case 'd':
		v.v = math.Float64frombits(d.u64())
	case 'D':
		v.v = decimal{scale: d.u8(), value: int32(d.u32())}
	case 'S':
		v.v = string(d.longBytes())
	case 'x':
		v.v = append([]byte{}, d.longBytes()...)
	case 'T':
		v.v = d.u64()
	case 'F':
		v.v = d.fields()
	case 'A':
		v.v = d.array()
	case 'V':
	default:
		d.fail("field type %q", v.kind)
	}
	return v
}

func (d *decoder) array() []value {
	sub := decoder{buf: d.longBytes()}
	if d.err != nil {
		return nil
	}
	vs := []value{}
	for len(sub.buf) > 0 && sub.err == nil {
		vs = append(vs, sub.value())
	}
	if sub.err != nil {
		d.fail("array: %v", sub.err)
		return nil
	}
	return vs
}

// encoder appends AMQP values to a byte slice. Strings that are too long for
// their length field are cut; the broker checks what it builds beforehand.
type encoder struct{ buf []byte }

func (e *encoder) u8(v uint8)   { e.buf = append(e.buf, v) }
func (e *encoder) u16(v uint16) { e.buf = binary.BigEndian.AppendUint16(e.buf, v) }
func (e *encoder) u32(v uint32) { e.buf = binary.BigEndian.AppendUint32(e.buf, v) }
func (e *encoder) u64(v uint64) { e.buf = binary.BigEndian.AppendUint64(e.buf, v) }

func (e *encoder) octet(v *uint8)     { e.u8(*v) }
func (e *encoder) short(v *uint16)    { e.u16(*v) }
func (e *encoder) long(v *uint32)     { e.u32(*v) }
func (e *encoder) longlong(v *uint64) { e.u64(*v) }

func (e *encoder) shortstr(v *string) {
	s := *v
	if len(s) > math.MaxUint8 {
		s = s[:math.MaxUint8]
	}
	e.u8(uint8(len(s)))
	e.buf = append(e.buf, s...)
}

func (e *encoder) longstr(v *string) {
	e.u32(uint32(len(*v)))
	e.buf = append(e.buf, *v...)
}

func (e *encoder) table(v *table) {
	e.sized(func() {
		for _, f := range *v {
			e.shortstr(&f.key)
			e.value(f.val)
		}
	})
}

// sized writes what body appends behind its 32 bit length.
func (e *encoder) sized(body func()) {
	at := len(e.buf)
	e.u32(0)
	body()
	binary.BigEndian.PutUint32(e.buf[at:], uint32(len(e.buf)-at-4))
}

func (e *encoder) bits(vs ...*bool) {
	var p uint8
	for i, v := range vs {
		if *v {
			p |= 1 << i
		}
	}
	e.u8(p)
}

func (e *encoder) value(v value) {
	e.u8(v.kind)
	switch x := v.v.(type) {
	case bool:
		e.bits(&x)
	case int8:
		e.u8(uint8(x))
	case uint8:
		e.u8(x)
	case int16:
		e.u16(uint16(x))
	case uint16:
		e.u16(x)
	case int32:
		e.u32(uint32(x))
	case uint32:
		e.u32(x)
	case int64:
		e.u64(uint64(x))
	case uint64:
		e.u64(x)
	case float32:
		e.u32(math.Float32bits(x))
	case float64:
		e.u64(math.Float64bits(x))
	case decimal:
		e.u8(x.scale)
		e.u32(uint32(x.value))
	case string:
		e.longstr(&x)
	case []byte:
		e.u32(uint32(len(x)))
		e.buf = append(e.buf, x...)
	case table:
		e.table(&x)
	case []value:
		e.sized(func() {
			for _, item := range x {
				e.value(item)
			}
		})
	}
}
