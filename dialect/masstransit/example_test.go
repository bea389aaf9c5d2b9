package masstransit_test

import (
	"context"
	"errors"
	"fmt"
	"log"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/brokertest"
	"github.com/harebus/harebus/dialect"
	"github.com/harebus/harebus/dialect/masstransit"
)

// CheckOrder is a request, and OrderStatus its answer.
type (
	CheckOrder  struct{ ID int }
	OrderStatus struct{ Status string }
)

func (CheckOrder) MessageType() string  { return "CheckOrder" }
func (OrderStatus) MessageType() string { return "OrderStatus" }

// A service answers requests that are written as MassTransit writes them. Here another service of harebus asks, in the place of a .NET program.
func Example() {
	ctx := context.Background()
	broker := brokertest.New()
	defer broker.Close()
	shop := masstransit.New(masstransit.Config{Types: dialect.Types{"CheckOrder": "Acme.Orders:CheckOrder", "OrderStatus": "Acme.Orders:OrderStatus"}})

	orders, err := harebus.New(harebus.Config{
		Queue: "orders", Dial: broker.Dial,
		Payload: harebus.PayloadConfig{Dialects: []dialect.Dialect{shop}},
		Declare: harebus.DeclareConfig{Topology: shop.Topology("orders")},
	})
	if err != nil {
		log.Fatal(err)
	}
	harebus.Handle(orders, func(ctx context.Context, bus *harebus.Bus, c CheckOrder) error {
		if c.ID < 0 {
			return harebus.NoRetry(errors.New("no such order"))
		}
		return bus.Reply(ctx, OrderStatus{"placed"})
	})
	if err := orders.Start(ctx); err != nil {
		log.Fatal(err)
	}
	client, err := harebus.New(harebus.Config{Dial: broker.Dial, Publish: harebus.PublishConfig{Peers: map[string]dialect.Dialect{"orders": shop}}})
	if err != nil {
		log.Fatal(err)
	}
	for _, id := range []int{7, -1} {
		status, err := harebus.Request[OrderStatus](ctx, client.Bus(), "orders", CheckOrder{id})
		var fault *harebus.FaultError
		if errors.As(err, &fault) {
			fmt.Println("the service has failed:", fault.Details)
			continue
		}
		fmt.Println(status.Status, err)
	}
	for _, s := range []*harebus.Setup{client, orders} {
		if err := s.Close(); err != nil {
			log.Fatal(err)
		}
	}
	// Output:
	// placed <nil>
	// the service has failed: no such order
}

// An envelope has only to name the type: here a plain client writes it.
func ExampleDialect_Read() {
	ctx := context.Background()
	broker := brokertest.New()
	defer broker.Close()
	shop := masstransit.New(masstransit.Config{Types: dialect.Types{"CheckOrder": "Acme.Orders:CheckOrder"}})
	orders, err := harebus.New(harebus.Config{Queue: "orders", Dial: broker.Dial, Payload: harebus.PayloadConfig{Dialects: []dialect.Dialect{shop}}})
	if err != nil {
		log.Fatal(err)
	}
	harebus.Handle(orders, func(ctx context.Context, _ *harebus.Bus, c CheckOrder) error {
		m := harebus.Incoming(ctx)
		fmt.Println(m.Type, c.ID, m.ID, m.Headers["tenant"])
		return nil
	})
	if err := orders.Start(ctx); err != nil {
		log.Fatal(err)
	}
	conn, err := amqp.DialConfig(broker.URL(), amqp.Config{Dial: broker.Dial})
	if err != nil {
		log.Fatal(err)
	}
	ch, err := conn.Channel()
	if err != nil {
		log.Fatal(err)
	}
	err = ch.PublishWithContext(ctx, "", "orders", false, false, amqp.Publishing{ContentType: "application/vnd.masstransit+json", Body: []byte(`{
		"messageId": "7f0c0000-bc93-3180-a135-08df4d3b8647",
		"messageType": ["urn:message:Acme.Orders:CheckOrder"],
		"message": {"id": 7},
		"headers": {"tenant": "acme"}
	}`)})
	if err == nil {
		err = broker.WaitQuiet(ctx)
	}
	if err = errors.Join(err, conn.Close(), orders.Close()); err != nil {
		log.Fatal(err)
	}
	// Output:
	// CheckOrder 7 7f0c0000-bc93-3180-a135-08df4d3b8647 acme
}
