// Command middleware wraps every handler and every sent message. Here one
// middleware passes on a tenant in a header, and another prints a line for each
// message.
//
//	go run ./examples/middleware     (AMQP_URL names another broker than the local one)
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

// Count is a command.
type Count struct{ Down int }

// MessageType is the wire name.
func (Count) MessageType() string { return "Count" }

type tenantKey struct{}

// carryTenant writes the tenant of the context into each outgoing message.
func carryTenant(next harebus.SendFunc) harebus.SendFunc {
	return func(ctx context.Context, m *harebus.Outgoing) error {
		tenant, ok := ctx.Value(tenantKey{}).(string)
		if !ok {
			return errors.New("no tenant") // the call returns it, and nothing is sent
		}
		m.Headers["tenant"] = tenant
		return next(ctx, m)
	}
}

// readTenant gives handlers the tenant of their message.
func readTenant(next harebus.HandlerFunc) harebus.HandlerFunc {
	return func(ctx context.Context, bus *harebus.Bus, m *harebus.Message) error {
		tenant, ok := m.Headers["tenant"].(string)
		if !ok {
			return harebus.NoRetry(errors.New("the message has no tenant"))
		}
		return next(context.WithValue(ctx, tenantKey{}, tenant), bus, m)
	}
}

// report writes a line for each message that was handled.
func report(out io.Writer) harebus.Middleware {
	return func(next harebus.HandlerFunc) harebus.HandlerFunc {
		return func(ctx context.Context, bus *harebus.Bus, m *harebus.Message) error {
			err := next(ctx, bus, m)
			fmt.Fprintf(out, "%s %s of %v: %v\n", m.Type, m.Body, ctx.Value(tenantKey{}), err)
			return err
		}
	}
}

func run(ctx context.Context, cfg harebus.Config, out io.Writer) error {
	const queue = "examples.counting"
	cfg.Queue = queue
	cfg.Handling.Middleware = []harebus.Middleware{readTenant, report(out)} // the first one is outermost
	cfg.Publish.Middleware = []harebus.SendMiddleware{carryTenant}
	setup, err := harebus.New(cfg)
	if err != nil {
		return err
	}
	finished := make(chan struct{})
	harebus.Handle(setup, func(ctx context.Context, bus *harebus.Bus, c Count) error {
		if c.Down == 0 {
			close(finished)
			return nil
		}
		return bus.Send(ctx, queue, Count{Down: c.Down - 1}) // for the same tenant
	})
	if err := setup.Start(ctx); err != nil {
		return err
	}
	fmt.Fprintln(out, setup.Bus().Send(ctx, queue, Count{Down: 2}))
	if err := setup.Bus().Send(context.WithValue(ctx, tenantKey{}, "acme"), queue, Count{Down: 2}); err != nil {
		return err
	}
	<-finished
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
