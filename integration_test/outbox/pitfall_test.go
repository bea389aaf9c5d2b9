package outbox_test

import (
	"context"
	"database/sql"
	"errors"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/integration_test/outbox/database"
	"github.com/harebus/harebus/outbox"
)

// TestManyMessages: one transaction may have more messages than a statement has parameters.
func TestManyMessages(t *testing.T) {
	onEach(t, func(t *testing.T, r *rig) {
		ob := r.outbox(outbox.Config{})
		s := r.setup(ob, "")
		r.start(s)
		const messages = 10_000 // of 8 parameters; PostgreSQL takes 65,535, SQLite 32,766
		r.store(ob, s, slices.Repeat([]string{"out"}, messages)...)
		r.awaitAtLeast("out", messages)
		r.empty()
		check(t, "messages", len(r.broker.Messages("out")), messages)
	})
}

// TestContextEnds: a transaction whose context ended, which database/sql rolls back by itself,
// is not taken for one that was stored.
func TestContextEnds(t *testing.T) {
	onEach(t, func(t *testing.T, r *rig) {
		ob := r.outbox(outbox.Config{})
		s := r.setup(ob, "")
		r.start(s)
		for _, after := range []time.Duration{0, 50 * time.Millisecond} { // before and after the rollback
			ctx, cancel := context.WithCancel(r.ctx)
			err := ob.Transaction(ctx, s.Bus(), func(ctx context.Context, tx *outbox.Tx) error {
				err := errors.Join(r.insert(ctx, 2), tx.Send(ctx, "out", placed{2}))
				cancel()
				<-time.After(after)
				return err
			})
			if err == nil {
				t.Error("a transaction whose context ended was committed")
			}
		}
		r.store(ob, s, "out")
		r.await("out", 1)
		check(t, "effects", r.number("select count(*) from effects"), 0)
	})
}

// TestIDs: the inbox tells apart what AMQP tells apart: ids of 255 bytes, of any bytes, with
// spaces at the end; and queues likewise. Without an id each delivery is a message of its own.
func TestIDs(t *testing.T) {
	onEach(t, func(t *testing.T, r *rig) {
		long := strings.Repeat("x", 254)
		ids := []string{long + "a", long + "b", "e", "E", "é", "e ", "e\x00", "e\x01", "\xff\xfe", strings.Repeat("\U0001F430", 63), "'; drop table effects; --"}
		queue := strings.Repeat("q", 200)
		s := r.setup(r.outbox(outbox.Config{}), queue)
		harebus.Handle(s, func(ctx context.Context, bus *harebus.Bus, o order) error {
			return errors.Join(r.insert(ctx, o.ID), bus.Send(ctx, "out", placed(o)))
		})
		r.start(s)
		for range 2 {
			for n, id := range append(slices.Clone(ids), "") {
				if err := r.ch.PublishWithContext(r.ctx, "", queue, false, false, plain(n, id)); err != nil {
					t.Fatal(err)
				}
			}
		}
		handled := 2*len(ids) + 2
		r.eventually("all are handled", func() bool { return int(s.Stats().Handled) >= handled })
		r.await("out", len(ids)+2)
		check(t, "effects", r.number("select count(*) from effects"), len(ids)+2)
	})
}

// TestDeferredSQLite: with a SQLite whose transactions begin without the lock for writing,
// handlers that read and then write do not fail: the note in the inbox takes the lock first.
func TestDeferredSQLite(t *testing.T) {
	t.Parallel()
	data := database.Need(t, "sqlite")
	data.DSN = "file:" + filepath.Join(t.TempDir(), "deferred.db") + "?_pragma=busy_timeout(20000)&_pragma=journal_mode(WAL)"
	r := newRig(t, data)
	s := r.setup(r.outbox(outbox.Config{}), "orders")
	harebus.Handle(s, func(ctx context.Context, bus *harebus.Bus, o order) error {
		var n int
		if err := outbox.SQL(ctx).QueryRowContext(ctx, "select count(*) from effects").Scan(&n); err != nil {
			return err
		}
		return errors.Join(r.insert(ctx, o.ID), bus.Send(ctx, "out", placed(o)))
	})
	r.start(s)
	const messages = 200
	for n := range messages {
		if err := s.Bus().Send(r.ctx, "orders", order{n}); err != nil {
			t.Fatal(err)
		}
	}
	r.await("out", messages)
	if got := s.Stats(); got.Failed != 0 {
		t.Errorf("%d attempts failed", got.Failed)
	}
}

