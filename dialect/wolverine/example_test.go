package wolverine_test

import (
	"context"
	"errors"
	"fmt"
	"log"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/brokertest"
	"github.com/harebus/harebus/dialect"
	"github.com/harebus/harebus/dialect/wolverine"
)

// GetOrder is a request, and OrderStatus its answer.
type (
	GetOrder    struct{ ID int }
	OrderStatus struct{ Status string }
)

func (GetOrder) MessageType() string    { return "GetOrder" }
func (OrderStatus) MessageType() string { return "OrderStatus" }

// A service answers requests that are written as Wolverine writes them. Here another service of harebus asks, in the place of a .NET program.
func Example() {
	ctx := context.Background()
	broker := brokertest.New()
	defer broker.Close()
	shop := wolverine.New(wolverine.Config{Types: dialect.Types{"GetOrder": "Acme.Orders.GetOrder", "OrderStatus": "Acme.Orders.OrderStatus"}})

	orders, err := harebus.New(harebus.Config{Queue: "orders", Dial: broker.Dial, Payload: harebus.PayloadConfig{Dialects: []dialect.Dialect{shop}}})
	if err != nil {
		log.Fatal(err)
	}
	harebus.Handle(orders, func(ctx context.Context, bus *harebus.Bus, g GetOrder) error {
		fmt.Println("asked for", g.ID, "by a message of type", harebus.Incoming(ctx).Properties.Type)
		return bus.Reply(ctx, OrderStatus{"placed"})
	})
	if err := orders.Start(ctx); err != nil {
		log.Fatal(err)
	}
	client, err := harebus.New(harebus.Config{Dial: broker.Dial, Publish: harebus.PublishConfig{Peers: map[string]dialect.Dialect{"orders": shop}}})
	if err != nil {
		log.Fatal(err)
	}
	status, err := harebus.Request[OrderStatus](ctx, client.Bus(), "orders", GetOrder{7})
	fmt.Println(status.Status, err)
	if err := errors.Join(client.Close(), orders.Close()); err != nil {
		log.Fatal(err)
	}
	// Output:
	// asked for 7 by a message of type Acme.Orders.GetOrder
	// placed <nil>
}
