package topics_test

import (
	"strings"
	"testing"
	"time"

	"github.com/harebus/harebus/internal/topics"
)

// cases are patterns, with topics that match, and topics that do not.
var cases = map[string][2][]string{
	"":            {{""}, {"a", "."}},
	"#":           {{"", "a", "a.b", "a..c"}, nil},
	"*":           {{"a"}, {"", "a.b"}},
	"*.*":         {{"a.b", "."}, {"a", "a.b.c"}},
	"order.#":     {{"order", "order.placed", "order.placed.late"}, {"orders", "x.order"}},
	"*.b.#.d":     {{"a.b.d", "a.b.c.d", "a.b.c.c.d"}, {"b.d", "a.b.c", "a.b"}},
	"#.x.#":       {{"x", "a.x", "x.b", "a.b.x.c.d"}, {"a", "xx"}},
	"#.a.*.#.b.#": {{"a.x.b", "a.a.x.y.b.c", "a.b.a.c.b"}, {"a.b", "b.x.a", "a.x"}},
}

func TestMatch(t *testing.T) {
	t.Parallel()
	for pattern, of := range cases {
		for i, all := range of {
			for _, topic := range all {
				if topics.Match(pattern, topic) != (i == 0) {
					t.Errorf("%q and %q", pattern, topic)
				}
				if topics.Covers(pattern, topic) != (i == 0) { // a topic is the pattern of itself
					t.Errorf("covers: %q and %q", pattern, topic)
				}
			}
		}
	}
}

func TestCovers(t *testing.T) {
	t.Parallel()
	for pair, want := range map[[2]string]bool{
		{"#", "a.*"}: true, {"a.#", "a.*"}: true, {"a.*", "a.#"}: false, {"*", "#"}: false, {"#.#", "#"}: true, {"#", "#.#"}: true, {"*.#", "a"}: true, {"a.*", "a.*"}: true,
	} {
		if topics.Covers(pair[0], pair[1]) != want {
			t.Errorf("%q covers %q: want %v", pair[0], pair[1], want)
		}
	}
}

// TestTime: a pattern with many # takes no time that grows with each of them.
func TestTime(t *testing.T) {
	t.Parallel()
	pattern, topic := strings.Repeat("#.a.", 60)+"b", strings.Repeat("a.", 120)+"c"
	began := time.Now()
	for range 100 {
		if topics.Match(pattern, topic) || topics.Covers(pattern, topic) {
			t.Fatal("they match")
		}
	}
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("it took %v", took)
	}
}
