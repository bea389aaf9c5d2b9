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
	cfg.Queue = "examples.requester" // the reply queue's name begins with it; nothing is started or consumed
	setup, err := harebus.New(cfg)
	if err != nil {
		return err
	}
	for _, article := range articles {
		price, err := harebus.Request[Price](ctx, setup.Bus(), "examples.prices", PriceRequest{Article: article})
		var fault *harebus.FaultError
		switch {
		case errors.Is(err, harebus.ErrUnroutable):
			return errors.Join(errors.New("start the responder first: go run ./examples/requestreply/responder"), setup.Close())
		case errors.As(err, &fault): // the responder's handler failed
			fmt.Fprintf(out, "%s: no price: %s\n", article, fault.Details)
		case err != nil:
			return errors.Join(err, setup.Close())
		default:
			fmt.Fprintf(out, "%s: %d.%02d\n", price.Article, price.Cents/100, price.Cents%100)
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
