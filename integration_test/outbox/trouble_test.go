package outbox_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/integration_test/outbox/database"
	"github.com/harebus/harebus/outbox"
)

// TestDatabaseRestarts: the server of the database is killed under load and started again.
// Nothing is lost, and nothing comes of transactions that were not committed.
func TestDatabaseRestarts(t *testing.T) {
	for _, kind := range []string{"postgres", "mariadb"} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, database.Own(t, kind))
			ob := r.outbox(outbox.Config{})
			s := r.setup(ob, "")
			r.start(s)
			stop := make(chan struct{})
			var group sync.WaitGroup
			for w := range 4 {
				group.Go(func() {
					for n := 0; ; n++ {
						select {
						case <-stop:
							return
						default:
						}
						id := w*1_000_000 + n
						// An error is the outage; the rows decide what was committed.
						_ = ob.Transaction(r.ctx, s.Bus(), func(ctx context.Context, tx *outbox.Tx) error {
							return errors.Join(r.insert(ctx, id), tx.Send(ctx, "out", placed{id}))
						})
					}
				})
			}
			for round := range 2 {
				r.awaitAtLeast("out", 50*(round+1))
				r.data.Restart(t)
			}
			before := len(r.broker.Messages("out"))
			r.awaitAtLeast("out", before+50)
			close(stop)
			group.Wait()
			r.empty()
			effects := r.number("select count(*) from effects")
			r.eventually("all have arrived", func() bool { found, _ := r.ids("out"); return len(found) >= effects })
			found, twice := r.ids("out")
			if len(found) != effects {
				t.Errorf("%d messages of %d transactions", len(found), effects)
			}
			t.Logf("%d transactions, %d duplicates", effects, twice)
		})
	}
}

// TestLostLane: a process that finds its lane taken opens another one and goes on; nothing is
// lost.
func TestLostLane(t *testing.T) {
	onEach(t, func(t *testing.T, r *rig) {
		ob := r.outbox(outbox.Config{Lease: 600 * time.Millisecond})
		s := r.setup(ob, "")
		r.start(s)
		send := func(n int) {
			err := ob.Transaction(r.ctx, s.Bus(), func(ctx context.Context, tx *outbox.Tx) error { return tx.Send(ctx, "out", placed{n}) })
			if err != nil {
				t.Fatal(err)
			}
		}
		send(0)
		r.await("out", 1)
		r.exec("update harebus_lane set owner = 'somebody else' where lane > 0")
		r.eventually("it has a new lane", func() bool {
			return r.number("select count(*) from harebus_lane where lane > 0 and owner <> 'somebody else'") == 1
		})
		for n := range 9 {
			send(n + 1)
		}
		r.awaitAtLeast("out", 10)
		r.empty()
		r.eventually("the lane of somebody else, who is gone, is removed", func() bool { return r.number("select count(*) from harebus_lane") == 2 })
		if found, twice := r.ids("out"); len(found) != 10 || twice > 0 {
			t.Errorf("%d messages, %d duplicates", len(found), twice)
		}
	})
}

// TestForeignLane: rows of a process that is gone are published, also when its lane is in no table.
func TestForeignLane(t *testing.T) {
	onEach(t, func(t *testing.T, r *rig) {
		ob := r.outbox(outbox.Config{})
		silent := r.setup(ob, "")
		for n := range 30 {
			err := ob.Transaction(r.ctx, silent.Bus(), func(ctx context.Context, tx *outbox.Tx) error { return tx.Send(ctx, "out", placed{n}) })
			if err != nil {
				t.Fatal(err)
			}
		}
		r.exec("update harebus_outbox set lane = 77 + id % 3") // three processes
		r.exec("insert into harebus_lane (lane, owner, until) select 78, 'gone', until from harebus_lane where lane = -1")
		for range 2 { // two that want them
			r.start(r.setup(r.outbox(outbox.Config{}), ""))
		}
		r.awaitAtLeast("out", 30)
		r.empty()
		if found, twice := r.ids("out"); len(found) != 30 || twice > 0 {
			t.Errorf("%d messages, %d duplicates", len(found), twice)
		}
	})
}

// TestFullQueue: a queue that nacks does not hold up messages to others.
func TestFullQueue(t *testing.T) {
	t.Parallel()
	r := newRig(t, database.Need(t, "sqlite"))
	if _, err := r.ch.QueueDeclare("full", true, false, false, false, amqp.Table{"x-max-length": int32(1), "x-overflow": "reject-publish"}); err != nil {
		t.Fatal(err)
	}
	ob := r.outbox(outbox.Config{Batch: 10})
	s := r.setup(ob, "")
	r.start(s)
	const messages = 200
	began := time.Now()
	for n := range messages {
		err := ob.Transaction(r.ctx, s.Bus(), func(ctx context.Context, tx *outbox.Tx) error {
			return errors.Join(tx.Send(ctx, "out", placed{n}), tx.Send(ctx, "full", placed{n}))
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	r.await("out", messages)
	if took := time.Since(began); took > 20*time.Second { // one batch waits for 5 s
		t.Errorf("it took %v", took)
	}
	r.eventually("the others are set aside", func() bool {
		stats, err := ob.Stats(r.ctx)
		return err == nil && stats.SetAside == messages-1 && stats.Waiting == 0
	})
	r.await("full", 1)
	stats, err := ob.Stats(r.ctx)
	if err != nil || stats.Refused > messages/2 {
		t.Errorf("%+v, %v: messages that were not tried count as refused", stats, err)
	}
}

// TestLongTransaction: a transaction that stays open holds up no other, and the lease of the
// process does not depend on it.
func TestLongTransaction(t *testing.T) {
	for _, kind := range []string{"postgres", "mariadb"} { // SQLite lets in one at a time
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, database.Need(t, kind))
			ob := r.outbox(outbox.Config{})
			s := r.setup(ob, "")
			r.start(s)
			long, err := r.db.BeginTx(r.ctx, nil)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = long.Rollback() }()
			if err := ob.Join(long, s.Bus()).Send(r.ctx, "out", placed{99}); err != nil {
				t.Fatal(err)
			}
			for n := range 20 {
				err := ob.Transaction(r.ctx, s.Bus(), func(ctx context.Context, tx *outbox.Tx) error { return tx.Send(ctx, "out", placed{n}) })
				if err != nil {
					t.Fatal(err)
				}
			}
			r.await("out", 20)
			r.empty()                     // the row of the open transaction is not visible
			<-time.After(3 * time.Second) // three leases, and longer than the floor of a lane stays
			if err := long.Commit(); err != nil {
				t.Fatal(err)
			}
			r.await("out", 21)
			r.empty()
			check(t, "lanes", r.number("select count(*) from harebus_lane"), 2)
		})
	}
}

// TestBigBodies: a batch is bounded by its bytes, and so is a statement.
func TestBigBodies(t *testing.T) {
	onEach(t, func(t *testing.T, r *rig) {
		writer := r.outbox(outbox.Config{})
		silent := r.setup(writer, "")
		const each, size = 20, 1 << 20
		err := writer.Transaction(r.ctx, silent.Bus(), func(ctx context.Context, tx *outbox.Tx) error {
			for range each {
				if err := tx.Send(ctx, "out", make([]byte, size), harebus.WithType("Bytes")); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		r.start(r.setup(r.outbox(outbox.Config{}), ""))
		r.await("out", each)
		r.empty()
	})
}
