package harebus_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"time"

	"github.com/harebus/harebus"
)

// A handler can be tested without a broker: Invoke calls it, and says what it sent.
func ExampleSetup_Invoke() {
	setup, err := harebus.New(harebus.Config{Queue: "orders"})
	if err != nil {
		log.Fatal(err)
	}
	harebus.Handle(setup, func(ctx context.Context, bus *harebus.Bus, cmd PlaceOrder) error {
		if cmd.ID < 0 {
			return harebus.NoRetry(errors.New("no such order"))
		}
		if err := bus.Defer(ctx, "reminders", time.Hour, cmd); err != nil {
			return err
		}
		return bus.Reply(ctx, OrderPlaced(cmd))
	})
	ctx := context.Background()

	result, err := setup.Invoke(ctx, PlaceOrder{ID: 7}, harebus.WithReplyTo("shop"))
	if err != nil {
		log.Fatal(err)
	}
	for _, sent := range result.Sent {
		fmt.Printf("%v to %s: %s %s\n", sent.Operation, sent.RoutingKey, sent.Type, sent.Body)
	}

	result, err = setup.Invoke(ctx, PlaceOrder{ID: -1})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%v: %v, %d messages\n", result.Err, result.Decision, len(result.Sent))
	// Output:
	// defer to reminders: PlaceOrder {"ID":7}
	// reply to shop: OrderPlaced {"ID":7}
	// no such order: park, 0 messages
}
