package dedup_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cenkalti/backoff/v4"
	"go.uber.org/goleak"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/brokertest"
	"github.com/harebus/harebus/dedup"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// order is the message of the tests.
type order struct{ N int }

func (order) MessageType() string { return "Order" }

// rig is a service on a broker with a clock of its own.
type rig struct {
	t      *testing.T
	ctx    context.Context
	broker *brokertest.Broker
	sender *harebus.Bus

	mu   sync.Mutex // guards done
	done []string
}

func bubble(t *testing.T, test func(t *testing.T, r *rig)) {
	t.Helper()
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := &rig{t: t, broker: brokertest.New()}
		t.Cleanup(r.broker.Close)
		ctx, cancel := context.WithTimeoutCause(t.Context(), 30*24*time.Hour, errors.New("the test took a month"))
		t.Cleanup(cancel)
		r.ctx = ctx
		sender, err := harebus.New(harebus.Config{Dial: r.broker.Dial})
		r.try(err)
		t.Cleanup(func() { r.try(sender.Close()) })
		r.sender = sender.Bus()
		test(t, r)
	})
}

func (r *rig) try(err error) {
	r.t.Helper()
	if err != nil {
		r.t.Fatal(err)
	}
}

// serve starts an instance. What its handler returns without an error is done, and a copy is sent to "out".
func (r *rig) serve(cfg dedup.Config, fn func(ctx context.Context, bus *harebus.Bus, o order) error) *harebus.Setup {
	r.t.Helper()
	c := harebus.Config{
		Dial: r.broker.Dial, Queue: "orders",
		Retry: harebus.RetryConfig{MaxRetries: 2, BackOff: func() backoff.BackOff { return backoff.NewConstantBackOff(time.Second) }},
	}
	d := dedup.New(cfg)
	r.try(d.Apply(&c))
	s, err := harebus.New(c)
	r.try(err)
	r.t.Cleanup(func() { r.try(s.Close()) })
	r.try(d.Serve(s))
	harebus.Handle(s, func(ctx context.Context, bus *harebus.Bus, o order) error {
		if err := fn(ctx, bus, o); err != nil {
			return err
		}
		r.mu.Lock()
		defer r.mu.Unlock()
		r.done = append(r.done, fmt.Sprint(o.N))
		return nil
	})
	r.try(s.Start(r.ctx))
	return s
}

func fine(context.Context, *harebus.Bus, order) error { return nil }

// send sends each number twice, with one id.
func (r *rig) send(numbers ...int) {
	r.t.Helper()
	for _, n := range append(numbers, numbers...) {
		r.try(r.sender.Send(r.ctx, "orders", order{n}, harebus.WithMessageID(fmt.Sprintf("id-%d", n))))
	}
}

func (r *rig) wants(what string) {
	r.t.Helper()
	synctest.Wait()
	r.mu.Lock()
	defer r.mu.Unlock()
	slices.Sort(r.done)
	if got := strings.Join(r.done, " "); got != what {
		r.t.Errorf("handled: %s; want %s", got, what)
	}
	r.done = nil
}

// TestOnce: a copy is passed over, also by an instance that starts later, and as long as ids are kept.
func TestOnce(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		s := r.serve(dedup.Config{Keep: 24 * time.Hour}, fine)
		r.send(1, 2, 3)
		time.Sleep(time.Second)
		r.wants("1 2 3")
		r.try(s.Ready())
		if stats := s.Stats(); stats.Handled < 6 || stats.Failed != 0 {
			t.Errorf("%+v", stats)
		}
		r.try(s.Stop(r.ctx))
		r.send(1, 4) // they wait when it starts, for the ids
		slow := r.broker.Inject(brokertest.Fault{On: "basic.deliver", From: brokertest.FromBroker, Times: -1, Do: brokertest.Delay, For: 5 * time.Second, Match: func(f brokertest.Frame) bool {
			return f.Queue == "orders.handled"
		}})
		other := r.serve(dedup.Config{Keep: 24 * time.Hour}, fine)
		if err := other.Ready(); err == nil || !strings.Contains(err.Error(), "are not read yet") {
			t.Errorf("ready: %v", err)
		}
		time.Sleep(10 * time.Second)
		slow.Remove()
		time.Sleep(10 * time.Second)
		r.wants("4")
		r.try(other.Ready())
		time.Sleep(26 * time.Hour)
		r.send(1)
		time.Sleep(time.Second)
		r.wants("1")
	})
}

