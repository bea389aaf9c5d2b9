package harebus_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/brokertest"
)

// TestTransactionOrder: what was buffered leaves at the commit, in the order of
// the calls, also when it is more than the window.
func TestTransactionOrder(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.bound(r.channel(), "out")
		cfg := r.config("")
		cfg.Publish = harebus.PublishConfig{Window: 7, Channels: 3}
		bus := r.setup(cfg).Bus()
		err := bus.Transaction(r.ctx, func(ctx context.Context, tx *harebus.Tx) error {
			for i := range 100 {
				if err := tx.Send(ctx, "out", order{i}); err != nil {
					return err
				}
			}
			if r.tap.dialed() != 0 {
				t.Error("something left before the commit")
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		_, bodies := r.bodies("out")
		if len(bodies) != 100 {
			t.Fatalf("%d messages", len(bodies))
		}
		for i, body := range bodies {
			if body != fmt.Sprintf(`{"ID":%d}`, i) {
				t.Fatalf("message %d is %s", i, body)
			}
		}
	})
}

// TestTransactionDiscards: an error or a panic inside, or a rollback.
func TestTransactionDiscards(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.bound(r.channel(), "out")
		bus := r.setup(r.config("")).Bus()
		send := func(ctx context.Context, tx *harebus.Tx) {
			if err := tx.Send(ctx, "out", order{1}); err != nil {
				t.Error(err)
			}
		}
		var leaked *harebus.Tx
		err := bus.Transaction(r.ctx, func(ctx context.Context, tx *harebus.Tx) error {
			leaked = tx
			send(ctx, tx)
			return errNo
		})
		if !errors.Is(err, errNo) || err.Error() != errNo.Error() {
			t.Errorf("got %v", err)
		}
		if err := leaked.Send(r.ctx, "out", order{1}); !errors.Is(err, harebus.ErrHandlerReturned) {
			t.Errorf("after the end: %v", err)
		}
		func() {
			defer func() {
				if v := recover(); v != "oh" {
					t.Errorf("recovered %v", v)
				}
			}()
			_ = bus.Transaction(r.ctx, func(ctx context.Context, tx *harebus.Tx) error {
				leaked = tx
				send(ctx, tx)
				panic("oh")
			})
		}()
		if err := leaked.Commit(r.ctx); !errors.Is(err, harebus.ErrHandlerReturned) {
			t.Errorf("after the panic: %v", err)
		}
		tx := bus.Begin()
		send(r.ctx, tx)
		tx.Rollback()
		tx.Rollback()
		if err := tx.Commit(r.ctx); !errors.Is(err, harebus.ErrHandlerReturned) {
			t.Errorf("commit after rollback: %v", err)
		}
		if n := r.tap.dialed(); n != 0 {
			t.Errorf("%d connections", n)
		}
	})
}

// TestTransactionTwice: the second commit publishes nothing.
func TestTransactionTwice(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.bound(r.channel(), "out")
		tx := r.setup(r.config("")).Bus().Begin()
		if err := tx.Send(r.ctx, "out", order{1}); err != nil {
			t.Fatal(err)
		}
		if err := tx.Commit(r.ctx); err != nil {
			t.Fatal(err)
		}
		if err := tx.Commit(r.ctx); !errors.Is(err, harebus.ErrHandlerReturned) {
			t.Errorf("got %v", err)
		}
		tx.Rollback() // too late, and harmless
		r.await("out", 1)
	})
}

