package batch_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"time"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/batch"
	"github.com/harebus/harebus/brokertest"
)

// Reading is a message of a meter.
type Reading struct{ Meter, Value int }

func (Reading) MessageType() string { return "Reading" }

// store writes readings in one statement, and returns a result for each: one of them is refused.
func store(_ context.Context, readings []batch.Item[Reading]) []error {
	results := make([]error, len(readings))
	stored := 0
	for i, r := range readings {
		if r.Message.Value < 0 {
			results[i] = harebus.NoRetry(errors.New("a negative reading"))
			continue
		}
		stored++
	}
	fmt.Printf("a batch of %d, %d stored\n", len(readings), stored)
	return results
}

// One message of a batch is bad: it is parked, and the others are done.
func Example() {
	broker := brokertest.New()
	defer broker.Close()
	ctx := context.Background()
	setup, err := harebus.New(harebus.Config{
		Dial: broker.Dial, Queue: "readings", Consume: harebus.ConsumeConfig{Concurrency: 5},
		QueueOptions: harebus.QueueOptions{Arguments: map[string]any{"x-single-active-consumer": true}},
	})
	if err != nil {
		log.Fatal(err)
	}
	if err := batch.Handle(setup, store, batch.Config{Size: 5, Wait: time.Minute}); err != nil {
		log.Fatal(err)
	}
	if err := setup.Start(ctx); err != nil {
		log.Fatal(err)
	}
	defer setup.Close()

	for i, value := range []int{12, 7, -1, 30, 8} {
		if err := setup.Bus().Send(ctx, "readings", Reading{Meter: i, Value: value}); err != nil {
			log.Fatal(err)
		}
	}
	if err := broker.WaitQuiet(ctx, "error"); err != nil {
		log.Fatal(err)
	}
	fmt.Println("handled:", setup.Stats().Handled, "parked:", setup.Stats().Parked)
	// Output:
	// a batch of 5, 4 stored
	// handled: 4 parked: 1
}
