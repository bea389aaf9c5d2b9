package cloudevents_test

import (
	"context"
	"fmt"
	"log"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/brokertest"
	"github.com/harebus/harebus/dialect"
	"github.com/harebus/harebus/dialect/cloudevents"
)

// OrderPlaced is an event. Peers know it as com.acme.order.placed.
type OrderPlaced struct{ ID int }

// MessageType is the wire name.
func (OrderPlaced) MessageType() string { return "OrderPlaced" }

// A service handles the events of a gateway, and publishes one for it.
func Example() {
	broker := brokertest.New()
	defer broker.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()

	events := cloudevents.New(cloudevents.Config{Types: dialect.Types{"OrderPlaced": "com.acme.order.placed"}})
	setup, err := harebus.New(harebus.Config{Queue: "billing", Dial: broker.Dial, Payload: harebus.PayloadConfig{Dialects: []dialect.Dialect{events}}})
	if err != nil {
		log.Fatal(err)
	}
	defer setup.Close()
	handled := make(chan string, 1)
	harebus.Handle(setup, func(ctx context.Context, _ *harebus.Bus, event OrderPlaced) error {
		m := harebus.Incoming(ctx)
		handled <- fmt.Sprintf("order %d, event %s from %s about %v", event.ID, m.ID, m.OriginatingAddress, m.Headers["cloudEvents_subject"])
		return nil
	})
	if err := setup.Start(ctx); err != nil {
		log.Fatal(err)
	}

	gateway(ctx, broker, `{"specversion":"1.0","id":"01a3","source":"/shop","type":"com.acme.order.placed","subject":"orders/7","data":{"ID":7}}`)
	fmt.Println(<-handled)

	err = setup.Bus().Send(ctx, "gateway", OrderPlaced{ID: 8}, harebus.As(events), harebus.WithMessageID("01a4"), harebus.WithHeader("cloudEvents_subject", "orders/8"))
	if err != nil {
		log.Fatal(err)
	}
	sent := broker.Messages("gateway")[0].Publishing
	for _, attribute := range []string{"id", "source", "type", "subject"} {
		fmt.Printf("%s: %v\n", attribute, sent.Headers["cloudEvents_"+attribute])
	}
	fmt.Printf("%s: %s\n", sent.ContentType, sent.Body)
	// Output:
	// order 7, event 01a3 from shop about orders/7
	// id: 01a4
	// source: /billing
	// type: com.acme.order.placed
	// subject: orders/8
	// application/json: {"ID":8}
}

// gateway is another program. It makes its queue, and writes an event in structured form.
func gateway(ctx context.Context, broker *brokertest.Broker, event string) {
	conn, err := amqp.DialConfig(broker.URL(), amqp.Config{Dial: broker.Dial})
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close()
	ch, err := conn.Channel()
	if err != nil {
		log.Fatal(err)
	}
	if _, err := ch.QueueDeclare("gateway", true, false, false, false, nil); err != nil {
		log.Fatal(err)
	}
	err = ch.PublishWithContext(ctx, "", "billing", true, false, amqp.Publishing{ContentType: "application/cloudevents+json", Body: []byte(event)})
	if err != nil {
		log.Fatal(err)
	}
}
