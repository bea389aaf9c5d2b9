package doctor

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/harebus/harebus/brokertest"
	"github.com/harebus/harebus/internal/access"
)

// A clock that differs by more than the broker tells is found, in both directions.
func TestClock(t *testing.T) {
	t.Parallel()
	for _, skew := range []time.Duration{0, time.Second, -time.Second, 10 * time.Second, -10 * time.Second} {
		synctest.Test(t, func(t *testing.T) {
			b := brokertest.New()
			defer b.Close()
			link, err := access.Broker{URLs: []string{b.URL()}, Dial: b.Dial}.Link("doctor")
			if err != nil {
				t.Fatal(err)
			}
			defer link.Close()
			report, err := Examine(t.Context(), Options{Link: link, VHost: "/", ErrorQueue: "error", Now: func() time.Time { return time.Now().Add(skew) }})
			if err != nil {
				t.Fatal(err)
			}
			found := len(report.Findings) == 1 && strings.Contains(report.Findings[0].What, "clock differs")
			if far := skew.Abs() > 5*time.Second; found != far || len(report.Findings) > 1 {
				t.Errorf("skew of %v: %+v", skew, report.Findings)
			}
		})
	}
}

func TestOld(t *testing.T) {
	t.Parallel()
	for version, want := range map[string]bool{"3.9.29": true, "3.10.0": false, "4.3.6": false, "2.8": true, "": false, "edge": false} {
		if old(version) != want {
			t.Errorf("%q is old: %v", version, !want)
		}
	}
}

func TestShell(t *testing.T) {
	t.Parallel()
	for word, want := range map[string]string{"orders": "orders", "": "''", "a b": "'a b'", "it's": `'it'\''s'`, "^(a|b)$": "'^(a|b)$'", "a\x1b[2J": `"a\x1b[2J"`} {
		if got := shell(word); got != want {
			t.Errorf("%q is quoted as %s", word, got)
		}
	}
}
