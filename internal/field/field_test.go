package field_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math"
	"math/big"
	"math/rand/v2"
	"net"
	"net/netip"
	"net/url"
	"reflect"
	"strings"
	"testing"
	"testing/quick"
	"time"

	"github.com/google/uuid"
	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/harebus/harebus/internal/field"
)

type (
	named   string
	flag    bool
	number  int16
	natural uint8
	ratio   float32
	angry   struct{ panics bool }
)

func (a angry) MarshalText() ([]byte, error) {
	if a.panics {
		panic("no")
	}
	return nil, errors.New("no")
}

func TestTableConverts(t *testing.T) {
	t.Parallel()
	now := time.Unix(1_700_000_000, 0)
	id := uuid.MustParse("0f1e6c9a-6c1d-5d0e-9a51-6f2f6f0b7c11")
	for name, c := range map[string]struct{ in, want any }{
		"nil": {nil, nil}, "bool": {true, true}, "string": {"x", "x"}, "int": {math.MaxInt64, int64(math.MaxInt64)}, "int8": {int8(-1), int8(-1)},
		"int16": {int16(1), int16(1)}, "int32": {int32(1), int32(1)}, "int64": {int64(1), int64(1)}, "uint8": {uint8(1), uint8(1)},
		"uint16": {uint16(1), uint16(1)}, "uint32": {uint32(math.MaxUint32), uint32(math.MaxUint32)}, "uint": {uint(5), int64(5)},
		"uint64": {uint64(math.MaxInt64), int64(math.MaxInt64)}, "float32": {float32(1.5), float32(1.5)}, "float64": {1.5, 1.5},
		"time": {now, now}, "bytes": {[]byte("x"), []byte("x")},
		"named string": {named("x"), "x"}, "named bool": {flag(true), true}, "named int": {number(-3), int64(-3)}, "named uint": {natural(3), int64(3)},
		"named float": {ratio(1.5), 1.5}, "strings": {[]string{"a"}, []any{"a"}}, "array": {[2]int{1, 2}, []any{int64(1), int64(2)}},
		"list": {[]any{1, "a", nil}, []any{int64(1), "a", nil}}, "map": {map[string]int{"a": 1}, amqp.Table{"a": int64(1)}},
		"table": {amqp.Table{"a": 1}, amqp.Table{"a": int64(1)}}, "named keys": {map[named]bool{"a": true}, amqp.Table{"a": true}}, "nil slice": {[]int(nil), []any{}},
		"duration": {time.Second, int64(time.Second)}, "uuid": {id, id[:]}, "ip": {net.IPv4(1, 2, 3, 4).To4(), []byte{1, 2, 3, 4}},
		"raw json": {json.RawMessage("{}"), []byte("{}")}, "byte array": {[3]byte{1, 2, 3}, []byte{1, 2, 3}}, "named bytes": {[]natural{7}, []byte{7}},
		"uuids": {[]uuid.UUID{id}, []any{id[:]}}, "nil bytes": {json.RawMessage(nil), []byte{}}, "json number": {json.Number("1.50"), "1.50"},
		"text of struct": {netip.MustParseAddr("::1"), "::1"}, "text of kind": {slog.LevelWarn, "WARN"}, "text of pointer": {big.NewInt(7), "7"},
		"fraction":     {time.Unix(1, 5).In(time.FixedZone("", 3600)), "1970-01-01T00:00:01.000000005+00:00"},
		"milliseconds": {time.UnixMilli(1500), "1970-01-01T00:00:01.5+00:00"}, "times": {[]time.Time{now}, []any{now}},
	} {
		got, err := field.Table(map[string]any{"k": c.in})
		if err != nil || !reflect.DeepEqual(got["k"], c.want) {
			t.Errorf("%s: %T %v, want %T %v: %v", name, got["k"], got["k"], c.want, c.want, err)
		}
	}
}

