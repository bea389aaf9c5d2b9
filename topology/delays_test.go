package topology_test

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/harebus/harebus/topology"
)

const (
	day = 24 * time.Hour

	// maxQueues bounds the set that is declared on every broker.
	maxQueues = 145
	// maxVisits bounds the delay queues on one way.
	maxVisits = 9
)

// allowance is the most that a route may add to a delay.
func allowance(delay time.Duration, queues int) time.Duration {
	return 2*time.Millisecond + delay/2000 + time.Duration(queues)*time.Millisecond
}

// randomDelays are spread evenly over the orders of magnitude from 1 µs to
// MaxDelay, odd nanoseconds included, plus every value near a unit.
func randomDelays(n int) []time.Duration {
	r := rand.New(rand.NewPCG(1, 2))
	var delays []time.Duration
	from, to := math.Log(1e3), math.Log(float64(topology.MaxDelay))
	for range n {
		delays = append(delays, time.Duration(math.Exp(from+r.Float64()*(to-from))))
	}
	for _, unit := range []time.Duration{time.Nanosecond, time.Millisecond, 49 * time.Millisecond, 50 * time.Millisecond, 2500 * time.Millisecond, 10 * time.Second, time.Minute, 5 * time.Minute, 15 * time.Minute, time.Hour, 6 * time.Hour, day, 5 * day, 25 * day, 100 * day, 400 * day, topology.MaxDelay} {
		delays = append(delays, unit-1, unit, unit+1)
	}
	return slices.DeleteFunc(delays, func(d time.Duration) bool { return d <= 0 || d > topology.MaxDelay })
}

// graph is the part of a broker that routes: direct and fanout exchanges,
// alternate exchanges, and queues that pass expired messages on.
type graph struct {
	kinds     map[string]topology.Kind
	alternate map[string]string
	bindings  map[string][]topology.Binding
	queues    map[string]topology.Queue
}

func newGraph(t *testing.T, parts ...topology.Topology) *graph {
	t.Helper()
	all := topology.Join(parts...)
	if err := all.Validate(); err != nil {
		t.Fatal(err)
	}
	g := &graph{map[string]topology.Kind{}, map[string]string{}, map[string][]topology.Binding{}, map[string]topology.Queue{}}
	for _, e := range all.Exchanges {
		g.kinds[e.Name] = e.Kind
		if a, ok := e.Arguments["alternate-exchange"].(string); ok {
			g.alternate[e.Name] = a
		}
	}
	for _, q := range all.Queues {
		g.queues[q.Name] = q
	}
	for _, b := range all.Bindings {
		if _, ok := g.kinds[b.Exchange]; !ok {
			t.Fatalf("bound to an exchange that is not declared: %+v", b)
		}
		g.bindings[b.Exchange] = append(g.bindings[b.Exchange], b)
	}
	return g
}

// route returns the queues that exchange routes a message with these keys to.
func (g *graph) route(exchange string, keys []string) []string {
	var found []string
	for _, b := range g.bindings[exchange] {
		if g.kinds[exchange] == topology.Direct && !slices.Contains(keys, b.Key) {
			continue
		}
		if b.ToExchange != "" {
			found = append(found, g.route(b.ToExchange, keys)...)
		} else if _, ok := g.queues[b.Queue]; ok {
			found = append(found, b.Queue)
		}
	}
	if len(found) == 0 && g.alternate[exchange] != "" {
		return g.route(g.alternate[exchange], keys)
	}
	return found
}

// walk sends a message along r and returns the queues it was in, the time it
// spent there, and the exchange and key it left with.
func (g *graph) walk(t *testing.T, r topology.Route) (visited []string, waited time.Duration, exchange, key string) {
	t.Helper()
	exchange = r.Exchange
	keys := append([]string{r.Key}, r.CC...)
	for {
		queues := g.route(exchange, keys)
		if len(queues) != 1 {
			t.Fatalf("exchange %q routes %q to %q, want one queue", exchange, keys, queues)
		}
		if slices.Contains(visited, queues[0]) {
			t.Fatalf("queue %q is visited twice: %q", queues[0], visited)
		}
		visited = append(visited, queues[0])
		args := g.queues[queues[0]].Arguments
		ttl, ok := args["x-message-ttl"].(int64)
		if !ok {
			return visited, waited, "", queues[0] // nothing expires here
		}
		waited += time.Duration(ttl) * time.Millisecond
		exchange = args["x-dead-letter-exchange"].(string)
		if own, ok := args["x-dead-letter-routing-key"].(string); ok {
			return visited, waited, exchange, own // the CC header ends here
		}
	}
}

