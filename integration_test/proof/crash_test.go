package proof_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"
	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/integration_test/rabbit"
	"github.com/harebus/harebus/internal/ledger"
	"github.com/harebus/harebus/internal/proof"
	"github.com/harebus/harebus/topology"
)

// A crash is a service in processes that are killed, one after the other, and the account of all of them.
type crash struct {
	*testing.T

	assignment assignment
	service    *proof.Service // sends and reads what is left; it never consumes
	ledgers    []string       // of the processes
	own        string         // the ledger of the service above
	latest     *process
}

// newCrash makes the service's queues.
func newCrash(t *testing.T, queueType topology.QueueType, consume harebus.ConsumeConfig) *crash {
	t.Helper()
	c := &crash{T: t, assignment: assignment{
		URL: rabbit.Shared(t).URL(), Name: "crash-" + uuid.NewString()[:8], QueueType: queueType, Consume: consume, Job: serve,
	}}
	c.prepare(c.assignment.config())
	return c
}

// prepare makes the service that sends, and the objects of all.
func (c *crash) prepare(cfg harebus.Config) {
	c.Helper()
	var err error
	c.service, err = proof.NewService(cfg, ledger.NewBook(), proof.Options{Pause: childPause})
	c.try(err)
	c.own = c.mirror()
	c.try(c.service.Setup.Init(c.Context()))
	c.Cleanup(func() {
		if err := c.service.Setup.Close(); err != nil {
			c.Error(err)
		}
	})
}

func (c *crash) try(err error) {
	c.Helper()
	if err != nil {
		c.Fatal(err)
	}
}

// work is the n-th message of the run.
func (c *crash) work(kind proof.Kind, n int) proof.Work {
	return proof.Work{ID: proof.NewID(c.assignment.Name, 0, n, kind), Seq: n, Kind: kind}
}

// spawn starts a process that works on the assignment, with changes.
func (c *crash) spawn(change func(*assignment)) *process {
	c.Helper()
	a := c.assignment
	a.Ledger = ledgerFile(c.T)
	change(&a)
	c.ledgers = append(c.ledgers, a.Ledger)
	c.latest = spawn(c.T, &a)
	return c.latest
}

// killed waits for the death of a process and writes it down.
func (c *crash) killed(p *process) {
	c.Helper()
	p.killed()
	c.service.Book.Record(ledger.Event{Op: ledger.Crash, Err: "SIGKILL"})
}

// mirror has a new file written of all that the test itself does from now on.
func (c *crash) mirror() string {
	c.Helper()
	path := ledgerFile(c.T)
	recorder, err := ledger.NewRecorder(path, "test")
	c.try(err)
	c.service.Book.Mirror(recorder)
	c.Cleanup(func() { _ = recorder.Close() })
	return path
}

// events are those of all processes so far.
func (c *crash) events() []ledger.Event {
	c.Helper()
	var all []ledger.Event
	for _, path := range c.ledgers {
		all = append(all, readLedger(c.T, path)...)
	}
	return all
}

// A tally is how often each step of a message was written down, and the message ids of its copies.
type tally struct {
	steps map[ledger.Op]int
	ids   []string
}

func tallyOf(events []ledger.Event) map[string]tally {
	tallies := map[string]tally{}
	for _, e := range events {
		m := tallies[e.ID]
		if m.steps == nil {
			m.steps = map[ledger.Op]int{}
		}
		m.steps[e.Op]++
		if e.Op == ledger.Recv && !slices.Contains(m.ids, e.Key) {
			m.ids = append(m.ids, e.Key)
		}
		tallies[e.ID] = m
	}
	return tallies
}

// until waits until the processes have written down what is looked for. If they do not, the test has failed but goes on:
// the verdict says more.
func (c *crash) until(what string, found func(map[string]tally) bool) {
	c.Helper()
	c.untilWithin(patience, what, found)
}

func (c *crash) untilWithin(most time.Duration, what string, found func(map[string]tally) bool) {
	c.Helper()
	deadline := time.After(most)
	for {
		alive := c.latest.alive() // before looking at what it has written
		if found(tallyOf(c.events())) {
			return
		}
		if !alive {
			c.Errorf("no %s, and the process has ended: %v", what, c.latest.err)
			return
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-deadline:
			c.Errorf("no %s after %v; stderr of the last process:\n%s", what, most, c.latest.says())
			return
		}
	}
}

// fence waits until everything has been handled that was in the queue before, or is going to be back in it within
// the pause of a retry.
func (c *crash) fence() {
	c.Helper()
	for n, delay := range []time.Duration{2 * childPause, 0} { // the second for what the first found in the queue
		w := c.work(proof.Plain, 1000+n)
		c.try(c.service.Send(c.Context(), w, delay))
		c.until("fence", func(m map[string]tally) bool { return m[w.ID].steps[ledger.Effect] > 0 })
	}
}

