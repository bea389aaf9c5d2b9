// Package field converts Go values to AMQP 0-9-1 field tables, measures them, and
// reads times, counts and texts of headers.
//
// The client library writes a Go int as 32 bits and drops the rest, writes values
// that its own reader refuses, and closes the whole connection if a table does not
// fit into a frame. Tables that pass the checks here are safe to send.
package field

import (
	"encoding"
	"errors"
	"fmt"
	"math"
	"reflect"
	"time"
	"unicode/utf8"

	amqp "github.com/rabbitmq/amqp091-go"
)

const (
	// MaxShortString is the longest key, name or routing key, in bytes.
	MaxShortString = 255
	// MaxDepth is how deep tables and lists may be nested so that the client can read
	// them. A peer that uses the same client could not read a message with more. The
	// broker has no such limit.
	MaxDepth = 32
	// MaxElements is how many elements each of them may have, likewise.
	MaxElements = 8192
)

// Table returns a copy of in, with every value converted.
func Table(in map[string]any) (amqp.Table, error) {
	return table(in, 1)
}

// Check returns why [Table] would refuse one entry, or nil.
func Check(key string, value any) error {
	if err := checkKey(key); err != nil {
		return err
	}
	_, err := convert(value, 1)
	return err
}

func table(in map[string]any, depth int) (amqp.Table, error) {
	if len(in) > MaxElements {
		return nil, fmt.Errorf("%d entries are more than %d", len(in), MaxElements)
	}
	out := make(amqp.Table, len(in))
	for key, value := range in {
		if err := checkKey(key); err != nil {
			return nil, err
		}
		converted, err := convert(value, depth)
		if err != nil {
			return nil, fmt.Errorf("%q: %w", key, err)
		}
		out[key] = converted
	}
	return out, nil
}

func checkKey(key string) error {
	switch {
	case key == "":
		return fmt.Errorf("a key is empty")
	case len(key) > MaxShortString:
		return fmt.Errorf("key %.40q… has %d bytes, more than %d", key, len(key), MaxShortString)
	case !utf8.ValidString(key):
		return fmt.Errorf("key %q is not valid UTF-8", key)
	default:
		return nil
	}
}

func convert(value any, depth int) (any, error) {
	switch v := value.(type) {
	case nil, bool, string, int8, int16, int32, int64, uint8, uint16, uint32:
		return v, nil
	case int:
		return int64(v), nil
	case []byte:
		return append([]byte(nil), v...), nil
	case float32:
		return v, finite(float64(v))
	case float64:
		return v, finite(v)
	case time.Time:
		return instant(v), nil
	case amqp.Decimal:
		return nil, errDecimal
	}
	r := reflect.ValueOf(value)
	if text, ok := value.(encoding.TextMarshaler); ok && !octets(r.Type()) {
		return marshal(text, r)
	}
	return convertKind(r, depth)
}

var errDecimal = errors.New("a decimal ends the connection where a stream is bound; send it as text")

// fractional is the format of a time that an AMQP timestamp cannot hold.
const fractional = "2006-01-02T15:04:05.999999999-07:00"

// instant is a timestamp, which AMQP counts in seconds, or a text where that would
// lose the fraction.
func instant(t time.Time) any {
	if t.Nanosecond() == 0 {
		return t
	}
	return t.UTC().Format(fractional)
}

// octets says whether values of a type are bytes: []byte, [16]byte and what is
// defined as such.
func octets(t reflect.Type) bool {
	return (t.Kind() == reflect.Slice || t.Kind() == reflect.Array) && t.Elem().Kind() == reflect.Uint8
}

func convertOctets(r reflect.Value) []byte {
	b := make([]byte, r.Len())
	for i := range b {
		b[i] = byte(r.Index(i).Uint())
	}
	return b
}