func TestDelays_every_route_leads_to_its_destination_on_time(t *testing.T) {
	t.Parallel()
	for _, d := range []topology.Delays{{}, {Prefix: "0"}, {Prefix: "in.0"}, {Prefix: strings.Repeat("p", 150)}} {
		g := newGraph(t, d.Topology(), d.Exit("", "orders"), d.Exit("events", "order.placed"), d.Exit("", "0.end"))
		for _, delay := range randomDelays(1500) {
			for _, to := range [][2]string{{"", "orders"}, {"events", "order.placed"}, {"", "0.end"}} {
				r, err := d.Route(delay, to[0], to[1])
				if err != nil {
					t.Fatal(err)
				}
				visited, waited, exchange, key := g.walk(t, r)
				hops := len(visited) - 1 // the last is the exit
				switch {
				case exchange != to[0] || key != to[1]:
					t.Fatalf("%v to %q arrives at %q, %q by %q", delay, to, exchange, key, visited)
				case waited != r.Delay:
					t.Fatalf("%v: queues %q hold it %v, Route says %v", delay, visited, waited, r.Delay)
				case waited < delay:
					t.Fatalf("%v: queues %q hold it only %v", delay, visited, waited)
				case waited-delay > allowance(delay, hops):
					t.Fatalf("%v: queues %q hold it %v, %v too long", delay, visited, waited, waited-delay-allowance(delay, hops))
				case hops > maxVisits:
					t.Fatalf("%v visits %d queues: %q", delay, hops, visited)
				}
			}
		}
	}
}

// A queue may let a message go up to a millisecond early, because brokers drop
// the fraction of the millisecond it came in at. Two hops take longer than that;
// every further queue must make up for its own.
func TestDelays_routes_make_up_for_whole_milliseconds(t *testing.T) {
	t.Parallel()
	g := newGraph(t, topology.Delays{}.Topology(), topology.Delays{}.Exit("", "orders"))
	for _, delay := range randomDelays(1500) {
		r, err := topology.Delays{}.Route(delay, "", "orders")
		if err != nil {
			t.Fatal(err)
		}
		visited, waited, _, _ := g.walk(t, r)
		hops := len(visited) - 1 // the last is the exit
		spare := time.Duration(max(0, hops-2)) * time.Millisecond
		if hops == 1 && (waited < 50*time.Millisecond || waited > 2500*time.Millisecond) {
			spare = time.Millisecond
		}
		if waited-delay < spare {
			t.Fatalf("%v: queues %q hold it %v, less than %v to spare", delay, visited, waited, spare)
		}
	}
}

func TestDelays_what_people_write_takes_one_queue(t *testing.T) {
	t.Parallel()
	for _, delay := range []time.Duration{
		100 * time.Millisecond, 250 * time.Millisecond, 500 * time.Millisecond, time.Second, 1500 * time.Millisecond, 2 * time.Second,
		5 * time.Second, 10 * time.Second, 30 * time.Second, time.Minute, 2 * time.Minute, 5 * time.Minute, 10 * time.Minute,
		15 * time.Minute, 30 * time.Minute, time.Hour, 2 * time.Hour, 6 * time.Hour, 12 * time.Hour, day, 2 * day, 10 * day, 100 * day,
	} {
		r, err := topology.Delays{}.Route(delay, "", "orders")
		if err != nil {
			t.Fatal(err)
		}
		want := delay
		if delay >= 2500*time.Millisecond {
			want += time.Millisecond
		}
		if r.Delay != want || len(r.CC) > 2 {
			t.Errorf("%v takes %v by %q, want one queue and %v", delay, r.Delay, r.CC, want)
		}
	}
}

