package harebus_test

import (
	"context"
	"fmt"
	"log"
	"time"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/brokertest"
)

// stopwatch measures how long handlers take.
type stopwatch struct{ handled chan time.Duration }

type startedKey struct{}

func (stopwatch) ObserveStart(ctx context.Context, _ harebus.Observation) context.Context {
	return context.WithValue(ctx, startedKey{}, time.Now())
}

func (s stopwatch) ObserveEnd(ctx context.Context, event harebus.Observation, _ error) {
	if event.Operation == harebus.OpHandle {
		s.handled <- time.Since(ctx.Value(startedKey{}).(time.Time))
	}
}

// An Observer sees the start and the end of every operation.
func ExampleObserver() {
	broker := brokertest.New()
	defer broker.Close()
	ctx := context.Background()
	watch := stopwatch{make(chan time.Duration, 1)}
	setup, err := harebus.New(harebus.Config{Dial: broker.Dial, Queue: "orders", Observers: []harebus.Observer{watch}})
	if err != nil {
		log.Fatal(err)
	}
	harebus.Handle(setup, func(context.Context, *harebus.Bus, PlaceOrder) error { return nil })
	if err := setup.Start(ctx); err != nil {
		log.Fatal(err)
	}
	defer setup.Close()
	if err := setup.Bus().Send(ctx, "orders", PlaceOrder{ID: 7}); err != nil {
		log.Fatal(err)
	}
	fmt.Println("measured:", <-watch.handled > 0)
	// Output:
	// measured: true
}
