// Command responder answers requests until it is told to stop. Start it, then
// ../requester in another terminal.
//
//	go run ./examples/requestreply/responder     (AMQP_URL names another broker than the local one)
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"os"
	"os/signal"
	"syscall"

	"github.com/harebus/harebus"
	"go.uber.org/zap"
)

// PriceRequest asks for the price of something.
type PriceRequest struct{ Article string }

// MessageType is the wire name.
func (PriceRequest) MessageType() string { return "PriceRequest" }

// Price is the reply.
type Price struct {
	Article string
	Cents   int
}

// MessageType is the wire name.
func (Price) MessageType() string { return "Price" }

func run(ctx context.Context, cfg harebus.Config, out io.Writer) error {
	cfg.Queue = "examples.prices"
	cfg.Reply.Policy = harebus.RepliesTo("examples.requester") // a message can name any address
	setup, err := harebus.New(cfg)
	if err != nil {
		return err
	}
	harebus.Handle(setup, func(ctx context.Context, bus *harebus.Bus, r PriceRequest) error {
		fmt.Fprintf(out, "asked for the price of %s\n", r.Article)
		if r.Article == "" {
			return harebus.NoRetry(errors.New("no article is named")) // the requester is told
		}
		// The reply goes to the address in the request, with its correlation id. It
		// is sent when this function has returned nil.
		return bus.Reply(ctx, Price{Article: r.Article, Cents: 100 * len(r.Article)})
	})
	return setup.Run(ctx)
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	logger := zap.Must(zap.NewProduction())
	err := run(ctx, harebus.Config{URL: os.Getenv("AMQP_URL"), Logger: logger}, os.Stdout)
	stop()
	if err != nil {
		log.Fatal(err)
	}
}
