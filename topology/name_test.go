package topology_test

import (
	"errors"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/harebus/harebus/topology"
)

func TestValidName(t *testing.T) {
	t.Parallel()
	for name, ok := range map[string]bool{
		"orders":                 true,
		"a b":                    true,
		"käufe.*.#":              true,
		"amq":                    true,
		"amqp.orders":            true,
		strings.Repeat("x", 255): true,
		strings.Repeat("x", 256): false,
		strings.Repeat("é", 128): false,
		"":                       false,
		"amq.orders":             false,
		"a\xffb":                 false,
		"a\nb":                   false,
		"a\x00b":                 false,
		"a\u0085b":               false,
	} {
		check(t, "ValidName", name, topology.ValidName("queue", name), ok)
	}
}

func TestValidTopic(t *testing.T) {
	t.Parallel()
	for pattern, ok := range map[string]bool{
		"order.placed":           true,
		"#":                      true,
		"*":                      true,
		"order.*.#":              true,
		"a..b":                   true,
		strings.Repeat("x", 255): true,
		strings.Repeat("x", 256): false,
		"":                       false,
		"order*":                 false,
		"order.#x":               false,
		"**":                     false,
		"a\xff":                  false,
		"a\tb":                   false,
	} {
		check(t, "ValidTopic", pattern, topology.ValidTopic(pattern), ok)
	}
}

func TestValidRoutingKey(t *testing.T) {
	t.Parallel()
	for key, ok := range map[string]bool{
		"order.placed":           true,
		"a..b":                   true,
		"c#.net":                 true,
		"5*5":                    true,
		"amq.x":                  true,
		" ":                      true,
		strings.Repeat("x", 255): true,
		strings.Repeat("x", 256): false,
		"":                       false,
		"#":                      false,
		"order.*":                false,
		"a.#.b":                  false,
		"a\xff":                  false,
		"a\r\nb":                 false,
	} {
		check(t, "ValidRoutingKey", key, topology.ValidRoutingKey(key), ok)
	}
}

func check(t *testing.T, function, input string, err error, ok bool) {
	t.Helper()
	switch {
	case ok && err != nil:
		t.Errorf("%s(%q) = %v", function, input, err)
	case !ok && !errors.Is(err, topology.ErrInvalidName):
		t.Errorf("%s(%q) = %v, want ErrInvalidName", function, input, err)
	case !ok && len(err.Error()) > 600:
		t.Errorf("%s(%q): error of %d bytes", function, input, len(err.Error()))
	}
}

// seeds are inputs every fuzz target starts from.
var seeds = []string{"", "orders", "#", "*", "a.*.#", "a..b", "order*", "amq.topic", "a\nb", "\xff", strings.Repeat("é", 128), "\u202e"}

// fit says what every accepted name has in common.
func fit(s string) bool {
	return s != "" && len(s) <= 255 && utf8.ValidString(s) && !strings.ContainsAny(s, "\x00\r\n\t\x1b\x7f")
}

// printable fails the test when an error text could break a line of a log.
func printable(t *testing.T, err error) {
	t.Helper()
	if err != nil && (strings.ContainsAny(err.Error(), "\x00\r\n\x1b") || !utf8.ValidString(err.Error())) {
		t.Errorf("error text %q", err)
	}
}

func FuzzValidName(f *testing.F) {
	for _, s := range seeds {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, name string) {
		err := topology.ValidName("queue", name)
		printable(t, err)
		if err == nil && (!fit(name) || strings.HasPrefix(name, "amq.")) {
			t.Errorf("accepts %q", name)
		}
	})
}

func FuzzValidTopic(f *testing.F) {
	for _, s := range seeds {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, pattern string) {
		err := topology.ValidTopic(pattern)
		printable(t, err)
		if err == nil && !fit(pattern) {
			t.Errorf("accepts %q", pattern)
		}
	})
}

func FuzzValidRoutingKey(f *testing.F) {
	for _, s := range seeds {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, key string) {
		err := topology.ValidRoutingKey(key)
		printable(t, err)
		if err != nil {
			return
		}
		if !fit(key) {
			t.Errorf("accepts %q", key)
		}
		if topology.ValidTopic(key) == nil && strings.ContainsAny(key, "*#") {
			t.Errorf("accepts the pattern %q", key)
		}
	})
}
