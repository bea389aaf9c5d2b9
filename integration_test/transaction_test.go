package integration_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/topology"
)

func TestTransactionKeepsTheOrder(t *testing.T) {
	t.Parallel()
	bothTypes(t, func(t *testing.T, queueType topology.QueueType) {
		p := shared(t)
		cfg := p.config("a")
		cfg.QueueOptions.Type = queueType
		cfg.Consume.Concurrency = 1
		cfg.Publish.Window, cfg.Publish.Channels = 64, 3 // smaller than the transaction, and not one channel only
		cfg.Subscriptions = []string{p.name + ".#"}
		s, in := p.service(cfg)
		const messages = 1000
		ctx := p.within(patience)
		p.try(s.Bus().Transaction(ctx, func(ctx context.Context, tx *harebus.Tx) error {
			for n := range messages {
				var err error
				if n%3 == 0 {
					err = tx.Publish(ctx, p.name+".x", note{n})
				} else {
					err = tx.Send(ctx, cfg.Queue, note{n})
				}
				if err != nil {
					return err
				}
			}
			if in.all() != nil {
				t.Error("something left before the commit")
			}
			return nil
		}))
		var order []int
		for _, a := range in.await(p, messages) {
			order = append(order, number(p, a.Message))
		}
		if len(order) != messages || !slices.IsSorted(order) {
			t.Errorf("%d messages in another order than they were sent in", len(order))
		}
	})
}

func TestTransactionDiscards(t *testing.T) {
	t.Parallel()
	p := shared(t)
	b := p.broker()
	target := p.queue("target")
	b.declareQueue(target, nil)
	bus := p.bus()
	ctx := p.within(patience)
	send := func(ctx context.Context, tx *harebus.Tx) {
		p.try(tx.Send(ctx, target, note{1}))
		p.try(tx.Defer(ctx, target, time.Millisecond, note{2}))
	}
	p.is(bus.Transaction(ctx, func(ctx context.Context, tx *harebus.Tx) error {
		send(ctx, tx)
		return errors.ErrUnsupported
	}), errors.ErrUnsupported)
	func() {
		defer func() {
			if v := recover(); v != "a panic" {
				t.Errorf("recovered %v", v)
			}
		}()
		_ = bus.Transaction(ctx, func(ctx context.Context, tx *harebus.Tx) error {
			send(ctx, tx)
			panic("a panic")
		})
	}()
	tx := bus.Begin()
	send(ctx, tx)
	tx.Rollback()
	p.is(tx.Commit(ctx), harebus.ErrHandlerReturned)
	p.is(tx.Send(ctx, target, note{3}), harebus.ErrHandlerReturned)

	// An unencodable message fails at its call, and the caller may commit the rest.
	tx = bus.Begin()
	p.try(tx.Send(ctx, target, note{4}))
	p.is(tx.Send(ctx, target, func() {}), harebus.ErrRefused)
	p.try(tx.Commit(ctx))
	p.is(tx.Commit(ctx), harebus.ErrHandlerReturned)
	tx.Rollback()
	if d := b.take(target, 1)[0]; number(p, &harebus.Message{Body: d.Body}) != 4 {
		t.Errorf("%s left", d.Body)
	}
	b.empty(target)
}

// The error of a commit says of every message what became of it.
func TestTransactionError(t *testing.T) {
	t.Parallel()
	p := shared(t)
	b := p.broker()
	good, full := p.queue("good"), p.queue("full")
	b.declareQueue(good, nil)
	b.declareQueue(full, amqp.Table{"x-max-length": 1, "x-overflow": "reject-publish"})
	b.publish("", full, amqp.Publishing{MessageId: "first"})
	tx := p.bus().Begin()
	ctx := p.within(patience)
	calls := []struct {
		id, queue string
		outcome   harebus.Outcome
		is        error
	}{
		{"a", good, harebus.Confirmed, nil},
		{"b", p.queue("nowhere"), harebus.Returned, harebus.ErrUnroutable},
		{"c", good, harebus.Confirmed, nil},
		{"d", full, harebus.Nacked, harebus.ErrNacked},
		{"e", good, harebus.Confirmed, nil},
	}
	for _, c := range calls {
		p.try(tx.Send(ctx, c.queue, note{1}, harebus.WithMessageID(c.id)))
	}
	err := tx.Commit(ctx)
	p.is(err, harebus.ErrUnroutable)
	p.is(err, harebus.ErrNacked)
	p.mentions(err, "3 confirmed", "1 returned", "1 nacked")
	var failed *harebus.TransactionError
	if !errors.As(err, &failed) {
		t.Fatalf("got %T", err)
	}
	if len(failed.Messages) != len(calls) {
		t.Fatalf("it reports %d messages", len(failed.Messages))
	}
	for i, c := range calls {
		m := failed.Messages[i]
		if m.MessageID != c.id || m.RoutingKey != c.queue || m.Outcome != c.outcome || (c.is == nil) != (m.Err == nil) || !errors.Is(m.Err, c.is) {
			t.Errorf("message %d: %+v; want %+v", i, m, c)
		}
	}
	for i, d := range b.take(good, 3) {
		if want := []string{"a", "c", "e"}[i]; d.MessageId != want {
			t.Errorf("message %d is %q; want %q", i, d.MessageId, want)
		}
	}
	b.empty(good)
}

