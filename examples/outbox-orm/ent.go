package main

import (
	"context"
	"database/sql"

	"entgo.io/ent/dialect"
	entsql "entgo.io/ent/dialect/sql"

	"github.com/harebus/harebus/outbox"
)

// withEnt joins a transaction that ent's driver uses. A client that ent has generated works on
// such a driver: ent.NewClient(ent.Driver(driver)). If it was generated with the feature
// sql/execquery, its transactions can be joined as they are, like the *entsql.Tx of a driver.
func withEnt(ctx context.Context, s *shop, soldOut error) error {
	tx, err := s.db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }() // without effect after the commit
	driver := entsql.NewDriver(dialect.SQLite, entsql.Conn{ExecQuerier: tx})
	query, args := entsql.Dialect(dialect.SQLite).Insert("orders").Columns("placed_by").Values("ent").Query()
	var result sql.Result
	if err := driver.Exec(ctx, query, args, &result); err != nil {
		return err
	}
	if err := s.ob.Join(driver, s.bus).Publish(ctx, "order.placed", OrderPlaced{"ent"}); err != nil {
		return err
	}
	if soldOut != nil {
		return soldOut
	}
	return tx.Commit()
}

var _ outbox.Execer = (*entsql.Tx)(nil)
