package outbox

import (
	"context"
	"database/sql"
)

// database is what the outbox needs of one.
type database interface {
	execer
	querier
	begin(ctx context.Context) (transaction, error)
}

type querier interface {
	// query calls each for every row.
	query(ctx context.Context, text string, args []any, each func(scan func(dest ...any) error) error) error
}

type execer interface {
	// exec returns how many rows were affected.
	exec(ctx context.Context, text string, args ...any) (int64, error)
}

type transaction interface {
	execer
	querier
	commit(ctx context.Context) error
	// rollback does nothing after the end.
	rollback()
	// handle is the transaction as its user knows it.
	handle() any
}

// Execer is a transaction of somebody else: *sql.Tx, *sqlx.Tx, gorm's Statement.ConnPool,
// and whatever else has the method of database/sql. It must not rewrite placeholders.
type Execer interface {
	ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error)
}

// joined makes an execer of an Execer.
type joined struct{ Execer }

func (j joined) exec(ctx context.Context, text string, args ...any) (int64, error) {
	result, err := j.ExecContext(ctx, text, args...)
	if err != nil {
		return 0, err
	}
	return result.RowsAffected()
}

// sqlDatabase is a database of database/sql.
type sqlDatabase struct {
	joined
	db      *sql.DB
	options *sql.TxOptions
}

func (d sqlDatabase) query(ctx context.Context, text string, args []any, each func(scan func(dest ...any) error) error) error {
	return sqlQuery(ctx, d.db, text, args, each)
}

// sqlQuery is query for what has the method of database/sql.
func sqlQuery(ctx context.Context, on interface {
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
}, text string, args []any, each func(scan func(dest ...any) error) error,
) error {
	rows, err := on.QueryContext(ctx, text, args...)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		if err := each(rows.Scan); err != nil {
			return err
		}
	}
	return rows.Err()
}

func (d sqlDatabase) begin(ctx context.Context) (transaction, error) {
	tx, err := d.db.BeginTx(ctx, d.options)
	if err != nil {
		return nil, err
	}
	return &sqlTransaction{joined{tx}, tx}, nil
}

type sqlTransaction struct {
	joined
	tx *sql.Tx
}

func (t *sqlTransaction) query(ctx context.Context, text string, args []any, each func(scan func(dest ...any) error) error) error {
	return sqlQuery(ctx, t.tx, text, args, each)
}

func (t *sqlTransaction) commit(context.Context) error { return t.tx.Commit() }
func (t *sqlTransaction) rollback()                    { _ = t.tx.Rollback() } // it fails if the transaction has ended
func (t *sqlTransaction) handle() any                  { return t.tx }
