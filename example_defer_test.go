package harebus_test

import (
	"context"
	"fmt"
	"log"
	"time"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/brokertest"
)

// A deferred message waits in durable queues of the broker. Of two, the one that
// is due first arrives first, however they were sent.
func ExampleBus_Defer() {
	broker := brokertest.New()
	defer broker.Close()
	ctx := context.Background()
	setup, err := harebus.New(harebus.Config{Dial: broker.Dial, Queue: "orders"})
	if err != nil {
		log.Fatal(err)
	}
	arrived := make(chan string)
	harebus.Handle(setup, func(ctx context.Context, _ *harebus.Bus, cmd PlaceOrder) error {
		m := harebus.Incoming(ctx)
		arrived <- fmt.Sprintf("order %d, early: %t", cmd.ID, time.Now().Before(m.DeferredUntil))
		return nil
	})
	if err := setup.Start(ctx); err != nil {
		log.Fatal(err)
	}
	defer setup.Close()

	bus := setup.Bus()
	if err := bus.Defer(ctx, "orders", 2*time.Second, PlaceOrder{ID: 1}); err != nil {
		log.Fatal(err)
	}
	if err := bus.Defer(ctx, "orders", 100*time.Millisecond, PlaceOrder{ID: 2}); err != nil {
		log.Fatal(err)
	}
	fmt.Println(<-arrived)
	fmt.Println(<-arrived)
	// Output:
	// order 2, early: false
	// order 1, early: false
}
