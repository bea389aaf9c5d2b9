package harebus_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"time"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/brokertest"
	"github.com/harebus/harebus/topology"
)

// A ticket cancels a deferred message, also in another process: it is text that can be
// stored beside the order.
func ExampleBus_Cancel() {
	broker := brokertest.New()
	defer broker.Close()
	ctx := context.Background()
	setup, err := harebus.New(harebus.Config{Dial: broker.Dial, Queue: "orders"})
	if err != nil {
		log.Fatal(err)
	}
	arrived := make(chan int)
	harebus.Handle(setup, func(_ context.Context, _ *harebus.Bus, cmd PlaceOrder) error {
		arrived <- cmd.ID
		return nil
	})
	if err := setup.Start(ctx); err != nil {
		log.Fatal(err)
	}
	defer setup.Close()

	bus := setup.Bus()
	var ticket harebus.Ticket
	if err := bus.Defer(ctx, "orders", 2*time.Second, PlaceOrder{ID: 1}, harebus.WithTicket(&ticket)); err != nil {
		log.Fatal(err)
	}
	if err := bus.Defer(ctx, "orders", 2200*time.Millisecond, PlaceOrder{ID: 2}); err != nil {
		log.Fatal(err)
	}
	stored := ticket.String()

	ticket, err = topology.ParseTicket(stored)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("cancel order 1:", bus.Cancel(ctx, ticket))
	fmt.Println("arrived: order", <-arrived)
	fmt.Println("too late now:", errors.Is(bus.Cancel(ctx, ticket), harebus.ErrTooLate))
	// Output:
	// cancel order 1: <nil>
	// arrived: order 2
	// too late now: true
}
