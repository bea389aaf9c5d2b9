package outbox

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/harebus/harebus"
)

// Tx is a transaction of the database with the messages that belong to it. Its methods to
// send buffer messages; [Tx.Commit] stores them in the transaction and commits.
type Tx struct {
	harebus.Sender
	// SQL is the transaction; nil with pgx, for which there is [Pgx]. Do not commit it or
	// roll it back: the methods of Tx do.
	SQL *sql.Tx

	outbox *Outbox
	buffer *harebus.Tx
	in     *inside
}

// Context returns ctx, leading to the transaction, for [SQL], [Pgx] and [Outbox.Transaction],
// which joins it.
func (t *Tx) Context(ctx context.Context) context.Context {
	return context.WithValue(ctx, transactionKey{}, t.in)
}

// Begin starts a transaction for code that cannot be a closure. Call Commit, and
// Rollback with defer. The transaction is open, with its locks and its connection, until one
// of them is called. With database/sql the end of ctx rolls it back, too; with pgx it does not.
func (o *Outbox) Begin(ctx context.Context, bus *harebus.Bus) (*Tx, error) {
	if bus == nil {
		return nil, errors.New("harebus: outbox: begin: the bus is nil")
	}
	if in, ok := ctx.Value(transactionKey{}).(*inside); ok && in.outbox == o {
		return nil, fmt.Errorf("harebus: outbox: begin: %w", ErrInTransaction)
	}
	tx, err := o.db.begin(ctx)
	if err != nil {
		return nil, fmt.Errorf("harebus: outbox: begin: %w", err)
	}
	buffer := bus.Begin()
	t := &Tx{Sender: buffer, outbox: o, buffer: buffer, in: &inside{o, tx, buffer}}
	t.SQL, _ = tx.handle().(*sql.Tx)
	return t, nil
}

// Commit stores the messages and commits. When it returns nil, the database has both, and
// the messages are published soon. Whether it returns nil or an error, the transaction has ended.
func (t *Tx) Commit(ctx context.Context) error {
	defer t.Rollback()
	envelopes, err := t.buffer.Detach()
	if err != nil {
		return fmt.Errorf("harebus: outbox: commit: %w", err)
	}
	return t.outbox.finish(ctx, t.in.tx, envelopes)
}

// Rollback ends the transaction without effects and without messages. After Commit it does
// nothing.
func (t *Tx) Rollback() {
	t.buffer.Rollback()
	t.in.tx.rollback()
}

// Transaction calls fn in a transaction and commits it when fn returns nil. It returns when
// the database has committed; the messages are published after that. An error of fn rolls
// back, as a panic does. After a deadlock or a serialization failure fn is called again, up
// to three times. The context that fn gets leads to the transaction.
//
// Inside a handler or a transaction of this outbox, fn joins the one that is there.
func (o *Outbox) Transaction(ctx context.Context, bus *harebus.Bus, fn func(ctx context.Context, tx *Tx) error) error {
	if in, ok := ctx.Value(transactionKey{}).(*inside); ok && in.outbox == o {
		return o.nested(ctx, in, bus, fn)
	}
	const tries = 4
	for try := 1; ; try++ {
		err := o.once(ctx, bus, fn)
		if try == tries || ctx.Err() != nil || !o.cfg.Dialect.conflict(err) {
			return err
		}
		o.counters.conflicts.Add(1)
	}
}

func (o *Outbox) once(ctx context.Context, bus *harebus.Bus, fn func(ctx context.Context, tx *Tx) error) error {
	tx, err := o.Begin(ctx, bus)
	if err != nil {
		return err
	}
	defer tx.Rollback()
	if err := fn(tx.Context(ctx), tx); err != nil {
		return err
	}
	return tx.Commit(ctx)
}

// nested calls fn in the transaction of in. What it sends is buffered with the rest.
func (o *Outbox) nested(ctx context.Context, in *inside, bus *harebus.Bus, fn func(ctx context.Context, tx *Tx) error) error {
	if bus == nil {
		return errors.New("harebus: outbox: transaction: the bus is nil")
	}
	tx := &Tx{Sender: bus, outbox: o, in: &inside{o, shared{in.tx}, in.sender}, buffer: bus.Begin()}
	if in.sender != nil {
		tx.Sender = in.sender
	}
	tx.SQL, _ = in.tx.handle().(*sql.Tx)
	return fn(ctx, tx)
}

