package doctor

import (
	"bytes"
	"net"
	"slices"
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
	for version, want := range map[string]bool{"3.9.29": true, "3.10.0": false, "4.3.6": false, "2.8": true} {
		if older, known := old(version); older != want || !known {
			t.Errorf("%q is old: %v, %v", version, older, known)
		}
	}
}

// unversioned is a connection to a broker that calls its version something else.
type unversioned struct{ net.Conn }

func (c unversioned) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if at := bytes.Index(b[:n], []byte("3.10.8")); at >= 0 {
		copy(b[at:], "\x1b[main")
	}
	return n, err
}

// TestVersionIsNotTold: a version that cannot be read does not pass for one that is new enough.
func TestVersionIsNotTold(t *testing.T) {
	t.Parallel()
	b := brokertest.New()
	defer b.Close()
	link, err := access.Broker{URLs: []string{b.URL()}, Dial: func(network, address string) (net.Conn, error) {
		conn, err := b.Dial(network, address)
		return unversioned{conn}, err
	}}.Link("doctor")
	if err != nil {
		t.Fatal(err)
	}
	defer link.Close()
	report, err := Examine(t.Context(), Options{Link: link, VHost: "/", ErrorQueue: "error", Now: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Contains(report.Unchecked, `whether the broker is RabbitMQ 3.10 or later: it calls its version "\x1b[main"`) || len(report.Findings) > 0 {
		t.Errorf("report %+v", report)
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
