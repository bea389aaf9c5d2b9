// Command send sends commands: each goes to one queue, and the call returns when
// the broker has confirmed the message. If no queue takes the message, the call
// returns an error.
//
//	go run ./examples/send     (AMQP_URL names another broker than the local one)
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"os"
	"os/signal"
	"sync"

	"github.com/harebus/harebus"
	"go.uber.org/zap"
)

// ShipOrder is a command.
type ShipOrder struct{ ID int }

// MessageType is the wire name.
func (ShipOrder) MessageType() string { return "ShipOrder" }

func run(ctx context.Context, cfg harebus.Config, out io.Writer) error {
	var handled sync.WaitGroup
	handled.Add(2)

	// The receiver owns the queue and declares it; the sender never declares it.
	receiver := cfg
	receiver.Queue = "examples.shipping"
	receiver.Consume.Concurrency = 1 // one after the other, in the order of the queue
	shipping, err := harebus.New(receiver)
	if err != nil {
		return err
	}
	harebus.Handle(shipping, func(ctx context.Context, _ *harebus.Bus, order ShipOrder) error {
		m := harebus.Incoming(ctx) // everything that came with the message
		fmt.Fprintf(out, "shipping order %d, asked for by %v\n", order.ID, m.Headers["department"])
		handled.Done()
		return nil
	})
	if err := shipping.Start(ctx); err != nil {
		return err
	}

	// The sender has no queue of its own and need not be started.
	sender, err := harebus.New(cfg)
	if err != nil {
		return err
	}
	bus := sender.Bus()
	for id := 1; id <= 2; id++ {
		if err := bus.Send(ctx, "examples.shipping", ShipOrder{ID: id}, harebus.WithHeader("department", "sales")); err != nil {
			return err
		}
	}
	handled.Wait()

	// No service owns this queue, so the broker gives the message back.
	err = bus.Send(ctx, "examples.nobody", ShipOrder{ID: 3})
	var publishing *harebus.PublishError
	if errors.As(err, &publishing) {
		fmt.Fprintf(out, "order 3 was %s: no queue for key %q\n", publishing.Outcome, publishing.RoutingKey)
	}
	return errors.Join(sender.Close(), shipping.Close())
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	logger := zap.Must(zap.NewProduction(zap.IncreaseLevel(zap.WarnLevel)))
	err := run(ctx, harebus.Config{URL: os.Getenv("AMQP_URL"), Logger: logger}, os.Stdout)
	stop()
	if err != nil {
		log.Fatal(err)
	}
}
