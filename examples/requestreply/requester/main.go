// Command requester sends requests and waits for the replies. It needs ../responder
// running; without it a request returns an error at once.
//
//	go run ./examples/requestreply/requester lamp chair     (AMQP_URL names another broker than the local one)
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

func run(ctx context.Context, cfg harebus.Config, out io.Writer, articles ...string) error {
	cfg.Queue = "examples.requester" // replies come here
	setup, err := harebus.New(cfg)
	if err != nil {
		return err
	}
	replies := make(chan Price, len(articles))
	harebus.Handle(setup, func(_ context.Context, _ *harebus.Bus, p Price) error {
		select {
		case replies <- p:
		default: // a reply to a request of an earlier run
		}
		return nil
	})
	if err := setup.Start(ctx); err != nil {
		return err
	}
	for _, article := range articles {
		err := setup.Bus().Send(ctx, "examples.prices", PriceRequest{Article: article})
		if errors.Is(err, harebus.ErrUnroutable) {
			return errors.Join(errors.New("start the responder first: go run ./examples/requestreply/responder"), setup.Close())
		}
		if err != nil {
			return errors.Join(err, setup.Close())
		}
	}
	for range articles {
		select {
		case p := <-replies:
			fmt.Fprintf(out, "%s: %d.%02d\n", p.Article, p.Cents/100, p.Cents%100)
		case <-ctx.Done():
			return errors.Join(fmt.Errorf("no reply: %w", context.Cause(ctx)), setup.Close())
		}
	}
	return setup.Close()
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	ctx, cancel := context.WithTimeout(ctx, 15*time.Second)
	articles := os.Args[1:]
	if len(articles) == 0 {
		articles = []string{"lamp"}
	}
	logger := zap.Must(zap.NewProduction(zap.IncreaseLevel(zap.WarnLevel)))
	err := run(ctx, harebus.Config{URL: os.Getenv("AMQP_URL"), Logger: logger}, os.Stdout, articles...)
	cancel()
	stop()
	if err != nil {
		log.Fatal(err)
	}
}
