package celery_test

import (
	"context"
	"fmt"
	"log"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/brokertest"
	"github.com/harebus/harebus/dialect"
	"github.com/harebus/harebus/dialect/celery"
)

// MoveOrder is the task def move(id, to=None).
type MoveOrder struct {
	ID int    `json:"id"`
	To string `json:"to,omitempty"`
}

func (MoveOrder) MessageType() string { return "MoveOrder" }

// A service is a worker for the tasks of Celery's clients, and sends tasks to Celery's workers.
func Example() {
	broker := brokertest.New()
	defer broker.Close()
	ctx := context.Background()
	tasks := celery.New(celery.Config{
		Types:      dialect.Types{"MoveOrder": "orders.move"},
		Parameters: map[string][]string{"MoveOrder": {"id", "to="}},
	})
	setup, err := harebus.New(harebus.Config{
		Queue: "orders", Dial: broker.Dial,
		Payload: harebus.PayloadConfig{Dialects: []dialect.Dialect{tasks}},
		Declare: harebus.DeclareConfig{Topology: tasks.Topology("orders")},
	})
	if err != nil {
		log.Fatal(err)
	}
	moved := make(chan MoveOrder)
	harebus.Handle(setup, func(_ context.Context, _ *harebus.Bus, m MoveOrder) error {
		moved <- m
		return nil
	})
	if err := setup.Start(ctx); err != nil {
		log.Fatal(err)
	}

	// move.delay(7, to="Oslo") of a client
	task := tasks.Sample()
	task.Headers["task"] = "orders.move"
	task.Body = []byte(`[[7], {"to": "Oslo"}, {"callbacks": null, "errbacks": null, "chain": null, "chord": null}]`)
	if err := publish(ctx, broker, &task); err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%+v\n", <-moved)

	// and the same to a worker
	if err := setup.Bus().Send(ctx, "orders", MoveOrder{8, "Rome"}, harebus.As(tasks)); err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%+v\n", <-moved)
	if err := setup.Close(); err != nil {
		log.Fatal(err)
	}
	// Output:
	// {ID:7 To:Oslo}
	// {ID:8 To:Rome}
}

// publish sends a message as another client does.
func publish(ctx context.Context, broker *brokertest.Broker, w *dialect.Wire) error {
	conn, err := amqp.DialConfig(broker.URL(), amqp.Config{Dial: broker.Dial})
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	ch, err := conn.Channel()
	if err != nil {
		return err
	}
	if err := ch.Confirm(false); err != nil {
		return err
	}
	sent, err := ch.PublishWithDeferredConfirm(w.Exchange, w.RoutingKey, true, false, amqp.Publishing{
		Headers: w.Headers, ContentType: w.Properties.ContentType, ContentEncoding: w.Properties.ContentEncoding,
		CorrelationId: w.Properties.CorrelationID, ReplyTo: w.Properties.ReplyTo, Body: w.Body,
	})
	if err != nil {
		return err
	}
	_, err = sent.WaitContext(ctx)
	return err
}
