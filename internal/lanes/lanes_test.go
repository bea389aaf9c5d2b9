package lanes_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/harebus/harebus/internal/lanes"
	"github.com/harebus/harebus/order"
)

var now = time.Now()

// next are the steps that can be taken now: "handle a1".
func next(l *lanes.Lanes) (taken []*lanes.Message, told string) {
	var all []string
	for m, step := l.Next(now); m != nil; m, step = l.Next(now) {
		taken = append(taken, m)
		all = append(all, [...]string{"", "handle", "try", "follow", "contain"}[step]+" "+m.ID)
	}
	return taken, strings.Join(all, ", ")
}

func wants(t *testing.T, l *lanes.Lanes, want string) []*lanes.Message {
	t.Helper()
	taken, told := next(l)
	if told != want {
		t.Errorf("%q, want %q", told, want)
	}
	return taken
}

// TestReplacementHasNotComeBack: the message behind one that is retried is not handled before the replacement has come back,
// nor is one with a higher number that has.
func TestReplacementHasNotComeBack(t *testing.T) {
	t.Parallel()
	l := lanes.New("me", 100)
	a1, a2 := &lanes.Message{Key: "a", ID: "a1"}, &lanes.Message{Key: "a", ID: "a2"}
	l.Arrive(a1)
	l.Arrive(a2)
	wants(t, l, "handle a1")
	first := l.NewPlace(a1)
	l.Done(a1, lanes.Handle, true, &first, now)
	wants(t, l, "follow a2")
	second := l.NewPlace(a2)
	l.Done(a2, lanes.Follow, true, &second, now)
	l.Park(&lanes.Message{Key: "a", ID: "a2", Parked: true, Place: second})
	wants(t, l, "")
	copied := &lanes.Message{Key: "a", ID: "a1", Parked: true, Place: first}
	l.Park(copied)
	wants(t, l, "handle a1")
	replaced := l.NewPlace(copied)
	l.Done(copied, lanes.Handle, true, &replaced, now)
	wants(t, l, "")
	again := &lanes.Message{Key: "a", ID: "a1", Parked: true, Place: replaced}
	if spare := l.Park(again); spare != nil {
		t.Errorf("the replacement is spare")
	}
	wants(t, l, "handle a1")
	l.Done(again, lanes.Handle, true, nil, now)
	wants(t, l, "handle a2")
	if n, _ := l.Parked(); n != 1 {
		t.Errorf("%d are parked", n)
	}
}

// TestCopies: of several copies of a message the latest counts, in whatever order they come, and one that is done with
// comes too late.
func TestCopies(t *testing.T) {
	t.Parallel()
	for range 200 {
		l := lanes.New("me", 100)
		copies := []int64{0, 1, 2, 2}
		rand.Shuffle(len(copies), func(i, j int) { copies[i], copies[j] = copies[j], copies[i] })
		spare := 0
		for _, n := range copies {
			if l.Park(&lanes.Message{Key: "a", ID: "a1", Parked: true, Place: lanes.Place{Number: 7, Copy: n, Owner: "other"}}) != nil {
				spare++
			}
		}
		taken := wants(t, l, "handle a1")
		if spare != 3 || len(taken) != 1 || taken[0].Copy != 2 {
			t.Fatalf("%v: %d spare", copies, spare)
		}
		l.Done(taken[0], lanes.Handle, true, nil, now)
		if l.Park(&lanes.Message{Key: "a", ID: "a1", Parked: true, Place: lanes.Place{Number: 7, Copy: 2, Owner: "other"}}) == nil {
			t.Fatal("a copy that comes too late is kept")
		}
		wants(t, l, "")
	}
}

// TestOtherTenures: what another owner has parked is not handled again out of the queue; what it sends after this one is
// settled is spare.
func TestOtherTenures(t *testing.T) {
	t.Parallel()
	l := lanes.New("me", 100)
	l.Park(&lanes.Message{Key: "a", ID: "a1", Parked: true, Place: lanes.Place{Number: 7, Owner: "other"}})
	l.Settled()
	if l.Arrive(&lanes.Message{Key: "a", ID: "a1", Again: true}) {
		t.Error("it is taken out of the queue, too")
	}
	if !l.Arrive(&lanes.Message{Key: "a", ID: "a2", Again: true}) {
		t.Error("the next one is not taken")
	}
	if l.Park(&lanes.Message{Key: "a", ID: "a2", Parked: true, Place: lanes.Place{Number: 8, Owner: "other"}}) == nil {
		t.Error("a late copy of another owner is kept")
	}
	m := wants(t, l, "handle a1, follow a2")[1]
	if p := l.NewPlace(m); p.Number != 8 {
		t.Errorf("number %d, want one above those that were loaded", p.Number)
	}
}

