package main

import (
	"context"

	"github.com/glebarez/sqlite"
	"gorm.io/gorm"
)

// order is a row, for gorm.
type order struct{ PlacedBy string }

// withGorm joins the connection of gorm's transaction.
func withGorm(ctx context.Context, s *shop, soldOut error) error {
	db, err := gorm.Open(sqlite.Dialector{Conn: s.db}, &gorm.Config{})
	if err != nil {
		return err
	}
	return db.WithContext(ctx).Transaction(func(tx *gorm.DB) error {
		if err := tx.Create(&order{"gorm"}).Error; err != nil {
			return err
		}
		if err := s.ob.Join(tx.Statement.ConnPool, s.bus).Publish(ctx, "order.placed", OrderPlaced{"gorm"}); err != nil {
			return err
		}
		return soldOut
	})
}
