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

// OrderPaid is an event that knows its topic and needs no subscriber.
type OrderPaid struct{ ID int }

// MessageType is the wire name.
func (OrderPaid) MessageType() string { return "OrderPaid" }

// Topic is where it is published.
func (OrderPaid) Topic() string { return "order.paid" }

// OptionalEvent says that nobody has to be subscribed.
func (OrderPaid) OptionalEvent() bool { return true }

// An event's topic is a method on its type, so it is written in one place.
func ExampleHandleEvent() {
	broker := brokertest.New()
	defer broker.Close()
	ctx := context.Background()
	setup, err := harebus.New(harebus.Config{Dial: broker.Dial, Queue: "billing"})
	if err != nil {
		log.Fatal(err)
	}
	bus := setup.Bus()
	fmt.Println("nobody listens:", bus.PublishEvent(ctx, OrderPaid{ID: 6}))

	heard := make(chan int)
	harebus.HandleEvent(setup, func(_ context.Context, _ *harebus.Bus, event OrderPaid) error {
		heard <- event.ID
		return nil
	})
	if err := setup.Start(ctx); err != nil {
		log.Fatal(err)
	}
	defer setup.Close()
	if err := bus.PublishEvent(ctx, OrderPaid{ID: 7}); err != nil {
		log.Fatal(err)
	}
	fmt.Println("heard of the payment of order", <-heard)
	// Output:
	// nobody listens: <nil>
	// heard of the payment of order 7
}

// With PerInstance every instance of a service gets every event. Here two instances
// run in one process.
func ExampleConfig_perInstance() {
	broker := brokertest.New()
	defer broker.Close()
	ctx := context.Background()
	emptied := make(chan int)
	for range 2 {
		setup, err := harebus.New(harebus.Config{Dial: broker.Dial, Queue: "cache", QueueOptions: harebus.QueueOptions{PerInstance: true}})
		if err != nil {
			log.Fatal(err)
		}
		harebus.HandleEvent(setup, func(_ context.Context, _ *harebus.Bus, event OrderPaid) error {
			emptied <- event.ID
			return nil
		})
		if err := setup.Start(ctx); err != nil {
			log.Fatal(err)
		}
		defer setup.Close()
	}
	publisher, err := harebus.New(harebus.Config{Dial: broker.Dial})
	if err != nil {
		log.Fatal(err)
	}
	defer publisher.Close()
	if err := publisher.Bus().PublishEvent(ctx, OrderPaid{ID: 7}); err != nil {
		log.Fatal(err)
	}
	fmt.Println("emptied the cache of order", <-emptied)
	fmt.Println("emptied the cache of order", <-emptied)
	// Output:
	// emptied the cache of order 7
	// emptied the cache of order 7
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
