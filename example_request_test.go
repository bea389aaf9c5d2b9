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

// A request waits for its reply. A setup that only sends can make one; the service that
// handles it replies, or gives it up.
func ExampleRequest() {
	broker := brokertest.New()
	defer broker.Close()
	ctx := context.Background()

	orders, err := harebus.New(harebus.Config{Dial: broker.Dial, Queue: "orders"})
	if err != nil {
		log.Fatal(err)
	}
	harebus.Handle(orders, func(ctx context.Context, bus *harebus.Bus, cmd PlaceOrder) error {
		if cmd.ID < 1 {
			return harebus.NoRetry(fmt.Errorf("there is no order %d", cmd.ID))
		}
		return bus.Reply(ctx, OrderAccepted(cmd))
	})
	if err := orders.Start(ctx); err != nil {
		log.Fatal(err)
	}
	defer orders.Close()

	shop, err := harebus.New(harebus.Config{Dial: broker.Dial})
	if err != nil {
		log.Fatal(err)
	}
	defer shop.Close()
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()

	accepted, err := harebus.Request[OrderAccepted](ctx, shop.Bus(), "orders", PlaceOrder{ID: 7})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("accepted order", accepted.ID)

	_, err = harebus.Request[OrderAccepted](ctx, shop.Bus(), "orders", PlaceOrder{ID: -1})
	var fault *harebus.FaultError
	if errors.As(err, &fault) {
		fmt.Println(fault.Reason, "-", fault.Details)
	}

	_, err = harebus.Request[OrderAccepted](ctx, shop.Bus(), "oders", PlaceOrder{ID: 7})
	fmt.Println("misspelt:", errors.Is(err, harebus.ErrUnroutable))
	// Output:
	// accepted order 7
	// failed - there is no order -1
	// misspelt: true
}
