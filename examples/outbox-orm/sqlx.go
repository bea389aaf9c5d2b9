package main

import (
	"context"

	"github.com/jmoiron/sqlx"
)

// withSqlx joins a *sqlx.Tx as it is.
func withSqlx(ctx context.Context, s *shop, soldOut error) error {
	tx, err := sqlx.NewDb(s.db, "sqlite").BeginTxx(ctx, nil)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }() // without effect after the commit
	if _, err := tx.NamedExecContext(ctx, `insert into orders (placed_by) values (:by)`, OrderPlaced{"sqlx"}); err != nil {
		return err
	}
	if err := s.ob.Join(tx, s.bus).Publish(ctx, "order.placed", OrderPlaced{"sqlx"}); err != nil {
		return err
	}
	if soldOut != nil {
		return soldOut
	}
	return tx.Commit()
}