func TestTableRefuses(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("k", 256)
	deep := any("end")
	for range 33 {
		deep = map[string]any{"d": deep}
	}
	deepList := any("end")
	for range 33 {
		deepList = []any{deepList}
	}
	wide := map[string]any{}
	for i := range 8193 {
		wide[fmt.Sprint(i)] = true
	}
	for name, in := range map[string]map[string]any{
		"NaN": {"k": math.NaN()}, "Inf": {"k": math.Inf(1)}, "float32 Inf": {"k": float32(math.Inf(-1))}, "named NaN": {"k": ratio(math.NaN())},
		"NaN inside": {"k": []any{map[string]any{"x": math.NaN()}}}, "empty key": {"": 1}, "long key": {long: 1}, "key not UTF-8": {"\xff": 1},
		"long key inside": {"k": map[string]int{long: 1}}, "uint64": {"k": uint64(math.MaxInt64) + 1}, "struct": {"k": struct{}{}}, "func": {"k": func() {}},
		"chan": {"k": make(chan int)}, "pointer": {"k": new(int)}, "nil pointer": {"k": (*int)(nil)}, "complex": {"k": 1i}, "map by int": {"k": map[int]int{1: 1}},
		"decimal": {"k": amqp.Decimal{Scale: 1, Value: 2}}, "decimal inside": {"k": []any{amqp.Decimal{}}}, "nil text": {"k": (*big.Int)(nil)},
		"text fails": {"k": angry{}}, "text panics": {"k": angry{true}}, "stringer": {"k": fmt.Stringer(&url.URL{Path: "/"})},
		"deep": {"k": deep}, "deep list": {"k": deepList}, "wide list": {"k": make([]int, 8193)}, "wide map": {"k": wide}, "wide": wide,
	} {
		if got, err := field.Table(in); err == nil {
			t.Errorf("%s: accepted as %.60v", name, got)
		} else if len(err.Error()) > 400 {
			t.Errorf("%s: an error of %d bytes", name, len(err.Error()))
		}
	}
}

// TestTableDepth: 32 levels are what the client library reads.
func TestTableDepth(t *testing.T) {
	t.Parallel()
	for _, wrap := range []func(any) any{
		func(v any) any { return map[string]any{"d": v} },
		func(v any) any { return []any{v} },
	} {
		value := any("end")
		for range 31 {
			value = wrap(value)
		}
		if _, err := field.Table(map[string]any{"k": value}); err != nil {
			t.Errorf("31 levels inside the table: %v", err)
		}
		if _, err := field.Table(map[string]any{"k": wrap(value)}); err == nil {
			t.Error("32 levels inside the table were accepted")
		}
	}
}

// TestTableCopies: what the caller does with its values later changes nothing.
func TestTableCopies(t *testing.T) {
	t.Parallel()
	raw, list, inner := []byte("a"), []any{"a"}, map[string]any{"a": "a"}
	in := map[string]any{"raw": raw, "list": list, "inner": inner}
	before := maps.Clone(in)
	out, err := field.Table(in)
	if err != nil || !reflect.DeepEqual(in, before) {
		t.Fatal(in, err)
	}
	raw[0], list[0], inner["a"] = 'x', "x", "x"
	delete(in, "raw")
	want := amqp.Table{"raw": []byte("a"), "list": []any{"a"}, "inner": amqp.Table{"a": "a"}}
	if !reflect.DeepEqual(out, want) {
		t.Errorf("got %v", out)
	}
}

// randomValue makes something that can be sent.
func randomValue(r *rand.Rand, depth int) any {
	kinds := 16
	if depth > 3 {
		kinds = 14
	}
	switch r.IntN(kinds) {
	case 0:
		return nil
	case 1:
		return r.IntN(2) == 0
	case 2:
		return strings.Repeat("s", r.IntN(40))
	case 3:
		return int8(r.Int())
	case 4:
		return uint8(r.Int())
	case 5:
		return int16(r.Int())
	case 6:
		return uint16(r.Int())
	case 7:
		return int32(r.Int())
	case 8:
		return uint32(r.Int())
	case 9:
		return r.Int()
	case 10:
		return float32(r.Float64())
	case 11:
		return r.Float64()
	case 12:
		return time.Unix(r.Int64N(1<<33), 0)
	case 13:
		return make([]byte, r.IntN(40))
	case 14:
		list := make([]any, r.IntN(4))
		for i := range list {
			list[i] = randomValue(r, depth+1)
		}
		return list
	default:
		return randomTable(r, depth+1)
	}
}

func randomTable(r *rand.Rand, depth int) map[string]any {
	m := map[string]any{}
	for range r.IntN(6) {
		m[strings.Repeat("k", 1+r.IntN(20))+fmt.Sprint(r.IntN(99))] = randomValue(r, depth)
	}
	return m
}

// encoded is the size of the table as the client writes it, found by writing it.
func encoded(t *testing.T, table amqp.Table) int {
	t.Helper()
	if err := table.Validate(); err != nil {
		t.Fatal(err)
	}
	return reference(table)
}

