package pulse_test

import (
	"context"
	"fmt"
	"log"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/brokertest"
	"github.com/harebus/harebus/pulse"
)

// A service says how it is, and takes orders. The commands harebus status, top and control do
// the same from outside.
func Example() {
	broker := brokertest.New()
	defer broker.Close()
	ctx, stop := context.WithCancel(context.Background())
	defer stop()

	p, err := pulse.New(pulse.Config{Version: "1.8.2", Control: true})
	if err != nil {
		log.Fatal(err)
	}
	cfg := harebus.Config{Dial: broker.Dial, Queue: "orders"}
	p.Use(&cfg)
	setup, err := harebus.New(cfg)
	if err != nil {
		log.Fatal(err)
	}
	handled := make(chan int)
	harebus.Handle(setup, func(_ context.Context, _ *harebus.Bus, m place) error { handled <- m.ID; return nil })
	if err := setup.Start(ctx); err != nil {
		log.Fatal(err)
	}
	defer setup.Close()
	go func() { _ = p.Serve(ctx, setup) }() // the service does not depend on it

	if err := setup.Bus().Send(ctx, "orders", place{7}); err != nil {
		log.Fatal(err)
	}
	fmt.Println("handled", <-handled)

	client, err := pulse.Open(pulse.ClientConfig{Connect: harebus.ConnectConfig{URLs: []string{broker.URL()}}, Dial: broker.Dial})
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()
	var round *pulse.Round
	for round = new(pulse.Round); len(round.Answers) == 0; { // it takes a moment until the service can be asked
		if round, err = client.Ask(ctx, pulse.Target{Queue: "orders"}); err != nil {
			log.Fatal(err)
		}
	}
	a := round.Answers[0]
	fmt.Println(a.Service, a.Version, "ready:", a.NotReady == "", "delivered:", a.Queues[0].Delivered)

	round, err = client.Control(ctx, pulse.Target{Queue: "orders"}, pulse.Order{Do: pulse.Pause, Queue: "orders"})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("paused:", round.Answers[0].Queues[0].Paused, setup.Stats().Paused)
	// Output:
	// handled 7
	// orders 1.8.2 ready: true delivered: 1
	// paused: true true
}
