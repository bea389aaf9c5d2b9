// Command transaction sends several messages together: they are published at the
// commit, and discarded after an error. A handler is always such a transaction:
// what it sends is published when it has returned nil.
//
//	go run ./examples/transaction     (AMQP_URL names another broker than the local one)
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"os"
	"os/signal"

	"github.com/harebus/harebus"
	"go.uber.org/zap"
)

// Book is a command.
type Book struct{ What string }

// MessageType is the wire name.
func (Book) MessageType() string { return "Book" }

func run(ctx context.Context, cfg harebus.Config, out io.Writer) error {
	const queue = "examples.bookings"
	cfg.Queue = queue
	cfg.Consume.Concurrency = 1
	setup, err := harebus.New(cfg)
	if err != nil {
		return err
	}
	booked := make(chan string, 10)
	harebus.Handle(setup, func(_ context.Context, _ *harebus.Bus, b Book) error {
		booked <- b.What
		return nil
	})
	if err := setup.Start(ctx); err != nil {
		return err
	}
	bus := setup.Bus()

	// An error inside discards what was sent before it.
	err = bus.Transaction(ctx, func(ctx context.Context, tx *harebus.Tx) error {
		if err := tx.Send(ctx, queue, Book{What: "a flight that is full"}); err != nil {
			return err
		}
		return errors.New("no seat left")
	})
	fmt.Fprintln(out, "rolled back:", err)

	// No error commits: both messages are confirmed when Transaction returns.
	err = bus.Transaction(ctx, func(ctx context.Context, tx *harebus.Tx) error {
		return errors.Join(
			tx.Send(ctx, queue, Book{What: "train"}),
			tx.Send(ctx, queue, Book{What: "hotel"}))
	})
	if err != nil {
		return err
	}
	fmt.Fprintln(out, "committed, and booked:", <-booked, <-booked)

	// Code that cannot be a closure calls Begin and Commit. The error of Commit has
	// the outcome of each message; the confirmed ones cannot be taken back.
	tx := bus.Begin()
	defer tx.Rollback() // does nothing after the commit
	err = errors.Join(
		tx.Send(ctx, queue, Book{What: "museum"}),
		tx.Send(ctx, "examples.nobody", Book{What: "boat"}))
	if err != nil {
		return err
	}
	var failed *harebus.TransactionError
	if err := tx.Commit(ctx); errors.As(err, &failed) {
		for _, m := range failed.Messages {
			fmt.Fprintf(out, "%s: %s\n", m.RoutingKey, m.Outcome)
		}
	}
	fmt.Fprintln(out, "booked:", <-booked)
	return setup.Close()
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	logger := zap.Must(zap.NewProduction(zap.IncreaseLevel(zap.WarnLevel)))
	err := run(ctx, harebus.Config{URL: os.Getenv("AMQP_URL"), Logger: logger}, os.Stdout)
	stop()
	if err != nil {
		log.Fatal(err)
	}
}
