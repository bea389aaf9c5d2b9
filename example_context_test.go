package harebus_test

import (
	"context"
	"fmt"
	"log"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/brokertest"
)

// A context value of the list in Config.Payload.Context travels with the message to its handler, and on with everything that the
// handler sends. Here the tenant comes to the handler of the event, which the sender of the command does not know.
func ExampleWithContextValue() {
	broker := brokertest.New()
	defer broker.Close()
	ctx := context.Background()
	setup, err := harebus.New(harebus.Config{
		Dial: broker.Dial, Queue: "orders",
		Payload: harebus.PayloadConfig{Context: []harebus.ContextHeader{{Name: "tenant", Required: true}}},
	})
	if err != nil {
		log.Fatal(err)
	}
	harebus.Handle(setup, func(ctx context.Context, bus *harebus.Bus, order PlaceOrder) error {
		return bus.Send(ctx, "orders", OrderAccepted(order))
	})
	harebus.Handle(setup, func(ctx context.Context, _ *harebus.Bus, order OrderAccepted) error {
		fmt.Println("order", order.ID, "of", harebus.ContextValue(ctx, "tenant"))
		return nil
	})
	if err := setup.Start(ctx); err != nil {
		log.Fatal(err)
	}
	if err := setup.Bus().Send(harebus.WithContextValue(ctx, "tenant", "acme"), "orders", PlaceOrder{ID: 7}); err != nil {
		log.Fatal(err)
	}
	fmt.Println(setup.Bus().Send(ctx, "orders", PlaceOrder{ID: 8}))
	if err := broker.WaitQuiet(ctx); err != nil {
		log.Fatal(err)
	}
	if err := setup.Close(); err != nil {
		log.Fatal(err)
	}
	// Unordered output:
	// order 7 of acme
	// harebus: send: refused: no value of "tenant", which Config.Payload.Context requires; set it with WithContextValue
}
