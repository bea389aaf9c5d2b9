package main

import (
	"context"

	"github.com/uptrace/bun"
	"github.com/uptrace/bun/dialect/sqlitedialect"
)

// bunOrder is a row, for bun.
type bunOrder struct {
	bun.BaseModel `bun:"table:orders"`

	PlacedBy string
}

// withBun joins the *sql.Tx inside bun's transaction. The bun.Tx itself rewrites placeholders.
func withBun(ctx context.Context, s *shop, soldOut error) error {
	return bun.NewDB(s.db, sqlitedialect.New()).RunInTx(ctx, nil, func(ctx context.Context, tx bun.Tx) error {
		if _, err := tx.NewInsert().Model(&bunOrder{PlacedBy: "bun"}).Exec(ctx); err != nil {
			return err
		}
		if err := s.ob.Join(tx.Tx, s.bus).Publish(ctx, "order.placed", OrderPlaced{"bun"}); err != nil {
			return err
		}
		return soldOut
	})
}
