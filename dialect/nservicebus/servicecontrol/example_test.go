package servicecontrol_test

import (
	"context"
	"fmt"
	"log"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/brokertest"
	"github.com/harebus/harebus/dialect"
	"github.com/harebus/harebus/dialect/nservicebus/servicecontrol"
)

// ServiceControl sends a message back, and is told when it was handled. Here the error queue is also that of the service.
func Example() {
	ctx := context.Background()
	broker := brokertest.New()
	defer broker.Close()
	setup, err := harebus.New(harebus.Config{
		Queue: "orders", Dial: broker.Dial, Payload: harebus.PayloadConfig{Dialects: []dialect.Dialect{peers}},
		Handling: harebus.HandlingConfig{Middleware: []harebus.Middleware{servicecontrol.Confirm("error")}},
	})
	if err != nil {
		log.Fatal(err)
	}
	harebus.Handle(setup, func(_ context.Context, _ *harebus.Bus, o placeOrder) error {
		fmt.Println("placed", o.ID)
		return nil
	})
	if err := setup.Start(ctx); err != nil {
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
	err = ch.PublishWithContext(ctx, "", "orders", false, false, amqp.Publishing{
		MessageId: "m-1", Type: "Acme.Orders.PlaceOrder", Body: []byte(`{"ID":7}`),
		Headers: amqp.Table{"ServiceControl.Retry.UniqueMessageId": "f-1", "ServiceControl.Retry.AcknowledgementQueue": "error"},
	})
	if err != nil {
		log.Fatal(err)
	}
	if err := broker.WaitQuiet(ctx, "error"); err != nil {
		log.Fatal(err)
	}
	fmt.Println("resolved", broker.Messages("error")[0].Headers["ServiceControl.Retry.UniqueMessageId"])
	if err := setup.Close(); err != nil {
		log.Fatal(err)
	}
	// Output:
	// placed 7
	// resolved f-1
}
