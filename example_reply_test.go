package harebus_test

import (
	"context"
	"fmt"
	"log"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/brokertest"
)

// A reply goes to the queue that the message asks for, by default the sender's
// listener queue, and carries its correlation id.
func ExampleBus_Reply() {
	broker := brokertest.New()
	defer broker.Close()
	ctx := context.Background()

	orders, err := harebus.New(harebus.Config{Dial: broker.Dial, Queue: "orders"})
	if err != nil {
		log.Fatal(err)
	}
	harebus.Handle(orders, func(ctx context.Context, bus *harebus.Bus, cmd PlaceOrder) error {
		return bus.Reply(ctx, OrderAccepted(cmd))
	})
	if err := orders.Start(ctx); err != nil {
		log.Fatal(err)
	}
	defer orders.Close()

	shop, err := harebus.New(harebus.Config{Dial: broker.Dial, Queue: "shop"})
	if err != nil {
		log.Fatal(err)
	}
	replies := make(chan string)
	harebus.Handle(shop, func(ctx context.Context, _ *harebus.Bus, a OrderAccepted) error {
		replies <- fmt.Sprintf("order %d accepted, in the conversation %q", a.ID, harebus.Incoming(ctx).CorrelationID)
		return nil
	})
	if err := shop.Start(ctx); err != nil {
		log.Fatal(err)
	}
	defer shop.Close()

	err = shop.Bus().Send(ctx, "orders", PlaceOrder{ID: 7}, harebus.WithCorrelationID("basket-3"))
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(<-replies)
	// Output:
	// order 7 accepted, in the conversation "basket-3"
}
