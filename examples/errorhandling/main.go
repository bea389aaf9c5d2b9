// Command errorhandling shows how a handler's error decides what happens to the
// message. After a plain error the message is retried with growing pauses; NoRetry,
// RetryAfter and rules change that. A message that keeps failing is parked in the
// error queue with the reason.
//
//	go run ./examples/errorhandling     (AMQP_URL names another broker than the local one)
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

	"github.com/cenkalti/backoff/v4"
	"github.com/harebus/harebus"
	"github.com/harebus/harebus/topology"
	"go.uber.org/zap"
)

// Pay is a command.
type Pay struct{ By string }

// MessageType is the wire name.
func (Pay) MessageType() string { return "Pay" }

var (
	errBusy    = errors.New("the bank is busy")
	errNoMoney = errors.New("the account is empty")
	errUnknown = errors.New("no such account")
)

func pay(ctx context.Context, _ *harebus.Bus, p Pay) error {
	switch p.By {
	case "late card":
		if harebus.Incoming(ctx).Attempt <= 2 {
			return errBusy // tried again, by the policy
		}
		return nil
	case "slow card":
		if harebus.Incoming(ctx).Attempt == 1 {
			return harebus.RetryAfter(300*time.Millisecond, errBusy) // tried again, but not sooner
		}
		return nil
	case "empty card":
		return errNoMoney // Config.Retry has a rule for it
	default:
		return harebus.NoRetry(fmt.Errorf("card %q: %w", p.By, errUnknown)) // parked at once
	}
}

func run(ctx context.Context, cfg harebus.Config, out io.Writer) error {
	const errorQueue = "examples.errors"
	cfg.Queue = "examples.payments"
	cfg.ErrorQueue.Name = errorQueue       // default: "error"
	cfg.ErrorQueue.Type = topology.Classic // default: quorum; this program declares it without arguments, too
	cfg.Retry = harebus.RetryConfig{
		MaxRetries: 3,
		BackOff:    func() backoff.BackOff { return backoff.NewConstantBackOff(100 * time.Millisecond) },
		Rules:      []harebus.RetryRule{{Match: harebus.MatchIs(errNoMoney), MaxRetries: 1}},
	}
	payments, err := harebus.New(cfg)
	if err != nil {
		return err
	}
	paid := make(chan string, 1)
	harebus.Handle(payments, func(ctx context.Context, bus *harebus.Bus, p Pay) error {
		if err := pay(ctx, bus, p); err != nil {
			return err
		}
		paid <- fmt.Sprintf("%s: paid at attempt %d", p.By, harebus.Incoming(ctx).Attempt)
		return nil
	})

	// The error queue is a queue like any other. This program reads it to show its
	// messages; usually a person reads them, and `harebus redrive` moves them back.
	cfg.Queue, cfg.QueueOptions.Type, cfg.ErrorQueue.Name = errorQueue, topology.Classic, "examples.errors.unreadable"
	morgue, err := harebus.New(cfg)
	if err != nil {
		return err
	}
	parked := make(chan string, 1)
	morgue.HandleMessage(harebus.AnyType, func(_ context.Context, _ *harebus.Bus, m *harebus.Message) error {
		parked <- fmt.Sprintf("%s: parked by %s after %v failures: %s",
			m.Body, m.SourceQueue, m.Headers["PikaBus.ErrorRetries"], m.ErrorDetails)
		return nil
	})
	if err := errors.Join(payments.Start(ctx), morgue.Start(ctx)); err != nil {
		return err
	}

	for _, card := range []string{"late card", "slow card", "empty card", "lost card"} {
		if err := payments.Bus().Send(ctx, "examples.payments", Pay{By: card}); err != nil {
			return err
		}
		select {
		case text := <-paid:
			fmt.Fprintln(out, text)
		case text := <-parked:
			fmt.Fprintln(out, text)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return errors.Join(payments.Close(), morgue.Close())
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
