package badinput

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/harebus/harebus"
)

// order is what most cases pretend to be.
type order struct{ ID int }

func (order) MessageType() string { return "Order" }

// checked is a message type with a Validate method.
type checked struct{ ID int }

func (checked) MessageType() string { return "Checked" }

func (c checked) Validate() error {
	if c.ID <= 0 {
		return fmt.Errorf("id %d", c.ID)
	}
	return nil
}

// answer is what a handler replies with.
type answer struct{ ID int }

func (answer) MessageType() string { return "Answer" }

// Handle registers a handler for every message type of the table. Each calls saw
// with the message and the error that it will return.
func Handle(s *harebus.Setup, saw func(*harebus.Message, error)) {
	harebus.Handle(s, func(ctx context.Context, _ *harebus.Bus, _ order) error {
		saw(harebus.Incoming(ctx), nil)
		return nil
	})
	harebus.Handle(s, func(ctx context.Context, _ *harebus.Bus, _ checked) error {
		saw(harebus.Incoming(ctx), nil)
		return nil
	})
	harebus.Handle(s, func(ctx context.Context, _ *harebus.Bus, _ []byte) error {
		saw(harebus.Incoming(ctx), nil)
		return nil
	}, harebus.WithType("Bytes"))
	for name, run := range map[string]func(ctx context.Context, bus *harebus.Bus) error{
		"Raw":      func(context.Context, *harebus.Bus) error { return nil },
		"Hopeless": func(context.Context, *harebus.Bus) error { return harebus.NoRetry(errors.New("no use")) },
		"Failing":  func(context.Context, *harebus.Bus) error { return errors.New("not today") },
		"Verbose":  func(context.Context, *harebus.Bus) error { return errors.New(strings.Repeat("\xffé", 1<<20)) },
		"Replying": func(ctx context.Context, bus *harebus.Bus) error { return bus.Reply(ctx, answer{1}) },
	} {
		s.HandleMessage(name, func(ctx context.Context, bus *harebus.Bus, m *harebus.Message) error {
			err := run(ctx, bus)
			saw(m, err)
			return err
		})
	}
	s.HandleMessage("Panicking", func(_ context.Context, _ *harebus.Bus, m *harebus.Message) error {
		saw(m, errors.New("about to panic"))
		panic("oh")
	})
}
