package otelbus_test

import (
	"context"
	"errors"
	"log"
	"os"
	"time"

	"github.com/cenkalti/backoff/v4"
	sdk "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/brokertest"
	"github.com/harebus/harebus/otelbus"
)

// The spans of a message that fails once are one trace. The second attempt has a link to the first, and none of them has the
// status of an error, because the message was handled in the end. A program gives the spans to an exporter; this one keeps them
// and prints them as a tree, with the links after an arrow.
func Example() {
	broker := brokertest.New()
	defer broker.Close()
	ctx := context.Background()
	spans := tracetest.NewSpanRecorder()
	telemetry, err := otelbus.New(otelbus.Config{TracerProvider: sdk.NewTracerProvider(sdk.WithSpanProcessor(spans))})
	if err != nil {
		log.Fatal(err)
	}
	setup, err := harebus.New(harebus.Config{
		Dial: broker.Dial, Queue: "orders", Consume: harebus.ConsumeConfig{Concurrency: 1},
		Observers: []harebus.Observer{telemetry},
		Retry:     harebus.RetryConfig{BackOff: func() backoff.BackOff { return backoff.NewConstantBackOff(time.Millisecond) }},
	})
	if err != nil {
		log.Fatal(err)
	}
	harebus.Handle(setup, func(ctx context.Context, bus *harebus.Bus, o PlaceOrder) error {
		if harebus.Incoming(ctx).Attempt == 1 {
			return errors.New("no connection to the database")
		}
		return bus.Publish(ctx, "orders.placed", OrderPlaced(o))
	})
	if err := setup.Start(ctx); err != nil {
		log.Fatal(err)
	}
	if err := setup.Bus().Send(ctx, "orders", PlaceOrder{ID: 7}); err != nil {
		log.Fatal(err)
	}
	if err := broker.WaitQuiet(ctx); err != nil {
		log.Fatal(err)
	}
	if err := setup.Close(); err != nil {
		log.Fatal(err)
	}
	tree(os.Stdout, spans.Ended())
	// Output:
	// trace 1
	//   send orders
	//     process orders (1: retried)
	//       retry orders
	//     process orders (2: handled) → process orders (1: retried)
	//       publish PikaBusTopic
	//       commit → publish PikaBusTopic
}
