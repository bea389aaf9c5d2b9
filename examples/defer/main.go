// Command defer sends messages that arrive later. They wait in durable queues of
// the broker, so this process may end and the broker may restart.
//
//	go run ./examples/defer     (AMQP_URL names another broker than the local one)
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"os"
	"os/signal"
	"time"

	"github.com/harebus/harebus"
	"go.uber.org/zap"
)

// Remind is a command.
type Remind struct{ Of string }

// MessageType is the wire name.
func (Remind) MessageType() string { return "Remind" }

func run(ctx context.Context, cfg harebus.Config, out io.Writer) error {
	cfg.Queue = "examples.reminders"
	setup, err := harebus.New(cfg)
	if err != nil {
		return err
	}
	reminded := make(chan struct{}, 2)
	harebus.Handle(setup, func(ctx context.Context, _ *harebus.Bus, r Remind) error {
		early := time.Now().Before(harebus.Incoming(ctx).DeferredUntil)
		fmt.Fprintf(out, "reminder: %s (early: %t)\n", r.Of, early)
		reminded <- struct{}{}
		return nil
	})
	if err := setup.Start(ctx); err != nil {
		return err
	}

	// The longer delay is sent first: it does not hold up the shorter one.
	bus := setup.Bus()
	if err := bus.Defer(ctx, "examples.reminders", 2*time.Second, Remind{Of: "tea"}); err != nil {
		return err
	}
	if err := bus.Defer(ctx, "examples.reminders", 500*time.Millisecond, Remind{Of: "water"}); err != nil {
		return err
	}
	fmt.Fprintln(out, "deferred two reminders")
	<-reminded
	<-reminded

	err = bus.Defer(ctx, "examples.nobody", time.Second, Remind{Of: "nothing"})
	fmt.Fprintln(out, "a queue that does not exist is an error now, not later:", errors.Is(err, harebus.ErrUnroutable))
	return setup.Close()
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
