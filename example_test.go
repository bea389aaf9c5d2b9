package harebus_test

import (
	"context"
	"fmt"
	"log"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/brokertest"
)

// PlaceOrder is a command. Its wire name is part of the contract with other
// services; the Go name can change.
type PlaceOrder struct{ ID int }

func (PlaceOrder) MessageType() string { return "PlaceOrder" }

// OrderPlaced is an event.
type OrderPlaced struct{ ID int }

func (OrderPlaced) MessageType() string { return "OrderPlaced" }

// OrderAccepted is a reply.
type OrderAccepted struct{ ID int }

func (OrderAccepted) MessageType() string { return "OrderAccepted" }

// A service with one queue and two handlers, and a program that sends to it.
func Example() {
	broker := brokertest.New() // on RabbitMQ: leave it out, and set Config.URL
	defer broker.Close()
	ctx := context.Background()
	done := make(chan struct{})

	setup, err := harebus.New(harebus.Config{Dial: broker.Dial, Queue: "orders", Subscriptions: []string{"order.*"}})
	if err != nil {
		log.Fatal(err)
	}
	harebus.Handle(setup, func(ctx context.Context, bus *harebus.Bus, cmd PlaceOrder) error {
		fmt.Println("place order", cmd.ID)
		return bus.Publish(ctx, "order.placed", OrderPlaced(cmd))
	})
	harebus.Handle(setup, func(_ context.Context, _ *harebus.Bus, event OrderPlaced) error {
		fmt.Println("order placed:", event.ID)
		close(done)
		return nil
	})
	if err := setup.Start(ctx); err != nil { // or Run, which also stops when ctx ends
		log.Fatal(err)
	}
	defer setup.Close()

	if err := setup.Bus().Send(ctx, "orders", PlaceOrder{ID: 7}); err != nil {
		log.Fatal(err)
	}
	<-done
	// Output:
	// place order 7
	// order placed: 7
}
