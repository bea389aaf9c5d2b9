package seal

import (
	"encoding/binary"
	"fmt"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/harebus/harebus"
)

// maxBound limits the bound headers of a message, because retries must keep them whatever else
// they drop.
const maxBound = 4096

// binding turns what a message says of itself into bytes.
type binding struct {
	names []string // of the bound headers, sorted
}

func newBinding(names []string) binding {
	sorted := slices.Clone(names)
	slices.Sort(sorted)
	return binding{slices.Compact(sorted)}
}

// append appends the identity. The same identity always gives the same bytes, and two that
// differ never do: every text has its length in front, and every header's value its kind.
func (s binding) append(b []byte, id *harebus.Identity) ([]byte, error) {
	for _, text := range [...]string{
		id.ID, id.CorrelationID, id.Type, string(id.Intent), id.ReplyTo, id.OriginatingAddress, id.AppID,
	} {
		b = appendText(b, text)
	}
	b = binary.BigEndian.AppendUint64(b, uint64(micros(id.TimeSent)))
	b = binary.AppendUvarint(b, uint64(id.Hops))
	start := len(b)
	for _, name := range s.names {
		value, there := id.Headers[name]
		if !there {
			continue
		}
		b = appendText(b, name)
		var err error
		if b, err = appendValue(b, value); err != nil {
			return nil, fmt.Errorf("header %q: %w", name, err)
		}
	}
	if n := len(b) - start; n > maxBound {
		return nil, fmt.Errorf("the bound headers take %d bytes, more than %d", n, maxBound)
	}
	return b, nil
}

// boundBytes lends the buffers in which what is bound is put together.
var boundBytes = sync.Pool{New: func() any { return new([]byte) }}

// bind puts head and the identity into one piece, which goes back to boundBytes.
func (s binding) bind(head []byte, id *harebus.Identity) (*[]byte, error) {
	buffer := boundBytes.Get().(*[]byte) //nolint:forcetypeassert // the pool has nothing else
	bound, err := s.append(append((*buffer)[:0], head...), id)
	if err == nil { // else it can be large
		*buffer = bound
	}
	return buffer, err
}

// size is about how many bytes append appends.
func (s binding) size(id *harebus.Identity) int {
	return 40 + len(id.ID) + len(id.CorrelationID) + len(id.Type) + len(id.Intent) + len(id.ReplyTo) + len(id.OriginatingAddress) + len(id.AppID) + 64*len(s.names)
}

// appendValue appends a header's value with its kind. Integers are one kind, because clients
// choose the width.
func appendValue(b []byte, value any) ([]byte, error) {
	integer := func(n int64) ([]byte, error) { return binary.BigEndian.AppendUint64(append(b, 'i'), uint64(n)), nil }
	decimal := func(x float64) ([]byte, error) {
		return binary.BigEndian.AppendUint64(append(b, 'f'), math.Float64bits(x)), nil
	}
	switch v := value.(type) {
	case nil:
		return append(b, '0'), nil
	case string:
		return appendText(append(b, 's'), v), nil
	case []byte:
		return append(binary.AppendUvarint(append(b, 'b'), uint64(len(v))), v...), nil
	case bool:
		if v {
			return append(b, 't', 1), nil
		}
		return append(b, 't', 0), nil
	case int:
		return integer(int64(v))
	case int8:
		return integer(int64(v))
	case uint8:
		return integer(int64(v))
	case int16:
		return integer(int64(v))
	case int32:
		return integer(int64(v))
	case int64:
		return integer(v)
	case float32:
		return decimal(float64(v))
	case float64:
		return decimal(v)
	case time.Time:
		return binary.BigEndian.AppendUint64(append(b, 'd'), uint64(v.Unix())), nil
	default:
		return nil, fmt.Errorf("a %T cannot be bound; bind texts, bytes, numbers, truth values and times", value)
	}
}

// micros is a time as the wire keeps it: in microseconds, 0 for none.
func micros(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMicro()
}

// moment is the opposite of micros.
func moment(us int64) time.Time {
	if us == 0 {
		return time.Time{}
	}
	return time.UnixMicro(us).UTC()
}
