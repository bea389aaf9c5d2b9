package harebus_test

import (
	"context"
	"errors"
	"log"
	"log/slog"
	"os"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/brokertest"
)

// A program that logs with log/slog hands over its handler.
func ExampleSlogLogger() {
	handler := slog.NewTextHandler(os.Stdout, &slog.HandlerOptions{
		Level: slog.LevelError,
		ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
			if a.Key == slog.TimeKey {
				return slog.Attr{} // it would be another in each run
			}
			return a
		},
	})

	broker := brokertest.New()
	defer broker.Close()
	ctx := context.Background()
	setup, err := harebus.New(harebus.Config{Dial: broker.Dial, Queue: "orders", Logger: harebus.SlogLogger(handler)})
	if err != nil {
		log.Fatal(err)
	}
	harebus.Handle(setup, func(context.Context, *harebus.Bus, PlaceOrder) error {
		return harebus.NoRetry(errors.New("sold out"))
	})
	if err := setup.Start(ctx); err != nil {
		log.Fatal(err)
	}
	defer setup.Close()
	if err := setup.Bus().Send(ctx, "orders", PlaceOrder{ID: 1}, harebus.WithMessageID("order-1"), harebus.WithCorrelationID("customer-7")); err != nil {
		log.Fatal(err)
	}
	if err := broker.WaitQuiet(ctx, "error"); err != nil {
		log.Fatal(err)
	}
	// Output:
	// level=ERROR msg="message moved to the error queue" queue=orders consumer=0 logger=consumer message_id=order-1 message_type=PlaceOrder attempt=1 correlation_id=customer-7 error_queue=error error="sold out"
}
