// Package proof_test breaks real brokers, networks and processes while a service works under the ledger of
// internal/ledger, and lets the ledger judge: nothing lost, every duplicate explained, everything back to speed.
package proof_test

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cenkalti/backoff/v4"
	"github.com/google/uuid"
	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/integration_test/rabbit"
	"github.com/harebus/harebus/internal/ledger"
	"github.com/harebus/harebus/internal/proof"
	"github.com/harebus/harebus/topology"
)

const (
	// patience is how long a run waits for messages while none ends. It is generous: a slow machine is no fault.
	patience = 45 * time.Second
	// calm is how long a run goes on before the first fault, and the least after the last.
	calm = 3 * time.Second
	// recovery is how long a run goes on at most after the last fault, to see the old rate again.
	recovery = 14 * time.Second
	// pause is that of the retry policy.
	pause = time.Second
	// maxRetries of the retry policy.
	maxRetries = 2
)

// A plan says what runs, and where.
type plan struct {
	// nodes are the brokers: one, or all of a cluster.
	nodes []*rabbit.Node
	// queueType is Quorum if empty.
	queueType topology.QueueType
	// rate is the number of messages a second; 200 if zero.
	rate int
	// timeout is that of a send; a minute if zero.
	timeout time.Duration
	// quiet is how long nothing may be handled before what is missing counts as lost; patience if zero.
	quiet time.Duration
	// key is that of all messages of the load.
	key string
	// kinds are the kinds of messages that are sent; all if empty.
	kinds []proof.Kind
	// change, if any, changes the service's configuration.
	change func(*harebus.Config)
	// gate, if any, is called when a handler begins.
	gate func(proof.Work)
	// guard, if any, protects the messages.
	guard harebus.Guard
}

// A run is a service under observation that works on its own messages, and a load on it.
type run struct {
	*testing.T
	plan    plan
	service *proof.Service
	cfg     harebus.Config
	name    string        // starts the name of every object of the run
	loads   int           // how many have begun
	stop    func()        // ends the load
	stopped chan struct{} // closed when it has ended
}

// begin starts the service and the load, and returns when they have run for a while.
func begin(t *testing.T, p plan) *run {
	t.Helper()
	r := &run{T: t, plan: p, name: "proof-" + uuid.NewString()[:8]}
	if r.plan.rate == 0 {
		r.plan.rate = 200
	}
	r.cfg = r.config()
	r.cfg.Logger = journal(t)
	if p.change != nil {
		p.change(&r.cfg)
	}
	var err error
	r.service, err = proof.NewService(r.cfg, ledger.NewBook(), proof.Options{Pause: pause, Linger: 2 * time.Second, Gate: p.gate, Guard: p.guard})
	r.try(err)
	starting, cancel := context.WithTimeout(t.Context(), 4*patience) // a hundred queues take a while on a busy machine
	defer cancel()
	r.try(r.service.Setup.Init(starting))
	r.try(r.service.Setup.Start(starting))
	t.Cleanup(func() { _ = r.service.Setup.Stop(context.Background()) }) // after a failure; else it is stopped already
	r.load()
	time.Sleep(calm)
	return r
}

// load begins to send, at the rate of the plan. It stops with silence or end.
func (r *run) load() {
	const publishers = 50
	r.loads++
	load := proof.Load{
		Service: r.service, Run: fmt.Sprintf("%s.%d", r.name, r.loads), Key: r.plan.key, Kinds: r.plan.kinds,
		Rate: r.plan.rate, Publishers: publishers, Timeout: r.plan.timeout,
	}
	loading, stop := context.WithCancel(r.Context())
	stopped := make(chan struct{})
	r.stop, r.stopped = stop, stopped
	go func() {
		defer close(stopped)
		load.Send(loading)
	}()
}

// silence stops the load and returns when every send has returned.
func (r *run) silence() {
	r.stop()
	<-r.stopped
}