// shared is a transaction that its outermost user ends.
type shared struct{ transaction }

func (shared) commit(context.Context) error { return nil }
func (shared) rollback()                    {}

// Joined sends messages with a transaction that somebody else owns and commits.
type Joined struct {
	outbox *Outbox
	on     Execer
	bus    *harebus.Bus
}

var _ harebus.Sender = (*Joined)(nil)

// Join returns a sender that stores each message at once, in a transaction of yours: of
// database/sql, sqlx, gorm or bun, or, by [PgxTx], of pgx. The messages are published some
// milliseconds after you have committed, and never if you roll back. The connection must be
// one to the database of the outbox.
func (o *Outbox) Join(tx Execer, bus *harebus.Bus) *Joined { return &Joined{o, tx, bus} }

// store makes messages with send and stores them.
func (j *Joined) store(ctx context.Context, send func(tx *harebus.Tx) error) error {
	if j.on == nil || j.bus == nil {
		return errors.New("harebus: outbox: join: the transaction or the bus is nil")
	}
	buffer := j.bus.Begin()
	defer buffer.Rollback()
	if err := send(buffer); err != nil {
		return err
	}
	envelopes, err := buffer.Detach()
	if err != nil {
		return err
	}
	s, err := j.outbox.prepare(envelopes)
	if err != nil {
		return err
	}
	if err := s.insert(ctx, joined{j.on}); err != nil {
		if err = ended(err); !errors.Is(err, ErrEnded) && !j.outbox.cfg.Dialect.conflict(err) {
			err = fmt.Errorf("%w (Join wants the transaction of database/sql, or PgxTx: a wrapper such as bun.Tx rewrites placeholders; %T was given)", err, j.on)
		}
		return err
	}
	j.outbox.counters.stored.Add(uint64(len(s.rows)))
	j.outbox.expect()
	return nil
}

// Send is [harebus.Bus.Send], stored.
func (j *Joined) Send(ctx context.Context, queue string, message any, opts ...harebus.SendOption) error {
	return j.store(ctx, func(tx *harebus.Tx) error { return tx.Send(ctx, queue, message, opts...) })
}

// Publish is [harebus.Bus.Publish], stored.
func (j *Joined) Publish(ctx context.Context, topic string, message any, opts ...harebus.SendOption) error {
	return j.store(ctx, func(tx *harebus.Tx) error { return tx.Publish(ctx, topic, message, opts...) })
}

// PublishEvent is [harebus.Bus.PublishEvent], stored.
func (j *Joined) PublishEvent(ctx context.Context, event any, opts ...harebus.SendOption) error {
	return j.store(ctx, func(tx *harebus.Tx) error { return tx.PublishEvent(ctx, event, opts...) })
}

// Defer is [harebus.Bus.Defer], stored.
func (j *Joined) Defer(ctx context.Context, queue string, delay time.Duration, message any, opts ...harebus.SendOption) error {
	return j.store(ctx, func(tx *harebus.Tx) error { return tx.Defer(ctx, queue, delay, message, opts...) })
}

// DeferUntil is [harebus.Bus.DeferUntil], stored.
func (j *Joined) DeferUntil(ctx context.Context, queue string, due time.Time, message any, opts ...harebus.SendOption) error {
	return j.store(ctx, func(tx *harebus.Tx) error { return tx.DeferUntil(ctx, queue, due, message, opts...) })
}

// Reply is [harebus.Bus.Reply], stored.
func (j *Joined) Reply(ctx context.Context, message any, opts ...harebus.SendOption) error {
	return j.store(ctx, func(tx *harebus.Tx) error { return tx.Reply(ctx, message, opts...) })
}

// Cancel is [harebus.Bus.Cancel], stored.
func (j *Joined) Cancel(ctx context.Context, ticket harebus.Ticket) error {
	return j.store(ctx, func(tx *harebus.Tx) error { return tx.Cancel(ctx, ticket) })
}

// Reschedule is [harebus.Bus.Reschedule], stored.
func (j *Joined) Reschedule(ctx context.Context, ticket harebus.Ticket, queue string, delay time.Duration, message any, opts ...harebus.SendOption) (next harebus.Ticket, err error) {
	err = j.store(ctx, func(tx *harebus.Tx) error {
		next, err = tx.Reschedule(ctx, ticket, queue, delay, message, opts...)
		return err
	})
	return next, err
}
