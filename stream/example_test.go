package stream_test

import (
	"context"
	"fmt"
	"log"
	"time"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/brokertest"
	"github.com/harebus/harebus/stream"
	"github.com/harebus/harebus/topology"
)

// OrderPlaced is an event.
type OrderPlaced struct{ ID int }

func (OrderPlaced) MessageType() string { return "OrderPlaced" }

// A group of readers: events are captured before anybody reads them, one instance reads, and another one goes on where it
// was.
func Example() {
	broker := brokertest.New()
	defer broker.Close()
	ctx := context.Background()
	shop, err := harebus.New(harebus.Config{
		Dial: broker.Dial,
		Declare: harebus.DeclareConfig{
			Topology: topology.EventLog("events", "PikaBusTopic", topology.KeepAge(7*24*time.Hour), topology.KeepBytes(20<<30)),
		},
	})
	if err != nil {
		log.Fatal(err)
	}
	defer shop.Close()
	if err := shop.Init(ctx); err != nil {
		log.Fatal(err)
	}
	publish := func(id int) {
		if err := shop.Bus().Publish(ctx, "order.placed", OrderPlaced{id}); err != nil {
			log.Fatal(err)
		}
	}
	handled := make(chan string)
	billing := func() *harebus.Setup {
		setup, err := harebus.New(harebus.Config{
			Dial: broker.Dial, Queue: "events",
			Consume: harebus.ConsumeConfig{Concurrency: 1, Stream: &stream.Config{Group: "billing", Topics: []string{"order.*"}}},
		})
		if err != nil {
			log.Fatal(err)
		}
		harebus.Handle(setup, func(ctx context.Context, _ *harebus.Bus, e OrderPlaced) error {
			offset, err := stream.Offset(harebus.Incoming(ctx).Headers)
			handled <- fmt.Sprintf("order %d is at offset %d", e.ID, offset)
			return err
		})
		if err := setup.Start(ctx); err != nil {
			log.Fatal(err)
		}
		return setup
	}

	publish(1)
	publish(2)
	first := billing()
	fmt.Println(<-handled)
	fmt.Println(<-handled)
	if err := first.Close(); err != nil {
		log.Fatal(err)
	}
	publish(3)
	second := billing()
	defer second.Close()
	fmt.Println(<-handled)
	// Output:
	// order 1 is at offset 0
	// order 2 is at offset 1
	// order 3 is at offset 2
}