// TestTogether: two copies that are handled at the same time are one.
func TestTogether(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		calls := 0
		r.serve(dedup.Config{}, func(context.Context, *harebus.Bus, order) error {
			calls++
			time.Sleep(time.Minute)
			return nil
		})
		r.send(0) // ends the trial
		time.Sleep(3 * time.Minute)
		r.wants("0")
		r.send(1)
		time.Sleep(3 * time.Minute)
		r.wants("1")
		if calls != 2 {
			t.Errorf("%d calls", calls)
		}
	})
}

// TestFailures: what has failed is handled again, and its copy after it.
func TestFailures(t *testing.T) {
	bubble(t, func(_ *testing.T, r *rig) {
		calls := 0
		r.serve(dedup.Config{}, func(context.Context, *harebus.Bus, order) error {
			if calls++; calls <= 2 {
				return errors.New("not now")
			}
			return nil
		})
		r.send(1)
		time.Sleep(time.Minute)
		r.wants("1")
	})
}

// TestLoggedLast: an id is kept only when everything that the handler sent is confirmed: else a crash in between would lose it.
func TestLoggedLast(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.declareOut()
		refused := r.broker.Inject(brokertest.Fault{On: "basic.publish", Times: -1, Do: brokertest.Nack, Match: func(f brokertest.Frame) bool { return f.RoutingKey == "out" }})
		s := r.serve(dedup.Config{}, func(ctx context.Context, bus *harebus.Bus, o order) error { return bus.Send(ctx, "out", o) })
		r.send(1)
		time.Sleep(20 * time.Second)
		for _, m := range r.broker.Messages("orders.handled") {
			if strings.Contains(string(m.Body), "id-1") {
				t.Errorf("the id is kept before what was sent is confirmed: %s", m.Body)
			}
		}
		r.broker.Refuse(time.Second)
		r.broker.CutConnections() // a crash
		refused.Remove()
		time.Sleep(10 * time.Minute)
		if got := len(r.broker.Messages("out")); got == 0 {
			t.Errorf("what was sent is lost; parked: %d", len(r.broker.Messages("error")))
		}
		r.try(s.Stop(r.ctx))
	})
}

// declareOut declares a queue that nobody consumes from.
func (r *rig) declareOut() {
	r.t.Helper()
	s, err := harebus.New(harebus.Config{Dial: r.broker.Dial, Queue: "out"})
	r.try(err)
	r.try(s.Init(r.ctx))
	r.try(s.Close())
}

// TestMisuse: what is missing is said.
func TestMisuse(t *testing.T) {
	t.Parallel()
	for says, cfg := range map[string]*harebus.Config{
		"no Queue":         {},
		"has a Transactor": {Queue: "q", Handling: harebus.HandlingConfig{Transactor: dedup.New(dedup.Config{})}},
		"PerInstance":      {Queue: "q", QueueOptions: harebus.QueueOptions{PerInstance: true}},
		"more than 255":    {Queue: strings.Repeat("q", 250)},
	} {
		if err := dedup.New(dedup.Config{}).Apply(cfg); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%q: %v", says, err)
		}
	}
	if err := dedup.New(dedup.Config{Keep: time.Second}).Apply(&harebus.Config{Queue: "q"}); err == nil || !strings.Contains(err.Error(), "less than a minute") {
		t.Error(err)
	}
	cfg := harebus.Config{Queue: "q"}
	d := dedup.New(dedup.Config{})
	if err := d.Serve(nil); err == nil || !strings.Contains(err.Error(), "call Apply") {
		t.Error(err)
	}
	if err := d.Apply(&cfg); err != nil {
		t.Fatal(err)
	}
	s, err := harebus.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	harebus.Handle(s, fine)
	if err := s.Start(t.Context()); err == nil || !strings.Contains(err.Error(), "call Serve") {
		t.Error(err)
	}
}
