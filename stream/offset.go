package stream

import (
	"fmt"
	"math"
	"reflect"
	"strconv"
	"strings"
)

// Header is the name of the header in which the broker says the offset of a message of a stream.
const Header = "x-stream-offset"

// Offset is where in its stream a message is, from its headers:
//
//	n, err := stream.Offset(harebus.Incoming(ctx).Headers)
//
// Offsets grow from message to message. Here and there one is left out.
func Offset(headers map[string]any) (int64, error) {
	value, ok := headers[Header]
	if !ok {
		return 0, ErrNoOffset
	}
	return ParseOffset(value)
}

// ParseOffset reads an offset that was kept somewhere: as any kind of integer, a float without a fraction (as JSON has it),
// a text or bytes.
func ParseOffset(value any) (int64, error) {
	bad := func() (int64, error) {
		return 0, fmt.Errorf("stream: parse offset: %v (%T) is not a number from 0 on", value, value)
	}
	n, ok := int64(0), true
	switch v := value.(type) {
	case string:
		return parseText(v, bad)
	case []byte:
		return parseText(string(v), bad)
	case fmt.Stringer: // json.Number
		return parseText(v.String(), bad)
	default:
		switch r := reflect.ValueOf(value); {
		case !r.IsValid():
			ok = false
		case r.CanInt():
			n = r.Int()
		case r.CanUint():
			ok = r.Uint() <= math.MaxInt64
			n = int64(r.Uint()) //nolint:gosec // checked
		case r.CanFloat():
			f := r.Float()
			ok = f == math.Trunc(f) && math.Abs(f) <= 1<<53 // beyond that it is not exact
			n = int64(f)
		default:
			ok = false
		}
	}
	if !ok || n < 0 {
		return bad()
	}
	return n, nil
}

func parseText(s string, bad func() (int64, error)) (int64, error) {
	n, err := strconv.ParseInt(strings.TrimSpace(s), 10, 64)
	if err != nil || n < 0 {
		return bad()
	}
	return n, nil
}
