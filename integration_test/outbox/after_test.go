package outbox_test

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/brokertest"
	"github.com/harebus/harebus/integration_test/outbox/database"
	"github.com/harebus/harebus/outbox"
)

// TestAckAfterCommit: the broker gets the ack of a message when the database has committed, not while it
// commits, which takes long here.
func TestAckAfterCommit(t *testing.T) {
	t.Parallel()
	r := newRig(t, database.Need(t, "postgres"))
	r.exec("create function slow() returns trigger language plpgsql as 'begin perform pg_sleep(0.2); return null; end'")
	r.exec("create constraint trigger slow after insert on effects deferrable initially deferred for each row execute function slow()")
	s := r.setup(r.outbox(outbox.Config{}), "orders")
	harebus.Handle(s, func(ctx context.Context, bus *harebus.Bus, o order) error {
		return errors.Join(r.insert(ctx, o.ID), bus.Send(ctx, "out", placed(o)))
	})
	committed := make(chan int, 1)
	r.broker.Inject(brokertest.Fault{On: "basic.ack", Do: brokertest.Delay, Match: func(brokertest.Frame) bool {
		n := -1
		if err := r.db.QueryRowContext(r.ctx, "select count(*) from effects").Scan(&n); err != nil {
			t.Error(err)
		}
		committed <- n
		return true
	}})
	r.start(s)
	if err := s.Bus().Send(r.ctx, "orders", order{1}); err != nil {
		t.Fatal(err)
	}
	select {
	case n := <-committed:
		check(t, "effects when the ack came", n, 1)
	case <-r.ctx.Done():
		t.Fatal("no ack has come")
	}
	r.await("out", 1)
}

// TestDeleteAfterConfirm: a message stays in the table until the broker has confirmed it.
func TestDeleteAfterConfirm(t *testing.T) {
	t.Parallel()
	r := newRig(t, database.Need(t, "sqlite"))
	ob := r.outbox(outbox.Config{})
	s := r.setup(ob, "")
	r.start(s)
	r.store(ob, s, "out") // the first one binds the queue
	r.await("out", 1)
	r.empty()
	confirms := r.broker.Inject(brokertest.Fault{On: "basic.ack", From: brokertest.FromBroker, Times: -1, Do: brokertest.Hold})
	r.store(ob, s, "out")
	r.await("out", 2)
	const several = 300 * time.Millisecond // rows are deleted every 20 ms
	for began := time.Now(); time.Since(began) < several; {
		check(t, "stored, before the confirm", r.number("select count(*) from harebus_outbox"), 1)
	}
	confirms.Release()
	r.empty()
	r.await("out", 2)
}

// TestDeletedWhileRead: a row is deleted after the table was read and before the relay looks at what was found. The
// row is not published again.
func TestDeletedWhileRead(t *testing.T) {
	t.Parallel()
	r, seen := traced(t, database.Need(t, "postgres"))
	ob := r.outbox(outbox.Config{})
	s := r.setup(ob, "")
	r.start(s)
	r.store(ob, s, "out") // the first one binds the queue
	r.await("out", 1)
	r.empty()
	var published, reading, happened atomic.Bool
	read, deleted := make(chan struct{}), make(chan struct{})
	wait := func(c <-chan struct{}) {
		select {
		case <-c:
		case <-r.ctx.Done():
		}
	}
	seen.call(func(text string, over bool) {
		switch reads := strings.Contains(text, "(lane, id) >"); {
		case strings.HasPrefix(text, "delete from harebus_outbox") && !over && !published.Swap(true):
			wait(read)
		case strings.HasPrefix(text, "delete from harebus_outbox") && over && !happened.Swap(true):
			close(deleted)
		case reads && !over && published.Load() && !happened.Load():
			reading.Store(true)
		case reads && over && reading.Swap(false):
			close(read)
			wait(deleted)
			<-time.After(50 * time.Millisecond) // the relay notes that it was deleted
		}
	})
	r.store(ob, s, "out")
	wait(deleted)
	r.store(ob, s, "out") // leaves after what the read has found
	r.eventually("the last has come", func() bool { found, _ := r.ids("out"); return len(found) == 3 })
	r.empty()
	r.await("out", 3)
}
