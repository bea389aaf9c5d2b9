package outbox_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/integration_test/outbox/database"
	"github.com/harebus/harebus/outbox"
)

// TestSchemaVersions: Start says what to do when the tables are missing, empty, older or
// newer, and begins nothing.
func TestSchemaVersions(t *testing.T) {
	onEach(t, func(t *testing.T, r *rig) {
		start := func() error {
			s := r.setup(r.outbox(outbox.Config{}), "orders")
			harebus.Handle(s, func(context.Context, *harebus.Bus, order) error { return nil })
			return s.Start(r.ctx)
		}
		if err := start(); err != nil {
			t.Fatal(err)
		}
		r.exec("drop table harebus_saga")
		contains(t, start(), "harebus_saga", "if they are missing", "Migrate")
		if err := r.outbox(outbox.Config{}).Migrate(r.ctx); err != nil {
			t.Fatal(err)
		}
		r.exec("update harebus_schema set version = 2")
		contains(t, start(), "version 2", "knows 1", "update harebus")
		contains(t, r.outbox(outbox.Config{}).Migrate(r.ctx), "version 2", "update harebus")
		r.exec("delete from harebus_schema")
		contains(t, start(), "harebus_schema is empty", "Migrate")
		r.exec("insert into harebus_schema (version) values (0)")
		contains(t, start(), "version 0", "needs 1", "Migrate")
		r.exec("drop table harebus_schema")
		contains(t, start(), "if they are missing", "Migrate")
	})
}

// TestMigrate: several processes may make the tables at once, also with a prefix.
func TestMigrate(t *testing.T) {
	onEach(t, func(t *testing.T, r *rig) {
		prefix := "shop_"
		if r.data.Kind == "postgres" {
			r.exec("create schema billing")
			prefix = "billing."
		}
		errs := make(chan error, 4)
		for range cap(errs) {
			go func() { errs <- r.outbox(outbox.Config{Prefix: prefix}).Migrate(r.ctx) }()
		}
		for range cap(errs) {
			if err := <-errs; err != nil {
				t.Error(err)
			}
		}
		ob := r.outbox(outbox.Config{Prefix: prefix})
		s := r.setup(ob, "orders")
		harebus.Handle(s, func(ctx context.Context, bus *harebus.Bus, o order) error { return bus.Send(ctx, "out", placed(o)) })
		r.start(s)
		if err := s.Bus().Send(r.ctx, "orders", order{1}); err != nil {
			t.Fatal(err)
		}
		r.await("out", 1)
		check(t, "inbox", r.number("select count(*) from "+prefix+"harebus_inbox"), 1)
		check(t, "the other inbox", r.number("select count(*) from harebus_inbox"), 0)
	})
}

// TestConfig: every fault is named.
func TestConfig(t *testing.T) {
	t.Parallel()
	r := newRig(t, database.Need(t, "sqlite"))
	_, err := outbox.New(outbox.Config{})
	contains(t, err, "DB is nil")
	_, err = outbox.New(outbox.Config{DB: r.db, Prefix: "a'b", Keep: time.Second, Poll: 1, Lease: 1, Batch: -1, Behind: 1})
	contains(t, err, "Dialect is none of", `Prefix "a'b"`, "Keep 1s", "Poll 1ns", "Lease 1ns", "Batch -1", "Behind 1ns")
	_, err = outbox.New(outbox.Config{DB: r.db, Dialect: outbox.SQLite, Prefix: "a."})
	contains(t, err, "which SQLite does not have")
	_, err = outbox.New(outbox.Config{DB: r.db, Dialect: 9})
	contains(t, err, "Dialect is none of")
	if outbox.Schema(9, "") != "" || outbox.Schema(outbox.Postgres, "a;b") != "" || outbox.Schema(outbox.Postgres, "billing.") == "" {
		t.Error("Schema")
	}
}

// TestTwoSetups: an outbox belongs to one setup, and the second one cannot run it.
func TestTwoSetups(t *testing.T) {
	t.Parallel()
	r := newRig(t, database.Need(t, "sqlite"))
	ob := r.outbox(outbox.Config{})
	s := r.setup(ob, "")
	r.start(s)
	err := ob.Transaction(r.ctx, s.Bus(), func(ctx context.Context, tx *outbox.Tx) error { return tx.Send(ctx, "out", placed{1}) })
	if err != nil {
		t.Fatal(err)
	}
	r.await("out", 1) // it runs
	if err := ob.Run(r.ctx, s.Bus()); !errors.Is(err, outbox.ErrRunning) {
		t.Errorf("Run: %v", err)
	}
	router := outbox.Route(func(*harebus.Message) (*outbox.Outbox, error) { return ob, nil }, ob)
	ctx, cancel := context.WithCancel(r.ctx)
	ended := make(chan error)
	go func() { ended <- router.Run(ctx, s.Bus()) }()
	r.eventually("the router says that its outbox does not run", func() bool { return errors.Is(router.Ready(), outbox.ErrRunning) })
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