// TestNotStored: a message that could not be stored is stored later, under the number that it had.
func TestNotStored(t *testing.T) {
	t.Parallel()
	l := lanes.New("me", 100)
	l.Park(&lanes.Message{Key: "a", ID: "a1", Parked: true, Place: lanes.Place{Number: 1, Owner: "other", Held: true}})
	a2 := &lanes.Message{Key: "a", ID: "a2"}
	l.Arrive(a2)
	wants(t, l, "follow a2")
	before := l.NewPlace(a2)
	l.Done(a2, lanes.Follow, false, nil, now)
	wants(t, l, "")
	if when := l.When(); when != now.Add(time.Second) {
		t.Errorf("again at %v", when)
	}
	if m, step := l.Next(now.Add(time.Second)); m != a2 || step != lanes.Follow || l.NewPlace(m) != before {
		t.Errorf("%v", m)
	}
	// The first attempt had reached the parking queue all the same.
	l.Park(&lanes.Message{Key: "a", ID: "a2", Parked: true, Place: before})
	l.Done(a2, lanes.Follow, true, &before, now)
	l.Discard(l.Held("a"))
	taken := wants(t, l, "handle a2")
	l.Done(taken[0], lanes.Handle, true, nil, now)
	if l.Park(&lanes.Message{Key: "a", ID: "a2", Parked: true, Place: before}) == nil {
		t.Error("the second copy is kept")
	}
	l.Arrive(&lanes.Message{Key: "a", ID: "a3"})
	wants(t, l, "handle a3")
}

// TestAlone: what was delivered often is handled while nothing else is, and others wait for it.
func TestAlone(t *testing.T) {
	t.Parallel()
	l := lanes.New("me", 100)
	for _, m := range []*lanes.Message{{Key: "a", ID: "a1"}, {Key: "b", ID: "b1", Count: 2}, {Key: "c", ID: "c1", Count: 3}, {Key: "d", ID: "d1"}} {
		l.Arrive(m)
	}
	for _, want := range []string{"handle a1", "handle b1", "try c1", "handle d1"} {
		for _, m := range wants(t, l, want) {
			l.Done(m, lanes.Handle, true, nil, now)
		}
	}
}

// TestPlaces: a place and a note are read as they were written, whatever the key; nonsense is none.
func TestPlaces(t *testing.T) {
	t.Parallel()
	names := lanes.NamesOf("P.")
	for _, key := range []string{"a", "a b\x00\xff", strings.Repeat("k", 255), "…"} {
		headers := amqp.Table{}
		want := lanes.Place{Number: 5, Copy: 2, Owner: "o", Due: time.UnixMicro(1_700_000_000_000_001), Held: true}
		want.Write(&names, key, headers)
		if got, err := lanes.ReadPlace(&names, headers); err != nil || got != want || headers["P.OrderKey"] != key {
			t.Errorf("%+v, %v", got, err)
		}
		note := lanes.Note{Kind: lanes.Trial, About: key, Owner: "o", Fence: 9}
		if got, ok := lanes.ReadNote(&names, note.Write(&names)); !ok || got != note {
			t.Errorf("%+v", got)
		}
	}
	for _, nonsense := range []any{nil, 7, "", "1 2", "1 2 3 4 5", "x 0 0 true o", "1 0 0 maybe o", "1 0 0 true o o"} {
		if p, err := lanes.ReadPlace(&names, amqp.Table{"P.OrderPlace": nonsense}); err == nil {
			t.Errorf("%v is %+v", nonsense, p)
		}
	}
}

// TestKeyOf: values of any type are keys, and two that differ have different ones.
func TestKeyOf(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("é", 10<<10)
	seen := map[string]any{}
	for _, value := range []any{"a", int64(7), true, 1.5, amqp.Table{"id": 7}, []any{"a"}, []byte{0xff}, long, long + "x"} {
		key := lanes.KeyOf(amqp.Table{"k": value}, "k")
		if key == "" || len(key) > 255 || seen[key] != nil {
			t.Errorf("%.20v: %q", value, key)
		}
		seen[key] = fmt.Sprint(value)
		if again := lanes.KeyOf(amqp.Table{"k": value}, "k"); again != key {
			t.Errorf("%q and %q", key, again)
		}
	}
	for _, none := range []amqp.Table{nil, {}, {"k": nil}, {"k": ""}} {
		if key := lanes.KeyOf(none, "k"); key != "" {
			t.Errorf("%q", key)
		}
	}
}

