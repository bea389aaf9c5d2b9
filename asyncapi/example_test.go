package asyncapi_test

import (
	"bytes"
	"context"
	"fmt"
	"log"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/asyncapi"
	"github.com/harebus/harebus/brokertest"
	"github.com/harebus/harebus/contract"
)

// PlaceOrder is a command.
type PlaceOrder struct {
	ID    int `json:"id"    jsonschema:"minimum=1"`
	Total int `json:"total"`
}

// OrderPlaced is an event, with a field that came later.
type OrderPlaced struct {
	ID   int    `json:"id"`
	Note string `json:"note,omitempty"`
}

func (PlaceOrder) MessageType() string  { return "PlaceOrder" }
func (OrderPlaced) MessageType() string { return "OrderPlaced" }
func (OrderPlaced) Topic() string       { return "order.placed" }

// Two versions of a service are compared: the new one handles an event besides, and publishes to another topic.
func Example() {
	service := func(topic string) *harebus.Setup {
		setup, err := harebus.New(harebus.Config{Queue: "orders"})
		if err != nil {
			log.Fatal(err)
		}
		harebus.Handle(setup, func(context.Context, *harebus.Bus, PlaceOrder) error { return nil })
		harebus.Publishes[OrderPlaced](setup, topic)
		return setup
	}
	document := func(setup *harebus.Setup) *contract.Document {
		text, err := asyncapi.Export(setup, asyncapi.Info{Title: "orders", Version: "1.0.0"})
		if err != nil {
			log.Fatal(err)
		}
		read, err := contract.Read(bytes.NewReader(text))
		if err != nil {
			log.Fatal(err)
		}
		return read
	}
	before, after := service("order.placed"), service("order.accepted")
	harebus.HandleEvent(after, func(context.Context, *harebus.Bus, OrderPlaced) error { return nil })
	changes, err := contract.Diff(document(before), document(after))
	if err != nil {
		log.Fatal(err)
	}
	for _, change := range changes {
		fmt.Println(change.Breaking, change)
	}
	// Output:
	// true send "OrderPlaced", topic "order.placed" of exchange "PikaBusTopic": gone; the message is now in topic "order.accepted" of exchange "PikaBusTopic"
	// false receive "OrderPlaced", topic "order.placed" of exchange "PikaBusTopic": added
	// false send "OrderPlaced", topic "order.accepted" of exchange "PikaBusTopic": added
}

// A message of a stranger that does not fit its schema does not reach the handler. The reason names the field and the rule.
func ExampleValidate() {
	validate, err := asyncapi.Validate(PlaceOrder{})
	if err != nil {
		log.Fatal(err)
	}
	setup, err := harebus.New(harebus.Config{
		Queue: "orders", Dial: brokertest.New().Dial,
		Handling: harebus.HandlingConfig{Middleware: []harebus.Middleware{validate}},
	})
	if err != nil {
		log.Fatal(err)
	}
	harebus.Handle(setup, func(_ context.Context, _ *harebus.Bus, o PlaceOrder) error {
		fmt.Println("handled", o.ID)
		return nil
	})
	for _, body := range []string{`{"id": 7, "total": 100}`, `{"id": 0}`} {
		done, err := setup.Invoke(context.Background(), &harebus.Message{Type: "PlaceOrder", Body: []byte(body)})
		if err != nil {
			log.Fatal(err)
		}
		if done.Err != nil {
			fmt.Println(done.Decision, "because of", done.Err)
		}
	}
	// Output:
	// handled 7
	// park because of bad-payload: the body does not fit its schema: "/" breaks the rule required, "/id" breaks the rule minimum
}
