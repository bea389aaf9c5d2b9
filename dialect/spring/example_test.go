package spring_test

import (
	"context"
	"fmt"
	"log"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/brokertest"
	"github.com/harebus/harebus/dialect"
	"github.com/harebus/harebus/dialect/spring"
)

type PlaceOrder struct {
	ID int `json:"id"`
}

func (PlaceOrder) MessageType() string { return "PlaceOrder" }

// A message is written as a listener of Spring expects it, and one that Spring wrote is handled.
func Example() {
	broker := brokertest.New()
	defer broker.Close()
	ctx := context.Background()
	java := spring.New(spring.Config{Types: dialect.Types{"PlaceOrder": "com.acme.orders.PlaceOrder"}})
	setup, err := harebus.New(harebus.Config{Queue: "orders", Dial: broker.Dial, Payload: harebus.PayloadConfig{Dialects: []dialect.Dialect{java}}})
	if err != nil {
		log.Fatal(err)
	}
	handled := make(chan string)
	harebus.Handle(setup, func(ctx context.Context, _ *harebus.Bus, o PlaceOrder) error {
		m := harebus.Incoming(ctx)
		handled <- fmt.Sprintf("order %d, a %v: %s", o.ID, m.Headers["__TypeId__"], m.Body)
		return nil
	})
	if err := setup.Start(ctx); err != nil {
		log.Fatal(err)
	}
	if err := setup.Bus().Send(ctx, "orders", PlaceOrder{ID: 7}, harebus.As(java)); err != nil {
		log.Fatal(err)
	}
	fmt.Println(<-handled)
	if err := setup.Close(); err != nil {
		log.Fatal(err)
	}
	// Output:
	// order 7, a com.acme.orders.PlaceOrder: {"id":7}
}
