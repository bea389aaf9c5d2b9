package harebus_test

import (
	"context"
	"fmt"
	"log"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/brokertest"
)

// A second queue keeps slow messages from holding up quick ones. Both are consumed on the
// same connection.
func ExampleSetup_Endpoint() {
	broker := brokertest.New()
	defer broker.Close()
	ctx := context.Background()
	setup, err := harebus.New(harebus.Config{Dial: broker.Dial, Queue: "orders"})
	if err != nil {
		log.Fatal(err)
	}
	imports, err := setup.Endpoint(harebus.EndpointConfig{
		Queue:   "orders.imports",
		Consume: harebus.ConsumeConfig{Concurrency: 1},
	})
	if err != nil {
		log.Fatal(err)
	}
	finish, done := make(chan struct{}), make(chan struct{})
	harebus.Handle(setup, func(_ context.Context, _ *harebus.Bus, o order) error {
		fmt.Println("order", o.ID)
		close(finish)
		return nil
	})
	harebus.Handle(imports, func(ctx context.Context, _ *harebus.Bus, o order) error {
		<-finish // it takes long
		fmt.Println("import", o.ID, "from", harebus.Incoming(ctx).Queue)
		close(done)
		return nil
	})
	if err := setup.Start(ctx); err != nil {
		log.Fatal(err)
	}
	for i, queue := range []string{imports.Queue(), setup.Queue()} {
		if err := setup.Bus().Send(ctx, queue, order{ID: i + 1}); err != nil {
			log.Fatal(err)
		}
	}
	<-done
	fmt.Println("stopped:", setup.Close())
	// Output:
	// order 2
	// import 1 from orders.imports
	// stopped: <nil>
}