func TestDelays_below_2500ms_takes_two_queues(t *testing.T) {
	t.Parallel()
	g := newGraph(t, topology.Delays{}.Topology(), topology.Delays{}.Exit("", "orders"))
	for delay := time.Millisecond; delay <= 2499*time.Millisecond; delay += time.Millisecond {
		r, err := topology.Delays{}.Route(delay, "", "orders")
		if err != nil {
			t.Fatal(err)
		}
		if visited, _, _, _ := g.walk(t, r); len(visited) > 3 {
			t.Fatalf("%v visits %q", delay, visited)
		}
	}
}

func TestDelays_the_set_is_bounded_and_the_same_every_time(t *testing.T) {
	t.Parallel()
	first := topology.Delays{}.Topology()
	if n := len(first.Queues); n > maxQueues {
		t.Errorf("%d queues, more than %d", n, maxQueues)
	}
	if second := (topology.Delays{}).Topology(); fmt.Sprint(first) != fmt.Sprint(second) {
		t.Error("two calls differ")
	}
	if named := (topology.Delays{Prefix: topology.DefaultDelayPrefix}).Topology(); fmt.Sprint(first) != fmt.Sprint(named) {
		t.Error("the default prefix differs from no prefix")
	}
	for _, q := range first.Queues {
		if !strings.HasPrefix(q.Name, "harebus.delay.") {
			t.Errorf("queue %q is outside the prefix", q.Name)
		}
		if q.Name == "harebus.delay.lost" {
			continue
		}
		if q.Arguments["x-dead-letter-strategy"] != "at-least-once" {
			t.Errorf("queue %q may lose messages", q.Name)
		}
		if _, ok := q.Arguments["x-expires"]; ok {
			t.Errorf("queue %q expires with what is in it", q.Name)
		}
	}
	for _, e := range first.Exchanges {
		if !strings.HasPrefix(e.Name, "harebus.delay.") {
			t.Errorf("exchange %q is outside the prefix", e.Name)
		}
	}
}

// The names are on brokers in production: changing one strands the messages in
// the old queue's successors.
func TestDelays_names_are_stable(t *testing.T) {
	t.Parallel()
	var names []string
	for _, q := range (topology.Delays{}).Topology().Queues {
		names = append(names, strings.TrimPrefix(q.Name, "harebus.delay."))
	}
	for _, want := range []string{"lost", "1ms", "49ms", "50ms", "2450ms", "1s", "2500ms", "5s", "7500ms", "10s", "50s", "1m", "4m", "5m", "10m", "15m", "30m", "45m", "1h", "5h", "6h", "18h", "1d", "4d", "5d", "20d", "25d", "75d", "100d", "300d"} {
		if !slices.Contains(names, want) {
			t.Errorf("no queue %q among %q", want, names)
		}
	}
	for _, c := range []struct{ exchange, key, want string }{
		{"", "orders", "harebus.delay.due//orders"},
		{"PikaBusDirect", "orders", "harebus.delay.due/PikaBusDirect/orders"},
		{"a/b", "c/d", "harebus.delay.due/a%2Fb/c/d"},
		{"a%2Fb", "c/d", "harebus.delay.due/a%252Fb/c/d"},
		{"", strings.Repeat("k", 255), "harebus.delay.due#8c15a381bf0aa6e199036138f2e4d85ce49b6510765a0e116da7fe4042a995ba"},
	} {
		if got := (topology.Delays{}).Exit(c.exchange, c.key).Queues[0].Name; got != c.want {
			t.Errorf("exit of %q, %q is %q, want %q", c.exchange, c.key, got, c.want)
		}
	}
	r, err := topology.Delays{}.Route(1240*time.Millisecond, "", "orders")
	if err != nil {
		t.Fatal(err)
	}
	if got, want := fmt.Sprint(r.Exchange, r.Key, r.CC), fmt.Sprint("harebus.delay.in", "harebus.delay.due//orders", []string{"in.1.24", "0.40"}); got != want {
		t.Errorf("route is %s, want %s", got, want)
	}
}

