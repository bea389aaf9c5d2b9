package proof_test

import (
	"fmt"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/internal/ledger"
	"github.com/harebus/harebus/internal/proof"
	"github.com/harebus/harebus/topology"
)

const (
	// beside is how many good messages are in the queue before a bad one, and how many behind it.
	beside = 25
	// deliveryLimit is the library's default: so often a message may come back to a quorum queue.
	deliveryLimit = 20
)

// crowd is a service's consumers: several, so that other messages are in hand when the bad one comes.
var crowd = harebus.ConsumeConfig{Concurrency: 5, Prefetch: 50, Consumers: 3}

// surround sends good messages, the bad one, and good ones, and returns the ids of the good ones.
func (c *crash) surround(bad func()) (good []string) {
	c.Helper()
	for n := range 2 * beside {
		if n == beside {
			bad()
		}
		w := c.work(proof.Plain, n)
		c.try(c.service.Send(c.Context(), w, 0))
		good = append(good, w.ID)
	}
	return good
}

// handled says whether all of these took effect.
func handled(ids []string) func(map[string]tally) bool {
	return func(m map[string]tally) bool {
		for _, id := range ids {
			if m[id].steps[ledger.Effect] == 0 {
				return false
			}
		}
		return true
	}
}

// length is how many messages wait in a queue.
func (c *crash) length(queue string) int {
	c.Helper()
	conn, err := amqp.Dial(c.assignment.URL)
	c.try(err)
	defer func() { _ = conn.Close() }()
	ch, err := conn.Channel()
	c.try(err)
	q, err := ch.QueueDeclarePassive(queue, true, false, false, false, nil)
	c.try(err)
	return q.Messages
}

func (c *crash) errorQueue() string { return c.assignment.Name + ".error" }

// survives waits until the process has died, or the run has got as far as it should.
func (c *crash) survives(p *process, enough func(map[string]tally) bool) bool {
	c.Helper()
	deadline := time.After(patience)
	look := time.NewTicker(50 * time.Millisecond)
	defer look.Stop()
	for {
		select {
		case <-p.done:
			c.killed(p)
			return false
		case <-look.C:
			if enough(tallyOf(c.events())) {
				return true
			}
		case <-deadline:
			c.Fatalf("neither an end nor progress after %v; stderr:\n%s", patience, p.says())
		}
	}
}

// A message that kills the process of whoever handles it ends in the error queue after as many deaths as the delivery
// limit allows, alone: what was in hand beside it is handled, though that takes longer than any process lives.
func TestDeadlyMessage(t *testing.T) {
	t.Parallel()
	c := newCrash(t, topology.Quorum, crowd)
	c.assignment.Slow = 100 * time.Millisecond
	bad := c.work(proof.Failing, 1)
	good := c.surround(func() { c.try(c.service.Send(t.Context(), bad, 0)) })
	began, deaths := time.Now(), 0
	probe, probed := c.work(proof.Plain, 999), false
	var last *process
	for {
		last = c.spawn(func(a *assignment) { a.Step, a.Victim = beforeHandler, bad.ID })
		if c.survives(last, func(m map[string]tally) bool {
			if !probed && handled(good)(m) && c.length(c.errorQueue()) > 0 {
				c.try(c.service.Send(t.Context(), probe, 0)) // this process may have died of the message
				probed = true
			}
			return m[probe.ID].steps[ledger.Effect] > 0
		}) {
			break
		}
		if deaths++; deaths > 2*deliveryLimit {
			t.Fatalf("%d deaths", deaths)
		}
	}
	t.Logf("in the error queue after %d deaths and %v", deaths, time.Since(began).Round(time.Millisecond))
	c.bounded(deaths)
	c.fence()
	got := c.judge(last)
	if m := got[bad.ID].steps; m[ledger.Parked] != 1 || m[ledger.Recv] != 0 {
		t.Errorf("the steps of the deadly message are %v", m)
	}
	c.spared(good, got)
}

// bounded demands that a message had as many deliveries as the limit allows. When a connection dies whose consumers
// all have room, the broker may deliver what one of them held to the others, which are dying too, and counts that.
func (c *crash) bounded(deaths int) {
	c.Helper()
	if most, least := deliveryLimit+1, deliveryLimit+1-2*c.assignment.Consume.Consumers; deaths > most || deaths < least {
		c.Errorf("%d deaths; want %d, or few less", deaths, most)
	}
}

