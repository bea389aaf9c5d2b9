// Command publish publishes events: each goes to everybody who subscribed to its
// topic, and the publisher does not know who that is.
//
//	go run ./examples/publish     (AMQP_URL names another broker than the local one)
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"os"
	"os/signal"

	"github.com/harebus/harebus"
	"go.uber.org/zap"
)

// OrderPlaced is an event.
type OrderPlaced struct{ ID int }

// MessageType is the wire name.
func (OrderPlaced) MessageType() string { return "OrderPlaced" }

// Topic is the topic that PublishEvent publishes to and HandleEvent subscribes to.
func (OrderPlaced) Topic() string { return "order.placed" }

// subscribe starts a service that handles the event. Its queue is bound to the
// event's topic, and to others.
func subscribe(ctx context.Context, cfg harebus.Config, heard chan<- string, queue string, topics ...string) (*harebus.Setup, error) {
	cfg.Queue = queue
	cfg.Subscriptions = topics
	setup, err := harebus.New(cfg)
	if err != nil {
		return nil, err
	}
	harebus.HandleEvent(setup, func(ctx context.Context, _ *harebus.Bus, event OrderPlaced) error {
		heard <- fmt.Sprintf("%s heard of order %d by %q", queue, event.ID, harebus.Incoming(ctx).RoutingKey)
		return nil
	})
	return setup, setup.Start(ctx)
}

func run(ctx context.Context, cfg harebus.Config, out io.Writer) error {
	bills, parcels := make(chan string, 2), make(chan string, 2)
	billing, err := subscribe(ctx, cfg, bills, "examples.billing")
	if err != nil {
		return err
	}
	parcel, err := subscribe(ctx, cfg, parcels, "examples.parcels", "order.*.express") // * is one word
	if err != nil {
		return err
	}
	publisher, err := harebus.New(cfg)
	if err != nil {
		return err
	}
	bus := publisher.Bus()

	if err := bus.PublishEvent(ctx, OrderPlaced{ID: 7}); err != nil {
		return err
	}
	fmt.Fprintln(out, <-bills)
	fmt.Fprintln(out, <-parcels)

	if err := bus.Publish(ctx, "order.placed.express", OrderPlaced{ID: 8}); err != nil {
		return err
	}
	fmt.Fprintln(out, <-parcels)

	// Nobody subscribes to this one. Without NonMandatory that is an error. The field
	// Config.Publish.OptionalEvents allows it for all events, a method OptionalEvent for
	// those of a type.
	err = bus.Publish(ctx, "examples.unheard", OrderPlaced{ID: 9})
	fmt.Fprintln(out, "nobody subscribed:", errors.Is(err, harebus.ErrUnroutable))
	err = bus.Publish(ctx, "examples.unheard", OrderPlaced{ID: 9}, harebus.NonMandatory())
	fmt.Fprintln(out, "and nobody need to:", err)

	return errors.Join(publisher.Close(), billing.Close(), parcel.Close())
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
