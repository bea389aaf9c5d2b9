package outbox_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/integration_test/outbox/database"
	"github.com/harebus/harebus/outbox"
)

// TestTransaction: code outside handlers commits its effect and its messages together, or
// neither.
func TestTransaction(t *testing.T) {
	onEach(t, func(t *testing.T, r *rig) {
		ob := r.outbox(outbox.Config{})
		s := r.setup(ob, "")
		r.start(s)
		place := func(result error) func(context.Context, *outbox.Tx) error {
			return func(ctx context.Context, tx *outbox.Tx) error {
				_, err := tx.SQL.ExecContext(ctx, "insert into effects (id) values (1)")
				return errors.Join(err, r.insert(ctx, 2), tx.Send(ctx, "out", placed{1}), result)
			}
		}
		if err := ob.Transaction(r.ctx, s.Bus(), place(errNo)); !errors.Is(err, errNo) {
			t.Errorf("its error: %v", err)
		}
		if err := ob.Transaction(r.ctx, s.Bus(), place(nil)); err != nil {
			t.Error(err)
		}
		tx, err := ob.Begin(r.ctx, s.Bus())
		if err != nil {
			t.Fatal(err)
		}
		if err := place(nil)(tx.Context(r.ctx), tx); err != nil {
			t.Error(err)
		}
		tx.Rollback()
		if err := tx.Commit(r.ctx); err == nil {
			t.Error("Commit after Rollback")
		}
		r.await("out", 1)
		check(t, "effects", r.number("select count(*) from effects"), 2)
	})
}

// TestCancel: a cancellation is stored with the messages, and made when they are published. One that comes too late is
// dropped.
func TestCancel(t *testing.T) {
	t.Parallel()
	r := newRig(t, database.Need(t, "sqlite"))
	ob := r.outbox(outbox.Config{})
	s := r.setup(ob, "")
	r.start(s)
	var gone harebus.Ticket
	in := func(fn func(ctx context.Context, tx *outbox.Tx) error) {
		t.Helper()
		if err := ob.Transaction(r.ctx, s.Bus(), fn); err != nil {
			t.Fatal(err)
		}
	}
	in(func(ctx context.Context, tx *outbox.Tx) error {
		return tx.Defer(ctx, "out", 2500*time.Millisecond, placed{1}, harebus.WithTicket(&gone))
	})
	in(func(ctx context.Context, tx *outbox.Tx) error {
		late := harebus.Ticket{ID: "late", Due: time.Now().Add(100 * time.Millisecond)}
		return errors.Join(tx.Cancel(ctx, gone), tx.Cancel(ctx, late), tx.Send(ctx, "out", placed{3}))
	})
	r.await("harebus.delay.cancelled", 1)
	r.await("out", 1)
	r.empty()
}

// TestNested: a Transaction inside one that was begun with Begin, or in another function, belongs
// to it: nothing is sent when the outer one is rolled back.
func TestNested(t *testing.T) {
	onEach(t, func(t *testing.T, r *rig) {
		ob := r.outbox(outbox.Config{})
		s := r.setup(ob, "")
		r.start(s)
		inner := func(outer context.Context, tx *outbox.Tx) error {
			return ob.Transaction(tx.Context(outer), s.Bus(), func(ctx context.Context, tx *outbox.Tx) error {
				return errors.Join(r.insert(ctx, 1), tx.Send(ctx, "out", placed{1}), ob.Transaction(tx.Context(r.ctx), s.Bus(), func(ctx context.Context, tx *outbox.Tx) error {
					return tx.Send(ctx, "out", placed{2})
				}))
			})
		}
		begun := func(end func(tx *outbox.Tx) error) {
			t.Helper()
			tx, err := ob.Begin(r.ctx, s.Bus())
			if err != nil {
				t.Fatal(err)
			}
			if err := errors.Join(inner(r.ctx, tx), end(tx)); err != nil {
				t.Error(err)
			}
		}
		begun(func(tx *outbox.Tx) error { tx.Rollback(); return nil })
		if err := ob.Transaction(r.ctx, s.Bus(), func(_ context.Context, tx *outbox.Tx) error {
			return errors.Join(inner(r.ctx, tx), errNo)
		}); !errors.Is(err, errNo) {
			t.Errorf("its error: %v", err)
		}
		check(t, "messages of transactions that were rolled back", len(r.broker.Messages("out")), 0)
		begun(func(tx *outbox.Tx) error { return tx.Commit(r.ctx) })
		r.await("out", 2)
		check(t, "effects", r.number("select count(*) from effects"), 1)
	})
}

