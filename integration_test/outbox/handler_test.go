package outbox_test

import (
	"context"
	"database/sql"
	"errors"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/brokertest"
	"github.com/harebus/harebus/outbox"
)

// TestHandler: the effect, the note in the inbox and the messages of a handler come together,
// and a copy of the message has no second effect.
func TestHandler(t *testing.T) {
	onEach(t, func(t *testing.T, r *rig) {
		r.bind("out", "placed")
		ob := r.outbox(outbox.Config{})
		s := r.setup(ob, "orders")
		harebus.Handle(s, func(ctx context.Context, bus *harebus.Bus, o order) error {
			return errors.Join(r.insert(ctx, o.ID), bus.Publish(ctx, "placed", placed(o)), bus.Send(ctx, "out", placed(o)))
		})
		r.start(s)
		for range 3 {
			if err := s.Bus().Send(r.ctx, "orders", order{7}, harebus.WithMessageID("m1")); err != nil {
				t.Fatal(err)
			}
		}
		if err := s.Bus().Send(r.ctx, "orders", order{8}, harebus.WithMessageID("M1")); err != nil { // differs in case only
			t.Fatal(err)
		}
		r.eventually("four are handled", func() bool { return s.Stats().Handled == 4 })
		r.await("out", 4)
		r.empty()
		check(t, "effects", r.number("select count(*) from effects"), 2)
		check(t, "inbox", r.number("select count(*) from harebus_inbox"), 2)
		if got, err := ob.Stats(r.ctx); err != nil || got.Duplicates != 2 || got.Stored != 4 || got.Published != 4 || got.Waiting != 0 {
			t.Errorf("%+v, %v", got, err)
		}
	})
}

// TestHandlerFails: nothing of a failed handler stays, so its retry runs; what is parked can
// be replayed.
func TestHandlerFails(t *testing.T) {
	onEach(t, func(t *testing.T, r *rig) {
		s := r.setup(r.outbox(outbox.Config{}), "orders")
		var fixed atomic.Bool
		harebus.Handle(s, func(ctx context.Context, bus *harebus.Bus, o order) error {
			if err := errors.Join(r.insert(ctx, o.ID), bus.Send(ctx, "out", placed(o))); err != nil {
				return err
			}
			if fixed.Load() {
				return nil
			}
			if harebus.Incoming(ctx).Attempt == 2 {
				panic("at the second attempt")
			}
			return errNo
		}, harebus.WithRetry(harebus.RetryConfig{MaxRetries: 1}))
		r.start(s)
		if err := s.Bus().Send(r.ctx, "orders", order{7}); err != nil {
			t.Fatal(err)
		}
		parked := r.await("error", 1)[0]
		for _, table := range []string{"effects", "harebus_inbox", "harebus_outbox"} {
			check(t, table, r.number("select count(*) from "+table), 0)
		}
		fixed.Store(true)
		again := parked.Publishing
		again.Headers["PikaBus.ErrorRetries"] = int32(0)
		if err := r.ch.PublishWithContext(r.ctx, "", "orders", false, false, again); err != nil {
			t.Fatal(err)
		}
		r.await("out", 1)
		check(t, "effects", r.number("select count(*) from effects"), 1)
	})
}

// TestCopiesAtOnce: of copies that are handled at the same time, only one has an effect.
func TestCopiesAtOnce(t *testing.T) {
	onEach(t, func(t *testing.T, r *rig) {
		s := r.setup(r.outbox(outbox.Config{}), "orders")
		harebus.Handle(s, func(ctx context.Context, bus *harebus.Bus, o order) error {
			return errors.Join(r.insert(ctx, o.ID), bus.Send(ctx, "out", placed(o)))
		})
		const messages, copies = 20, 5
		r.start(s)
		for n := range messages {
			for range copies {
				if err := s.Bus().Send(r.ctx, "orders", order{n}, harebus.WithMessageID(string(rune('a'+n)))); err != nil {
					t.Fatal(err)
				}
			}
		}
		r.eventually("all are handled", func() bool { return s.Stats().Handled >= messages*copies })
		r.await("out", messages)
		check(t, "effects", r.number("select count(*) from effects"), messages)
	})
}

