package harebus_test

import (
	"context"
	"errors"
	"fmt"
	"log"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/brokertest"
)

// An event that nobody subscribed to is an error, unless the call says that it
// need not be.
func ExampleNonMandatory() {
	broker := brokertest.New()
	defer broker.Close()
	setup, err := harebus.New(harebus.Config{Dial: broker.Dial})
	if err != nil {
		log.Fatal(err)
	}
	defer setup.Close()
	ctx := context.Background()

	err = setup.Bus().Publish(ctx, "order.placed", OrderPlaced{ID: 7})
	fmt.Println(errors.Is(err, harebus.ErrUnroutable))
	err = setup.Bus().Publish(ctx, "order.placed", OrderPlaced{ID: 7}, harebus.NonMandatory())
	fmt.Println(err)
	// Output:
	// true
	// <nil>
}

// Topics can be subscribed to while the service runs; what the broker forgets is
// bound again.
func ExampleSetup_Subscribe() {
	broker := brokertest.New()
	defer broker.Close()
	ctx := context.Background()
	setup, err := harebus.New(harebus.Config{Dial: broker.Dial, Queue: "billing"})
	if err != nil {
		log.Fatal(err)
	}
	heard := make(chan int)
	harebus.Handle(setup, func(_ context.Context, _ *harebus.Bus, event OrderPlaced) error {
		heard <- event.ID
		return nil
	})
	if err := setup.Start(ctx); err != nil {
		log.Fatal(err)
	}
	defer setup.Close()

	if err := setup.Subscribe(ctx, "order.*"); err != nil {
		log.Fatal(err)
	}
	if err := setup.Bus().Publish(ctx, "order.placed", OrderPlaced{ID: 7}); err != nil {
		log.Fatal(err)
	}
	fmt.Println("heard of order", <-heard)

	if err := setup.Unsubscribe(ctx, "order.*"); err != nil {
		log.Fatal(err)
	}
	err = setup.Bus().Publish(ctx, "order.placed", OrderPlaced{ID: 8})
	fmt.Println("nobody listens:", errors.Is(err, harebus.ErrUnroutable))
	// Output:
	// heard of order 7
	// nobody listens: true
}
