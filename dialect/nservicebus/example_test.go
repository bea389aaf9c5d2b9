package nservicebus_test

import (
	"context"
	"fmt"
	"log"
	"time"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/brokertest"
	"github.com/harebus/harebus/dialect"
	"github.com/harebus/harebus/dialect/nservicebus"
)

// PlaceOrder is a command. Its JSON has the names of C#.
type PlaceOrder struct{ Id int } //nolint:revive,staticcheck // as in C#

// MessageType is the wire name.
func (PlaceOrder) MessageType() string { return "PlaceOrder" }

// A command goes to an endpoint of NServiceBus. Here the endpoint is a service that reads the dialect as well.
func Example() {
	broker := brokertest.New()
	defer broker.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()

	peers := nservicebus.New(nservicebus.Config{Types: dialect.Types{"PlaceOrder": "Acme.Orders.PlaceOrder, Acme.Orders"}})
	setup, err := harebus.New(harebus.Config{
		Queue: "orders", Dial: broker.Dial,
		Payload: harebus.PayloadConfig{Dialects: []dialect.Dialect{peers}},
		Publish: harebus.PublishConfig{Peers: map[string]dialect.Dialect{"orders": peers}},
		Declare: harebus.DeclareConfig{Topology: peers.Topology("orders")}, // an endpoint of NServiceBus can send to it
	})
	if err != nil {
		log.Fatal(err)
	}
	defer setup.Close()
	handled := make(chan string, 1)
	harebus.Handle(setup, func(ctx context.Context, _ *harebus.Bus, order PlaceOrder) error {
		m := harebus.Incoming(ctx)
		handled <- fmt.Sprintf("order %d, %v, intent %v, to be answered to %s", order.Id, m.Headers["NServiceBus.EnclosedMessageTypes"], m.Headers["NServiceBus.MessageIntent"], m.ReplyTo)
		return nil
	})
	if err := setup.Start(ctx); err != nil {
		log.Fatal(err)
	}
	if err := setup.Bus().Send(ctx, "orders", PlaceOrder{Id: 7}); err != nil {
		log.Fatal(err)
	}
	fmt.Println(<-handled)
	// Output: order 7, Acme.Orders.PlaceOrder, Acme.Orders, intent Send, to be answered to orders
}
