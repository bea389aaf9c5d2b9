package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"time"

	"github.com/harebus/harebus/integration_test/outbox/database"
	"github.com/harebus/harebus/outbox"
)

// books are a PostgreSQL of their own, with the tables that transactions change.
type books struct {
	db      *sql.DB
	server  int // its process
	stop    func()
	changes atomic.Int64
	topics  atomic.Int64 // of Watermill; each round has its own
}

// accounts is how many rows the transactions change in turn, so that they do not wait for each other.
const accounts = 1000

// openBooks starts the server. Its commits are on disk when they return, as in a service.
func openBooks(ctx context.Context) (_ *books, err error) {
	data, stop, err := database.Start("postgres", "-c", "fsync=on")
	if err != nil {
		return nil, fmt.Errorf("bench: start a database: %w", err)
	}
	b := &books{server: data.PID(), stop: stop}
	defer func() {
		if err != nil {
			err = errors.Join(err, b.close())
		}
	}()
	if b.db, err = sql.Open(data.Driver, data.DSN); err != nil {
		return nil, err
	}
	const most = 32 // sixteen handlers, and what publishes
	b.db.SetMaxOpenConns(most)
	b.db.SetMaxIdleConns(most)
	for _, text := range []string{
		"create table stock (id int primary key, n bigint not null)",
		"create table orders (id bigint primary key, item int not null, note text not null)",
		fmt.Sprintf("insert into stock select i, 0 from generate_series(0, %d) i", accounts-1),
	} {
		if _, err := b.db.ExecContext(ctx, text); err != nil {
			return nil, fmt.Errorf("bench: prepare the database: %w", err)
		}
	}
	ob, err := b.outbox()
	if err != nil {
		return nil, err
	}
	return b, ob.Migrate(ctx)
}

// pid is the server's process; 0 without one.
func (b *books) pid() int {
	if b == nil {
		return 0
	}
	return b.server
}

func (b *books) close() (err error) {
	if b == nil {
		return nil
	}
	if b.db != nil {
		err = b.db.Close()
	}
	b.stop()
	return err
}

// clear empties the tables that have grown in a round, and removes those of Watermill.
func (b *books) clear(ctx context.Context) error {
	topic := b.forwardedTopic()
	b.topics.Add(1)
	_, err := b.db.ExecContext(ctx, "truncate orders, harebus_outbox, harebus_inbox; drop table if exists watermill_"+topic+", watermill_offsets_"+topic)
	return err
}

// outbox makes one on the books. What another one has left is published after a second.
func (b *books) outbox() (*outbox.Outbox, error) {
	return outbox.New(outbox.Config{DB: b.db, Dialect: outbox.Postgres, Lease: time.Second})
}

// note is the text of an order.
var note = strings.Repeat("n", 100)

// change is what every transaction does.
func (b *books) change(ctx context.Context, tx *sql.Tx) error {
	id := b.changes.Add(1)
	item := id % accounts
	if _, err := tx.ExecContext(ctx, "update stock set n = n + 1 where id = $1", item); err != nil {
		return err
	}
	_, err := tx.ExecContext(ctx, "insert into orders (id, item, note) values ($1, $2, $3)", id, item, note)
	return err
}

// transact is a transaction that ends with then.
func (b *books) transact(ctx context.Context, then func(tx *sql.Tx) error) error {
	tx, err := b.db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }() // it fails after the commit
	if err := b.change(ctx, tx); err != nil {
		return err
	}
	if err := then(tx); err != nil {
		return err
	}
	return tx.Commit()
}

// storeRound has goroutines change the database and send n messages, in a loop. Nobody publishes what is stored. A
// message of the figures is a transaction.
func (c *contest) storeRound(ctx context.Context, l *library, n int) (_ figures, err error) {
	k, err := c.keep(ctx, l, false, n)
	if err != nil {
		return figures{}, err
	}
	defer func() { err = errors.Join(err, k.close(), c.place.books.clear(ctx)) }()
	watch := newStopwatch(c.goroutines)
	before := c.place.read()
	err = c.parallel(func(lane, _ int) error {
		start := time.Now()
		err := k.transact(ctx, c.place.queue(0), n, c.text)
		watch.record(lane, int64(time.Since(start)))
		return err
	})
	after := c.place.read()
	latencies := watch.all()
	return between(before, after, len(latencies), latencies), err
}

