// Command basic is the smallest service: one queue, one handler, and one command
// that it sends to itself.
//
//	go run ./examples/basic     (AMQP_URL names another broker than the local one)
package main

import (
	"context"
	"fmt"
	"io"
	"log"
	"os"
	"os/signal"

	"github.com/harebus/harebus"
	"go.uber.org/zap"
)

// Greet is a command. Its wire name is the same in every language on the bus.
type Greet struct{ Name string }

// MessageType is the wire name.
func (Greet) MessageType() string { return "Greet" }

func run(ctx context.Context, cfg harebus.Config, out io.Writer) error {
	cfg.Queue = "examples.basic"
	setup, err := harebus.New(cfg)
	if err != nil {
		return err
	}
	greeted := make(chan struct{}, 1)
	harebus.Handle(setup, func(_ context.Context, _ *harebus.Bus, g Greet) error {
		fmt.Fprintf(out, "Hello, %s.\n", g.Name)
		greeted <- struct{}{}
		return nil
	})

	if err := setup.Start(ctx); err != nil {
		return err
	}
	if err := setup.Bus().Send(ctx, "examples.basic", Greet{Name: "world"}); err != nil {
		return err
	}
	select { // a real service calls setup.Run(ctx) instead, and goes on until ctx ends
	case <-greeted:
	case <-ctx.Done():
	}
	return setup.Close() // lets the handler finish, then disconnects
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
