package main

import (
	"context"
	"errors"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/cenkalti/backoff/v4"
	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/brokertest"
	"github.com/harebus/harebus/internal/access"
	"github.com/harebus/harebus/internal/deferred"
	"github.com/harebus/harebus/topology"
)

// deferring defers messages and returns their tickets.
func deferring(t *testing.T, b *brokertest.Broker, delays ...time.Duration) (tickets []string) {
	t.Helper()
	declare(t, client(t, b), "orders", nil)
	setup, err := harebus.New(harebus.Config{URL: b.URL(), Dial: b.Dial})
	if err != nil {
		t.Fatal(err)
	}
	defer setup.Close()
	for _, delay := range delays {
		var ticket harebus.Ticket
		if err := setup.Bus().Defer(t.Context(), "orders", delay, map[string]int{"a": 1}, harebus.WithType("Place"), harebus.WithTicket(&ticket)); err != nil {
			t.Fatal(err)
		}
		tickets = append(tickets, ticket.String())
	}
	return tickets
}

// failing makes a message wait for its second attempt.
func failing(t *testing.T, b *brokertest.Broker) {
	t.Helper()
	setup, err := harebus.New(harebus.Config{
		URL: b.URL(), Dial: b.Dial, Queue: "failing",
		Retry: harebus.RetryConfig{BackOff: func() backoff.BackOff { return backoff.NewConstantBackOff(45 * time.Minute) }},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer setup.Close()
	setup.HandleMessage(harebus.AnyType, func(context.Context, *harebus.Bus, *harebus.Message) error { return errors.New("no") })
	if err := setup.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := setup.Bus().Send(t.Context(), "failing", "{}", harebus.WithType("Pay")); err != nil {
		t.Fatal(err)
	}
	if err := b.WaitQueue(t.Context(), "harebus.delay.45m", func(q brokertest.Queue) bool { return q.Ready == 1 }); err != nil {
		t.Fatal(err)
	}
}

// TestDeferredIsCounted: by when they are due at the latest, without a touch.
func TestDeferredIsCounted(t *testing.T) {
	t.Parallel()
	b, url := newBroker(t)
	execute(t, "", "deferred", "-url", url).check(t, exitOK, "")
	deferring(t, b, 30*time.Second, 45*time.Minute, time.Hour, 48*time.Hour, 2000*24*time.Hour/2)
	r := execute(t, "", "deferred", "-url", url)
	r.check(t, exitOK, "")
	want := "DUE WITHIN       MESSAGES\n1 s              0\n1 min            1\n1 h              1\n1 d              1\n30 d             1\nlater            1\nall              5\ncancelled, kept  0\nlost             0\n"
	if r.out != want {
		t.Errorf("printed\n%swanted\n%s", r.out, want)
	}
	r = execute(t, "", "deferred", "-json", "-url", url)
	r.check(t, exitOK, "")
	if got := objects(t, r.out)[0]; got["total"] != 5.0 || got["within 1 d"] != 1.0 {
		t.Errorf("printed %v", got)
	}
}

// TestDeferredIsListed: with tickets, filters and sums; retries have no ticket. The look
// changes nothing.
func TestDeferredIsListed(t *testing.T) {
	t.Parallel()
	b, url := newBroker(t)
	tickets := deferring(t, b, time.Hour, 10*time.Minute)
	failing(t, b)
	r := execute(t, "", "deferred", "list", "-url", url)
	r.check(t, exitOK, "")
	lines := strings.Split(strings.TrimSpace(r.out), "\n")
	if len(lines) != 4 || !strings.HasSuffix(lines[1], tickets[1]) || strings.Count(r.out, "retry") != 1 || strings.Count(r.out, "orders") != 2 {
		t.Errorf("printed\n%s", r.out)
	}
	for _, line := range lines[1:] {
		if ticket := strings.HasSuffix(line, tickets[0]) || strings.HasSuffix(line, tickets[1]); ticket == strings.Contains(line, "retry") {
			t.Errorf("line %q", line)
		}
	}
	for _, test := range []struct {
		args []string
		want int
	}{
		{[]string{"-within", "15m"}, 1},
		{[]string{"-type", "Pay"}, 1},
		{[]string{"-to", "other"}, 0},
		{[]string{"-to", "orders", "-type", "Place"}, 2},
		{[]string{"-limit", "1"}, 1},
		{[]string{"-sum"}, 2},
	} {
		r := execute(t, "", append([]string{"deferred", "list", "-json", "-url", url}, test.args...)...)
		r.check(t, exitOK, "")
		if got := objects(t, r.out); len(got) != test.want {
			t.Errorf("%v: printed\n%s", test.args, r.out)
		}
	}
	again := execute(t, "", "deferred", "list", "-url", url)
	if again.out != r.out {
		t.Errorf("printed\n%sand before\n%s", again.out, r.out)
	}
}

// TestDeferredIsCancelledAndRestored: before a message is due, and after.
func TestDeferredIsCancelledAndRestored(t *testing.T) {
	t.Parallel()
	b, url := newBroker(t)
	tickets := deferring(t, b, 1500*time.Millisecond, time.Hour)
	r := execute(t, "", append([]string{"deferred", "cancel", "-url", url}, tickets...)...)
	r.check(t, exitOK, "")
	if strings.Count(r.out, "cancelled for certain") != 2 {
		t.Errorf("printed\n%s", r.out)
	}
	full := func(q brokertest.Queue) bool { return q.Ready == 1 }
	if err := b.WaitQueue(t.Context(), "harebus.delay.cancelled", full); err != nil {
		t.Fatal(err)
	}
	r = execute(t, "", append([]string{"deferred", "restore", "-url", url}, tickets...)...)
	r.check(t, exitOK, "")
	if !strings.Contains(r.out, "it was due and has been sent") || !strings.Contains(r.out, "it comes when it is due") {
		t.Errorf("printed\n%s", r.out)
	}
	if err := b.WaitQueue(t.Context(), "orders", full); err != nil {
		t.Fatal(err)
	}
	if m := b.Messages("orders")[0]; string(m.Body) != `{"a":1}` || m.Headers["CC"] != nil {
		t.Errorf("restored %+v", m)
	}
	for _, binding := range b.Bindings() {
		if strings.HasPrefix(binding.RoutingKey, "id:") {
			t.Errorf("%+v is left", binding)
		}
	}
	execute(t, "", "deferred", "cancel", "-url", url, tickets[0]).check(t, exitFailed, "is due")
	execute(t, "", "deferred", "restore", "-url", url, tickets[0]).check(t, exitFailed, "not among the cancelled")
}

// TestRestoreFromABusyQueue: RabbitMQ may take seconds to hand out the first message of a long queue. That the queue is
// not seen does not make a message one that was never cancelled, and a list says that it lacks some.
func TestRestoreFromABusyQueue(t *testing.T) {
	t.Parallel()
	b, url := newBroker(t)
	tickets := deferring(t, b, 1500*time.Millisecond, time.Hour)
	execute(t, "", "deferred", "cancel", "-url", url, tickets[0]).check(t, exitOK, "")
	if err := b.WaitQueue(t.Context(), "harebus.delay.cancelled", func(q brokertest.Queue) bool { return q.Ready == 1 }); err != nil {
		t.Fatal(err)
	}
	slow := b.Inject(brokertest.Fault{On: "basic.deliver", From: brokertest.FromBroker, Do: brokertest.Delay, For: time.Second, Times: -1})
	execute(t, "", "deferred", "list", "-url", url).check(t, exitOK, "1 messages more were there and did not come")
	execute(t, "", "deferred", "restore", "-url", url, tickets[0]).check(t, exitOK, "")
	slow.Remove()
}

// lose puts a copy of a message that waits for an hour into the queue of the lost.
func lose(t *testing.T, b *brokertest.Broker, exchange, key string, change func(*amqp.Publishing)) {
	t.Helper()
	m := b.Messages("harebus.delay.1h")[0]
	out := amqp.Publishing{Headers: maps.Clone(m.Headers), MessageId: m.MessageId, Type: m.Type, Body: m.Body}
	change(&out)
	before, _ := b.Queue("harebus.delay.lost")
	if err := client(t, b).PublishWithContext(t.Context(), exchange, key, true, false, out); err != nil {
		t.Fatal(err)
	}
	if err := b.WaitQueue(t.Context(), "harebus.delay.lost", func(q brokertest.Queue) bool { return q.Ready == before.Ready+1 }); err != nil {
		t.Fatal(err)
	}
}

// TestLostIsNotSaidToCome: a message that met a deleted queue before it was due, whether
// somebody has cancelled it or not.
func TestLostIsNotSaidToCome(t *testing.T) {
	t.Parallel()
	b, url := newBroker(t)
	ticket := deferring(t, b, time.Hour)[0]
	lose(t, b, "", "harebus.delay.lost", func(*amqp.Publishing) {})
	for range 2 {
		execute(t, "", "deferred", "restore", "-url", url, ticket).check(t, exitFailed, `lies in queue "harebus.delay.lost"`)
		execute(t, "", "deferred", "cancel", "-url", url, ticket).check(t, exitOK, "")
	}
	parsed, err := topology.ParseTicket(ticket)
	if err != nil {
		t.Fatal(err)
	}
	parsed.Due = time.Now().Add(-time.Second)
	r := execute(t, "", "deferred", "restore", "-url", url, parsed.String())
	r.check(t, exitOK, "")
	if err := b.WaitQueue(t.Context(), "orders", func(q brokertest.Queue) bool { return q.Ready == 1 }); err != nil {
		t.Fatal(err)
	}
}

// TestLostAreSentOn: each to where it was to go, also if its exit was deleted. What is not due
// yet, or does not say where it was to go, stays.
func TestLostAreSentOn(t *testing.T) {
	t.Parallel()
	b, url := newBroker(t)
	deferring(t, b, time.Hour)
	declare(t, client(t, b), "elsewhere", nil)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	overdue := func(label string) func(*amqp.Publishing) {
		return func(p *amqp.Publishing) {
			delete(p.Headers, "PikaBus.DeferredTime")
			p.Headers["CC"] = []any{"in.7.1", label}
		}
	}
	lose(t, b, "", "harebus.delay.lost", overdue("due//orders"))
	lose(t, b, "", "harebus.delay.lost", func(*amqp.Publishing) {})
	lose(t, b, "", "harebus.delay.lost", overdue("due//elsewhere"))
	lose(t, b, "", "harebus.delay.lost", overdue("none"))
	lose(t, b, "harebus.delay.lost", "harebus.delay.due//orders", overdue("0.end"))
	for round := range 2 {
		r := execute(t, "", "deferred", "restore", "-lost", "-url", url)
		r.check(t, exitFailed, "1 are not due yet")
		if !strings.Contains(r.err, "1 do not say where they were to go") {
			t.Errorf("stderr\n%s", r.err)
		}
		if want := []string{"3 lost messages were sent", "0 lost messages were sent"}[round]; !strings.Contains(r.out, want) {
			t.Errorf("printed\n%s", r.out)
		}
		for queue, want := range map[string]int{"orders": 2, "elsewhere": 1, "harebus.delay.lost": 2} {
			if err := b.WaitQueue(ctx, queue, func(q brokertest.Queue) bool { return q.Ready == want }); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// TestManyAreListed: a queue with more messages than a consumer may hold is looked at by
// several.
func TestManyAreListed(t *testing.T) {
	t.Parallel()
	b, url := newBroker(t)
	deferring(t, b, time.Hour, time.Hour, time.Hour, time.Hour, time.Hour)
	options := deferred.Options{Broker: access.Broker{URLs: []string{url}}, HeaderPrefix: "PikaBus.", Hold: 2, Timeout: 10 * time.Second}
	for most, want := range map[int]int{3: 3, 4: 4, 9: 5} {
		seen := map[string]bool{}
		if _, err := options.List(t.Context(), most, func(i deferred.Item) { seen[i.ID] = true }); err != nil {
			t.Fatal(err)
		}
		if len(seen) != want {
			t.Errorf("%d of at most %d are listed, want %d", len(seen), most, want)
		}
		if err := b.WaitQueue(t.Context(), "harebus.delay.1h", func(q brokertest.Queue) bool { return q.Ready == 5 }); err != nil {
			t.Fatal(err)
		}
	}
}

func TestDeferredMisuse(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{
		{"drop"}, {"cancel"}, {"restore", "x"}, {"list", "x"}, {"list", "-lost"}, {"restore", "-lost", "20261129T060000.000Z-1"}, {"-limit", "0"}, {"list", "-within", "-1s"}, {"-timeout", "0"},
	} {
		execute(t, "", append([]string{"deferred"}, args...)...).check(t, exitUsage, "harebus deferred -h explains")
	}
}
