package main

import (
	"context"
	"database/sql"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/outbox"
)

// PlaceOrder is a command: it goes to one service.
type PlaceOrder struct {
	ID   int
	Item string
}

// MessageType is its name on the wire.
func (PlaceOrder) MessageType() string { return "PlaceOrder" }

// OrderPlaced is an event: it goes to everybody who has subscribed.
type OrderPlaced struct{ ID int }

// MessageType is its name on the wire.
func (OrderPlaced) MessageType() string { return "OrderPlaced" }

// service handles orders with a database. cfg says where the broker is.
func service(ctx context.Context, cfg harebus.Config, db *sql.DB) (*harebus.Setup, error) {
	ob, err := outbox.New(outbox.Config{DB: db, Dialect: outbox.SQLite})
	if err != nil {
		return nil, err
	}
	if err := ob.Migrate(ctx); err != nil {
		return nil, err
	}
	if _, err := db.ExecContext(ctx, `create table if not exists orders (id integer primary key, item text not null)`); err != nil {
		return nil, err
	}
	cfg.Queue = "orders"
	cfg.Handling.Transactor = ob
	setup, err := harebus.New(cfg)
	if err != nil {
		return nil, err
	}
	harebus.Handle(setup, place)
	return setup, nil
}

// place stores an order and says so. Both happen, or neither.
func place(ctx context.Context, bus *harebus.Bus, cmd PlaceOrder) error {
	_, err := outbox.SQL(ctx).ExecContext(ctx, `insert into orders (id, item) values (?, ?)`, cmd.ID, cmd.Item)
	if err != nil {
		return err
	}
	return bus.Publish(ctx, "order.placed", OrderPlaced{cmd.ID})
}