// A commit whose context ends says what it does not know.
func TestTransactionWithoutABroker(t *testing.T) {
	t.Parallel()
	p := shared(t)
	way := p.road()
	cfg := p.config("")
	cfg.URL = p.over(way)
	tx := p.setup(cfg).Bus().Begin()
	ctx, cancel := context.WithTimeout(p.Context(), 200*time.Millisecond)
	defer cancel()
	p.try(tx.Send(ctx, p.queue("a"), note{1}))
	p.try(tx.Send(ctx, p.queue("a"), note{2}))
	started := time.Now()
	err := tx.Commit(ctx)
	p.inTime("Commit", started, 1200*time.Millisecond)
	p.is(err, harebus.ErrNotSent)
	p.is(err, context.DeadlineExceeded)
	var failed *harebus.TransactionError
	if !errors.As(err, &failed) || len(failed.With(harebus.NotSent)) != 2 {
		t.Errorf("got %v", err)
	}
}

// What a handler sends leaves after it has succeeded, in order, and never when it has failed.
func TestHandlersMessagesLeaveAfterSuccess(t *testing.T) {
	t.Parallel()
	p := shared(t)
	cfg := p.config("a")
	b := p.broker()
	out := p.queue("out")
	b.declareQueue(out, nil)
	s := p.setup(cfg)
	var bus *harebus.Bus
	attempts := make(chan int, 10)
	s.HandleMessage(harebus.AnyType, func(ctx context.Context, mine *harebus.Bus, m *harebus.Message) error {
		bus = mine
		p.try(mine.Send(ctx, out, note{m.Attempt}))
		p.try(mine.Transaction(ctx, func(ctx context.Context, tx *harebus.Tx) error {
			return tx.Send(ctx, out, note{10 + m.Attempt})
		}))
		err := mine.Transaction(ctx, func(ctx context.Context, tx *harebus.Tx) error {
			return errors.Join(tx.Send(ctx, out, note{99}), errors.New("discard this one"))
		})
		if err == nil {
			t.Error("the inner transaction did not fail")
		}
		p.try(mine.Send(ctx, out, note{20 + m.Attempt}))
		b.empty(out)
		attempts <- m.Attempt
		switch m.Attempt {
		case 1:
			return errors.New("fails")
		case 2:
			panic("at the end of a handler")
		}
		return nil
	})
	p.start(s)
	p.try(s.Bus().Send(p.within(patience), cfg.Queue, note{1}))
	for want := 1; want <= 3; want++ {
		if got := <-attempts; got != want {
			t.Errorf("attempt %d; want %d", got, want)
		}
	}
	for i, d := range b.take(out, 3) {
		if got, want := number(p, &harebus.Message{Body: d.Body}), []int{3, 13, 23}[i]; got != want {
			t.Errorf("message %d is %d; want %d", i, got, want)
		}
	}
	b.empty(out)
	p.is(bus.Send(p.within(patience), out, note{1}), harebus.ErrHandlerReturned)
}

// A handler whose messages cannot be delivered has failed: its own message is tried again, then parked.
func TestHandlersCommitThatFailsIsRetried(t *testing.T) {
	t.Parallel()
	p := shared(t)
	cfg := p.config("a")
	cfg.Retry.MaxRetries = 1
	s := p.setup(cfg)
	var runs atomic.Int32
	s.HandleMessage(harebus.AnyType, func(ctx context.Context, bus *harebus.Bus, _ *harebus.Message) error {
		runs.Add(1)
		return bus.Publish(ctx, p.name+".nobody", note{1})
	})
	p.start(s)
	p.try(s.Bus().Send(p.within(patience), cfg.Queue, note{1}))
	d := p.broker().take(cfg.ErrorQueue.Name, 1)[0]
	if n := runs.Load(); n != 2 {
		t.Errorf("%d attempts", n)
	}
	if details, _ := d.Headers["PikaBus.ErrorDetails"].(string); details == "" {
		t.Error("no details")
	} else {
		p.mentions(errors.New(details), p.name+".nobody", "no queue takes the message")
	}
}