// marshal asks a value for its text. A nil pointer has none.
func marshal(value encoding.TextMarshaler, r reflect.Value) (text any, err error) {
	if r.Kind() == reflect.Pointer && r.IsNil() {
		return nil, fmt.Errorf("a nil %s cannot be sent", r.Type())
	}
	defer func() {
		if v := recover(); v != nil {
			err = fmt.Errorf("the method MarshalText of %s panicked: %v", r.Type(), v)
		}
	}()
	b, err := value.MarshalText()
	if err != nil {
		return nil, fmt.Errorf("the text of a %s: %w", r.Type(), err)
	}
	return string(b), nil
}

func finite(v float64) error {
	if math.IsNaN(v) || math.IsInf(v, 0) {
		return fmt.Errorf("%v closes the connection", v)
	}
	return nil
}

// convertKind handles named types, containers and the rest.
func convertKind(r reflect.Value, depth int) (any, error) {
	switch r.Kind() {
	case reflect.Bool:
		return r.Bool(), nil
	case reflect.String:
		return r.String(), nil
	case reflect.Float32, reflect.Float64:
		return r.Float(), finite(r.Float())
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		return r.Int(), nil
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		if r.Uint() > math.MaxInt64 {
			return nil, fmt.Errorf("%d does not fit into 64 bits with a sign", r.Uint())
		}
		return int64(r.Uint()), nil //nolint:gosec // bounded one line above
	case reflect.Slice, reflect.Array, reflect.Map:
		if octets(r.Type()) {
			return convertOctets(r), nil
		}
		if depth >= MaxDepth {
			return nil, fmt.Errorf("nested deeper than %d", MaxDepth)
		}
		if r.Kind() == reflect.Map {
			return convertMap(r, depth+1)
		}
		return convertList(r, depth+1)
	default:
		return nil, fmt.Errorf("a %s cannot be sent", r.Type())
	}
}

func convertList(r reflect.Value, depth int) (any, error) {
	if r.Len() > MaxElements {
		return nil, fmt.Errorf("%d elements are more than %d", r.Len(), MaxElements)
	}
	list := make([]any, r.Len())
	for i := range list {
		value, err := convert(r.Index(i).Interface(), depth)
		if err != nil {
			return nil, fmt.Errorf("element %d: %w", i, err)
		}
		list[i] = value
	}
	return list, nil
}

func convertMap(r reflect.Value, depth int) (any, error) {
	if r.Type().Key().Kind() != reflect.String {
		return nil, fmt.Errorf("a %s cannot be sent", r.Type())
	}
	in := make(map[string]any, r.Len())
	for entries := r.MapRange(); entries.Next(); {
		in[entries.Key().String()] = entries.Value().Interface()
	}
	return table(in, depth)
}

// Size returns the encoded size of a converted table in bytes, its length
// prefix included.
func Size(t amqp.Table) int {
	size := 4
	for key, value := range t {
		size += EntrySize(key, value)
	}
	return size
}

// EntrySize returns the encoded size of one entry of a converted table.
func EntrySize(key string, value any) int {
	return 1 + len(key) + 1 + valueSize(value)
}

func valueSize(value any) int {
	switch v := value.(type) {
	case nil:
		return 0
	case bool, int8, uint8:
		return 1
	case int16, uint16:
		return 2
	case int32, uint32, float32, int:
		return 4
	case amqp.Decimal:
		return 5
	case string:
		return 4 + len(v)
	case []byte:
		return 4 + len(v)
	case amqp.Table:
		return Size(v)
	case []any:
		size := 4
		for _, element := range v {
			size += 1 + valueSize(element)
		}
		return size
	default: // int64, float64, time.Time
		return 8
	}
}

// SmallestInt returns n as the narrowest signed integer that holds it, as
// Python's clients encode integers.
func SmallestInt(n int) any {
	switch {
	case n >= math.MinInt8 && n <= math.MaxInt8:
		return int8(n)
	case n >= math.MinInt16 && n <= math.MaxInt16:
		return int16(n)
	case n >= math.MinInt32 && n <= math.MaxInt32:
		return int32(n)
	default:
		return int64(n)
	}
}