// spared demands that the messages were not delivered again and again because another one ended processes or
// connections: once when all consumers were at work, and once more when one of them found out.
func (c *crash) spared(good []string, got map[string]tally) {
	c.Helper()
	const most = 3
	worst := 0
	for _, id := range good {
		worst = max(worst, got[id].steps[ledger.Recv])
	}
	c.Logf("a good message began to be handled %d times at most", worst)
	if worst > most {
		c.Errorf("a good message began to be handled %d times; want %d at most", worst, most)
	}
}

// A classic queue counts no deliveries: a message that kills the process does so for ever, and holds up what is behind
// it. Nothing is lost, and a process that can handle it handles everything.
func TestDeadlyMessageInClassicQueue(t *testing.T) {
	t.Parallel()
	c := newCrash(t, topology.Classic, crowd)
	bad := c.work(proof.Plain, 999)
	good := c.surround(func() { c.try(c.service.Send(t.Context(), bad, 0)) })
	for range deliveryLimit + 5 {
		c.killed(c.spawn(func(a *assignment) { a.Step, a.Victim = beforeHandler, bad.ID }))
	}
	if n := c.length(c.errorQueue()); n != 0 {
		t.Errorf("%d messages in the error queue; has a classic queue learned to count?", n)
	}
	last := c.spawn(func(*assignment) {})
	c.until("end of all messages", handled(append(good, bad.ID)))
	c.fence()
	c.judge(last)
}

// poison publishes a message that the client cannot read.
func (c *crash) poison(id string, headers amqp.Table) {
	c.Helper()
	c.service.Book.Record(ledger.Event{Op: ledger.SendInvoke, ID: id})
	conn, err := amqp.Dial(c.assignment.URL)
	c.try(err)
	defer func() { _ = conn.Close() }()
	ch, err := conn.Channel()
	c.try(err)
	c.try(ch.Confirm(false))
	confirm, err := ch.PublishWithDeferredConfirmWithContext(c.Context(), "", c.assignment.Name, true, false,
		amqp.Publishing{MessageId: id, Headers: headers, Body: fmt.Appendf(nil, `{"ID":%q}`, id)})
	c.try(err)
	if ok, err := confirm.WaitContext(c.Context()); err != nil || !ok {
		c.Fatalf("the poison was not confirmed: %v", err)
	}
	c.service.Book.Record(ledger.Event{Op: ledger.SendOK, ID: id})
}

// poisons are headers that the broker takes and the client's reader refuses.
func poisons() map[string]amqp.Table {
	deep := amqp.Table{"at the": "bottom"}
	for range 40 {
		deep = amqp.Table{"deeper": deep}
	}
	return map[string]amqp.Table{"nested": deep, "long": {"list": make([]any, 9000)}}
}

// connects is how often the process tried to connect its consumers.
func (c *crash) connects() (n int) {
	c.Helper()
	for _, e := range c.events() {
		if e.Op == ledger.Crash && e.Err == "connect consume" {
			n++
		}
	}
	return n
}

// A message whose headers the client cannot read is parked at its first delivery, in a form that any client reads. It
// ends no connection, and what was in hand beside it is handled once. So it is also in a classic queue, which counts
// no deliveries.
func TestPoisonFrame(t *testing.T) {
	for _, kind := range []topology.QueueType{topology.Quorum, topology.Classic} {
		for name, headers := range poisons() {
			t.Run(fmt.Sprintf("%s in a %s queue", name, kind), func(t *testing.T) {
				t.Parallel()
				c := newCrash(t, kind, crowd)
				c.assignment.Slow = 100 * time.Millisecond
				c.poisoned(headers)
			})
		}
	}
}

func (c *crash) poisoned(headers amqp.Table) {
	c.Helper()
	bad := c.work(proof.Failing, 1)
	good := c.surround(func() { c.poison(bad.ID, headers) })
	p := c.spawn(func(*assignment) {})
	c.until("end of all messages", func(m map[string]tally) bool {
		return handled(good)(m) && c.length(c.errorQueue()) > 0
	})
	c.fence()
	if n := c.connects(); n != 1 {
		c.Errorf("the consumers connected %d times", n)
	}
	got := c.judge(p)
	if m := got[bad.ID].steps; m[ledger.Parked] != 1 || m[ledger.Recv] != 0 {
		c.Errorf("the steps of the poison are %v", m)
	}
	for _, id := range good {
		if n := got[id].steps[ledger.Recv]; n != 1 {
			c.Errorf("a good message began to be handled %d times", n)
		}
	}
}
