package harebus_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v4"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/brokertest"
)

// follower prints how each attempt to handle a message ends, and whose work it continues.
type follower struct{ done sync.WaitGroup }

type traceKey struct{}

// ObserveStart takes the trace from the message or the context, and gives it to what is sent.
func (*follower) ObserveStart(ctx context.Context, o harebus.Observation) context.Context {
	if o.Operation == harebus.OpHandle {
		ctx = context.WithValue(ctx, traceKey{}, o.Incoming.Headers["trace"])
	}
	if trace := ctx.Value(traceKey{}); trace != nil && o.Headers != nil {
		o.Headers["trace"] = trace
	}
	return ctx
}

func (f *follower) ObserveEnd(ctx context.Context, o harebus.Observation, err error) {
	if o.Operation == harebus.OpHandle {
		fmt.Fprintf(os.Stdout, "%v: attempt %d of %s was %v, error %v\n", ctx.Value(traceKey{}), o.Incoming.Attempt, o.Incoming.Type, o.Outcome, err)
		f.done.Done()
	}
}

// An Observer sees the start and the end of every operation. This one follows a message
// through its retry, by a header that it adds to everything that is sent.
func ExampleObserver() {
	broker := brokertest.New()
	defer broker.Close()
	ctx := context.WithValue(context.Background(), traceKey{}, "trace-1")
	follow := &follower{}
	follow.done.Add(2)
	setup, err := harebus.New(harebus.Config{
		Dial: broker.Dial, Queue: "orders", Consume: harebus.ConsumeConfig{Concurrency: 1},
		Observers: []harebus.Observer{follow},
		Retry:     harebus.RetryConfig{BackOff: func() backoff.BackOff { return backoff.NewConstantBackOff(time.Millisecond) }},
	})
	if err != nil {
		log.Fatal(err)
	}
	harebus.Handle(setup, func(ctx context.Context, _ *harebus.Bus, _ PlaceOrder) error {
		if harebus.Incoming(ctx).Attempt == 1 {
			return errors.New("no connection to the database")
		}
		return nil
	})
	if err := setup.Start(ctx); err != nil {
		log.Fatal(err)
	}
	defer setup.Close()
	if err := setup.Bus().Send(ctx, "orders", PlaceOrder{ID: 7}); err != nil {
		log.Fatal(err)
	}
	follow.done.Wait()
	// Output:
	// trace-1: attempt 1 of PlaceOrder was retried, error no connection to the database
	// trace-1: attempt 2 of PlaceOrder was handled, error <nil>
}

// Stats has counts and times by message type, for a page or an exporter.
func ExampleSetup_Stats() {
	broker := brokertest.New()
	defer broker.Close()
	ctx := context.Background()
	setup, err := harebus.New(harebus.Config{Dial: broker.Dial, Queue: "orders"})
	if err != nil {
		log.Fatal(err)
	}
	harebus.Handle(setup, func(context.Context, *harebus.Bus, PlaceOrder) error { return nil })
	if err := setup.Start(ctx); err != nil {
		log.Fatal(err)
	}
	for id := range 3 {
		if err := setup.Bus().Send(ctx, "orders", PlaceOrder{ID: id}); err != nil {
			log.Fatal(err)
		}
	}
	if err := broker.WaitQuiet(ctx); err != nil {
		log.Fatal(err)
	}
	if err := setup.Close(); err != nil {
		log.Fatal(err)
	}
	orders := setup.Stats().Types["PlaceOrder"]
	fmt.Println("handled:", orders.Handled, "failed:", orders.Failed)
	fmt.Println("99 of 100 were done within a minute of their sending:", orders.CriticalTime.Quantile(0.99) <= time.Minute)
	fmt.Println("buckets:", len(orders.HandlingTime.Counts), "up to", slices.Max(harebus.HistogramBounds()))
	// Output:
	// handled: 3 failed: 0
	// 99 of 100 were done within a minute of their sending: true
	// buckets: 27 up to 24h0m0s
}