// settle waits until every confirmed message has ended.
func (c *crash) settle() {
	c.Helper()
	deadline := time.Now().Add(patience)
	for {
		book := ledger.NewBook()
		for _, path := range append([]string{c.own}, c.ledgers...) {
			c.try(book.ReadFile(path))
		}
		pending := book.Pending(childRetries + 1)
		if len(pending) == 0 {
			return
		}
		if time.Now().After(deadline) {
			c.Errorf("%d confirmed messages have not ended after %v", len(pending), patience) // the verdict says more
			return
		}
		time.Sleep(200 * time.Millisecond)
	}
}

// judge stops the last process, if there is one, reads what is left and holds all of it to the promises.
func (c *crash) judge(last *process) map[string]tally {
	c.Helper()
	switch {
	case last == nil:
	case last.alive():
		last.signal(syscall.SIGTERM)
		last.ended()
	default:
		c.Errorf("the last process has ended too soon: %v", last.err)
	}
	found := c.found()
	for _, path := range c.ledgers {
		c.try(c.service.Book.ReadFile(path))
	}
	expect := c.service.Expect()
	expect.Slack = 5 * time.Millisecond
	if verdict := c.service.Book.Verdict(expect); len(verdict.Violations) > 0 {
		c.Error(verdict)
	}
	return tallyOf(append(c.events(), found...))
}

// found reads what is left in the queues into the book, and returns it.
func (c *crash) found() []ledger.Event {
	c.Helper()
	path := c.mirror()
	conn, err := amqp.Dial(c.assignment.URL)
	c.try(err)
	c.try(c.service.Drain(conn))
	c.try(conn.Close())
	c.try(c.service.Book.MirrorErr())
	c.service.Book.Mirror(nil)
	return readLedger(c.T, path)
}

// A killing is a step of handling, the message that is handled then, and what must come of it.
type killing struct {
	name  string
	kind  proof.Kind
	where func(a *assignment)
	// How often the message was received, failed, took effect and was parked; and its children, each.
	received, failed, effects, parked int
	children                          [siblings]int
}

// trapped makes a process die at a frame.
func trapped(t trap) func(*assignment) { return func(a *assignment) { a.Trap = t } }

// atStep makes a process die at a step of handling its only message.
func atStep(s step) func(*assignment) { return func(a *assignment) { a.Step = s } }

// A process that is killed while it handles a message repeats at most what it has not acknowledged, and repeats it
// under the same message ids.
var killings = []killing{
	{
		name: "before the handler", kind: proof.Parent, where: atStep(beforeHandler),
		received: 1, effects: 1, children: [siblings]int{1, 1, 1},
	}, {
		name: "in the handler", kind: proof.Parent, where: atStep(midHandler),
		received: 2, effects: 1, children: [siblings]int{1, 1, 1},
	}, {
		name: "after the effect", kind: proof.Parent, where: atStep(afterEffect),
		received: 2, effects: 2, children: [siblings]int{1, 1, 1},
	}, {
		name: "amid what the handler sent", kind: proof.Parent, where: trapped(trap{Method: basicPublish, Nth: 3, Confirmed: 2}),
		received: 2, effects: 2, children: [siblings]int{2, 2, 1},
	}, {
		name: "before the ack", kind: proof.Parent, where: trapped(trap{Method: basicAck, Nth: 1, Confirmed: siblings}),
		received: 2, effects: 2, children: [siblings]int{2, 2, 2},
	}, {
		name: "after the ack", kind: proof.Parent, where: trapped(trap{Method: basicDeliver, FromBroker: true, Nth: 2}),
		received: 1, effects: 1, children: [siblings]int{1, 1, 1},
	}, {
		name: "before the retry leaves", kind: proof.Flaky, where: trapped(trap{Method: basicPublish, Nth: 1}),
		received: 3, failed: 2, effects: 1,
	}, {
		name: "after the retry has left", kind: proof.Flaky, where: trapped(trap{Method: basicAck, Nth: 1, Confirmed: 1}),
		received: 4, failed: 2, effects: 2,
	}, {
		name: "before it is parked", kind: proof.Failing, where: trapped(trap{Method: basicPublish, Nth: 2}),
		received: 3, failed: 3, parked: 1,
	}, {
		name: "after it was parked", kind: proof.Failing, where: trapped(trap{Method: basicAck, Nth: 2, Confirmed: 2}),
		received: 3, failed: 3, parked: 2,
	},
}

func TestKilledWhileHandling(t *testing.T) {
	for _, queueType := range []topology.QueueType{topology.Quorum, topology.Classic} {
		for _, k := range killings {
			t.Run(string(queueType)+"/"+k.name, func(t *testing.T) {
				t.Parallel()
				k.test(t, queueType)
			})
		}
	}
}

