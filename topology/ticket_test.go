package topology_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/harebus/harebus/topology"
)

func TestTicket_is_text(t *testing.T) {
	t.Parallel()
	due := time.Date(2026, 11, 29, 6, 0, 0, 123_999_999, time.FixedZone("", 3600))
	ticket := topology.Ticket{ID: "0193-a 7", Due: due}
	const want = "20261129T050000.123Z-0193-a 7"
	if got := ticket.String(); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	parsed, err := topology.ParseTicket(want)
	if err != nil || parsed.ID != ticket.ID || !parsed.Due.Equal(due.Truncate(time.Millisecond)) {
		t.Errorf("parsed %+v, %v", parsed, err)
	}
	text, err := json.Marshal(map[string]topology.Ticket{"ticket": ticket})
	if err != nil {
		t.Fatal(err)
	}
	var back map[string]topology.Ticket
	if err := json.Unmarshal(text, &back); err != nil || back["ticket"] != parsed {
		t.Errorf("%s becomes %+v, %v", text, back, err)
	}
}

func TestTicket_refuses(t *testing.T) {
	t.Parallel()
	for _, text := range []string{
		"", "x", "20261129T050000.123Z", "20261129T050000.123Z-", "20261129T050000.123Zx", "20261329T050000.123Z-x", "20261129T050000,123Z-x", "2026-11-29T05:00:00Z-x",
		"20261129T050000.123Z-\xff", "20261129T050000.123Z-" + strings.Repeat("x", 256),
	} {
		if ticket, err := topology.ParseTicket(text); err == nil {
			t.Errorf("%q is %+v", text, ticket)
		}
	}
	if text, err := json.Marshal(topology.Ticket{}); err == nil {
		t.Errorf("the empty ticket is %s", text)
	}
}

func FuzzParseTicket(f *testing.F) {
	f.Add("20261129T050000.123Z-0193a7c2")
	f.Fuzz(func(t *testing.T, text string) {
		ticket, err := topology.ParseTicket(text)
		if err != nil {
			return
		}
		if got := ticket.String(); got != text {
			t.Errorf("%q becomes %q", text, got)
		}
	})
}

// Messages on their way and their cancellations were made by programs of different
// versions: a change of a label makes them miss each other.
func TestDelays_RouteTicket_is_stable(t *testing.T) {
	t.Parallel()
	d := topology.Delays{}
	r, err := d.RouteTicket(1240*time.Millisecond, "", "orders", "0193a7c2")
	if err != nil {
		t.Fatal(err)
	}
	if got, want := fmt.Sprint(r.Exchange, r.Key, r.CC), fmt.Sprint("harebus.delay.in", "gate.15", []string{"in.1.24", "0.40", "due//orders", "id:0193a7c2"}); got != want {
		t.Errorf("route is %s, want %s", got, want)
	}
	b := d.Cancellation("0193a7c2")
	if got, want := fmt.Sprint(b.Exchange, b.Key, b.Queue), fmt.Sprint("harebus.delay.gate.15", "id:0193a7c2", "harebus.delay.cancelled"); got != want {
		t.Errorf("cancellation is %s, want %s", got, want)
	}
	long := d.Cancellation(strings.Repeat("x", 65))
	if want := "id#9537"; !strings.HasPrefix(long.Key, want) || len(long.Key) != 3+64 {
		t.Errorf("the label of a long id is %q, want %q…", long.Key, want)
	}
}

// A message with a ticket arrives as one without, unless it is cancelled: then it goes
// through the queues of the cancelled.
func TestDelays_RouteTicket_leads_through_the_gate(t *testing.T) {
	t.Parallel()
	for _, d := range []topology.Delays{{}, {Prefix: "0"}, {Prefix: "gate.1"}, {Prefix: strings.Repeat("p", 150)}} {
		parts := []topology.Topology{d.Topology(), d.Cancelled(), d.Exit("", "orders"), d.Exit("events", "order.placed"), d.Exit("", strings.Repeat("k", 255))}
		delays := randomDelays(300)
		for i := 0; i < len(delays); i += 2 { // every other one is cancelled
			parts = append(parts, topology.Topology{Bindings: []topology.Binding{d.Cancellation(fmt.Sprint("message-", i))}})
		}
		g := newGraph(t, parts...)
		for i, delay := range delays {
			for _, to := range [][2]string{{"", "orders"}, {"events", "order.placed"}, {"", strings.Repeat("k", 255)}} {
				id := fmt.Sprint("message-", i)
				r, err := d.RouteTicket(delay, to[0], to[1], id)
				if err != nil {
					t.Fatal(err)
				}
				visited, waited, exchange, key := g.walk(t, r)
				if i%2 == 0 {
					if last := visited[len(visited)-1]; last != d.Cancellation(id).Queue || key != d.Cancelled().Queues[1].Name {
						t.Fatalf("a cancelled message arrives at %q by %q", key, visited)
					}
					continue
				}
				if exchange != to[0] || key != to[1] || waited != r.Delay || waited < delay || len(visited) != len(r.Queues)+1 {
					t.Fatalf("%v to %q arrives at %q, %q after %v by %q", delay, to, exchange, key, waited, visited)
				}
			}
		}
	}
}

func TestDelays_RouteTicket_leaves_room(t *testing.T) {
	t.Parallel()
	plain, err := topology.Delays{}.Route(time.Hour, "", "orders")
	if err != nil {
		t.Fatal(err)
	}
	r, err := topology.Delays{}.RouteTicket(time.Hour, "", "orders", "0193a7c2")
	if err != nil {
		t.Fatal(err)
	}
	if more := r.HeaderRoom() - plain.HeaderRoom(); more < 300 || more > 3000 {
		t.Errorf("a ticket takes %d bytes more of the headers", more)
	}
	direct, err := topology.Delays{}.RouteTicket(0, "events", "k", "0193a7c2")
	if err != nil || direct.Exchange != "events" || direct.Key != "k" || direct.CC != nil {
		t.Errorf("without a delay: %+v, %v", direct, err)
	}
}

func TestDelays_Cancelled_keeps_messages(t *testing.T) {
	t.Parallel()
	t1 := topology.Delays{}.Cancelled()
	if err := t1.Validate(); err != nil {
		t.Fatal(err)
	}
	names := []string{"harebus.delay.cancelled", "harebus.delay.cancelled.settled", "harebus.delay.cancelled.kept"}
	for i, q := range t1.Queues {
		if q.Name != names[i] {
			t.Errorf("queue %q, want %q", q.Name, names[i])
		}
		if i < 2 && (q.Arguments["x-dead-letter-strategy"] != "at-least-once" || q.Arguments["x-dead-letter-routing-key"] != names[i+1]) {
			t.Errorf("queue %q: %v", q.Name, q.Arguments)
		}
		if q.Arguments["x-delivery-limit"] != topology.LookLimit {
			t.Errorf("queue %q may not be looked at", q.Name)
		}
	}
}
