package proof_test

import (
	"context"
	"errors"
	"fmt"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/harebus/harebus"
)

// order is a message for a service that takes what it gets.
type order struct{ ID string }

func (order) MessageType() string { return "Order" }

// parkedOrder is an order as it lies in the error queue.
var parkedOrder = amqp.Publishing{
	Headers: amqp.Table{"PikaBus.SourceQueue": "orders", "PikaBus.ErrorDetails": "no"},
	Type:    "Order", MessageId: "parked", Body: []byte("{}"),
}

// A usage uses everything that a service can do. Its service is "orders", and takes what it gets.
type usage struct {
	setup *harebus.Setup
	got   chan string // the ids of what was handled
}

// A deed is one thing that a service does.
type deed struct {
	name string
	do   func(context.Context) error
}

// use registers the service's handler: it fails or replies when the message asks for it.
func use(setup *harebus.Setup) *usage {
	u := &usage{setup: setup, got: make(chan string, 100)}
	setup.HandleMessage(harebus.AnyType, func(ctx context.Context, bus *harebus.Bus, m *harebus.Message) error {
		u.got <- m.ID
		switch m.Headers["want"] {
		case "failure":
			return errors.New("meant to fail")
		case "reply":
			return bus.Reply(ctx, order{}, harebus.WithMessageID("reply to "+m.ID))
		}
		return nil
	})
	return u
}

// deeds are everything, in the order of its use.
func (u *usage) deeds() []deed {
	bus := u.setup.Bus()
	publish := func(ctx context.Context, _ string, m any, opts ...harebus.SendOption) error {
		return bus.Publish(ctx, "order.placed", m, opts...)
	}
	commit := func(ctx context.Context, queue string, m any, opts ...harebus.SendOption) error {
		return bus.Transaction(ctx, func(ctx context.Context, tx *harebus.Tx) error {
			return tx.Send(ctx, queue, m, opts...)
		})
	}
	later := func(ctx context.Context, queue string, m any, opts ...harebus.SendOption) error {
		return deferTwice(ctx, bus, queue, m, opts...)
	}
	return []deed{
		{"start", u.setup.Start},
		{"send", func(ctx context.Context) error { return u.arrives(ctx, bus.Send) }},
		{"publish", func(ctx context.Context) error { return u.arrives(ctx, publish) }},
		{"commit", func(ctx context.Context) error { return u.arrives(ctx, commit) }},
		{"defer", func(ctx context.Context) error { return u.arrives(ctx, later) }},
		{"reply", u.reply},
		{"retry and park", u.park},
		{"subscribe", func(ctx context.Context) error { return u.setup.Subscribe(ctx, "late.#") }},
		{"subscribe with arguments", func(ctx context.Context) error {
			return u.setup.SubscribeWith(ctx, map[string]any{"x-of-ours": 1}, "later.#")
		}},
		{"unsubscribe", func(ctx context.Context) error { return u.setup.Unsubscribe(ctx, "late.#") }},
		{"init", u.setup.Init},
	}
}

// deferTwice defers a message, when all is ready for that: preparing can take longer than a short delay, and then the
// message goes straight to its queue.
func deferTwice(ctx context.Context, bus *harebus.Bus, queue string, m any, opts ...harebus.SendOption) error {
	const short = 300 * time.Millisecond
	if err := bus.Defer(ctx, queue, short, m); err != nil {
		return err
	}
	return bus.Defer(ctx, queue, short, m, opts...)
}

// arrives sends a message to the service's own queue and waits until it is handled.
func (u *usage) arrives(
	ctx context.Context, send func(context.Context, string, any, ...harebus.SendOption) error,
) error {
	id := harebus.NewMessageID()
	if err := send(ctx, "orders", order{id}, harebus.WithMessageID(id)); err != nil {
		return err
	}
	return u.await(ctx, id)
}

func (u *usage) await(ctx context.Context, id string) error {
	for {
		select {
		case got := <-u.got:
			if got == id {
				return nil
			}
		case <-ctx.Done():
			return fmt.Errorf("%s was not handled", id)
		}
	}
}

// reply has the service answer itself.
func (u *usage) reply(ctx context.Context) error {
	id := harebus.NewMessageID()
	err := u.setup.Bus().Send(ctx, "orders", order{id}, harebus.WithMessageID(id), harebus.WithHeader("want", "reply"))
	if err != nil {
		return err
	}
	return u.await(ctx, "reply to "+id)
}

// park has a message fail, twice.
func (u *usage) park(ctx context.Context) error {
	before := u.setup.Stats()
	if err := u.setup.Bus().Send(ctx, "orders", order{}, harebus.WithHeader("want", "failure")); err != nil {
		return err
	}
	for {
		after := u.setup.Stats()
		switch {
		case after.Parked > before.Parked && after.Retried == before.Retried+1:
			return nil
		case ctx.Err() != nil:
			return fmt.Errorf("neither retried nor parked: %+v", after)
		}
		time.Sleep(10 * time.Millisecond)
	}
}
