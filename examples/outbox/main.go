// Command outbox changes a database and sends messages in one step. It needs nothing but Go:
// the database is SQLite in a temporary file, the broker is in the process.
//
//	cd examples/outbox && go run .     (AMQP_URL names a broker instead)
package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"log"
	"os"
	"os/signal"
	"path/filepath"

	_ "modernc.org/sqlite"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/brokertest"
	"github.com/harebus/harebus/outbox"
)

// PlaceOrder is a command.
type PlaceOrder struct{ ID int }

// MessageType is the wire name.
func (PlaceOrder) MessageType() string { return "PlaceOrder" }

// OrderPlaced is an event.
type OrderPlaced struct{ ID int }

// MessageType is the wire name.
func (OrderPlaced) MessageType() string { return "OrderPlaced" }

var errSoldOut = errors.New("sold out")

func run(ctx context.Context, cfg harebus.Config, db *sql.DB, out io.Writer) error {
	ob, err := outbox.New(outbox.Config{DB: db, Dialect: outbox.SQLite})
	if err != nil {
		return err
	}
	if _, err := db.ExecContext(ctx, `create table orders (id integer)`); err != nil {
		return err
	}
	if err := ob.Migrate(ctx); err != nil {
		return err
	}
	orders, err := service(cfg, ob)
	if err != nil {
		return err
	}
	defer orders.Close()
	placed := make(chan int, 9)
	if err := errors.Join(listen(ctx, cfg, placed), orders.Start(ctx)); err != nil {
		return err
	}

	// The same message twice, as after a crash: one row, one event.
	for range 2 {
		if err := orders.Bus().Send(ctx, "examples.orders", PlaceOrder{7}, harebus.WithMessageID("order-7")); err != nil {
			return err
		}
	}
	// A failure: neither a row nor an event.
	if err := orders.Bus().Send(ctx, "examples.orders", PlaceOrder{8}); err != nil {
		return err
	}
	// Outside a handler, as in an HTTP server.
	err = ob.Transaction(ctx, orders.Bus(), func(ctx context.Context, tx *outbox.Tx) error {
		return errors.Join(insert(ctx, 9), tx.Publish(ctx, "order.placed", OrderPlaced{9}))
	})
	if err != nil {
		return err
	}

	events := map[int]bool{}
	for len(events) < 2 {
		select {
		case id := <-placed:
			events[id] = true
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	var rows, sum int
	if err := db.QueryRowContext(ctx, `select count(*), sum(id) from orders`).Scan(&rows, &sum); err != nil {
		return err
	}
	fmt.Fprintf(out, "events of orders 7 and 9: %t and %t, of order 8: %t\n", events[7], events[9], events[8])
	fmt.Fprintf(out, "rows: %d, the sum of their ids: %d\n", rows, sum)
	return nil
}

// service places orders.
func service(cfg harebus.Config, ob *outbox.Outbox) (*harebus.Setup, error) {
	cfg.Queue, cfg.Handling.Transactor = "examples.orders", ob
	cfg.Consume.Concurrency = 1
	setup, err := harebus.New(cfg)
	if err != nil {
		return nil, err
	}
	harebus.Handle(setup, func(ctx context.Context, bus *harebus.Bus, cmd PlaceOrder) error {
		if err := insert(ctx, cmd.ID); err != nil {
			return err
		}
		if err := bus.Publish(ctx, "order.placed", OrderPlaced(cmd)); err != nil {
			return err
		}
		if cmd.ID == 8 {
			return harebus.NoRetry(errSoldOut)
		}
		return nil
	})
	return setup, nil
}

func insert(ctx context.Context, id int) error {
	_, err := outbox.SQL(ctx).ExecContext(ctx, `insert into orders (id) values (?)`, id)
	return err
}

// listen is another service, which hears of placed orders.
func listen(ctx context.Context, cfg harebus.Config, placed chan<- int) error {
	cfg.Queue, cfg.Subscriptions = "examples.shipping", []string{"order.placed"}
	setup, err := harebus.New(cfg)
	if err != nil {
		return err
	}
	harebus.Handle(setup, func(_ context.Context, _ *harebus.Bus, e OrderPlaced) error {
		placed <- e.ID
		return nil
	})
	context.AfterFunc(ctx, func() { _ = setup.Close() })
	return setup.Start(ctx)
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	folder, err := os.MkdirTemp("", "harebus-example-")
	if err == nil {
		err = errors.Join(runIn(ctx, folder, os.Stdout), os.RemoveAll(folder))
	}
	stop()
	if err != nil {
		log.Fatal(err)
	}
}

// runIn runs it with a database in a folder.
func runIn(ctx context.Context, folder string, out io.Writer) error {
	db, err := sql.Open("sqlite", "file:"+filepath.Join(folder, "orders.db")+"?_txlock=immediate&_pragma=busy_timeout(20000)&_pragma=journal_mode(WAL)")
	if err != nil {
		return err
	}
	defer db.Close()
	cfg := harebus.Config{URL: os.Getenv("AMQP_URL")}
	if cfg.URL == "" {
		broker := brokertest.New()
		defer broker.Close()
		cfg.Dial = broker.Dial
	}
	return run(ctx, cfg, db, out)
}
