package harebus_test

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"strings"
	"testing"
	"testing/quick"
	"unicode/utf8"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/harebus/harebus"
)

var errNo = errors.New("no")

// TestErrorDetails: whatever an error says, its text can travel.
func TestErrorDetails(t *testing.T) {
	t.Parallel()
	fits := func(raw []byte, times uint16) bool {
		text := strings.Repeat(string(raw), 1+int(times)%4000)
		got := harebus.ErrorDetails(errors.New(text))
		if !utf8.ValidString(got) || len(got) > harebus.MaxErrorDetails {
			return false
		}
		valid := strings.ToValidUTF8(text, "\uFFFD")
		return len(valid) > harebus.MaxErrorDetails || got == valid
	}
	if err := quick.Check(fits, &quick.Config{MaxCount: 300}); err != nil {
		t.Error(err)
	}
	for _, text := range []string{
		"", "x", strings.Repeat("x", harebus.MaxErrorDetails), strings.Repeat("x", harebus.MaxErrorDetails+1), strings.Repeat("é", harebus.MaxErrorDetails),
		strings.Repeat("\xff", harebus.MaxErrorDetails), "a" + strings.Repeat("😀", harebus.MaxErrorDetails), "\x00\x1b[31m",
	} {
		if !fits([]byte(text), 0) {
			t.Errorf("%.20q…", text)
		}
	}
	if got := harebus.ErrorDetails(errors.New(strings.Repeat("é", harebus.MaxErrorDetails))); !strings.HasSuffix(got, "(cut)") || len(got) < harebus.MaxErrorDetails-20 {
		t.Errorf("cut to %d bytes, ending in %q", len(got), got[len(got)-10:])
	}
}

// TestFit: the headers of a parked copy fit into a frame, and what makes the
// message what it is stays.
func TestFit(t *testing.T) {
	t.Parallel()
	essential := amqp.Table{
		prefixed("MessageId"): "id", prefixed("ErrorRetries"): int8(1), prefixed("ErrorDetails"): strings.Repeat("d", harebus.MaxErrorDetails),
		prefixed("SourceQueue"): "orders",
	}
	for name, rest := range map[string]amqp.Table{
		"nothing":              {},
		"one large":            {"x": strings.Repeat("x", 130_000)},
		"one large, empty key": {"": strings.Repeat("x", 130_000)},
		"own prefix":           many(prefixed("X"), 30, 8000),
		"own prefix large":     many(prefixed("X"), 3, 60_000),
		"many tiny":            many("k", 8000, 12),
		"own and others":       join(many(prefixed("X"), 10, 8000), many("k", 10, 8000)),
		"bytes":                {"x": make([]byte, 130_000)},
		"nested":               {"x": amqp.Table{"y": []any{strings.Repeat("x", 130_000)}}},
		"keys of 255 bytes":    many(long[:250], 500, 10),
		"keys not UTF-8":       many("\xff\xfe", 500, 300),
		"huge standard":        {prefixed("MessageType"): strings.Repeat("x", 130_000)},
		"huge essential":       {prefixed("SourceQueue"): strings.Repeat("x", 130_000)},
	} {
		headers := maps.Clone(essential)
		maps.Copy(headers, rest)
		before := harebus.HeaderFrame(headers)
		harebus.Fit(headers)
		size := harebus.HeaderFrame(headers)
		if size > harebus.MaxHeaderFrame {
			t.Errorf("%s: %d bytes, more than %d", name, size, harebus.MaxHeaderFrame)
		}
		if before <= harebus.MaxHeaderFrame && size != before {
			t.Errorf("%s: changed although it fitted", name)
		}
		details, _ := headers[prefixed("ErrorDetails")].(string)
		if headers[prefixed("MessageId")] != "id" || headers[prefixed("ErrorRetries")] != int8(1) || !strings.Contains(details, "ddd") {
			t.Errorf("%s: essential headers are gone: %v", name, headers[prefixed("MessageId")])
		}
		if before > harebus.MaxHeaderFrame && !strings.Contains(details, "left out") {
			t.Errorf("%s: what was left out is not said", name)
		}
		if !utf8.ValidString(details) {
			t.Errorf("%s: the details are not UTF-8", name)
		}
	}
}

// TestFitQuick: the work grows with the number of headers, not with its square.
// (It runs alone: allocations of other tests would count.)
func TestFitQuick(t *testing.T) {
	const n = 16_000
	headers := many("k", n, 1)
	if allocs := testing.AllocsPerRun(1, func() { harebus.Fit(maps.Clone(headers)) }); allocs > 10*n {
		t.Errorf("%v allocations for %d headers", allocs, n)
	}
}

// TestFitRandom is TestFit with tables by chance.
func TestFitRandom(t *testing.T) {
	t.Parallel()
	fits := func(seed uint64) bool {
		random := rand.New(rand.NewPCG(seed, 1))
		headers := amqp.Table{prefixed("ErrorDetails"): strings.Repeat("d", random.IntN(harebus.MaxErrorDetails))}
		for size := 0; size < 90_000+random.IntN(120_000); {
			n := random.IntN(1 << random.IntN(17))
			key := fmt.Sprintf("%s%d", strings.Repeat("k", random.IntN(200)), size)
			if random.IntN(3) == 0 {
				key = prefixed(key)
			}
			headers[key] = strings.Repeat("v", n)
			size += n + len(key) + 6
		}
		harebus.Fit(headers)
		return harebus.HeaderFrame(headers) <= harebus.MaxHeaderFrame
	}
	if err := quick.Check(fits, &quick.Config{MaxCount: 100}); err != nil {
		t.Error(err)
	}
}

// many makes n headers of size bytes.
func many(prefix string, n, size int) amqp.Table {
	t := make(amqp.Table, n)
	for i := range n {
		t[fmt.Sprintf("%s%d", prefix, i)] = strings.Repeat("v", size)
	}
	return t
}

func join(a, b amqp.Table) amqp.Table {
	maps.Copy(a, b)
	return a
}