// TestParkingQueue: the parking queue keeps what is looked at often, and has one active consumer.
func TestParkingQueue(t *testing.T) {
	t.Parallel()
	queues := (&order.Config{}).Topology("orders").Queues
	if len(queues) != 1 || queues[0].Name != "orders.parked" || queues[0].Arguments["x-single-active-consumer"] != true ||
		queues[0].Arguments["x-delivery-limit"] != 1_000_000 {
		t.Errorf("%+v", queues)
	}
	args := (&order.Config{}).Arguments(map[string]any{"x-quorum-initial-group-size": 3})
	if !slices.Contains([]any{1_000_000}, args["x-delivery-limit"]) || args["x-single-active-consumer"] != true || args["x-quorum-initial-group-size"] != 3 {
		t.Errorf("%+v", args)
	}
}

func TestRoute(t *testing.T) {
	n := lanes.NamesOf("PikaBus.")
	headers := amqp.Table{"tenant": "north"}
	if r := lanes.TakeRoute(&n, headers); r != (lanes.Route{}) || len(headers) != 1 {
		t.Errorf("%v, %v", r, headers)
	}
	for _, want := range []lanes.Route{{7, lanes.Most, false}, {8, 1, true}} {
		want.Write(&n, headers)
		if r := lanes.TakeRoute(&n, headers); r != want || len(headers) != 1 {
			t.Errorf("%v, %v", r, headers)
		}
	}
	for _, odd := range []any{"", "7", "7 ", " 7", "7 8 9", "7  8", "0 1", "1 0", "-1 1", "1 1e3", "1 2305843009213693953", 7, nil, []byte("7 8")} {
		headers[n.Route] = odd
		if r := lanes.TakeRoute(&n, headers); r != (lanes.Route{}) || len(headers) != 1 {
			t.Errorf("%#v: %v, %v", odd, r, headers)
		}
	}
}

// TestSentAgain: what a router sends again is dropped while the same message is here, behind the one before it. Behind one that has come anew all others come
// anew: it would else be the last one of its key.
func TestSentAgain(t *testing.T) {
	t.Parallel()
	var l *lanes.Lanes
	number := int64(0)
	takes := func(fence int64, what string, want ...bool) {
		t.Helper()
		for i, id := range strings.Fields(what) {
			number++
			if got := l.Arrive(&lanes.Message{Key: "a", ID: id, Route: lanes.Route{Fence: fence, Number: number, Again: len(want) > 0}}); len(want) > 0 && got != want[i] {
				t.Errorf("router %d, %s: %v", fence, id, got)
			}
		}
	}
	done := func(m *lanes.Message) { l.Done(m, lanes.Handle, true, nil, now) }

	l = lanes.New("me", 100)
	takes(1, "a1 a2 a3")
	takes(2, "a1 a2 a3 a4", false, false, false, true)
	takes(3, "a1 a2 a3 a4", false, false, false, false)

	l = lanes.New("me", 100)
	takes(1, "a6 a7")
	done(wants(t, l, "handle a6")[0])
	a7 := wants(t, l, "handle a7")[0]
	takes(2, "a6", true)
	takes(3, "a6 a7", false, true)
	takes(4, "a6 a7", false, false)
	done(a7)
	done(wants(t, l, "handle a6")[0])
	wants(t, l, "handle a7")

	l = lanes.New("me", 100)
	takes(1, "a6 a7 a8")
	done(wants(t, l, "handle a6")[0])
	a7 = wants(t, l, "handle a7")[0]
	place := l.NewPlace(a7)
	l.Done(a7, lanes.Handle, true, &place, now)
	place.Held = true
	l.Park(&lanes.Message{Key: "a", ID: "a7", Parked: true, Place: place})
	takes(2, "a7 a8", false, false)
	takes(3, "a6 a7 a8", true, true, true)

	l = lanes.New("me", 100) // two with the same content, and without an id
	takes(2, "sum sum", true, true)
	takes(3, "sum sum", false, false)
}

// TestRepeatedBeforeParked: a message that another owner has handled and not acknowledged is repeated, and so is what it had parked behind it: the first one
// would else be the last of its key.
func TestRepeatedBeforeParked(t *testing.T) {
	t.Parallel()
	l := lanes.New("me", 100)
	for i, id := range []string{"a2", "b1"} {
		l.Park(&lanes.Message{Key: id[:1], ID: id, Parked: true, Place: lanes.Place{Number: int64(i + 1), Owner: "other"}})
	}
	l.Settled()
	for id, want := range map[string]bool{"b1": false, "b2": true} {
		if l.Arrive(&lanes.Message{Key: "b", ID: id, Again: id == "b1"}) != want {
			t.Error(id)
		}
	}
	for _, id := range []string{"a1", "a2", "a3"} {
		if !l.Arrive(&lanes.Message{Key: "a", ID: id, Again: true}) {
			t.Errorf("%s is not taken", id)
		}
	}
}