// TestOrder: the messages of one transaction arrive in order, however many they are.
func TestOrder(t *testing.T) {
	onEach(t, func(t *testing.T, r *rig) {
		ob := r.outbox(outbox.Config{Batch: 100})
		s := r.setup(ob, "")
		r.start(s)
		const messages = 1000
		err := ob.Transaction(r.ctx, s.Bus(), func(ctx context.Context, tx *outbox.Tx) error {
			for n := range messages {
				if err := tx.Send(ctx, "out", placed{n}); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		for n, m := range r.await("out", messages) {
			if want := fmt.Sprintf(`{"ID":%d}`, n); string(m.Body) != want {
				t.Fatalf("message %d is %s, want %s", n, m.Body, want)
			}
		}
		r.empty()
	})
}

// TestJoin: in a transaction of somebody else messages are published when that has
// committed, and never if it is rolled back. No committed message is missed, however the
// transactions overlap.
func TestJoin(t *testing.T) {
	onEach(t, func(t *testing.T, r *rig) {
		ob := r.outbox(outbox.Config{})
		s := r.setup(ob, "")
		r.start(s)
		writers, each := 16, 25
		if r.data.Kind == "sqlite" {
			writers, each = 4, 25
		}
		var group sync.WaitGroup
		for w := range writers {
			group.Go(func() {
				for n := range each {
					if err := join(r, ob, s, w*each+n, n%5 == 4); err != nil {
						t.Error(err)
					}
				}
			})
		}
		group.Wait()
		committed := writers * each * 4 / 5
		r.await("out", committed)
		r.empty()
		check(t, "effects", r.number("select count(*) from effects"), committed)
		if _, twice := r.ids("out"); twice != 0 {
			t.Errorf("%d duplicates", twice)
		}
	})
}

// join stores a message in a transaction that stays open for a while afterwards.
func join(r *rig, ob *outbox.Outbox, s *harebus.Setup, id int, rollback bool) error {
	tx, err := r.db.BeginTx(r.ctx, nil)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }()
	if _, err := tx.ExecContext(r.ctx, fmt.Sprintf("insert into effects (id) values (%d)", id)); err != nil {
		return err
	}
	if err := ob.Join(tx, s.Bus()).Send(r.ctx, "out", placed{id}); err != nil {
		return err
	}
	timer := time.NewTimer(rand.N(5 * time.Millisecond))
	<-timer.C
	if rollback {
		return nil
	}
	return tx.Commit()
}

// TestWriteOnly: messages of a process that does not publish are published by another.
func TestWriteOnly(t *testing.T) {
	onEach(t, func(t *testing.T, r *rig) {
		writer := r.outbox(outbox.Config{})
		silent := r.setup(writer, "") // never started
		s := r.setup(r.outbox(outbox.Config{}), "")
		r.start(s)
		for n := range 3 {
			err := writer.Transaction(r.ctx, silent.Bus(), func(ctx context.Context, tx *outbox.Tx) error { return tx.Send(ctx, "out", placed{n}) })
			if err != nil {
				t.Fatal(err)
			}
			r.await("out", n+1)
		}
		r.empty()
	})
}

// TestRefused: messages that no queue takes do not hold up the others. They are kept with the
// reason, tried again, and delivered when there is a queue.
func TestRefused(t *testing.T) {
	onEach(t, func(t *testing.T, r *rig) {
		ob := r.outbox(outbox.Config{})
		s := r.setup(ob, "")
		r.start(s)
		const good, bad = 400, 100
		began := time.Now()
		err := ob.Transaction(r.ctx, s.Bus(), func(ctx context.Context, tx *outbox.Tx) error {
			for n := range good + bad {
				queue := "out"
				if n%5 == 0 {
					queue = "later"
				}
				if err := tx.Send(ctx, queue, placed{n}); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		r.await("out", good)
		t.Logf("%d good ones among %d bad ones in %v", good, bad, time.Since(began))
		r.eventually("the bad ones are set aside", func() bool {
			stats, err := ob.Stats(r.ctx)
			return err == nil && stats.SetAside == bad && stats.Waiting == 0
		})
		refused, err := ob.Refused(r.ctx, bad+1)
		if err != nil || len(refused) != bad {
			t.Fatalf("%d refused messages, %v", len(refused), err)
		}
		if got := refused[0]; got.RoutingKey != "later" || got.Type != "Placed" || got.Attempts < 1 || got.MessageID == "" || got.Age <= 0 {
			t.Errorf("%+v", got)
		}
		contains(t, errors.New(refused[0].Reason), "no queue takes the message")
		if n, err := ob.Discard(r.ctx, refused[0].ID); n != 1 || err != nil {
			t.Errorf("discarded %d, %v", n, err)
		}
		r.queue("later")
		if n, err := ob.Retry(r.ctx, refused[1].ID, refused[2].ID); n != 2 || err != nil {
			t.Errorf("tried again %d, %v", n, err)
		}
		r.awaitAtLeast("later", 2)
		r.await("later", bad-1) // the others come by themselves
		r.empty()
		if _, twice := r.ids("later"); twice != 0 {
			t.Errorf("%d duplicates", twice)
		}
	})
}

// TestDamage: a row that a newer version has written, or that is damaged, is set aside and
// keeps nothing from being published.
func TestDamage(t *testing.T) {
	onEach(t, func(t *testing.T, r *rig) {
		ob := r.outbox(outbox.Config{})
		for id, head := range map[int]string{1: "X'09000000000000000000000000'", 2: "X''"} {
			if r.data.Kind == "postgres" {
				head = `'\x` + head[2:]
			}
			r.exec(fmt.Sprintf("insert into harebus_outbox (lane, id, message_id, message_type, exchange, routing_key, head, body, stored_at, attempts) "+
				"select 5, %d, 'm', 't', '', 'out', %s, %s, until, 0 from harebus_lane where lane = -1", id, head, head))
		}
		s := r.setup(ob, "")
		r.start(s)
		err := ob.Transaction(r.ctx, s.Bus(), func(ctx context.Context, tx *outbox.Tx) error { return tx.Send(ctx, "out", placed{1}) })
		if err != nil {
			t.Fatal(err)
		}
		r.await("out", 1)
		var refused []outbox.Refusal
		r.eventually("both are set aside", func() bool {
			refused, err = ob.Refused(r.ctx, 9)
			return err == nil && len(refused) == 2
		})
		contains(t, errors.New(refused[0].Reason+refused[1].Reason), "the head has version 9; this harebus reads 1", "the head has 0 bytes")
	})
}

// TestStopKeeps: a stop under load loses nothing and sends nothing twice.
func TestStopKeeps(t *testing.T) {
	onEach(t, func(t *testing.T, r *rig) {
		const rounds, messages = 10, 40
		for round := range rounds {
			ob := r.outbox(outbox.Config{})
			s := r.setup(ob, "")
			r.start(s)
			var group sync.WaitGroup
			for w := range 4 {
				group.Go(func() {
					for n := range messages / 4 {
						err := ob.Transaction(r.ctx, s.Bus(), func(ctx context.Context, tx *outbox.Tx) error {
							return tx.Send(ctx, "out", placed{round*messages + w*messages/4 + n})
						})
						if err != nil {
							t.Error(err)
						}
					}
				})
			}
			if err := s.Stop(r.ctx); err != nil {
				t.Error(err)
			}
			group.Wait()
		}
		r.start(r.setup(r.outbox(outbox.Config{}), ""))
		r.awaitAtLeast("out", rounds*messages)
		r.empty()
		if found, twice := r.ids("out"); twice != 0 || len(found) != rounds*messages {
			t.Errorf("%d messages, %d of them twice", len(found), twice)
		}
	})
}

// TestBrokerAway: while the broker is away transactions go on in little memory. Afterwards
// every message comes once.
func TestBrokerAway(t *testing.T) {
	for _, kind := range database.Kinds {
		t.Run(kind, func(t *testing.T) { brokerAway(t, newRig(t, database.Need(t, kind))) })
	}
}

func brokerAway(t *testing.T, r *rig) {
	ob := r.outbox(outbox.Config{})
	s := r.setup(ob, "")
	r.start(s)
	before := heap()
	r.broker.Refuse(time.Hour)
	r.broker.CutConnections()
	const transactions, each, size = 40, 20, 200_000
	body := make([]byte, size)
	for n := range transactions {
		err := ob.Transaction(r.ctx, s.Bus(), func(ctx context.Context, tx *outbox.Tx) error {
			for range each {
				if err := tx.Send(ctx, "out", body, harebus.WithType("Bytes")); err != nil {
					return err
				}
			}
			return r.insert(ctx, n)
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	const most = 64 << 20 // of 160 MB
	if now := heap(); now > before+most {
		t.Errorf("%d MiB of heap, %d before", now>>20, before>>20)
	}
	r.broker.Refuse(0)
	r.awaitAtLeast("out", transactions*each)
	r.empty()
	if found, twice := r.ids("out"); twice != 0 || len(found) != transactions*each {
		t.Errorf("%d messages, %d of them twice", len(found), twice)
	}
}

func heap() uint64 {
	runtime.GC()
	var memory runtime.MemStats
	runtime.ReadMemStats(&memory)
	return memory.HeapAlloc
}

// awaitAtLeast waits until a queue has at least n messages.
func (r *rig) awaitAtLeast(queue string, n int) {
	r.t.Helper()
	r.eventually(fmt.Sprintf("%d messages in %s", n, queue), func() bool {
		q, _ := r.broker.Queue(queue)
		return q.Ready >= n
	})
}