// TestSize compares with a count by the specification's grammar.
func TestSize(t *testing.T) {
	t.Parallel()
	right := func(seed uint64) bool {
		table, err := field.Table(randomTable(rand.New(rand.NewPCG(seed, 2)), 0))
		if err != nil {
			t.Log(err)
			return false
		}
		return field.Size(table) == encoded(t, table)
	}
	if err := quick.Check(right, &quick.Config{MaxCount: 1000}); err != nil {
		t.Error(err)
	}
	if got := field.Size(amqp.Table{"d": amqp.Decimal{}, "i": 5}); got != 4+(1+1+1+5)+(1+1+1+4) {
		t.Errorf("size %d", got)
	}
}

// reference encodes a table.
func reference(v any) int {
	var buf bytes.Buffer
	zero := func(n int) { buf.Write(make([]byte, n)) }
	switch v := v.(type) {
	case amqp.Table:
		zero(4)
		for key, value := range v {
			buf.WriteByte(byte(len(key)))
			buf.WriteString(key)
			buf.WriteByte('?')
			zero(reference(value))
		}
	case []any:
		zero(4)
		for _, value := range v {
			buf.WriteByte('?')
			zero(reference(value))
		}
	case string:
		zero(4)
		buf.WriteString(v)
	case []byte:
		zero(4)
		buf.Write(v)
	case bool, int8, uint8:
		zero(1)
	case int16, uint16:
		zero(2)
	case int32, uint32, float32:
		zero(4)
	case int64, float64, time.Time:
		zero(8)
	}
	return buf.Len()
}

func TestEntrySize(t *testing.T) {
	t.Parallel()
	adds := func(seed uint64) bool {
		table, err := field.Table(randomTable(rand.New(rand.NewPCG(seed, 3)), 0))
		if err != nil {
			return false
		}
		sum := 4
		for key, value := range table {
			sum += field.EntrySize(key, value)
		}
		return sum == field.Size(table)
	}
	if err := quick.Check(adds, nil); err != nil {
		t.Error(err)
	}
}

func TestSmallestInt(t *testing.T) {
	t.Parallel()
	for n, want := range map[int]any{
		0: int8(0), 127: int8(127), -128: int8(-128), 128: int16(128), -129: int16(-129), 32767: int16(32767), 32768: int32(32768),
		-32769: int32(-32769), math.MaxInt32: int32(math.MaxInt32), math.MaxInt32 + 1: int64(math.MaxInt32 + 1), math.MinInt64: int64(math.MinInt64),
	} {
		if got := field.SmallestInt(n); got != want {
			t.Errorf("%d is %T %v, want %T", n, got, got, want)
		}
	}
}

// FuzzTable: whatever keys and values come, the result can be sent, and has the
// size it is said to have.
func FuzzTable(f *testing.F) {
	f.Add("", "", int64(0), 0.0, 0)
	f.Add("PikaBus.MessageId", "x", int64(math.MaxInt64), math.Inf(1), 40)
	f.Add(strings.Repeat("k", 255), "\xff", int64(-1), math.NaN(), 31)
	f.Add("k", "v", int64(0), 0.5, 29)
	f.Add("k", "v", int64(0), 0.5, 30)
	f.Add("\xff\xfe", strings.Repeat("v", 1<<10), int64(math.MinInt64), 1e308, 32)
	f.Fuzz(func(t *testing.T, key, text string, n int64, x float64, depth int) {
		value := any(map[string]any{key: text, key + "n": n, key + "x": []float64{x}})
		for range min(max(depth, 0), 64) {
			value = []any{value}
		}
		table, err := field.Table(map[string]any{"k": value})
		if err != nil {
			return
		}
		if size := field.Size(table); size != encoded(t, table) {
			t.Errorf("size %d of %v", size, table)
		}
		if math.IsNaN(x) || math.IsInf(x, 0) || len(key) > 254 || depth > 29 {
			t.Errorf("accepted key %q, number %v, depth %d", key, x, depth)
		}
	})
}

func TestDeadly(t *testing.T) {
	for name, value := range map[string]any{
		"NaN": math.NaN(), "infinite": math.Inf(-1), "float32": float32(math.Inf(1)), "decimal": amqp.Decimal{Scale: 2, Value: 5},
		"in a list": []any{1.5, math.NaN()}, "in a table": amqp.Table{"a": []any{amqp.Table{"b": amqp.Decimal{}}}},
	} {
		if !field.Deadly(value) {
			t.Errorf("%s is not", name)
		}
	}
	for name, value := range map[string]any{
		"nil": nil, "number": 1.5, "text": "NaN", "bytes": []byte{0}, "list": []any{1.5, "x"}, "table": amqp.Table{"a": float32(0)},
	} {
		if field.Deadly(value) {
			t.Errorf("%s is", name)
		}
	}
}