// config is what a run uses if its plan changes nothing.
func (r *run) config() harebus.Config {
	urls := make([]string, len(r.plan.nodes))
	for i, node := range r.plan.nodes {
		urls[i] = node.URL()
	}
	return harebus.Config{
		Connect: harebus.ConnectConfig{URLs: urls, Name: r.name}, QueueOptions: harebus.QueueOptions{Type: r.plan.queueType}, Exchanges: harebus.ExchangeConfig{Direct: r.name + ".direct", Topic: r.name + ".topic"}, Queue: r.name,
		ErrorQueue: harebus.ErrorQueueConfig{Name: r.name + ".error"},

		Consume: harebus.ConsumeConfig{Concurrency: 8, Prefetch: 50},
		Retry: harebus.RetryConfig{MaxRetries: maxRetries, BackOff: func() backoff.BackOff {
			return backoff.NewConstantBackOff(pause)
		}},
	}
}

// fault makes something happen, from its beginning to its healing, under the ledger's eyes.
func (r *run) fault(name string, happen func()) {
	r.Helper()
	r.service.Book.Record(ledger.Event{Op: ledger.FaultBegin, Err: name})
	r.service.Book.Record(ledger.Event{Op: ledger.Crash, Err: name})
	happen()
	r.service.Book.Record(ledger.Event{Op: ledger.Crash, Err: name})
	r.service.Book.Record(ledger.Event{Op: ledger.FaultEnd, Err: name})
}

// crashing tells the ledger while a node goes or comes. The ledger explains a duplicate by a crash during the life of its
// message. A deferred message lives for less time than a stop takes, and when a delay queue gets another leader, that one
// sends again what the first had not seen confirmed. So a crash at the beginning and one at the end are too few.
func (r *run) crashing(name string, change func() error) {
	r.Helper()
	const tick = 100 * time.Millisecond
	changed := make(chan error, 1)
	go func() { changed <- change() }()
	ticker := time.NewTicker(tick)
	defer ticker.Stop()
	for {
		r.service.Book.Record(ledger.Event{Op: ledger.Crash, Err: name})
		select {
		case err := <-changed:
			r.service.Book.Record(ledger.Event{Op: ledger.Crash, Err: name})
			r.try(err)
			return
		case <-ticker.C:
		}
	}
}

// end goes on until the service is back to speed, stops the load, waits for quiet, stops the service, reads with a
// plain client what is left, and judges.
func (r *run) end(want ...func(*ledger.Expect)) *ledger.Verdict {
	r.Helper()
	r.recover()
	r.silence()
	r.try(r.service.Settle(r.Context(), cmp.Or(r.plan.quiet, patience)))
	if waiting := r.service.Book.Pending(maxRetries + 1); len(waiting) > 0 {
		r.Errorf("%s: %d confirmed messages have not been handled, %s among them; the broker has\n%s",
			ledger.Liveness, len(waiting), waiting[0], r.full())
	}
	r.try(r.service.Setup.Stop(r.Context()))
	r.try(r.noteLeftovers())
	r.try(r.drain())
	expect := r.service.Expect()
	expect.Recovered, expect.Slack = true, 5*time.Millisecond
	for _, change := range want {
		change(&expect)
	}
	verdict := r.service.Book.Verdict(expect)
	if len(verdict.Violations) > 0 {
		r.Error(verdict)
	}
	r.report(verdict)
	return verdict
}

// full lists the queues that are not empty, as the first private node that answers sees them.
func (r *run) full() string {
	for _, node := range r.plan.nodes {
		output, err := node.Ctl(r.within(patience), "list_queues", "name", "messages", "--no-table-headers")
		if err == nil {
			return strings.Join(slices.DeleteFunc(strings.Split(output, "\n"), func(line string) bool {
				return strings.HasSuffix(line, "\t0")
			}), "\n")
		}
	}
	return "no answer"
}

// recover waits until as much is confirmed in a second as the load sends, but no longer than the ledger allows.
func (r *run) recover() {
	healed := time.Now()
	for time.Since(healed) < recovery {
		before := r.service.Book.Counts().Confirmed
		time.Sleep(time.Second)
		if time.Since(healed) >= calm && r.service.Book.Counts().Confirmed-before >= r.plan.rate*9/10 {
			return
		}
	}
}

// drain reads what is left from the first node that answers.
func (r *run) drain() error {
	var err error
	for _, node := range r.plan.nodes {
		var conn *amqp.Connection
		if conn, err = amqp.Dial(node.URL()); err != nil {
			continue
		}
		err = r.service.Drain(conn)
		_ = conn.Close()
		if err == nil {
			return nil
		}
	}
	return err
}

