package harebus_test

import (
	"context"
	"fmt"
	"log"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/brokertest"
)

// Middleware wraps handlers, send middleware wraps what leaves.
func ExampleMiddleware() {
	broker := brokertest.New()
	defer broker.Close()
	ctx := context.Background()
	setup, err := harebus.New(harebus.Config{
		Dial: broker.Dial, Queue: "orders",
		Handling: harebus.HandlingConfig{Middleware: []harebus.Middleware{func(next harebus.HandlerFunc) harebus.HandlerFunc {
			return func(ctx context.Context, bus *harebus.Bus, m *harebus.Message) error {
				fmt.Printf("begin %s, sent from %v\n", m.Type, m.Headers["host"])
				err := next(ctx, bus, m)
				fmt.Println("end:", err)
				return err
			}
		}}}, Publish: harebus.PublishConfig{Middleware: []harebus.SendMiddleware{func(next harebus.SendFunc) harebus.SendFunc {
			return func(ctx context.Context, m *harebus.Outgoing) error {
				m.Headers["host"] = "web-1"
				return next(ctx, m)
			}
		}}},
	})
	if err != nil {
		log.Fatal(err)
	}
	harebus.Handle(setup, func(context.Context, *harebus.Bus, PlaceOrder) error {
		fmt.Println("handle")
		return nil
	})
	if err := setup.Start(ctx); err != nil {
		log.Fatal(err)
	}
	defer setup.Close()
	if err := setup.Bus().Send(ctx, "orders", PlaceOrder{ID: 7}); err != nil {
		log.Fatal(err)
	}
	if err := broker.WaitQuiet(ctx); err != nil {
		log.Fatal(err)
	}
	// Output:
	// begin PlaceOrder, sent from web-1
	// handle
	// end: <nil>
}
