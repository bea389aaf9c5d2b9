package fingerprint_test

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"testing"

	"github.com/harebus/harebus/internal/fingerprint"
	"github.com/harebus/harebus/internal/foreign"
)

func TestText(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ name, text, want string }{
		{"address", "dial tcp 127.0.0.1:5432: connect: connection refused", "dial tcp #:#: connect: connection refused"},
		{"quoted", `no stock for "blue chair" in 'Oslo' or ` + "`Bergen`", `no stock for "…" in "…" or "…"`},
		{"apostrophe", "the order doesn't exist, it can't be paid", "the order doesn't exist, it can't be paid"},
		{"id", "order 0193a7c2-5f4e-7d3a: not found (7)", "order #: not found (#)"},
		{"lines", "first\n\tsecond", "first second"},
		{"terminal", "red\x1b[31m and \u202eright to left", "red[# and right to left"},
		{"not UTF-8", "bad \xff", "bad \uFFFD"},
		{"long", strings.Repeat("word ", 1000), strings.TrimSpace(strings.Repeat("word ", 40))},
		{"empty", "", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			if got := strings.TrimSpace(fingerprint.Text(test.text)); got != test.want {
				t.Errorf("%q, want %q", got, test.want)
			}
		})
	}
}

type shop struct{ stock map[string]int }

func (s *shop) place(order string) { s.stock[order]++ }

// TestPanic: panics at one place are one group, whatever the addresses and goroutines are.
func TestPanic(t *testing.T) {
	t.Parallel()
	place := func() string {
		err := foreign.Call(func() error { new(shop).place("1"); return nil })
		return fingerprint.Text(err.Error())
	}
	first := place()
	if want := "panic: assignment to entry in nil map @ fingerprint_test.(*shop).place"; first != want {
		t.Errorf("%q, want %q", first, want)
	}
	other := make(chan string)
	go func() { other <- place() }()
	if second := <-other; second != first {
		t.Errorf("%q and %q", first, second)
	}
}

// TestGroupsOfACorpus: 24 kinds of failures with changing parts are 24 fingerprints.
func TestGroupsOfACorpus(t *testing.T) {
	t.Parallel()
	kinds := []func(i int) error{
		func(i int) error {
			return fmt.Errorf("dial tcp 10.0.%d.%d:5432: connect: connection refused", i%256, i%7)
		},
		func(i int) error { return fmt.Errorf("dial tcp: lookup db-%d: no such host", i) },
		func(i int) error { return fmt.Errorf("order %d: not found", i) },
		func(i int) error { return fmt.Errorf("order %x is already paid", i*7919) },
		func(i int) error { return fmt.Errorf("customer %q has no address", strings.Repeat("ab", i%5)) },
		func(i int) error {
			return fmt.Errorf("bad-payload: cannot unmarshal string into field %d of type int", i)
		},
		func(i int) error {
			return fmt.Errorf("bad-payload: invalid character %q at offset %d", 'a'+rune(i%26), i)
		},
		func(i int) error { return fmt.Errorf("payment declined (code %q)", string(rune('A'+i%26))) },
		func(i int) error { return fmt.Errorf("timeout after %dms: %w", i, context.DeadlineExceeded) },
		func(i int) error { return fmt.Errorf("write tcp 10.1.1.%d: broken pipe", i) },
		func(int) error { return errors.New("out of stock") },
		func(i int) error { return foreign.Call(func() error { return fmt.Errorf("%d", []int{}[i]) }) },
	}
	groups := map[string]bool{}
	for i := range 1000 {
		for _, queue := range []string{"orders", "payments"} {
			for _, kind := range kinds {
				groups[fingerprint.Of("Place", queue, fingerprint.Text(kind(i).Error()))] = true
			}
		}
	}
	if len(groups) != 24 {
		t.Errorf("%d groups, want 24", len(groups))
	}
	for id := range groups {
		if !regexp.MustCompile(`^[0-9a-f]{16}$`).MatchString(id) {
			t.Errorf("id %q", id)
		}
	}
}
