package limit_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"time"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/brokertest"
	"github.com/harebus/harebus/limit"
)

// Charge is a command whose handler calls a provider.
type Charge struct{ ID int }

func (Charge) MessageType() string { return "Charge" }

// The provider fails three times. Then no handler is called for 20 ms, one message is tried, and
// all are handled. None was parked, although each may fail only once.
func ExampleBreaker() {
	broker := brokertest.New()
	defer broker.Close()
	ctx := context.Background()
	breaker, err := limit.NewBreaker(limit.BreakerConfig{
		Attempts: 2, Share: 1, Pause: 20 * time.Millisecond,
		Failure: func(err error) bool { return err != nil },
		Changed: func(state limit.State, err error) { fmt.Println("the breaker is", state, err) },
	})
	if err != nil {
		log.Fatal(err)
	}
	setup, err := harebus.New(harebus.Config{
		Dial: broker.Dial, Queue: "charges", Consume: harebus.ConsumeConfig{Concurrency: 1},
		Retry:    harebus.RetryConfig{MaxRetries: 1},
		Handling: harebus.HandlingConfig{Middleware: []harebus.Middleware{breaker.For("Charge")}},
	})
	if err != nil {
		log.Fatal(err)
	}
	calls := 0
	harebus.Handle(setup, func(_ context.Context, _ *harebus.Bus, c Charge) error {
		if calls++; calls <= 3 {
			return harebus.RetryAfter(0, errors.New("503 Service Unavailable"))
		}
		return nil
	})
	if err := setup.Start(ctx); err != nil {
		log.Fatal(err)
	}
	defer setup.Close()

	for i := range 10 {
		if err := setup.Bus().Send(ctx, "charges", Charge{ID: i}); err != nil {
			log.Fatal(err)
		}
	}
	if err := broker.WaitQuiet(ctx); err != nil {
		log.Fatal(err)
	}
	fmt.Println("handled:", setup.Stats().Handled, "parked:", setup.Stats().Parked)
	// Output:
	// the breaker is open 503 Service Unavailable
	// the breaker is probing <nil>
	// the breaker is open 503 Service Unavailable
	// the breaker is probing <nil>
	// the breaker is closed <nil>
	// handled: 10 parked: 0
}

// A provider allows two calls at once. The limit can be changed while the service runs.
func ExampleLimiter() {
	broker := brokertest.New()
	defer broker.Close()
	ctx := context.Background()
	provider, err := limit.New(limit.Limits{Rate: 1000, Burst: 10, Concurrency: 2})
	if err != nil {
		log.Fatal(err)
	}
	setup, err := harebus.New(harebus.Config{
		Dial: broker.Dial, Queue: "charges",
		Handling: harebus.HandlingConfig{Middleware: []harebus.Middleware{provider.For("Charge")}},
	})
	if err != nil {
		log.Fatal(err)
	}
	harebus.Handle(setup, func(context.Context, *harebus.Bus, Charge) error { return nil })
	if err := setup.Start(ctx); err != nil {
		log.Fatal(err)
	}
	defer setup.Close()

	if err := provider.Set(limit.Limits{Rate: 500, Concurrency: 1}); err != nil {
		log.Fatal(err)
	}
	if err := setup.Bus().Send(ctx, "charges", Charge{ID: 1}); err != nil {
		log.Fatal(err)
	}
	if err := broker.WaitQuiet(ctx); err != nil {
		log.Fatal(err)
	}
	fmt.Println("handled:", setup.Stats().Handled, "limits:", provider.Limits())
	fmt.Println(provider.Set(limit.Limits{Rate: -1}))
	// Output:
	// handled: 1 limits: {500 1 1}
	// limit: set limits: Rate -1 is neither 0 nor a number from 0.000001
}