// keep connects a keeper and lets it warm up.
func (c *contest) keep(ctx context.Context, l *library, relay bool, n int) (keeper, error) {
	k, err := l.keeper(ctx, c.place, relay)
	if err != nil {
		return nil, err
	}
	const warmUp = 30
	for range warmUp {
		if err := k.transact(ctx, c.place.queue(0), n, c.text); err != nil {
			return nil, errors.Join(err, k.close())
		}
	}
	return k, nil
}

// deliverRound has transactions at a fixed rate, and measures from the end of the change of the database, before the
// message is stored and the transaction is committed, until a consumer has the message.
func (c *contest) deliverRound(ctx context.Context, l *library) (_ figures, err error) {
	k, err := c.keep(ctx, l, true, 1)
	if err != nil {
		return figures{}, err
	}
	defer func() { err = errors.Join(err, k.close(), c.place.books.clear(ctx)) }()
	const warmUp = 30
	if _, err := c.arrivals(ctx, c.place.queue(0), warmUp, roundTimeout); err != nil {
		return figures{}, err
	}
	if err := c.place.purge(c.place.queue(0)); err != nil {
		return figures{}, err
	}
	const rate, acks = 300, 10
	return c.pacedRound(ctx, rate, func(seen func(*job)) (stopper, error) {
		return rawConsume(c.place, c.place.queue(0), acks, seen)
	}, func() error { return k.transact(ctx, c.place.queue(0), 1, c.text) })
}

// drainRound stores messages while nobody publishes, and measures how fast they are published then.
func (c *contest) drainRound(ctx context.Context, l *library) (_ figures, err error) {
	k, err := l.keeper(ctx, c.place, false)
	if err != nil {
		return figures{}, err
	}
	const together = 500
	stored := 0
	for ; stored < c.pace.messages && err == nil; stored += together {
		err = k.transact(ctx, c.place.queue(0), together, c.text)
	}
	if err = errors.Join(err, k.close()); err != nil {
		return figures{}, err
	}
	if k, err = l.keeper(ctx, c.place, true); err != nil {
		return figures{}, err
	}
	defer func() { err = errors.Join(err, k.close(), c.place.books.clear(ctx)) }()
	const most = 5 // rounds' time: some are slow
	return c.arrivals(ctx, c.place.queue(0), stored, most*c.pace.duration)
}

// handleRound lets a service with a database work on a backlog, and measures what it sends.
func (c *contest) handleRound(ctx context.Context, l *library) (_ figures, err error) {
	if err := c.fill(ctx, c.pace.messages+c.pace.spare); err != nil {
		return figures{}, err
	}
	stop, err := l.handle(ctx, c.place, c.place.queue(0), c.outQueue())
	if err != nil {
		return figures{}, err
	}
	defer func() { err = errors.Join(err, stop(), c.place.books.clear(ctx)) }()
	return c.arrivals(ctx, c.outQueue(), c.pace.messages, roundTimeout)
}

// arrivals measures how fast messages come into a queue: from the first ones until there are n, or the time is up.
func (c *contest) arrivals(ctx context.Context, queue string, n int, most time.Duration) (figures, error) {
	ch, err := c.place.admin.Channel()
	if err != nil {
		return figures{}, err
	}
	defer func() { _ = ch.Close() }()
	const often = 5 * time.Millisecond
	ticker := time.NewTicker(often)
	defer ticker.Stop()
	var before reading
	for first := 0; ; {
		q, err := ch.QueueDeclarePassive(queue, true, false, false, false, nil)
		if err != nil {
			return figures{}, err
		}
		if first == 0 && q.Messages > 0 {
			before, first = c.place.read(), q.Messages
		}
		if first > 0 && (q.Messages >= n || time.Since(before.at) > most) {
			return between(before, c.place.read(), q.Messages-first, nil), nil
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return figures{}, fmt.Errorf("%d of %d messages have come: %w", q.Messages, n, context.Cause(ctx))
		}
	}
}