// TestConflict: transactions in each other's way are tried again at once, with the same ids,
// and the retry policy does not see it.
func TestConflict(t *testing.T) {
	onEach(t, func(t *testing.T, r *rig) {
		r.exec("create table stock (id integer primary key, n integer not null)")
		r.exec("insert into stock values (1, 0)")
		ob := r.outbox(outbox.Config{TxOptions: &sql.TxOptions{Isolation: sql.LevelSerializable}})
		if r.data.Kind == "sqlite" {
			ob = r.outbox(outbox.Config{})
		}
		s := r.setup(ob, "orders")
		var begun [3]atomic.Bool
		var read sync.WaitGroup
		read.Add(2)
		harebus.Handle(s, func(ctx context.Context, bus *harebus.Bus, o order) error {
			var n int
			if err := outbox.SQL(ctx).QueryRowContext(ctx, "select n from stock where id = 1").Scan(&n); err != nil {
				return err
			}
			if o.ID > 0 && !begun[o.ID].Swap(true) && r.data.Kind != "sqlite" { // which lets in one at a time
				read.Done()
				read.Wait() // both have read before one of them writes
			}
			_, err := outbox.SQL(ctx).ExecContext(ctx, "update stock set n = n + 1 where id = 1")
			return errors.Join(err, bus.Send(ctx, "out", placed(o)))
		})
		r.start(s)
		const messages = 3
		for n := range messages {
			if err := s.Bus().Send(r.ctx, "orders", order{n}); err != nil {
				t.Fatal(err)
			}
			if n == 0 { // a new connection handles one message at first
				r.await("out", 1)
			}
		}
		r.eventually("all are handled", func() bool { return s.Stats().Handled == messages })
		r.await("out", messages)
		check(t, "updates", r.number("select n from stock"), messages)
		check(t, "failures that the policy saw", int(s.Stats().Failed), 0)
		if got, err := ob.Stats(r.ctx); err != nil || (got.Conflicts == 0 && r.data.Kind != "sqlite") {
			t.Errorf("%+v, %v: there was no conflict", got, err)
		}
	})
}

// TestEnded: a handler that ends the transaction itself is not taken for one that was stored.
func TestEnded(t *testing.T) {
	onEach(t, func(t *testing.T, r *rig) {
		s := r.setup(r.outbox(outbox.Config{}), "orders")
		harebus.Handle(s, func(ctx context.Context, bus *harebus.Bus, o order) error {
			if o.ID == 1 {
				return outbox.SQL(ctx).Rollback()
			}
			return errors.Join(bus.Send(ctx, "out", placed(o)), outbox.SQL(ctx).Commit())
		})
		r.start(s)
		for id := range 2 {
			if err := s.Bus().Send(r.ctx, "orders", order{id}); err != nil {
				t.Fatal(err)
			}
		}
		for _, m := range r.await("error", 2) {
			details, _ := m.Publishing.Headers["PikaBus.ErrorDetails"].(string)
			contains(t, errors.New(details), "only the outbox may commit it or roll it back")
		}
		r.await("out", 0)
	})
}

// TestInTransaction: inside a handler, Begin is refused and Transaction joins what is there.
func TestInTransaction(t *testing.T) {
	onEach(t, func(t *testing.T, r *rig) {
		ob := r.outbox(outbox.Config{})
		s := r.setup(ob, "orders")
		var fail atomic.Bool
		harebus.Handle(s, func(ctx context.Context, _ *harebus.Bus, o order) error {
			if _, err := ob.Begin(ctx, s.Bus()); !errors.Is(err, outbox.ErrInTransaction) {
				t.Errorf("Begin: %v", err)
			}
			err := ob.Transaction(ctx, s.Bus(), func(ctx context.Context, tx *outbox.Tx) error {
				return errors.Join(r.insert(ctx, o.ID), tx.Send(ctx, "out", placed(o)))
			})
			if fail.Load() {
				return harebus.NoRetry(errNo)
			}
			return err
		})
		r.start(s)
		if err := s.Bus().Send(r.ctx, "orders", order{1}); err != nil {
			t.Fatal(err)
		}
		r.await("out", 1)
		fail.Store(true)
		if err := s.Bus().Send(r.ctx, "orders", order{2}); err != nil {
			t.Fatal(err)
		}
		r.await("error", 1)
		check(t, "effects", r.number("select count(*) from effects"), 1)
		r.await("out", 1)
	})
}

// TestTwoQueues: an event goes to two queues of one database, and both handle it.
func TestTwoQueues(t *testing.T) {
	onEach(t, func(t *testing.T, r *rig) {
		for _, queue := range []string{"one", "two"} {
			ob := r.outbox(outbox.Config{})
			s, err := harebus.New(harebus.Config{URL: r.broker.URL(), Dial: r.broker.Dial, Queue: queue, Subscriptions: []string{"placed"}, Handling: harebus.HandlingConfig{Transactor: ob}})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = s.Close() })
			harebus.Handle(s, func(ctx context.Context, _ *harebus.Bus, p placed) error { return r.insert(ctx, p.ID) })
			r.start(s)
		}
		s, err := harebus.New(harebus.Config{URL: r.broker.URL(), Dial: r.broker.Dial})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		if err := s.Bus().Publish(r.ctx, "placed", placed{7}); err != nil {
			t.Fatal(err)
		}
		r.eventually("both have handled it", func() bool { return r.number("select count(*) from effects") == 2 })
		if err := r.broker.WaitQueue(r.ctx, "one", func(q brokertest.Queue) bool { return q.Ready == 0 && q.Unacked == 0 }); err != nil {
			t.Fatal(err)
		}
	})
}
