package brokertest

import (
	"bytes"
	"fmt"
	"math"
	"slices"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

// table is a field table in wire order, duplicates included, so that what came
// in goes out unchanged.
type table []field

// field is one entry of a table.
type field struct {
	key string
	val value
}

// value is a field value with the letter of its wire type. v holds bool 't',
// int8 'b', uint8 'B', int16 's', uint16 'u', int32 'I', uint32 'i', int64 'l',
// float32 'f', float64 'd', decimal 'D', string 'S', []byte 'x', uint64 'T',
// table 'F', []value 'A' or nil 'V'.
type value struct {
	kind byte
	v    any
}

// decimal is value / 10^scale.
type decimal struct {
	scale uint8
	value int32
}

func text(s string) value     { return value{'S', s} }
func long64(n int64) value    { return value{'l', n} }
func boolean(b bool) value    { return value{'t', b} }
func stamp(t time.Time) value { return value{'T', uint64(t.Unix())} }

// lookup returns the first field called key.
func (t table) lookup(key string) (value, bool) {
	for _, f := range t {
		if f.key == key {
			return f.val, true
		}
	}
	return value{}, false
}

// str returns the string called key, or "" when it is absent or no string.
func (t table) str(key string) string {
	v, _ := t.lookup(key)
	s, _ := v.v.(string)
	return s
}

// with returns a copy in which key has value v: replaced in place or appended.
func (t table) with(key string, v value) table {
	out := slices.Clone(t)
	for i := range out {
		if out[i].key == key {
			out[i].val = v
			return out
		}
	}
	return append(out, field{key, v})
}

// without returns a copy that has no field called key.
func (t table) without(key string) table {
	return slices.DeleteFunc(slices.Clone(t), func(f field) bool { return f.key == key })
}

// integer returns the value as a number when it has one of the integer types.
func (v value) integer() (int64, bool) {
	switch x := v.v.(type) {
	case int8:
		return int64(x), true
	case uint8:
		return int64(x), true
	case int16:
		return int64(x), true
	case uint16:
		return int64(x), true
	case int32:
		return int64(x), true
	case uint32:
		return int64(x), true
	case int64:
		return x, true
	}
	return 0, false
}

// equal compares values across the integer and across the float types.
func (v value) equal(w value) bool {
	if a, ok := v.integer(); ok {
		b, ok := w.integer()
		return ok && a == b
	}
	if a, ok := v.float(); ok {
		b, ok := w.float()
		return ok && a == b
	}
	switch x := v.v.(type) {
	case []byte:
		y, ok := w.v.([]byte)
		return ok && bytes.Equal(x, y)
	case table:
		y, ok := w.v.(table)
		return ok && x.equal(y)
	case []value:
		y, ok := w.v.([]value)
		return ok && slices.EqualFunc(x, y, value.equal)
	}
	switch w.v.(type) {
	case []byte, table, []value:
		return false
	}
	return v.kind == w.kind && v.v == w.v
}

func (v value) float() (float64, bool) {
	switch x := v.v.(type) {
	case float32:
		return float64(x), true
	case float64:
		return x, true
	}
	return 0, false
}

// equal compares tables regardless of the order of their fields.
func (t table) equal(u table) bool {
	return slices.EqualFunc(t.sorted(), u.sorted(), func(a, b field) bool {
		return a.key == b.key && a.val.equal(b.val)
	})
}

// sorted returns a copy ordered by key.
func (t table) sorted() table {
	out := slices.Clone(t)
	slices.SortStableFunc(out, func(a, b field) int {
		switch {
		case a.key < b.key:
			return -1
		case a.key > b.key:
			return 1
		}
		return 0
	})
	return out
}

// typeName is the broker's word for the value's wire type, used in error texts.
func (v value) typeName() string {
	switch v.kind {
	case 't':
		return "bool"
	case 'b':
		return "byte"
	case 'B':
		return "unsignedbyte"
	case 's':
		return "short"
	case 'u':
		return "unsignedshort"
	case 'I':
		return "signedint"
	case 'i':
		return "unsignedint"
	case 'l':
		return "long"
	case 'f':
		return "float"
	case 'd':
		return "double"
	case 'D':
		return "decimal"
	case 'S':
		return "longstr"
	case 'x':
		return "binary"
	case 'T':
		return "timestamp"
	case 'F':
		return "table"
	case 'A':
		return "array"
	}
	return "void"
}

// String shows the bare value, for error texts.
func (v value) String() string { return fmt.Sprint(v.v) }

// public converts to the client library's type, for inspection.
func (t table) public() amqp.Table {
	if t == nil {
		return nil
	}
	out := make(amqp.Table, len(t))
	for _, f := range t {
		if _, dup := out[f.key]; !dup {
			out[f.key] = f.val.public()
		}
	}
	return out
}

func (v value) public() any {
	switch x := v.v.(type) {
	case decimal:
		return amqp.Decimal{Scale: x.scale, Value: x.value}
	case uint64:
		if x > math.MaxInt64 {
			return time.Time{}
		}
		return time.Unix(int64(x), 0)
	case table:
		return x.public()
	case []value:
		out := make([]any, len(x))
		for i, item := range x {
			out[i] = item.public()
		}
		return out
	}
	return v.v
}
