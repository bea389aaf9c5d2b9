package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/brokertest"
)

func Example() {
	ctx := context.Background()
	broker := brokertest.New()
	defer broker.Close()
	responder, err := harebus.New(harebus.Config{Dial: broker.Dial, Queue: "examples.prices"})
	if err != nil {
		fmt.Println(err)
		return
	}
	harebus.Handle(responder, func(ctx context.Context, bus *harebus.Bus, r PriceRequest) error {
		if r.Article == "ghost" {
			return harebus.NoRetry(errors.New("there is no ghost"))
		}
		return bus.Reply(ctx, Price{Article: r.Article, Cents: 1995})
	})
	if err := responder.Start(ctx); err != nil {
		fmt.Println(err)
		return
	}
	defer responder.Close()
	if err := run(ctx, harebus.Config{Dial: broker.Dial}, os.Stdout, "lamp", "ghost"); err != nil {
		fmt.Println(err)
	}
	// Output:
	// lamp: 19.95
	// ghost: no price: there is no ghost
}

func TestRunWithoutResponder(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	broker := brokertest.New()
	defer broker.Close()
	err := run(ctx, harebus.Config{Dial: broker.Dial}, io.Discard, "lamp")
	if err == nil || !strings.Contains(err.Error(), "start the responder") {
		t.Fatalf("got %v, want the advice to start the responder", err)
	}
}