func TestDelays_different_destinations_have_different_exits(t *testing.T) {
	t.Parallel()
	seen := map[string][2]string{}
	for _, to := range [][2]string{{"", "a/b"}, {"a", "b"}, {"", "/a/b"}, {"/a", "b"}, {"a/", "b"}, {"a%2F", "b"}, {"", strings.Repeat("a", 255)}, {strings.Repeat("a", 255), ""}, {strings.Repeat("a", 254), "a"}} {
		name := (topology.Delays{}).Exit(to[0], to[1]).Queues[0].Name
		if other, ok := seen[name]; ok {
			t.Errorf("%q and %q share the exit %q", to, other, name)
		}
		seen[name] = to
	}
}

// A queue somebody deleted must lose nothing: the entry returns the message to
// its publisher, every other place keeps it.
func TestDelays_a_missing_queue_loses_nothing(t *testing.T) {
	t.Parallel()
	d := topology.Delays{}
	whole := topology.Join(d.Topology(), d.Exit("", "orders"))
	r, err := d.Route(7*day+3*time.Hour+7*time.Minute, "", "orders")
	if err != nil {
		t.Fatal(err)
	}
	visited, _, _, _ := newGraph(t, whole).walk(t, r)
	if len(visited) < 4 {
		t.Fatalf("%q is too short for this test", visited)
	}
	for i, missing := range visited {
		broken := whole
		broken.Queues = slices.DeleteFunc(slices.Clone(whole.Queues), func(q topology.Queue) bool { return q.Name == missing })
		g := newGraph(t, broken)
		if i == 0 {
			if queues := g.route(r.Exchange, append([]string{r.Key}, r.CC...)); len(queues) != 0 {
				t.Errorf("without its first queue %q the message goes to %q, want it returned", missing, queues)
			}
			continue
		}
		if _, _, _, last := g.walk(t, r); last != "harebus.delay.lost" {
			t.Errorf("without %q the message ends in %q", missing, last)
		}
	}
}

func TestDelays_Route_without_delay_leads_straight_to_the_destination(t *testing.T) {
	t.Parallel()
	for _, delay := range []time.Duration{0, -1, -time.Hour, math.MinInt64} {
		r, err := topology.Delays{}.Route(delay, "events", "order.placed")
		if err != nil {
			t.Fatal(err)
		}
		if r.Exchange != "events" || r.Key != "order.placed" || r.CC != nil || r.Delay != 0 {
			t.Errorf("route for %v is %+v", delay, r)
		}
	}
}

func TestDelays_Route_refuses(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", 256)
	for name, c := range map[string]struct {
		prefix        string
		delay         time.Duration
		exchange, key string
	}{
		"delay too long":        {"", topology.MaxDelay + 1, "", "orders"},
		"longest duration":      {"", math.MaxInt64, "", "orders"},
		"no queue":              {"", time.Second, "", ""},
		"queue name too long":   {"", time.Second, "", long},
		"queue with line break": {"", time.Second, "", "a\nb"},
		"exchange too long":     {"", time.Second, long, "k"},
		"key not UTF-8":         {"", time.Second, "events", "\xff"},
		"key too long":          {"", time.Second, "events", long},
		"prefix too long":       {long, time.Second, "", "orders"},
		"prefix of the broker":  {"amq", time.Second, "", "orders"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if r, err := (topology.Delays{Prefix: c.prefix}).Route(c.delay, c.exchange, c.key); err == nil {
				t.Errorf("got %+v", r)
			}
		})
	}
}

func FuzzDelays_Route(f *testing.F) {
	f.Add(int64(time.Second), "", "orders", "")
	f.Add(int64(49*time.Millisecond), "events", "a.b", "p")
	f.Add(int64(topology.MaxDelay), "a/b%2F", "", "in.0")
	f.Fuzz(func(t *testing.T, delay int64, exchange, key, prefix string) {
		d := topology.Delays{Prefix: prefix}
		r, err := d.Route(time.Duration(delay), exchange, key)
		if err != nil || delay <= 0 {
			return
		}
		exit := d.Exit(exchange, key)
		_, waited, toExchange, toKey := newGraph(t, d.Topology(), exit).walk(t, r)
		if toExchange != exchange || toKey != key || waited != r.Delay || waited < time.Duration(delay) {
			t.Errorf("%v to %q, %q: arrives at %q, %q after %v (%+v)", time.Duration(delay), exchange, key, toExchange, toKey, waited, r)
		}
	})
}

