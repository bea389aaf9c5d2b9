package dedup_test

import (
	"context"
	"fmt"
	"log"
	"time"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/brokertest"
	"github.com/harebus/harebus/dedup"
)

// Charge is a command that must not be carried out twice.
type Charge struct{ Amount int }

func (Charge) MessageType() string { return "Charge" }

// A sender that does not know whether its command arrived sends it again, with the same id.
func Example() {
	broker := brokertest.New()
	defer broker.Close()
	ctx := context.Background()
	cfg := harebus.Config{Dial: broker.Dial, Queue: "charges"}
	d := dedup.New(dedup.Config{Keep: 24 * time.Hour})
	if err := d.Apply(&cfg); err != nil {
		log.Fatal(err)
	}
	setup, err := harebus.New(cfg)
	if err != nil {
		log.Fatal(err)
	}
	if err := d.Serve(setup); err != nil {
		log.Fatal(err)
	}
	harebus.Handle(setup, func(_ context.Context, _ *harebus.Bus, c Charge) error {
		fmt.Println("charged", c.Amount)
		return nil
	})
	if err := setup.Start(ctx); err != nil {
		log.Fatal(err)
	}
	defer setup.Close()
	for range 2 {
		if err := setup.Bus().Send(ctx, "charges", Charge{5}, harebus.WithMessageID("charge-1")); err != nil {
			log.Fatal(err)
		}
	}
	if err := setup.Bus().Send(ctx, "charges", Charge{7}); err != nil {
		log.Fatal(err)
	}
	wait, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	if err := broker.WaitQuiet(wait); err != nil {
		log.Fatal(err)
	}
	// Unordered output:
	// charged 5
	// charged 7
}
