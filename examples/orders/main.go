package main

import (
	"context"
	"database/sql"
	"log"
	"os"
	"os/signal"

	_ "modernc.org/sqlite"

	"github.com/harebus/harebus"
)

// openDB opens a file of SQLite: transactions begin with the lock for writing and wait for it.
func openDB(path string) (*sql.DB, error) {
	return sql.Open("sqlite", "file:"+path+"?_txlock=immediate&_pragma=busy_timeout(20000)&_pragma=journal_mode(WAL)")
}

func run(ctx context.Context, cfg harebus.Config, path string) error {
	db, err := openDB(path)
	if err != nil {
		return err
	}
	defer db.Close()
	setup, err := service(ctx, cfg, db)
	if err != nil {
		return err
	}
	return setup.Run(ctx)
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	err := run(ctx, harebus.Config{URL: os.Getenv("AMQP_URL")}, "orders.db")
	stop()
	if err != nil {
		log.Fatal(err)
	}
}