func (r *run) try(err error) {
	r.Helper()
	if err != nil {
		r.Fatal(err)
	}
}

// retriesSoon has the broker's own retries of dead letters come after 5 s instead of 180 s, as docs/delays.md advises,
// and its counts of unacknowledged messages every half second instead of every 5 s, for the look at what is left.
const retriesSoon = `[{rabbit, [{dead_letter_worker_publisher_confirm_timeout, 5000},
	{dead_letter_worker_consumer_prefetch, 256}, {quorum_tick_interval, 500}]}].`

// private is a broker of the test's own.
func private(t *testing.T, options rabbit.Options) *rabbit.Node {
	t.Helper()
	options.Kind, options.Advanced = rabbit.KindNode, retriesSoon
	rabbit.SkipWithoutBroker(t, rabbit.Installed())
	return rabbit.Need(t, options)
}

// within ends with the test, or after d.
func (r *run) within(d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(r.Context(), d)
	r.Cleanup(cancel)
	return ctx
}

// eventually calls check repeatedly until it returns nil. It is for states that no
// event reports.
func (r *run) eventually(most time.Duration, check func() error) {
	r.Helper()
	const poll = 20 * time.Millisecond
	for began := time.Now(); ; time.Sleep(poll) {
		err := check()
		if err == nil {
			return
		}
		if time.Since(began) > most {
			r.Fatalf("still not so after %v: %v", most, err)
		}
	}
}

// confirmed returns when that many more sends have been confirmed, and says how long it took.
func (r *run) confirmed(more int) time.Duration {
	r.Helper()
	began, target := time.Now(), r.service.Book.Counts().Confirmed+more
	r.eventually(patience, func() error {
		if now := r.service.Book.Counts().Confirmed; now < target {
			return fmt.Errorf("%d of %d sends confirmed", now, target)
		}
		return nil
	})
	return time.Since(began)
}

// consuming returns when one more message has been handled, and fails the test if that comes too long after something.
func (r *run) consuming(after string, since time.Time, most time.Duration) {
	r.Helper()
	handled := r.service.Book.Counts().Handled
	r.eventually(patience, func() error {
		if r.service.Book.Counts().Handled == handled {
			return fmt.Errorf("nothing is handled since %s", after)
		}
		return nil
	})
	took := time.Since(since).Round(time.Millisecond)
	r.Logf("%s: consuming again %v after %s", r.Name(), took, after)
	if took > most {
		r.Error("that is too long")
	}
}

// report tells the figures of a run in one line.
func (r *run) report(v *ledger.Verdict) {
	r.Helper()
	r.Logf("%s: %d sent, %d confirmed, %d failed, %d without outcome, %d lost, %d duplicates (%d unexplained), longest gap %v",
		r.Name(), v.Sent, v.Confirmed, v.Failed, v.Unknown, v.Lost, v.Duplicates, v.UnexplainedDuplicates,
		time.Duration(v.LongestGapMS)*time.Millisecond)
}

// allConfirmed fails the test unless every send was confirmed.
func (r *run) allConfirmed(v *ledger.Verdict) {
	r.Helper()
	if v.Failed+v.Unknown > 0 {
		const shown = 5
		refusals := r.service.Book.Refusals()
		r.Errorf("%d sends failed and %d ended without an outcome, within a minute or more each:\n%s",
			v.Failed, v.Unknown, strings.Join(refusals[:min(shown, len(refusals))], "\n"))
	}
}

// ctl runs rabbitmqctl.
func (r *run) ctl(node *rabbit.Node, args ...string) {
	r.Helper()
	_, err := node.Ctl(r.within(patience), args...)
	r.try(err)
}

// eval evaluates an Erlang expression inside a node.
func (r *run) eval(node *rabbit.Node, expression string) {
	r.Helper()
	_, err := node.Eval(r.within(patience), expression)
	r.try(err)
}

// plainly runs fn on a channel of a plain client.
func (r *run) plainly(node *rabbit.Node, fn func(*amqp.Channel) error) {
	r.Helper()
	conn, err := amqp.Dial(node.URL())
	r.try(err)
	defer func() { _ = conn.Close() }()
	ch, err := conn.Channel()
	r.try(err)
	r.try(fn(ch))
}
