package harebus_test

import (
	"context"
	"errors"
	"fmt"
	"log"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/brokertest"
)

// Nothing leaves before fn has returned nil, and nothing at all if it returns an
// error.
func ExampleBus_Transaction() {
	broker := brokertest.New()
	defer broker.Close()
	ctx := context.Background()
	setup, err := harebus.New(harebus.Config{Dial: broker.Dial, Queue: "orders"})
	if err != nil {
		log.Fatal(err)
	}
	if err := setup.Init(ctx); err != nil {
		log.Fatal(err)
	}
	defer setup.Close()

	for _, failure := range []error{errors.New("out of stock"), nil} {
		err := setup.Bus().Transaction(ctx, func(ctx context.Context, tx *harebus.Tx) error {
			return errors.Join(
				tx.Send(ctx, "orders", PlaceOrder{ID: 1}),
				tx.Send(ctx, "orders", PlaceOrder{ID: 2}),
				failure)
		})
		queue, _ := broker.Queue("orders")
		fmt.Printf("%v: %d messages\n", err, queue.Ready)
	}
	// Output:
	// out of stock: 0 messages
	// <nil>: 2 messages
}

// A commit reports on every message. There is no undo for what was confirmed.
func ExampleTransactionError() {
	broker := brokertest.New()
	defer broker.Close()
	ctx := context.Background()
	setup, err := harebus.New(harebus.Config{Dial: broker.Dial, Queue: "orders"})
	if err != nil {
		log.Fatal(err)
	}
	if err := setup.Init(ctx); err != nil {
		log.Fatal(err)
	}
	defer setup.Close()

	tx := setup.Bus().Begin()
	defer tx.Rollback() // does nothing after a commit
	err = errors.Join(tx.Send(ctx, "orders", PlaceOrder{ID: 1}), tx.Send(ctx, "nobody", PlaceOrder{ID: 2}))
	if err != nil {
		log.Fatal(err)
	}
	err = tx.Commit(ctx)
	var failed *harebus.TransactionError
	if errors.As(err, &failed) {
		for _, m := range failed.Messages {
			fmt.Println(m.RoutingKey, m.Outcome)
		}
	}
	// Output:
	// orders confirmed
	// nobody returned
}
