package outbox

import (
	"context"
	"errors"
	"fmt"
)

// SagaRow is a row of the table of sagas. Package saga, for which it is, has the meaning of
// its fields.
type SagaRow struct {
	// Version counts how often the row was saved; 0 is a row that does not exist, or that
	// LoadSaga has just made.
	Version int64
	Run     string
	Done    bool
	Format  int
	State   []byte
}

// ErrNoTransaction says that the context leads to no transaction of an outbox.
var ErrNoTransaction = errors.New("the context leads to no transaction of an outbox; use the context of a handler in whose endpoint Handling.Transactor is an outbox, or that of Transaction")

// LoadSaga reads a row of the table of sagas, in the transaction that ctx leads to, and locks
// it until the end of that transaction. With create it makes a row that does not exist.
func LoadSaga(ctx context.Context, saga, key string, create bool) (SagaRow, error) {
	in, ok := ctx.Value(transactionKey{}).(*inside)
	if !ok {
		return SagaRow{}, fmt.Errorf("harebus: outbox: load saga %q %q: %w", saga, key, ErrNoTransaction)
	}
	const tries = 3 // a row can be removed between the statements, because it has expired
	for range tries {
		var row SagaRow
		var found bool
		var err error
		if create {
			err = in.createSaga(ctx, saga, key)
		}
		if err == nil {
			row, found, err = in.selectSaga(ctx, saga, key)
		}
		if err != nil {
			return SagaRow{}, fmt.Errorf("harebus: outbox: load saga %q %q: %w", saga, key, err)
		}
		if found || !create {
			return row, nil
		}
	}
	return SagaRow{}, fmt.Errorf("harebus: outbox: load saga %q %q: the row vanishes again and again", saga, key)
}

// createSaga makes the row if there is none. It waits for a transaction that makes the same.
func (in *inside) createSaga(ctx context.Context, saga, key string) error {
	text := "insert into #saga (saga, instance, version, run, format, state) values (?, ?, 0, '', 0, ?)"
	if in.outbox.cfg.Dialect.mysql() {
		// If the row exists, "on duplicate key update" takes an exclusive lock on it. "insert
		// ignore" takes a shared lock: two transactions could both have it, and each would wait
		// for the other before it writes, which is a deadlock.
		text += " on duplicate key update version = version"
	} else {
		text += " on conflict do nothing"
	}
	_, err := in.tx.exec(ctx, in.outbox.sql(text), saga, key, []byte{})
	return err
}

func (in *inside) selectSaga(ctx context.Context, saga, key string) (row SagaRow, found bool, err error) {
	text := "select version, run, case when done_at is null then 0 else 1 end, format, state from #saga where saga = ? and instance = ?"
	if in.outbox.cfg.Dialect != SQLite { // where one transaction writes at a time
		text += " for update"
	}
	err = in.tx.query(ctx, in.outbox.sql(text), []any{saga, key}, func(scan func(...any) error) error {
		var done int
		found = true
		err := scan(&row.Version, &row.Run, &done, &row.Format, &row.State)
		row.Done = done == 1
		return err
	})
	return row, found, err
}

// SaveSaga writes a row that LoadSaga has returned and raises its version. It returns false
// and writes nothing if the version is not the same any more.
func SaveSaga(ctx context.Context, saga, key string, row SagaRow) (bool, error) {
	in, ok := ctx.Value(transactionKey{}).(*inside)
	if !ok {
		return false, fmt.Errorf("harebus: outbox: save saga %q %q: %w", saga, key, ErrNoTransaction)
	}
	done := "null"
	if row.Done {
		done = in.outbox.cfg.Dialect.now()
	}
	state := row.State
	if state == nil {
		state = []byte{} // nil is null
	}
	n, err := in.tx.exec(ctx, in.outbox.sql("update #saga set version = version + 1, run = ?, format = ?, state = ?, done_at = "+done+
		" where saga = ? and instance = ? and version = ?"), row.Run, row.Format, state, saga, key, row.Version)
	if err != nil {
		return false, fmt.Errorf("harebus: outbox: save saga %q %q: %w", saga, key, err)
	}
	return n == 1, nil
}
