package harebus_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"time"

	"github.com/cenkalti/backoff/v4"
	"github.com/harebus/harebus"
	"github.com/harebus/harebus/brokertest"
)

// The error a handler returns is the instruction; Config.Retry has the rules for
// errors that say nothing.
func ExampleRetryConfig() {
	broker := brokertest.New()
	defer broker.Close()
	ctx := context.Background()
	errEmpty := errors.New("the account is empty")

	setup, err := harebus.New(harebus.Config{
		Dial: broker.Dial, Queue: "orders",
		Retry: harebus.RetryConfig{
			MaxRetries: 2,
			BackOff:    func() backoff.BackOff { return backoff.NewConstantBackOff(20 * time.Millisecond) },
			Rules:      []harebus.RetryRule{{Match: harebus.MatchIs(errEmpty), MaxRetries: 1}},
		},
	})
	if err != nil {
		log.Fatal(err)
	}
	harebus.Handle(setup, func(ctx context.Context, _ *harebus.Bus, cmd PlaceOrder) error {
		fmt.Printf("order %d, attempt %d\n", cmd.ID, harebus.Incoming(ctx).Attempt)
		switch cmd.ID {
		case 1:
			return errors.New("the bank is busy") // twice more
		case 2:
			return errEmpty // once more
		default:
			return harebus.NoRetry(errors.New("no such account"))
		}
	})
	if err := setup.Start(ctx); err != nil {
		log.Fatal(err)
	}
	defer setup.Close()

	for id := 1; id <= 3; id++ {
		if err := setup.Bus().Send(ctx, "orders", PlaceOrder{ID: id}); err != nil {
			log.Fatal(err)
		}
		if err := broker.WaitQuiet(ctx, "error"); err != nil {
			log.Fatal(err)
		}
	}
	for _, m := range broker.Messages("error") {
		fmt.Printf("%s parked: %v\n", m.Body, m.Headers["PikaBus.ErrorDetails"])
	}
	// Output:
	// order 1, attempt 1
	// order 1, attempt 2
	// order 1, attempt 3
	// order 2, attempt 1
	// order 2, attempt 2
	// order 3, attempt 1
	// {"ID":1} parked: the bank is busy
	// {"ID":2} parked: the account is empty
	// {"ID":3} parked: no such account
}

// An ErrorHandler has the last word. It is given what the retry policy proposes.
func ExampleErrorHandler() {
	broker := brokertest.New()
	defer broker.Close()
	ctx := context.Background()
	errOutdated := errors.New("the order is outdated")

	setup, err := harebus.New(harebus.Config{
		Dial: broker.Dial, Queue: "orders",
		Retry: harebus.RetryConfig{
			MaxRetries: 1,
			BackOff:    func() backoff.BackOff { return backoff.NewConstantBackOff(10 * time.Millisecond) },
		},
		Handling: harebus.HandlingConfig{ErrorHandler: func(_ *harebus.Message, err error, proposed harebus.Decision) harebus.Decision {
			if errors.Is(err, errOutdated) {
				return harebus.Discard()
			}
			fmt.Println("proposed:", proposed)
			return proposed
		}},
	})
	if err != nil {
		log.Fatal(err)
	}
	harebus.Handle(setup, func(_ context.Context, _ *harebus.Bus, cmd PlaceOrder) error {
		if cmd.ID == 1 {
			return errOutdated
		}
		return errors.New("try me again")
	})
	if err := setup.Start(ctx); err != nil {
		log.Fatal(err)
	}
	defer setup.Close()

	for id := 1; id <= 2; id++ {
		if err := setup.Bus().Send(ctx, "orders", PlaceOrder{ID: id}); err != nil {
			log.Fatal(err)
		}
	}
	if err := broker.WaitQuiet(ctx, "error"); err != nil {
		log.Fatal(err)
	}
	stats := setup.Stats()
	fmt.Printf("failed %d, retried %d, discarded %d, parked %d\n", stats.Failed, stats.Retried, stats.Discarded, stats.Parked)
	// Output:
	// proposed: retry in 10ms
	// proposed: park
	// failed 3, retried 1, discarded 1, parked 1
}

// A handler that may run for hours has a lease: its message is acknowledged before it runs, and a copy in the broker is
// extended meanwhile. If the process died, another instance would get it within a minute.
func ExampleWithLease() {
	broker := brokertest.New(brokertest.WithConsumerTimeout(time.Second)) // 30 minutes by default
	defer broker.Close()
	ctx := context.Background()
	setup, err := harebus.New(harebus.Config{Dial: broker.Dial, Queue: "orders"})
	if err != nil {
		log.Fatal(err)
	}
	done := make(chan struct{})
	harebus.Handle(setup, func(_ context.Context, _ *harebus.Bus, o PlaceOrder) error {
		time.Sleep(2 * time.Second)
		queue, _ := broker.Queue("orders")
		fmt.Println("order", o.ID, "took long;", queue.Unacked, "messages are unacknowledged")
		close(done)
		return nil
	}, harebus.WithLease(time.Minute))
	if err := setup.Start(ctx); err != nil {
		log.Fatal(err)
	}
	if err := setup.Bus().Send(ctx, "orders", PlaceOrder{ID: 7}); err != nil {
		log.Fatal(err)
	}
	<-done
	if err := setup.Close(); err != nil {
		log.Fatal(err)
	}
	fmt.Println("handled:", setup.Stats().Handled, "failed:", setup.Stats().Failed)
	// Output:
	// order 7 took long; 0 messages are unacknowledged
	// handled: 1 failed: 0
}
