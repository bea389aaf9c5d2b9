package harebus_test

import (
	"context"
	"fmt"
	"log"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/brokertest"
)

// While a service is paused its messages stay in the queue.
func ExampleSetup_Pause() {
	broker := brokertest.New()
	defer broker.Close()
	ctx := context.Background()
	setup, err := harebus.New(harebus.Config{Dial: broker.Dial, Queue: "orders"})
	if err != nil {
		log.Fatal(err)
	}
	handled := make(chan int, 1)
	harebus.Handle(setup, func(_ context.Context, _ *harebus.Bus, cmd PlaceOrder) error {
		handled <- cmd.ID
		return nil
	})
	if err := setup.Start(ctx); err != nil {
		log.Fatal(err)
	}
	defer setup.Close()

	if err := setup.Pause(ctx); err != nil { // the database is away
		log.Fatal(err)
	}
	if err := setup.Bus().Send(ctx, "orders", PlaceOrder{ID: 7}); err != nil {
		log.Fatal(err)
	}
	queue, _ := broker.Queue("orders")
	fmt.Println("paused:", setup.Stats().Paused, "waiting:", queue.Ready)

	if err := setup.Resume(); err != nil { // it is back
		log.Fatal(err)
	}
	fmt.Println("handled:", <-handled)
	// Output:
	// paused: true waiting: 1
	// handled: 7
}
