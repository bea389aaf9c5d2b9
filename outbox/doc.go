// Package outbox keeps a SQL database and the bus in agreement. Handlers run inside a
// database transaction: what a handler changes, the note that its message was handled
// (the inbox) and the messages that it sends (the outbox) are committed together, or not
// at all. Then the incoming message is acknowledged and the others are published.
//
//	ob, err := outbox.New(outbox.Config{DB: db, Dialect: outbox.Postgres})
//	setup, err := harebus.New(harebus.Config{Queue: "orders", Handling: harebus.HandlingConfig{Transactor: ob}})
//	harebus.Handle(setup, func(ctx context.Context, bus *harebus.Bus, cmd PlaceOrder) error {
//		if _, err := outbox.SQL(ctx).ExecContext(ctx, `insert into orders (id) values ($1)`, cmd.ID); err != nil {
//			return err
//		}
//		return bus.Publish(ctx, "order.placed", OrderPlaced{ID: cmd.ID})
//	})
//
// Code outside handlers uses [Outbox.Transaction], [Outbox.Begin], or [Outbox.Join] for a
// transaction that somebody else owns.
//
// The package needs database/sql only, or pgx by [NewPgx]; the driver is yours. The relay
// uses no advisory locks, no NOTIFY, no leader, and no "select for update"; only sagas lock rows with that. Every running outbox writes
// its rows into a lane of its own, a numbered part of the table, and leases that lane by
// the clock of the database. When its lease has run out, others publish what is left there.
// docs/outbox.md says what is promised and what is not.
package outbox