// What Route names is all that a message needs on its way.
func TestDelays_a_route_names_its_queues(t *testing.T) {
	t.Parallel()
	d := topology.Delays{}
	for _, delay := range randomDelays(200) {
		for _, route := range []func(time.Duration, string, string) (topology.Route, error){d.Route, d.RouteRoughly} {
			r, err := route(delay, "", "orders")
			if err != nil {
				t.Fatal(err)
			}
			parts := []topology.Topology{d.Base(), d.Exit("", "orders")}
			for _, queue := range r.Queues {
				parts = append(parts, d.Queue(queue))
			}
			visited, waited, _, key := newGraph(t, parts...).walk(t, r)
			if key != "orders" || waited != r.Delay || len(visited) != len(r.Queues)+1 {
				t.Fatalf("%v by %q arrives at %q after %v, by %q", delay, r.Queues, key, waited, visited)
			}
		}
	}
	if q := d.Queue("no such queue"); len(q.Queues) != 0 {
		t.Errorf("an unknown name has %+v", q)
	}
}

// What people write takes the base's queue, one more and the exit: three quorum queues.
func TestDelays_a_round_delay_needs_one_queue(t *testing.T) {
	t.Parallel()
	d := topology.Delays{}
	if n := len(d.Base().Queues); n != 1 {
		t.Errorf("the base has %d queues", n)
	}
	for _, delay := range []time.Duration{250 * time.Millisecond, 5 * time.Second, 10 * time.Minute, day} {
		for _, route := range []func(time.Duration, string, string) (topology.Route, error){d.Route, d.RouteRoughly} {
			r, err := route(delay, "", "orders")
			if err != nil {
				t.Fatal(err)
			}
			if len(r.Queues) != 1 {
				t.Errorf("%v needs %q", delay, r.Queues)
			}
		}
	}
}

func TestDelays_RouteRoughly_is_late_by_a_fifth_at_most(t *testing.T) {
	t.Parallel()
	d := topology.Delays{}
	for _, delay := range randomDelays(3000) {
		r, err := d.RouteRoughly(delay, "", "orders")
		if err != nil {
			t.Fatal(err)
		}
		spare := delay/5 + 2*time.Millisecond + time.Duration(len(r.Queues))*time.Millisecond
		if r.Delay < delay || r.Delay-delay > spare {
			t.Fatalf("%v became %v", delay, r.Delay)
		}
		if len(r.Queues) > 4 {
			t.Fatalf("%v takes %q", delay, r.Queues)
		}
	}
}

// Retries wait 2 s, 4 s, … up to a minute, ± 20 %: never the same twice.
func TestDelays_RouteRoughly_has_retries_share_few_queues(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(1, 2))
	roughly, exactly := map[string]bool{}, map[string]bool{}
	for range 2000 {
		for pause := 2 * time.Second; pause <= time.Minute; pause *= 2 {
			jittered := time.Duration(float64(pause) * (0.8 + 0.4*r.Float64()))
			for used, route := range map[*map[string]bool]func(time.Duration, string, string) (topology.Route, error){
				&roughly: topology.Delays{}.RouteRoughly, &exactly: topology.Delays{}.Route,
			} {
				way, err := route(jittered, "", "orders")
				if err != nil {
					t.Fatal(err)
				}
				for _, queue := range way.Queues {
					(*used)[queue] = true
				}
			}
		}
	}
	if len(roughly) > 16 {
		t.Errorf("retries use %d delay queues: %v", len(roughly), roughly)
	}
	if len(exactly) < 100 {
		t.Errorf("only %d delay queues without rounding: this test shows nothing", len(exactly))
	}
	t.Logf("%d delay queues, %d without rounding", len(roughly), len(exactly))
}
