package failed_test

import (
	"context"
	"errors"
	"fmt"
	"log"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/brokertest"
	"github.com/harebus/harebus/failed"
)

// Print is a command whose handler fails.
type Print struct{ Page int }

func (Print) MessageType() string { return "Print" }

// One service publishes an event for each message that it gives up, and another has subscribed to them.
func Example() {
	ctx := context.Background()
	broker := brokertest.New()
	defer broker.Close()
	printer, err := harebus.New(harebus.Config{
		Queue: "printer", Dial: broker.Dial,
		Handling: harebus.HandlingConfig{GivenUp: failed.Publish},
	})
	if err != nil {
		log.Fatal(err)
	}
	harebus.Handle(printer, func(context.Context, *harebus.Bus, Print) error {
		return harebus.NoRetry(errors.New("no such page"))
	})
	watch, err := harebus.New(harebus.Config{Queue: "watch", Subscriptions: []string{"failed.#"}, Dial: broker.Dial})
	if err != nil {
		log.Fatal(err)
	}
	harebus.Handle(watch, func(_ context.Context, _ *harebus.Bus, e failed.Event) error {
		fmt.Println(e.Type, e.MessageID, "failed in", e.Queue, "after", e.Attempts, "attempt:", e.Kind)
		return nil
	})
	for _, s := range []*harebus.Setup{watch, printer} {
		if err := s.Start(ctx); err != nil {
			log.Fatal(err)
		}
	}
	if err := printer.Bus().Send(ctx, "printer", Print{99}, harebus.WithMessageID("p-1")); err != nil {
		log.Fatal(err)
	}
	if err := broker.WaitQuiet(ctx, "error"); err != nil {
		log.Fatal(err)
	}
	for _, s := range []*harebus.Setup{printer, watch} {
		if err := s.Close(); err != nil {
			log.Fatal(err)
		}
	}
	// Output:
	// Print p-1 failed in printer after 1 attempt: error
}
