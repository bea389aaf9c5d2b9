package outbox_test

import (
	"context"
	"errors"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/integration_test/outbox/database"
	"github.com/harebus/harebus/outbox"
)

// pgx is a pool of the database, and an outbox on it.
func (r *rig) pgx() (*pgxpool.Pool, *outbox.Outbox) {
	r.t.Helper()
	pool, err := pgxpool.New(r.ctx, r.data.DSN)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(pool.Close)
	ob, err := outbox.NewPgx(pool, outbox.Config{})
	if err != nil {
		r.t.Fatal(err)
	}
	return pool, ob
}

// TestPgx: everything works with pgx, without database/sql.
func TestPgx(t *testing.T) {
	t.Parallel()
	r := newRig(t, database.Need(t, "postgres"))
	pool, ob := r.pgx()
	s := r.setup(ob, "orders")
	insert := func(ctx context.Context, id int) error {
		_, err := outbox.Pgx[pgx.Tx](ctx).Exec(ctx, "insert into effects (id) values ($1)", id)
		return err
	}
	harebus.Handle(s, func(ctx context.Context, bus *harebus.Bus, o order) error {
		err := errors.Join(insert(ctx, o.ID), bus.Send(ctx, "out", placed(o)))
		switch o.ID {
		case 2:
			return harebus.NoRetry(errNo)
		case 3:
			return outbox.Pgx[pgx.Tx](ctx).Rollback(ctx)
		}
		return err
	})
	r.start(s)
	for _, id := range []int{1, 1, 2, 3} {
		if err := s.Bus().Send(r.ctx, "orders", order{id}, harebus.WithMessageID(string(rune('a'+id)))); err != nil {
			t.Fatal(err)
		}
	}
	r.await("error", 2)
	r.await("out", 1)
	err := ob.Transaction(r.ctx, s.Bus(), func(ctx context.Context, tx *outbox.Tx) error {
		return errors.Join(insert(ctx, 4), tx.Send(ctx, "out", placed{4}), tx.Send(ctx, "nobody", placed{4}))
	})
	if err != nil {
		t.Fatal(err)
	}
	tx, err := pool.Begin(r.ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(ob.Join(outbox.PgxTx(tx), s.Bus()).Send(r.ctx, "out", placed{5}), tx.Commit(r.ctx)); err != nil {
		t.Fatal(err)
	}
	r.await("out", 3)
	check(t, "effects", r.number("select count(*) from effects"), 2)
	var refused []outbox.Refusal
	r.eventually("one is set aside", func() bool {
		refused, err = ob.Refused(r.ctx, 9)
		return err == nil && len(refused) == 1
	})
	if n, err := ob.Discard(r.ctx, refused[0].ID); n != 1 || err != nil {
		t.Error(n, err)
	}
	r.eventually("the copy is skipped, and nothing is left", func() bool {
		stats, err := ob.Stats(r.ctx)
		return err == nil && stats.Waiting == 0 && stats.SetAside == 0 && stats.Duplicates == 1
	})
	if _, err := outbox.NewPgx(pool, outbox.Config{Dialect: outbox.SQLite}); err == nil {
		t.Error("NewPgx with another dialect")
	}
}