// TestTransactionReport: every message's outcome is told, in order.
func TestTransactionReport(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.bound(r.channel(), "good", "bad", "held")
		s := r.setup(r.config(""))
		if err := s.Bus().Send(r.ctx, "good", order{0}); err != nil {
			t.Fatal(err)
		}
		to := func(queue string) func(brokertest.Frame) bool {
			return func(f brokertest.Frame) bool { return f.RoutingKey == queue }
		}
		r.broker.Inject(brokertest.Fault{On: "basic.publish", Times: -1, Do: brokertest.Nack, Match: to("bad")})
		r.broker.Inject(brokertest.Fault{On: "basic.publish", Times: -1, Do: brokertest.Drop, Match: to("held")})
		ctx, cancel := context.WithTimeout(r.ctx, 20*time.Second)
		defer cancel()
		err := s.Bus().Transaction(ctx, func(ctx context.Context, tx *harebus.Tx) error {
			return errors.Join(
				tx.Send(ctx, "good", order{1}, harebus.WithMessageID("1")), tx.Send(ctx, "nowhere", order{2}, harebus.WithMessageID("2")),
				tx.Send(ctx, "good", order{3}, harebus.WithMessageID("3")), tx.Send(ctx, "bad", order{4}, harebus.WithMessageID("4")),
				tx.Send(ctx, "held", order{5}, harebus.WithMessageID("5")),
			)
		})
		var failed *harebus.TransactionError
		if !errors.As(err, &failed) {
			t.Fatalf("got %v", err)
		}
		var got []string
		for _, m := range failed.Messages {
			got = append(got, m.MessageID+" "+m.Outcome.String())
			if (m.Err == nil) != (m.Outcome == harebus.Confirmed) || m.RoutingKey == "" || m.Exchange != "PikaBusDirect" {
				t.Errorf("%+v", m)
			}
		}
		want := []string{"1 confirmed", "2 returned", "3 confirmed", "4 nacked", "5 unknown"}
		if !slices.Equal(got, want) {
			t.Errorf("got %v, want %v", got, want)
		}
		for _, sentinel := range []error{harebus.ErrUnroutable, harebus.ErrNacked, harebus.ErrUnknownOutcome} {
			if !errors.Is(err, sentinel) {
				t.Errorf("does not match %v", sentinel)
			}
		}
		if ids, _ := r.bodies("good"); fmt.Sprint(ids[1:]) != "[1 3]" {
			t.Errorf("confirmed are %v", ids)
		}
	})
}

// TestTransactionConcurrent: calls on one transaction from many goroutines.
func TestTransactionConcurrent(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.bound(r.channel(), "out")
		tx := r.setup(r.config("")).Bus().Begin()
		var calls sync.WaitGroup
		for i := range 50 {
			calls.Go(func() {
				if err := tx.Send(r.ctx, "out", order{i}); err != nil {
					t.Error(err)
				}
			})
		}
		calls.Wait()
		if err := tx.Commit(r.ctx); err != nil {
			t.Fatal(err)
		}
		r.await("out", 50)
	})
}

// TestTransactionDefer: a deferral in a transaction counts from the call.
func TestTransactionDefer(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.bound(r.channel(), "out")
		bus := r.setup(r.config("")).Bus()
		start := time.Now()
		err := bus.Transaction(r.ctx, func(ctx context.Context, tx *harebus.Tx) error {
			if err := tx.Defer(ctx, "out", 10*time.Second, order{1}); err != nil {
				return err
			}
			<-time.After(4 * time.Second)
			return tx.Send(ctx, "out", order{2})
		})
		if err != nil {
			t.Fatal(err)
		}
		if _, bodies := r.bodies("out"); fmt.Sprint(bodies) != `[{"ID":2}]` {
			t.Errorf("got %v", bodies)
		}
		r.await("out", 2)
		if took := time.Since(start); took < 10*time.Second || took > 10*time.Second+20*time.Millisecond {
			t.Errorf("it took %v", took)
		}
	})
}

// sends is a handler's outgoing messages, for the tests below.
func sends(ctx context.Context, bus *harebus.Bus) error {
	return errors.Join(
		bus.Send(ctx, "out", order{1}), bus.Send(ctx, "out", order{2}), bus.Publish(ctx, "a.b", order{3}, harebus.NonMandatory()),
		bus.Reply(ctx, answer{4}), bus.Defer(ctx, "out", time.Millisecond, order{5}),
		bus.Transaction(ctx, func(ctx context.Context, tx *harebus.Tx) error { return tx.Send(ctx, "out", order{6}) }),
		bus.Send(ctx, "out", order{7}, harebus.WithMessageID("own")),
	)
}

