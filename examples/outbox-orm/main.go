// Command outbox-orm stores messages in transactions that belong to sqlx, gorm, bun and ent. It
// needs nothing but Go: the database is SQLite in a temporary file, the broker is in the process.
//
//	cd examples/outbox-orm && go run .     (AMQP_URL names a broker instead)
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

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/brokertest"
	"github.com/harebus/harebus/outbox"
)

// OrderPlaced is an event.
type OrderPlaced struct{ By string }

// MessageType is the wire name.
func (OrderPlaced) MessageType() string { return "OrderPlaced" }

// errSoldOut makes a transaction roll back.
var errSoldOut = errors.New("sold out")

// shop has what the four have in common.
type shop struct {
	db  *sql.DB
	ob  *outbox.Outbox
	bus *harebus.Bus
}

// place stores an order and its event in a transaction of one of the libraries. If soldOut is
// set, the transaction fails at its end.
type place func(ctx context.Context, s *shop, soldOut error) error

// libraries are in the order of the output.
var libraries = []struct {
	name  string
	place place
}{{"sqlx", withSqlx}, {"gorm", withGorm}, {"bun", withBun}, {"ent", withEnt}}

func run(ctx context.Context, cfg harebus.Config, db *sql.DB, out io.Writer) error {
	ob, err := outbox.New(outbox.Config{DB: db, Dialect: outbox.SQLite})
	if err != nil {
		return err
	}
	if err := ob.Migrate(ctx); err != nil {
		return err
	}
	if _, err := db.ExecContext(ctx, `create table orders (placed_by text not null)`); err != nil {
		return err
	}
	placed := make(chan string, 2*len(libraries))
	cfg.Queue, cfg.Subscriptions, cfg.Handling.Transactor = "examples.orm", []string{"order.placed"}, ob
	setup, err := harebus.New(cfg)
	if err != nil {
		return err
	}
	defer setup.Close()
	harebus.Handle(setup, func(_ context.Context, _ *harebus.Bus, e OrderPlaced) error {
		placed <- e.By
		return nil
	})
	if err := setup.Start(ctx); err != nil {
		return err
	}
	s := &shop{db, ob, setup.Bus()}
	for _, library := range libraries {
		// Rolled back: neither an order nor an event.
		if err := library.place(ctx, s, errSoldOut); !errors.Is(err, errSoldOut) {
			return fmt.Errorf("%s: %w", library.name, err)
		}
		// Committed: both.
		if err := library.place(ctx, s, nil); err != nil {
			return fmt.Errorf("%s: %w", library.name, err)
		}
		select {
		case by := <-placed:
			var orders int
			if err := db.QueryRowContext(ctx, `select count(*) from orders where placed_by = ?`, library.name).Scan(&orders); err != nil {
				return err
			}
			fmt.Fprintf(out, "%s: orders %d, an event of %s\n", library.name, orders, by)
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
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
