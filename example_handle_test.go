package harebus_test

import (
	"context"
	"errors"
	"fmt"
	"log"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/brokertest"
)

// A typed handler gets the decoded body; Incoming gives it the rest. A handler for
// AnyType takes what no other handler does, undecoded.
func ExampleHandle() {
	broker := brokertest.New()
	defer broker.Close()
	ctx := context.Background()
	setup, err := harebus.New(harebus.Config{
		Dial: broker.Dial, Queue: "orders",
		Consume: harebus.ConsumeConfig{Concurrency: 1}, // in the order of the queue
	})
	if err != nil {
		log.Fatal(err)
	}
	harebus.Handle(setup, func(ctx context.Context, _ *harebus.Bus, cmd PlaceOrder) error {
		m := harebus.Incoming(ctx)
		fmt.Printf("order %d for %v, attempt %d\n", cmd.ID, m.Headers["tenant"], m.Attempt)
		return nil
	})
	setup.HandleMessage(harebus.AnyType, func(_ context.Context, _ *harebus.Bus, m *harebus.Message) error {
		fmt.Printf("something of type %q: %s\n", m.Type, m.Body)
		return nil
	})
	if err := setup.Start(ctx); err != nil {
		log.Fatal(err)
	}
	defer setup.Close()

	bus := setup.Bus()
	err = errors.Join(
		bus.Send(ctx, "orders", PlaceOrder{ID: 7}, harebus.WithHeader("tenant", "acme")),
		bus.Send(ctx, "orders", map[string]int{"n": 1}, harebus.WithType("Heartbeat")),
		bus.Send(ctx, "orders", []byte{'h', 'i'}),
		broker.WaitQuiet(ctx))
	if err != nil {
		log.Fatal(err)
	}
	// Output:
	// order 7 for acme, attempt 1
	// something of type "Heartbeat": {"n":1}
	// something of type "": hi
}

// What a handler sends leaves after it has succeeded, and before its message is
// acknowledged. A failed attempt sends nothing.
func ExampleHandlerFunc() {
	broker := brokertest.New()
	defer broker.Close()
	ctx := context.Background()
	setup, err := harebus.New(harebus.Config{Dial: broker.Dial, Queue: "orders"})
	if err != nil {
		log.Fatal(err)
	}
	setup.HandleMessage("PlaceOrder", func(ctx context.Context, bus *harebus.Bus, m *harebus.Message) error {
		if err := bus.Send(ctx, "audit", m.Body, harebus.WithType("Audit")); err != nil {
			return err
		}
		if m.Attempt == 1 {
			return harebus.RetryAfter(0, errors.New("too early in the morning"))
		}
		return nil
	})
	if err := setup.Start(ctx); err != nil {
		log.Fatal(err)
	}
	defer setup.Close()
	audit, err := harebus.New(harebus.Config{Dial: broker.Dial, Queue: "audit"})
	if err != nil {
		log.Fatal(err)
	}
	if err := audit.Init(ctx); err != nil {
		log.Fatal(err)
	}

	if err := setup.Bus().Send(ctx, "orders", PlaceOrder{ID: 7}); err != nil {
		log.Fatal(err)
	}
	if err := broker.WaitQuiet(ctx, "audit"); err != nil {
		log.Fatal(err)
	}
	fmt.Println(len(broker.Messages("audit")), "message for the audit, after", setup.Stats().Failed, "failed attempt")
	// Output:
	// 1 message for the audit, after 1 failed attempt
}
