package outbox

import (
	"context"
	"database/sql"
	"errors"
)

// The interfaces of pgx that the outbox uses, with its types left open: the compiler infers
// them from what is passed, so this package does not import pgx.
type (
	pgxTag interface{ RowsAffected() int64 }

	pgxRows interface {
		Next() bool
		Scan(dest ...any) error
		Err() error
		Close()
	}

	pgxExecer[C pgxTag] interface {
		Exec(ctx context.Context, query string, args ...any) (C, error)
	}

	pgxQuerier[R pgxRows] interface {
		Query(ctx context.Context, query string, args ...any) (R, error)
	}

	pgxTx[R pgxRows, C pgxTag] interface {
		pgxExecer[C]
		pgxQuerier[R]
		Commit(ctx context.Context) error
		Rollback(ctx context.Context) error
	}

	pgxPool[T pgxTx[R, C], R pgxRows, C pgxTag] interface {
		pgxExecer[C]
		pgxQuerier[R]
		Begin(ctx context.Context) (T, error)
	}
)

// NewPgx is [New] for a *pgxpool.Pool of pgx, version 5. Config.DB stays nil, and the
// dialect is PostgreSQL's. Handlers get their transaction with [Pgx].
func NewPgx[T pgxTx[R, C], R pgxRows, C pgxTag](pool pgxPool[T, R, C], cfg Config) (*Outbox, error) {
	if pool == nil {
		return nil, errors.New("harebus: outbox: new: the pool is nil")
	}
	if cfg.DB != nil || cfg.TxOptions != nil || (cfg.Dialect != 0 && cfg.Dialect != Postgres) {
		return nil, errors.New("harebus: outbox: new: NewPgx uses the pool and PostgreSQL; leave DB, TxOptions and Dialect empty")
	}
	cfg.Dialect = Postgres
	return newOutbox(cfg, pgxDatabase[T, R, C]{pgxExec[C]{pool}, pool})
}

// Pgx is the transaction that a handler, or the function of [Outbox.Transaction], runs in:
// outbox.Pgx[pgx.Tx](ctx). It panics when ctx leads to none of this type.
func Pgx[T any](ctx context.Context) T {
	if in, ok := ctx.Value(transactionKey{}).(*inside); ok {
		if tx, ok := in.tx.handle().(T); ok {
			return tx
		}
	}
	panic("harebus: outbox: the context leads to no transaction of this type; use the context of the handler, and SQL for database/sql")
}

// PgxTx lets [Outbox.Join] use a transaction of pgx.
func PgxTx[C pgxTag](tx pgxExecer[C]) Execer { return pgxJoined{pgxExec[C]{tx}} }

type pgxExec[C pgxTag] struct{ on pgxExecer[C] }

func (e pgxExec[C]) exec(ctx context.Context, text string, args ...any) (int64, error) {
	tag, err := e.on.Exec(ctx, text, args...)
	if err != nil {
		return 0, err
	}
	return tag.RowsAffected(), nil
}

type pgxDatabase[T pgxTx[R, C], R pgxRows, C pgxTag] struct {
	pgxExec[C]
	pool pgxPool[T, R, C]
}

func (d pgxDatabase[T, R, C]) query(ctx context.Context, text string, args []any, each func(scan func(dest ...any) error) error) error {
	return pgxQuery(ctx, d.pool, text, args, each)
}

// pgxQuery is query for what has the method of pgx.
func pgxQuery[R pgxRows](ctx context.Context, on pgxQuerier[R], text string, args []any, each func(scan func(dest ...any) error) error) error {
	rows, err := on.Query(ctx, text, args...)
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

func (d pgxDatabase[T, R, C]) begin(ctx context.Context) (transaction, error) {
	tx, err := d.pool.Begin(ctx)
	if err != nil {
		return nil, err
	}
	return &pgxTransaction[T, R, C]{pgxExec[C]{tx}, tx}, nil
}

type pgxTransaction[T pgxTx[R, C], R pgxRows, C pgxTag] struct {
	pgxExec[C]
	tx T
}

func (t *pgxTransaction[T, R, C]) query(ctx context.Context, text string, args []any, each func(scan func(dest ...any) error) error) error {
	return pgxQuery(ctx, t.tx, text, args, each)
}

func (t *pgxTransaction[T, R, C]) commit(ctx context.Context) error { return t.tx.Commit(ctx) }
func (t *pgxTransaction[T, R, C]) handle() any                      { return t.tx }
func (t *pgxTransaction[T, R, C]) rollback() {
	// Its own context: that of the caller may have ended. It fails if the transaction has ended.
	ctx, cancel := context.WithTimeout(context.Background(), rollbackTimeout)
	defer cancel()
	_ = t.tx.Rollback(ctx)
}

// pgxJoined is an Execer on pgx.
type pgxJoined struct{ on execer }

func (j pgxJoined) ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error) {
	n, err := j.on.exec(ctx, query, args...)
	return pgxResult(n), err
}

type pgxResult int64

func (pgxResult) LastInsertId() (int64, error)   { return 0, errors.New("pgx has none") }
func (r pgxResult) RowsAffected() (int64, error) { return int64(r), nil }