// TestHandlerBuffers: a handler's messages leave after it has succeeded and
// before the ack; those of a transaction inside join them; a failed handler's
// never leave.
func TestHandlerBuffers(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		ch := r.channel()
		r.bound(ch, "out", "back")
		s := r.setup(r.config("orders"))
		n := 0
		var leaked *harebus.Bus
		harebus.Handle(s, func(ctx context.Context, bus *harebus.Bus, _ order) error {
			n++
			leaked = bus
			if err := sends(ctx, bus); err != nil {
				return harebus.NoRetry(err)
			}
			rolledBack := bus.Begin()
			if err := rolledBack.Send(ctx, "out", order{99}); err != nil {
				return harebus.NoRetry(err)
			}
			rolledBack.Rollback()
			if q, _ := r.broker.Queue("out"); q.Ready != 0 {
				t.Error("something left before the handler returned")
			}
			if n == 1 {
				return errNo
			}
			return nil
		})
		r.start(s)
		m := plain(`{"ID":0}`)
		m.ReplyTo, m.CorrelationId = "back", "conversation"
		acked := r.broker.Inject(brokertest.Fault{On: "basic.ack", Times: -1, Do: brokertest.Delay, Match: func(f brokertest.Frame) bool {
			return strings.Contains(f.Connection, "consume")
		}})
		r.publish(ch, "orders", m)
		r.quiet("out", "back")
		if n != 2 || acked.Fired() == 0 {
			t.Fatalf("%d attempts, %d acks", n, acked.Fired())
		}
		var bodies []string
		for _, m := range append(r.broker.Messages("out"), r.broker.Messages("back")...) {
			bodies = append(bodies, string(m.Body))
			if m.CorrelationId != "conversation" {
				t.Errorf("%s has the correlation id %q", m.Body, m.CorrelationId)
			}
		}
		slices.Sort(bodies)
		want := []string{`{"ID":1}`, `{"ID":2}`, `{"ID":4}`, `{"ID":5}`, `{"ID":6}`, `{"ID":7}`}
		if !slices.Equal(bodies, want) {
			t.Errorf("got %v, want %v", bodies, want)
		}
		if err := leaked.Send(r.ctx, "out", order{8}); !errors.Is(err, harebus.ErrHandlerReturned) {
			t.Errorf("a bus used after its handler: %v", err)
		}
		err := leaked.Transaction(r.ctx, func(ctx context.Context, tx *harebus.Tx) error { return tx.Send(ctx, "out", order{8}) })
		if !errors.Is(err, harebus.ErrHandlerReturned) {
			t.Errorf("a transaction after its handler: %v", err)
		}
	})
}

// TestDeterministicIDs: a redelivery makes the same ids again, another message
// or another service makes others.
func TestDeterministicIDs(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		ch := r.channel()
		r.bound(ch, "out", "back")
		for _, queue := range []string{"orders", "others"} {
			s := r.setup(r.config(queue))
			harebus.Handle(s, func(ctx context.Context, bus *harebus.Bus, _ order) error { return sends(ctx, bus) })
			r.start(s)
		}
		run := func(queue, id string) []string {
			m := plain(`{"ID":0}`)
			m.MessageId, m.ReplyTo = id, "back"
			r.publish(ch, queue, m)
			r.quiet("out", "back")
			ids, _ := r.bodies("out")
			more, _ := r.bodies("back")
			for _, q := range []string{"out", "back"} {
				if _, err := ch.QueuePurge(q, false); err != nil {
					t.Fatal(err)
				}
			}
			ids = append(ids, more...)
			slices.Sort(ids)
			return ids
		}
		first, again := run("orders", "a"), run("orders", "a")
		if len(first) != 6 || len(slices.Compact(slices.Clone(first))) != 6 || !slices.Equal(first, again) {
			t.Errorf("ids\n%v\n%v", first, again)
		}
		for _, other := range [][]string{run("orders", "b"), run("others", "a")} {
			for _, id := range other {
				if id != "own" && slices.Contains(first, id) {
					t.Errorf("id %s was made for another message, too", id)
				}
			}
		}
	})
}

// TestDeterministicAfterCut: a connection lost between the publishing and the
// ack makes copies, all under the same ids.
func TestDeterministicAfterCut(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		ch := r.channel()
		r.bound(ch, "out")
		s := r.setup(r.config("orders"))
		harebus.Handle(s, func(ctx context.Context, bus *harebus.Bus, o order) error { return bus.Send(ctx, "out", o) })
		r.start(s)
		cut := r.broker.Inject(brokertest.Fault{On: "basic.ack", Do: brokertest.CutBefore})
		m := plain(`{"ID":0}`)
		m.MessageId = "a"
		r.publish(ch, "orders", m)
		if err := cut.WaitFired(r.ctx, 1); err != nil {
			t.Fatal(err)
		}
		r.quiet("out")
		ids, _ := r.bodies("out")
		if len(ids) != 2 || ids[0] != ids[1] {
			t.Errorf("ids %v", ids)
		}
	})
}

// TestCommitFails: a handler whose messages cannot leave has failed, and is
// retried like any other.
func TestCommitFails(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		ch := r.channel()
		s := r.setup(r.config("orders"))
		n := 0
		harebus.Handle(s, func(ctx context.Context, bus *harebus.Bus, o order) error {
			if n++; n == 3 {
				r.bound(ch, "late")
			}
			return bus.Send(ctx, "late", o)
		})
		r.start(s)
		r.publish(ch, "orders", plain(`{"ID":0}`))
		r.quiet("late")
		r.await("late", 1)
		if got := s.Stats(); n != 3 || got.Retried != 2 || got.Handled != 1 {
			t.Errorf("%d attempts, counts %+v", n, got)
		}
	})
}
