package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/cenkalti/backoff/v4"

	"github.com/harebus/harebus"
)

// The queues of the four services, and the error queue.
const (
	shopQueue     = "quickstart.shop"
	ordersQueue   = "quickstart.orders"
	billingQueue  = "quickstart.billing"
	shippingQueue = "quickstart.shipping"
	errorQueue    = "quickstart.error"
)

// PlaceOrder is a command, OrderPlaced an event, PriceRequest and Price a
// question and its answer.
type (
	PlaceOrder   struct{ ID int }
	OrderPlaced  struct{ ID int }
	PriceRequest struct{ Article string }
	Price        struct{ Euros int }
	Remind       struct{ Of string }
	Pack         struct{ Article string }
	CallCourier  struct{ ID int }
)

// MessageType is the wire name, the same in every language on the bus.
func (PlaceOrder) MessageType() string   { return "PlaceOrder" }
func (OrderPlaced) MessageType() string  { return "OrderPlaced" }
func (PriceRequest) MessageType() string { return "PriceRequest" }
func (Price) MessageType() string        { return "Price" }
func (Remind) MessageType() string       { return "Remind" }
func (Pack) MessageType() string         { return "Pack" }
func (CallCourier) MessageType() string  { return "CallCourier" }

// cast is the four services of the story.
type cast struct {
	cfg       harebus.Config
	narrator  *narrator
	happened  chan string // what handlers have done; the story waits for it
	packed    []string    // by the shipping service; read when it has happened
	lastTry   time.Time
	services  []*harebus.Setup
	shop      *harebus.Bus
	setupErrs []error
}

func newCast(cfg harebus.Config, n *narrator) *cast {
	cfg.ErrorQueue.Name = errorQueue
	cfg.Consume.Concurrency = 1 // the story is told in order
	cfg.Retry = harebus.RetryConfig{
		MaxRetries: 3, // of 5, and with short pauses, because you are watching
		BackOff: func() backoff.BackOff {
			return backoff.NewExponentialBackOff(
				backoff.WithInitialInterval(500*time.Millisecond), backoff.WithMultiplier(2), backoff.WithRandomizationFactor(0))
		},
	}
	c := &cast{cfg: cfg, narrator: n, happened: make(chan string, 100)}
	c.makeOrders()
	c.makeSubscriber(billingQueue, "billing", "writes the bill")
	shipping := c.makeSubscriber(shippingQueue, "shipping", "prints the label")
	c.addPacking(shipping)
	c.makeShop()
	return c
}

// service makes a service with a queue; start returns its faults.
func (c *cast) service(queue string, topics ...string) *harebus.Setup {
	cfg := c.cfg
	cfg.Queue, cfg.Subscriptions = queue, topics
	setup, err := harebus.New(cfg)
	if err != nil {
		c.setupErrs = append(c.setupErrs, err)
		return nil
	}
	c.services = append(c.services, setup)
	return setup
}

// makeOrders makes the service that takes commands and answers questions.
func (c *cast) makeOrders() {
	setup := c.service(ordersQueue)
	if setup == nil {
		return
	}
	harebus.Handle(setup, func(_ context.Context, _ *harebus.Bus, cmd PlaceOrder) error {
		c.narrator.tell("orders", "handles PlaceOrder %d", cmd.ID)
		c.happened <- "PlaceOrder"
		return nil
	})
	harebus.Handle(setup, func(ctx context.Context, bus *harebus.Bus, q PriceRequest) error {
		c.narrator.tell("orders", "looks up the price of a %s, and replies", q.Article)
		return bus.Reply(ctx, Price{Euros: 20})
	})
	harebus.Handle(setup, func(_ context.Context, _ *harebus.Bus, r Remind) error {
		c.narrator.tell("orders", "is reminded of the %s", r.Of)
		c.happened <- "Remind"
		return nil
	})
	harebus.Handle(setup, func(ctx context.Context, _ *harebus.Bus, cmd CallCourier) error {
		since := ""
		attempt := harebus.Incoming(ctx).Attempt
		if attempt > 1 {
			since = fmt.Sprintf(", %.1f s later", time.Since(c.lastTry).Seconds())
		}
		c.lastTry = time.Now()
		c.narrator.tell("orders", "attempt %d for order %d%s: fails", attempt, cmd.ID, since)
		c.happened <- "CallCourier"
		return errors.New("the courier does not answer the phone")
	})
}

// makeSubscriber makes a service that hears of every order.
func (c *cast) makeSubscriber(queue, name, reaction string) *harebus.Setup {
	setup := c.service(queue, "quickstart.order.*")
	if setup == nil {
		return nil
	}
	harebus.Handle(setup, func(_ context.Context, _ *harebus.Bus, event OrderPlaced) error {
		c.narrator.tell(name, "hears of order %d, and %s", event.ID, reaction)
		c.happened <- name
		return nil
	})
	return setup
}

func (c *cast) addPacking(shipping *harebus.Setup) {
	if shipping == nil {
		return
	}
	harebus.Handle(shipping, func(_ context.Context, _ *harebus.Bus, cmd Pack) error {
		c.narrator.tell("shipping", "packs a %s", cmd.Article)
		c.packed = append(c.packed, cmd.Article)
		c.happened <- "Pack"
		return nil
	})
}

// makeShop makes the service that starts everything and receives the replies.
func (c *cast) makeShop() {
	setup := c.service(shopQueue)
	if setup == nil {
		return
	}
	harebus.Handle(setup, func(_ context.Context, _ *harebus.Bus, p Price) error {
		c.narrator.tell("shop", "gets the reply: %d euros", p.Euros)
		c.happened <- "Price"
		return nil
	})
	c.shop = setup.Bus()
}

func (c *cast) start(ctx context.Context) error {
	if err := errors.Join(c.setupErrs...); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for _, service := range c.services {
		if err := service.Start(ctx); err != nil {
			return errors.Join(err, c.stop())
		}
	}
	c.narrator.say("Four services start: shop, orders, billing and shipping. Each has a queue of its own.")
	return nil
}

func (c *cast) stop() error {
	var errs []error
	for _, service := range c.services {
		errs = append(errs, service.Close())
	}
	return errors.Join(errs...)
}

// await waits until each of what has happened once.
func (c *cast) await(ctx context.Context, what ...string) error {
	ctx, cancel := context.WithTimeout(ctx, stepPatience)
	defer cancel()
	missing := map[string]int{}
	for _, w := range what {
		missing[w]++
	}
	for range what {
		select {
		case w := <-c.happened:
			if missing[w]--; missing[w] < 0 {
				return fmt.Errorf("%s happened once too often", w)
			}
		case <-ctx.Done():
			return fmt.Errorf("waited in vain for %v: %w", what, context.Cause(ctx))
		}
	}
	return nil
}
