package stream_test

import (
	"encoding/json"
	"errors"
	"math"
	"testing"

	"github.com/harebus/harebus/stream"
)

func TestParseOffset(t *testing.T) {
	t.Parallel()
	for _, value := range []any{7, int8(7), int64(7), uint16(7), uint64(7), float32(7), 7.0, "7", " 7\n", []byte("7"), json.Number("7")} {
		if n, err := stream.ParseOffset(value); n != 7 || err != nil {
			t.Errorf("%v (%T): %d, %v", value, value, n, err)
		}
	}
	for _, value := range []any{-1, int64(math.MinInt64), uint64(math.MaxUint64), 7.5, -1.0, math.NaN(), math.Inf(1), 1e300, "", "x", "-1", "7.0", []byte("x"), nil, true, []int{1}} {
		if n, err := stream.ParseOffset(value); err == nil {
			t.Errorf("%v (%T): %d", value, value, n)
		}
	}
	if n, err := stream.ParseOffset(int64(math.MaxInt64)); n != math.MaxInt64 || err != nil {
		t.Error(n, err)
	}
}

func TestOffset(t *testing.T) {
	t.Parallel()
	if _, err := stream.Offset(nil); !errors.Is(err, stream.ErrNoOffset) {
		t.Error(err)
	}
	if n, err := stream.Offset(map[string]any{stream.Header: int64(3)}); n != 3 || err != nil {
		t.Error(n, err)
	}
}

func TestMatches(t *testing.T) {
	t.Parallel()
	for pattern, topics := range map[string][2][]string{
		"#":         {{"a", "a.b", "a.b.c"}, nil},
		"order.*":   {{"order.placed"}, {"order", "order.placed.late", "x.placed"}},
		"order.#":   {{"order", "order.placed", "order.placed.late"}, {"orders", "x.order"}},
		"*.b.#.d":   {{"a.b.d", "a.b.c.d", "a.b.c.c.d"}, {"b.d", "a.b.c", "a.b"}},
		"#.x.#":     {{"x", "a.x", "x.b", "a.b.x.c.d"}, {"a", "xx"}},
		"order.new": {{"order.new"}, {"order.newer", "order"}},
	} {
		for _, topic := range topics[0] {
			if !stream.Matches(pattern, topic) {
				t.Errorf("%s does not match %s", pattern, topic)
			}
		}
		for _, topic := range topics[1] {
			if stream.Matches(pattern, topic) {
				t.Errorf("%s matches %s", pattern, topic)
			}
		}
	}
}
