package order_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"time"

	"github.com/cenkalti/backoff/v4"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/brokertest"
	"github.com/harebus/harebus/order"
)

// Change is a change of an account.
type Change struct {
	Account string
	N       int
}

func (Change) MessageType() string { return "Change" }

// The first attempt at the second change of an account fails. The third one waits for it.
func Example() {
	broker := brokertest.New()
	defer broker.Close()
	ctx := context.Background()
	setup, err := harebus.New(harebus.Config{
		Dial: broker.Dial, Queue: "accounts",
		Consume: harebus.ConsumeConfig{Concurrency: 20, Order: &order.Config{GiveUp: order.HoldKey}},
		Retry:   harebus.RetryConfig{BackOff: func() backoff.BackOff { return backoff.NewConstantBackOff(50 * time.Millisecond) }},
	})
	if err != nil {
		log.Fatal(err)
	}
	done := make(chan struct{})
	harebus.Handle(setup, func(ctx context.Context, _ *harebus.Bus, c Change) error {
		if attempt := harebus.Incoming(ctx).Attempt; c.N == 2 && attempt == 1 {
			fmt.Println("change 2 of", c.Account, "fails")
			return errors.New("the database is away")
		}
		fmt.Println("change", c.N, "of", c.Account)
		if c.N == 3 {
			close(done)
		}
		return nil
	})
	if err := setup.Start(ctx); err != nil {
		log.Fatal(err)
	}
	defer setup.Close()
	for n := 1; n <= 3; n++ {
		if err := setup.Bus().Send(ctx, "accounts", Change{"ann", n}, harebus.WithKey("ann")); err != nil {
			log.Fatal(err)
		}
	}
	<-done
	// Output:
	// change 1 of ann
	// change 2 of ann fails
	// change 2 of ann
	// change 3 of ann
}
