package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/harebus/harebus"
)

// play tells the story, one chapter for each thing the bus can do.
func (c *cast) play(ctx context.Context, w *window) error {
	for _, chapter := range []func(context.Context, *window) error{
		c.command, c.event, c.reply, c.deferred, c.committed, c.rolledBack, c.failing,
	} {
		if err := chapter(ctx, w); err != nil {
			return err
		}
	}
	c.narrator.say("\nThat was all. The code is in examples/quickstart; the other examples show one thing each.")
	return nil
}

func (c *cast) command(ctx context.Context, _ *window) error {
	c.narrator.chapter("1. A command goes to one queue.")
	c.narrator.tell("shop", "sends PlaceOrder 1; the call returns when the broker has it")
	if err := c.shop.Send(ctx, ordersQueue, PlaceOrder{ID: 1}); err != nil {
		return err
	}
	return c.await(ctx, "PlaceOrder")
}

func (c *cast) event(ctx context.Context, _ *window) error {
	c.narrator.chapter("2. An event goes to everybody who subscribed to its topic.")
	c.narrator.tell("shop", "publishes OrderPlaced 1, and does not know who listens")
	if err := c.shop.Publish(ctx, "quickstart.order.placed", OrderPlaced{ID: 1}); err != nil {
		return err
	}
	return c.await(ctx, "billing", "shipping")
}

func (c *cast) reply(ctx context.Context, _ *window) error {
	c.narrator.chapter("3. A reply goes back to where the question came from.")
	c.narrator.tell("shop", "asks what a lamp costs")
	if err := c.shop.Send(ctx, ordersQueue, PriceRequest{Article: "lamp"}); err != nil {
		return err
	}
	return c.await(ctx, "Price")
}

func (c *cast) deferred(ctx context.Context, _ *window) error {
	c.narrator.chapter("4. A deferred message waits in the broker until it is due.")
	const delay = 1500 * time.Millisecond
	due := time.Now().Add(delay)
	if err := c.shop.Defer(ctx, ordersQueue, delay, Remind{Of: "invoice"}); err != nil {
		return err
	}
	c.narrator.tell("shop", "has deferred a reminder by %v, and could end now", delay)
	if err := c.await(ctx, "Remind"); err != nil {
		return err
	}
	if time.Now().Before(due) {
		return errors.New("the reminder came too early")
	}
	return nil
}

func (c *cast) committed(ctx context.Context, _ *window) error {
	c.narrator.chapter("5. A transaction: nothing leaves before the end, then all of it.")
	err := c.shop.Transaction(ctx, func(ctx context.Context, tx *harebus.Tx) error {
		for _, article := range []string{"lamp", "shade"} {
			if err := tx.Send(ctx, shippingQueue, Pack{Article: article}); err != nil {
				return err
			}
			c.narrator.tell("shop", "asks to pack a %s (held back)", article)
		}
		c.narrator.tell("shop", "is done: commit")
		return nil
	})
	if err != nil {
		return err
	}
	return c.await(ctx, "Pack", "Pack")
}

func (c *cast) rolledBack(ctx context.Context, _ *window) error {
	c.narrator.chapter("6. A transaction that fails half-way: nothing of it leaves.")
	sold := errors.New("the last vase is sold")
	err := c.shop.Transaction(ctx, func(ctx context.Context, tx *harebus.Tx) error {
		c.narrator.tell("shop", "asks to pack a vase (held back)")
		if err := tx.Send(ctx, shippingQueue, Pack{Article: "vase"}); err != nil {
			return err
		}
		c.narrator.tell("shop", "finds that %v: rollback", sold)
		return sold
	})
	if !errors.Is(err, sold) {
		return fmt.Errorf("the transaction did not end with its error: %w", err)
	}
	// Messages keep their order: if the vase had been sent, it would come first.
	if err := c.shop.Send(ctx, shippingQueue, Pack{Article: "ribbon"}); err != nil {
		return err
	}
	if err := c.await(ctx, "Pack"); err != nil {
		return err
	}
	if slices.Contains(c.packed, "vase") {
		return errors.New("the vase was packed although the transaction failed")
	}
	c.narrator.tell("shipping", "has packed so far: %v – no vase", c.packed)
	return nil
}

func (c *cast) failing(ctx context.Context, w *window) error {
	c.narrator.chapter("7. A message that fails is tried again after growing pauses, then parked.")
	c.narrator.tell("shop", "sends CallCourier 1")
	if err := c.shop.Send(ctx, ordersQueue, CallCourier{ID: 1}); err != nil {
		return err
	}
	if err := c.await(ctx, "CallCourier", "CallCourier", "CallCourier", "CallCourier"); err != nil {
		return err
	}
	// The service is ready for the next message when it has parked this one.
	if err := c.shop.Send(ctx, ordersQueue, PlaceOrder{ID: 2}); err != nil {
		return err
	}
	if err := c.await(ctx, "PlaceOrder"); err != nil {
		return err
	}
	parked, err := w.look(errorQueue)
	if err != nil {
		return err
	}
	c.narrator.tell("", "the failed message is in the queue %s, and nothing of it is lost:", errorQueue)
	c.narrator.say("           %-13s %s %s", "message", parked.Type, parked.Body)
	for _, name := range []string{harebus.HeaderSourceQueue, harebus.HeaderErrorRetries, harebus.HeaderErrorDetails} {
		c.narrator.say("           %-13s %v", name, parked.Headers["PikaBus."+name])
	}
	c.narrator.say("           When the courier is back, `harebus redrive` sends it to %s again.", ordersQueue)
	return nil
}
