package harebus_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/brokertest"
)

// A rate limit is no failure: the message waits in the broker, and its attempts are
// not used up.
func ExamplePostpone() {
	broker := brokertest.New()
	defer broker.Close()
	ctx := context.Background()

	setup, err := harebus.New(harebus.Config{
		Dial: broker.Dial, Queue: "orders",
		Retry: harebus.RetryConfig{GiveUpAfter: 2 * time.Hour},
	})
	if err != nil {
		log.Fatal(err)
	}
	calls := 0
	harebus.Handle(setup, func(ctx context.Context, _ *harebus.Bus, cmd PlaceOrder) error {
		calls++
		fmt.Printf("call %d, attempt %d\n", calls, harebus.Incoming(ctx).Attempt)
		if calls < 3 {
			return harebus.Postpone(20*time.Millisecond, errors.New("429 Too Many Requests"))
		}
		return nil
	})
	if err := setup.Start(ctx); err != nil {
		log.Fatal(err)
	}
	defer setup.Close()

	if err := setup.Bus().Send(ctx, "orders", PlaceOrder{ID: 1}); err != nil {
		log.Fatal(err)
	}
	if err := broker.WaitQuiet(ctx); err != nil {
		log.Fatal(err)
	}
	fmt.Printf("postponed %d, retried %d\n", setup.Stats().Postponed, setup.Stats().Retried)
	// Output:
	// call 1, attempt 1
	// call 2, attempt 1
	// call 3, attempt 1
	// postponed 2, retried 0
}

// OrderFailed tells whoever placed an order that it was given up.
type OrderFailed struct {
	ID     int
	Reason string
}

// MessageType is the wire name.
func (OrderFailed) MessageType() string { return "OrderFailed" }

// A handler can have a retry policy of its own, and say something when its message
// is given up.
func ExampleWithGivenUp() {
	broker := brokertest.New()
	defer broker.Close()
	ctx := context.Background()

	setup, err := harebus.New(harebus.Config{Dial: broker.Dial, Queue: "orders"})
	if err != nil {
		log.Fatal(err)
	}
	harebus.Handle(setup, func(context.Context, *harebus.Bus, PlaceOrder) error {
		return errors.New("the warehouse is on fire")
	}, harebus.WithRetry(harebus.RetryConfig{MaxRetries: -1}),
		harebus.WithGivenUp(func(ctx context.Context, bus *harebus.Bus, m *harebus.Message, err error) error {
			return bus.Send(ctx, "orders", OrderFailed{ID: 7, Reason: err.Error()})
		}))
	harebus.Handle(setup, func(_ context.Context, _ *harebus.Bus, failed OrderFailed) error {
		fmt.Printf("order %d failed: %s\n", failed.ID, failed.Reason)
		return nil
	})
	if err := setup.Start(ctx); err != nil {
		log.Fatal(err)
	}
	defer setup.Close()

	if err := setup.Bus().Send(ctx, "orders", PlaceOrder{ID: 7}); err != nil {
		log.Fatal(err)
	}
	if err := broker.WaitQuiet(ctx, "error"); err != nil {
		log.Fatal(err)
	}
	fmt.Println("parked:", len(broker.Messages("error")))
	// Output:
	// order 7 failed: the warehouse is on fire
	// parked: 1
}

// A queue that is subscribed to a whole tree of topics receives events that it has
// no handler for.
func ExampleUnhandledMode() {
	broker := brokertest.New()
	defer broker.Close()
	ctx := context.Background()

	setup, err := harebus.New(harebus.Config{
		Dial: broker.Dial, Queue: "audit", Subscriptions: []string{"order.#"},
		Handling: harebus.HandlingConfig{Unhandled: harebus.UnhandledIgnore},
	})
	if err != nil {
		log.Fatal(err)
	}
	setup.HandleMessage("OrderPlaced", func(_ context.Context, _ *harebus.Bus, m *harebus.Message) error {
		fmt.Println("handled", m.Type)
		return nil
	})
	if err := setup.Start(ctx); err != nil {
		log.Fatal(err)
	}
	defer setup.Close()

	for _, kind := range []string{"OrderPlaced", "OrderShipped", "OrderPaid"} {
		if err := setup.Bus().Publish(ctx, "order."+kind, map[string]any{"id": 1}, harebus.WithType(kind)); err != nil {
			log.Fatal(err)
		}
	}
	if err := broker.WaitQuiet(ctx); err != nil {
		log.Fatal(err)
	}
	fmt.Println("ignored", setup.Stats().Ignored)
	// Output:
	// handled OrderPlaced
	// ignored 2
}

