package harebus_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"time"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/brokertest"
)

// A setup without a queue only sends. Each call returns when the broker has
// confirmed the message; Init has made the queue here, as a deployment step would.
func ExampleBus_Send() {
	broker := brokertest.New()
	defer broker.Close()
	ctx := context.Background()
	orders, err := harebus.New(harebus.Config{Dial: broker.Dial, Queue: "orders"})
	if err != nil {
		log.Fatal(err)
	}
	if err := orders.Init(ctx); err != nil {
		log.Fatal(err)
	}

	sender, err := harebus.New(harebus.Config{Dial: broker.Dial})
	if err != nil {
		log.Fatal(err)
	}
	defer sender.Close()
	err = sender.Bus().Send(ctx, "orders", PlaceOrder{ID: 7},
		harebus.WithMessageID("order-7"), harebus.WithHeader("tenant", "acme"))
	if err != nil {
		log.Fatal(err)
	}

	for _, m := range broker.Messages("orders") {
		fmt.Println(m.MessageId, m.Type, string(m.Body), m.Headers["tenant"])
	}
	// Output:
	// order-7 PlaceOrder {"ID":7} acme
}

// A message that no queue takes comes back. The broker is asked a few times,
// because a queue can be away for a moment.
func ExamplePublishError() {
	broker := brokertest.New()
	defer broker.Close()
	setup, err := harebus.New(harebus.Config{Dial: broker.Dial})
	if err != nil {
		log.Fatal(err)
	}
	defer setup.Close()

	err = setup.Bus().Send(context.Background(), "nobody", PlaceOrder{ID: 7}, harebus.WithMessageID("order-7"))
	var failed *harebus.PublishError
	switch {
	case errors.Is(err, harebus.ErrUnknownOutcome):
		fmt.Println("send it again with the same id")
	case errors.As(err, &failed):
		fmt.Printf("message %s to %s was %s\n", failed.MessageID, failed.RoutingKey, failed.Outcome)
	}
	// Output:
	// message order-7 to nobody was returned
}

// Without a deadline a call waits for as long as the broker is away. With one, the
// error tells apart what has not left and what may have arrived.
func ExampleBus_Send_deadline() {
	broker := brokertest.New()
	defer broker.Close()
	broker.Refuse(time.Hour)
	setup, err := harebus.New(harebus.Config{Dial: broker.Dial})
	if err != nil {
		log.Fatal(err)
	}
	defer setup.Close()

	ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer cancel()
	err = setup.Bus().Send(ctx, "orders", PlaceOrder{ID: 7})
	fmt.Println(errors.Is(err, harebus.ErrNotSent), errors.Is(err, harebus.ErrUnknownOutcome))
	// Output:
	// true false
}
