package doctor

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/harebus/harebus/brokertest"
	"github.com/harebus/harebus/internal/access"
	"github.com/harebus/harebus/internal/management"
	"github.com/harebus/harebus/order"
	"github.com/harebus/harebus/stream"
	"github.com/harebus/harebus/topology"
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

// TestPolicyOnPlaces: a policy is a fault on a queue in which an order or a group of readers keeps its place, and a warning on others.
func TestPolicyOnPlaces(t *testing.T) {
	t.Parallel()
	api := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, `[{"name": "orders.parked", "policy": "short", "effective_policy_definition": {"max-length": 3}},
			{"name": "orders", "policy": "late", "effective_policy_definition": {"delayed-retry-type": "all"}},
			{"name": "error", "policy": "short", "effective_policy_definition": {"max-length": 3}}, {"name": "harebus.group/events/g"}]`)
	}))
	defer api.Close()
	client, err := management.New(api.URL, "guest", "guest", "/")
	if err != nil {
		t.Fatal(err)
	}
	ordered := &order.Config{}
	want := topology.Join(ordered.Topology("orders"), (&stream.Config{Group: "g"}).Topology("events"), topology.Topology{Queues: []topology.Queue{
		{Name: "orders", Type: topology.Quorum, Arguments: ordered.Arguments(nil)}, {Name: "error", Type: topology.Quorum},
	}})
	encoded, err := json.Marshal(want)
	if err == nil {
		want, err = topology.Read(bytes.NewReader(encoded)) // as from a file
	}
	if err != nil {
		t.Fatal(err)
	}
	e := &examination{Options: Options{API: client, Want: want, VHost: "/"}}
	if err := e.policies(t.Context()); err != nil {
		t.Fatal(err)
	}
	fault := map[string]bool{}
	for _, f := range e.report.Findings {
		if fault[f.What] = f.Fault; f.Fault && !strings.Contains(f.Why, "the leader of schedules") {
			t.Errorf("why: %s", f.Why)
		}
	}
	for what, is := range map[string]bool{
		`a policy sets max-length of queue "orders.parked"`: true, `a policy sets delayed-retry-type of queue "orders"`: true, `a policy sets max-length of queue "error"`: false,
	} {
		if got, found := fault[what]; !found || got != is {
			t.Errorf("%s: found %v, a fault %v", what, found, got)
		}
	}
	if len(fault) != 3 || e.report.Passed != 1 {
		t.Errorf("%+v", e.report)
	}
}

// TestNodes: a node that is down, cut off, or near the end of what it has is found. What the API does not tell is no fault, and a user who may
// not see nodes is told so.
func TestNodes(t *testing.T) {
	t.Parallel()
	answer, status := "", http.StatusOK
	api := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/api/nodes" {
			t.Errorf("asked %s", r.URL.Path)
		}
		w.WriteHeader(status)
		fmt.Fprint(w, answer)
	}))
	defer api.Close()
	client, err := management.New(api.URL, "guest", "guest", "/")
	if err != nil {
		t.Fatal(err)
	}
	examine := func() Report {
		e := &examination{Options: Options{API: client}}
		if err := e.nodes(t.Context()); err != nil {
			t.Fatal(err)
		}
		return e.report
	}
	const well = `"name": "rabbit@a", "running": true, "partitions": [], "fd_used": 40, "fd_total": 1000, "mem_used": 10, "mem_limit": 1000, "disk_free": 9000, "disk_free_limit": 50`
	answer = "[{" + well + `}, {"name": "rabbit@new", "running": true},
		{"name": "rabbit@windows", "running": true, "fd_used": "install_handle_from_sysinternals", "fd_total": 100, "disk_free": "NaN", "disk_free_limit": "disk_free_monitoring_disabled"}]`
	if got := examine(); len(got.Findings) > 0 || got.Passed != 3 || len(got.Unchecked) > 0 {
		t.Errorf("%+v", got)
	}
	for change, want := range map[string]string{
		`"fd_used": 800`: "uses 800 of 1000 file descriptors", `"sockets_used": 8, "sockets_total": 10`: "8 of 10 sockets", `"mem_used": 800`: "800 of 1000 bytes of memory before its alarm",
		`"disk_free": 99`: "has 99 bytes of disk left; its alarm is at 50", `"running": false`: "does not run", `"partitions": ["rabbit@b"]`: "does not see rabbit@b",
	} {
		answer = "[{" + well + ", " + change + "}]"
		if got := examine(); len(got.Findings) != 1 || !strings.Contains(got.Findings[0].What, want) || got.Findings[0].Why == "" || got.Findings[0].Fix == "" || got.Passed > 0 {
			t.Errorf("%s: %+v", change, got)
		}
	}
	status = http.StatusUnauthorized
	if got := examine(); len(got.Findings) > 0 || len(got.Unchecked) != 1 || !strings.Contains(got.Unchecked[0], "it needs a user with the tag monitoring") {
		t.Errorf("%+v", got)
	}
	e := &examination{}
	if err := e.nodes(t.Context()); err != nil || len(e.report.Unchecked) != 1 || !strings.Contains(e.report.Unchecked[0], "give -api") {
		t.Errorf("%v: %+v", err, e.report)
	}
}