// Other buses say in their own way what a message is. A function makes their
// messages understood: here those of MassTransit, whose body is an envelope, and the
// tasks of Celery, whose headers name the task.
func ExampleReceiveFunc() {
	broker := brokertest.New()
	defer broker.Close()
	ctx := context.Background()

	setup, err := harebus.New(harebus.Config{
		Dial: broker.Dial, Queue: "orders",
		Handling: harebus.HandlingConfig{Receive: func(_ context.Context, m *harebus.Message) error {
			switch task, isTask := m.Headers["task"].(string); {
			case m.ContentType == "application/vnd.masstransit+json":
				return fromMassTransit(m)
			case isTask:
				return fromCelery(m, task)
			default:
				return nil
			}
		}},
	})
	if err != nil {
		log.Fatal(err)
	}
	harebus.Handle(setup, func(ctx context.Context, _ *harebus.Bus, cmd PlaceOrder) error {
		m := harebus.Incoming(ctx)
		fmt.Printf("order %d, message %s\n", cmd.ID, m.ID)
		return nil
	}, harebus.WithType("urn:message:Acme.Orders:OrderPlaced"))
	setup.HandleMessage("orders.place", func(_ context.Context, _ *harebus.Bus, m *harebus.Message) error {
		fmt.Printf("task %s with %s, message %s\n", m.Type, m.Body, m.ID)
		return nil
	})
	if err := setup.Start(ctx); err != nil {
		log.Fatal(err)
	}
	defer setup.Close()

	deliver(broker, "orders", amqp.Publishing{
		ContentType: "application/vnd.masstransit+json",
		Body: []byte(`{"messageId":"c1080000-bc93-3180-f48c-08df4d3b4753",
			"messageType":["urn:message:Acme.Orders:OrderPlaced","urn:message:Acme.Orders:IOrderEvent"],
			"message":{"id":7,"customer":"Ada"},"sentTime":"2026-11-28T10:35:10.499342Z"}`),
	})
	deliver(broker, "orders", amqp.Publishing{
		ContentType: "application/json", ContentEncoding: "utf-8",
		Headers: amqp.Table{"task": "orders.place", "id": "8f2c3a34-0000-4000-8000-000000000001"},
		Body:    []byte(`[[{"id":7}],{"b":"x"},{"callbacks":null,"errbacks":null,"chain":null,"chord":null}]`),
	})
	// Output:
	// order 7, message c1080000-bc93-3180-f48c-08df4d3b4753
	// task orders.place with [{"id":7}], message 8f2c3a34-0000-4000-8000-000000000001
}

// fromMassTransit takes the message out of its envelope.
func fromMassTransit(m *harebus.Message) error {
	var envelope struct {
		MessageID   string          `json:"messageId"`
		MessageType []string        `json:"messageType"`
		Message     json.RawMessage `json:"message"`
		SentTime    time.Time       `json:"sentTime"`
	}
	if err := json.Unmarshal(m.Body, &envelope); err != nil {
		return harebus.NoRetry(fmt.Errorf("read the envelope: %w", err))
	}
	if len(envelope.MessageType) == 0 {
		return harebus.NoRetry(errors.New("the envelope has no messageType"))
	}
	m.ID, m.Type, m.TimeSent = envelope.MessageID, envelope.MessageType[0], envelope.SentTime
	m.ContentType, m.Body = "application/json", envelope.Message
	return nil
}

// fromCelery leaves the positional arguments of a task as the body.
func fromCelery(m *harebus.Message, task string) error {
	if m.Headers["compression"] == "application/x-gzip" {
		var err error
		if m.Body, err = (harebus.Gzip{}).Decompress(m.Body, 1<<20); err != nil {
			return harebus.NoRetry(fmt.Errorf("decompress the task: %w", err))
		}
	}
	var body []json.RawMessage // arguments, named arguments, and what Celery needs
	if err := json.Unmarshal(m.Body, &body); err != nil || len(body) != 3 {
		return harebus.NoRetry(fmt.Errorf("the body is not that of a task: %w", err))
	}
	m.Type, m.Body = task, body[0]
	if id, ok := m.Headers["id"].(string); ok {
		m.ID = id
	}
	return nil
}

// deliver has another client publish to a queue, and waits until it is handled.
func deliver(broker *brokertest.Broker, queue string, m amqp.Publishing) {
	conn, err := amqp.DialConfig(broker.URL(), amqp.Config{Dial: broker.Dial})
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close()
	ch, err := conn.Channel()
	if err != nil {
		log.Fatal(err)
	}
	ctx := context.Background()
	if err := ch.Confirm(false); err != nil {
		log.Fatal(err)
	}
	confirm, err := ch.PublishWithDeferredConfirm("", queue, true, false, m)
	if err != nil {
		log.Fatal(err)
	}
	if acked, err := confirm.WaitContext(ctx); err != nil || !acked {
		log.Fatal("not published: ", err)
	}
	if err := broker.WaitQuiet(ctx); err != nil {
		log.Fatal(err)
	}
}