// cutter cuts a road in the middle of an operation.
type cutter struct {
	operation harebus.Operation
	cut       func()
}

func (c *cutter) ObserveStart(ctx context.Context, _ harebus.Observation) context.Context { return ctx }

func (c *cutter) ObserveEnd(_ context.Context, e harebus.Observation, _ error) {
	if e.Operation == c.operation {
		c.cut()
	}
}

// The connection dies after a handler's messages were confirmed and before its own was acknowledged. It is delivered
// and handled again; what it sends has the same ids again, and the ids of another service's handler are others.
func TestDeterministicIDsAcrossARedelivery(t *testing.T) {
	t.Parallel()
	bothTypes(t, func(t *testing.T, queueType topology.QueueType) {
		p := shared(t)
		way := p.road()
		p.try(way.allow())
		b := p.broker()
		out := p.queue("out")
		b.declareQueue(out, nil)
		var once sync.Once
		run := func(name, url string, observers ...harebus.Observer) *inbox {
			cfg := p.config(name)
			cfg.QueueOptions.Type = queueType
			cfg.Subscriptions = []string{p.name + ".event"}
			cfg.URL, cfg.Observers = url, observers
			s := p.setup(cfg)
			in := newInbox()
			s.HandleMessage(harebus.AnyType, func(ctx context.Context, bus *harebus.Bus, m *harebus.Message) error {
				in.add(m)
				for n := range 3 {
					p.try(bus.Send(ctx, out, note{n}, harebus.WithHeader("from", name)))
				}
				return nil
			})
			p.start(s)
			return in
		}
		in := run("a", p.over(way), &cutter{harebus.OpCommit, func() { once.Do(way.hiccup) }})
		run("b", p.url)
		p.try(p.bus().Publish(p.within(patience), p.name+".event", note{1}))
		again := in.await(p, 2)
		if !again[1].Redelivered || again[0].ID != again[1].ID {
			t.Errorf("deliveries %q and %q", again[0].ID, again[1].ID)
		}
		ids := map[string][]string{} // by sender and number
		for _, d := range b.take(out, 9) {
			key := fmt.Sprintf("%v %d", d.Headers["from"], number(p, &harebus.Message{Body: d.Body}))
			ids[key] = append(ids[key], d.MessageId)
		}
		b.empty(out)
		different := map[string]bool{}
		for n := range 3 {
			a, other := ids[fmt.Sprint("a ", n)], ids[fmt.Sprint("b ", n)]
			if len(a) != 2 || len(other) != 1 {
				t.Fatalf("messages %v", ids)
			}
			if a[0] != a[1] {
				t.Errorf("message %d had id %q the first time and %q the second", n, a[0], a[1])
			}
			different[a[0]], different[other[0]] = true, true
		}
		if len(different) != 6 {
			t.Errorf("ids of different messages are the same: %v", ids)
		}
	})
}

// The connection dies while a handler runs: what it buffered is discarded, because somebody else gets the message.
func TestHandlersMessagesAreDiscardedWithTheConnection(t *testing.T) {
	t.Parallel()
	p := shared(t)
	way := p.road()
	p.try(way.allow())
	cfg := p.config("a")
	cfg.URL = p.over(way)
	b := p.broker()
	out := p.queue("out")
	b.declareQueue(out, nil)
	s := p.setup(cfg)
	runs := make(chan bool, 10)
	confirmed := make(chan struct{}) // a cut before that would have the message sent twice
	var first atomic.Bool
	first.Store(true)
	s.HandleMessage(harebus.AnyType, func(ctx context.Context, bus *harebus.Bus, m *harebus.Message) error {
		p.try(bus.Send(ctx, out, note{1}))
		if first.CompareAndSwap(true, false) {
			<-confirmed
			way.cut()
			p.notReady(s, soon, "consumer 0")
			p.try(way.allow())
		}
		runs <- m.Redelivered
		return nil
	})
	p.start(s)
	p.try(s.Bus().Send(p.within(patience), cfg.Queue, note{1}))
	close(confirmed)
	if <-runs || !<-runs {
		t.Error("want a first delivery and a redelivery")
	}
	b.take(out, 1)
	p.eventually(soon, func() error {
		if n := s.Stats().Handled; n != 1 {
			return fmt.Errorf("%d handled", n)
		}
		return nil
	})
	b.empty(out)
}