// TestPooler: a pooler that gives each transaction another session of the database is no problem,
// because nothing of the outbox belongs to a session. Two processes handle each message once.
func TestPooler(t *testing.T) {
	t.Parallel()
	r, seen := traced(t, database.Need(t, "postgres").Pooled(t))
	var setups []*harebus.Setup
	var last *outbox.Outbox
	for range 2 {
		last = r.outbox(outbox.Config{})
		s := r.setup(last, "orders")
		harebus.Handle(s, func(ctx context.Context, bus *harebus.Bus, o order) error {
			return errors.Join(r.insert(ctx, o.ID), bus.Send(ctx, "out", placed(o)))
		})
		r.start(s)
		setups = append(setups, s)
	}
	const messages = 100
	for n := range 2 * messages {
		id := strconv.Itoa(n % messages) // each comes twice
		if err := setups[0].Bus().Send(r.ctx, "orders", order{n % messages}, harebus.WithMessageID(id)); err != nil {
			t.Fatal(err)
		}
	}
	for n := range messages {
		if err := join(r, last, setups[1], messages+n, n%5 == 4); err != nil {
			t.Error(err)
		}
	}
	r.eventually("all are handled", func() bool { return setups[0].Stats().Handled+setups[1].Stats().Handled == 2*messages })
	const sent = messages + messages*4/5
	r.await("out", sent)
	r.empty()
	check(t, "effects", r.number("select count(*) from effects"), sent)
	check(t, "lanes", r.number("select count(*) from harebus_lane where owner <> '' and until > clock_timestamp()"), 3)
	for _, s := range setups {
		check(t, "failures", int(s.Stats().Failed), 0)
	}
	if n := r.db.Stats().OpenConnections; n <= 3 {
		t.Errorf("%d connections, for each of which the pooler has a session", n)
	}
	session := regexp.MustCompile(`(?i)advisory|listen|notify|temporary|for update|locked`)
	for _, one := range seen.all() {
		if session.MatchString(one.text) {
			t.Errorf("%s needs a session, or locks rows", one.text)
		}
	}
}

// TestBadInput: an error says what is wrong, and nothing is stored.
func TestBadInput(t *testing.T) {
	onEach(t, func(t *testing.T, r *rig) {
		ob := r.outbox(outbox.Config{})
		s := r.setup(ob, "")
		r.start(s)
		r.store(ob, s, "out")
		r.await("out", 1) // it runs
		r.empty()
		stored := int(r.stats(ob).Stored)
		for name, bad := range map[string]struct {
			do   func() error
			want string
		}{
			"no dialect":              {func() error { return r.check(0) }, "Dialect is none of Postgres, MySQL, MariaDB and SQLite"},
			"another dialect":         {func() error { return r.check(r.another()) }, "Dialect is not that of the database: " + r.another().String()},
			"no tables":               {func() error { return r.outbox(outbox.Config{Prefix: "none_"}).Check(r.ctx) }, "if they are missing"},
			"a transaction has ended": {func() error { return ob.Join(r.ended(), s.Bus()).Send(r.ctx, "out", placed{1}) }, outbox.ErrEnded.Error()},
			"no transaction":          {func() error { return ob.Join(nil, s.Bus()).Send(r.ctx, "out", placed{1}) }, "the transaction or the bus is nil"},
			"no bus":                  {func() error { return r.sent(ob, nil) }, "the bus is nil"},
			"a wrapper": {
				func() error { return ob.Join(rewriting{r.db}, s.Bus()).Send(r.ctx, "out", placed{1}) },
				"a wrapper such as bun.Tx rewrites placeholders; outbox_test.rewriting was given",
			},
			"a long id":  {func() error { return r.sent(ob, s.Bus(), harebus.WithMessageID(strings.Repeat("x", 256))) }, "longer than 255 bytes"},
			"two setups": {func() error { return ob.Run(r.ctx, s.Bus()) }, outbox.ErrRunning.Error()},
			"two outboxes": {
				func() error {
					choose := func(*harebus.Message) (*outbox.Outbox, error) { return ob, nil }
					return outbox.Route(choose, ob).Add(r.ctx, r.outbox(outbox.Config{}))
				}, "two outboxes have the same tables",
			},
		} {
			if err := bad.do(); err == nil || !strings.Contains(err.Error(), bad.want) {
				t.Errorf("%s: %v does not contain %q", name, err, bad.want)
			}
		}
		check(t, "stored", int(r.stats(ob).Stored), stored)
		check(t, "rows", r.number("select count(*) from harebus_outbox"), 0)
		r.store(ob, s, "out")
		r.await("out", 2) // it still does
	})
}

// check makes an outbox with a dialect, and checks it.
func (r *rig) check(d outbox.Dialect) error {
	ob, err := outbox.New(outbox.Config{DB: r.db, Dialect: d})
	if err != nil {
		return err
	}
	return ob.Check(r.ctx)
}

// another is a dialect that the database does not have.
func (r *rig) another() outbox.Dialect {
	if r.data.Dialect == outbox.Postgres {
		return outbox.SQLite
	}
	return outbox.Postgres
}

// ended is a transaction that is over.
func (r *rig) ended() *sql.Tx {
	r.t.Helper()
	tx, err := r.db.BeginTx(r.ctx, nil)
	if err == nil {
		err = tx.Rollback()
	}
	if err != nil {
		r.t.Fatal(err)
	}
	return tx
}

// sent is what a transaction says that sends one message.
func (r *rig) sent(ob *outbox.Outbox, bus *harebus.Bus, opts ...harebus.SendOption) error {
	return ob.Transaction(r.ctx, bus, func(ctx context.Context, tx *outbox.Tx) error { return tx.Send(ctx, "out", placed{1}, opts...) })
}

func (r *rig) stats(ob *outbox.Outbox) outbox.Stats {
	r.t.Helper()
	stats, err := ob.Stats(r.ctx)
	if err != nil {
		r.t.Fatal(err)
	}
	return stats
}

// rewriting is a transaction that does with placeholders what bun does.
type rewriting struct{ *sql.DB }

func (r rewriting) ExecContext(ctx context.Context, query string, _ ...any) (sql.Result, error) {
	return r.DB.ExecContext(ctx, query)
}