func (k killing) test(t *testing.T, queueType topology.QueueType) {
	t.Helper()
	c := newCrash(t, queueType, harebus.ConsumeConfig{Concurrency: 1, Prefetch: 1})
	w := c.work(k.kind, 1)
	c.try(c.service.Send(t.Context(), w, 0))
	c.killed(c.spawn(func(a *assignment) {
		a.Victim = w.ID
		k.where(a)
	}))
	second := c.spawn(func(*assignment) {})
	c.until("end of the message", func(m map[string]tally) bool {
		got := m[w.ID].steps
		return got[ledger.Effect] >= k.effects && got[ledger.Failed] >= k.failed
	})
	c.fence()
	k.compare(t, w.ID, c.judge(second))
}

func (k killing) compare(t *testing.T, id string, got map[string]tally) {
	t.Helper()
	m := got[id].steps
	if m[ledger.Recv] != k.received || m[ledger.Failed] != k.failed || m[ledger.Effect] != k.effects || m[ledger.Parked] != k.parked {
		t.Errorf("the steps of %s are %v; want %d received, %d failed, %d effects, %d parked",
			id, m, k.received, k.failed, k.effects, k.parked)
	}
	if k.kind != proof.Parent {
		return
	}
	for i, child := range childrenOf(id) {
		if n := got[child].steps[ledger.Effect]; n != k.children[i] || len(got[child].ids) != 1 {
			t.Errorf("%s took effect %d times; want %d; the message ids of its copies are %q", child, n, k.children[i], got[child].ids)
		}
	}
}

// A sending is a step of sending, and how many copies must be in the queue once the messages were sent again.
type sending struct {
	name   string
	job    string
	trap   trap
	copies []int
}

// What a process was about to send when it was killed is there or not; sent again under the same id it is there at
// least once.
var sendings = []sending{
	{"before a send", send, trap{Method: basicPublish, Nth: 1}, []int{1}},
	{"amid a send", send, trap{Method: basicPublish, Nth: 1, Sent: true}, []int{1}},
	{"before the confirm is read", send, trap{Method: basicAck, FromBroker: true, Nth: 1}, []int{2}},
	{"between two sends", send, trap{Method: basicPublish, Nth: 2}, []int{2, 1}},
	{"before a commit", commit, trap{Method: basicPublish, Nth: 1}, []int{1, 1, 1, 1}},
	{"amid a commit", commit, trap{Method: basicPublish, Nth: 3, Confirmed: 2}, []int{2, 2, 1, 1}},
}

func TestKilledWhileSending(t *testing.T) {
	for _, queueType := range []topology.QueueType{topology.Quorum, topology.Classic} {
		for _, s := range sendings {
			t.Run(string(queueType)+"/"+s.name, func(t *testing.T) {
				t.Parallel()
				s.test(t, queueType)
			})
		}
	}
}

func (s sending) test(t *testing.T, queueType topology.QueueType) {
	t.Helper()
	c := newCrash(t, queueType, harebus.ConsumeConfig{})
	c.assignment.Job = s.job
	for n := range s.copies {
		c.assignment.Send = append(c.assignment.Send, c.work(proof.Plain, n))
	}
	c.killed(c.spawn(func(a *assignment) { a.Trap = s.trap }))
	c.spawn(func(*assignment) {}).ended()
	got := c.judge(nil)
	for n, want := range s.copies {
		id := c.assignment.Send[n].ID
		if copies := got[id].steps[ledger.Drained]; copies != want {
			t.Errorf("message %d is there %d times; want %d", n, copies, want)
		}
	}
}

// A service that is killed again and again under load, at any point, loses nothing.
func TestKilledUnderLoad(t *testing.T) {
	const kills, rate = 5, 200
	c := newCrash(t, topology.Quorum, harebus.ConsumeConfig{Concurrency: 8, Prefetch: 50})
	c.assignment.Job = observe
	loading, stop := context.WithCancel(t.Context())
	var load sync.WaitGroup
	load.Go(func() {
		proof.Load{Service: c.service, Run: c.assignment.Name, Rate: rate, Publishers: 20}.Send(loading)
	})
	defer load.Wait()
	defer stop()
	handled := 0
	for range kills {
		p := c.spawn(func(*assignment) {})
		handled += 100 + rand.IntN(rate)
		c.until(fmt.Sprint(handled, " messages"), func(m map[string]tally) bool { return effects(m) >= handled })
		p.signal(os.Kill)
		c.killed(p)
	}
	last := c.spawn(func(*assignment) {})
	stop()
	load.Wait()
	c.settle()
	got := c.judge(last)
	t.Logf("%d kills, %d messages took effect", kills, effects(got))
}

// effects is how many different messages took effect.
func effects(m map[string]tally) int {
	n := 0
	for _, got := range m {
		if got.steps[ledger.Effect] > 0 {
			n++
		}
	}
	return n
}
