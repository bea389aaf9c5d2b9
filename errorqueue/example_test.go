package errorqueue_test

import (
	"context"
	"fmt"
	"log"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/brokertest"
	"github.com/harebus/harebus/errorqueue"
)

// An operator looks at what has failed, and has the messages of one group handled again.
func Example() {
	broker := brokertest.New()
	defer broker.Close()
	fail(broker)

	ctx := context.Background()
	q, err := errorqueue.Open(ctx, errorqueue.Config{Connect: harebus.ConnectConfig{URLs: []string{broker.URL()}}, Dial: broker.Dial})
	if err != nil {
		log.Fatal(err)
	}
	defer func() { _ = q.Close() }()

	all, err := q.Look(ctx, errorqueue.Filter{})
	if err != nil {
		log.Fatal(err)
	}
	for _, group := range all.Groups() {
		fmt.Println(group.Count, group.Type, "in", group.Queue+":", group.Error)
	}
	refused, err := q.Look(ctx, errorqueue.Filter{IDs: []string{all.Groups()[0].ID}})
	if err != nil {
		log.Fatal(err)
	}
	report, err := q.Retry(ctx, refused.Messages, errorqueue.Options{Rate: 1000})
	fmt.Println("moved", report.Done, err)
	// Output:
	// 3 ChargeCard in payments: dial tcp #:#: connect: connection refused
	// 1 ChargeCard in payments: card declined
	// moved 3 <nil>
}

// fail puts failed messages into the error queue, as a service does.
func fail(broker *brokertest.Broker) {
	conn, err := amqp.DialConfig(broker.URL(), amqp.Config{Dial: broker.Dial})
	if err != nil {
		log.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	ch, err := conn.Channel()
	if err != nil {
		log.Fatal(err)
	}
	for _, queue := range []string{"error", "payments"} {
		if _, err := ch.QueueDeclare(queue, true, false, false, false, nil); err != nil {
			log.Fatal(err)
		}
	}
	for i, failure := range []string{"dial tcp 10.0.0.7:5432: connect: connection refused", "card declined", "dial tcp 10.0.0.8:5432: connect: connection refused", "dial tcp 10.0.0.7:5432: connect: connection refused"} {
		err := ch.PublishWithContext(context.Background(), "", "error", true, false, amqp.Publishing{
			MessageId: fmt.Sprint("m", i), Type: "ChargeCard", Headers: amqp.Table{"PikaBus.SourceQueue": "payments", "PikaBus.ErrorDetails": failure},
		})
		if err != nil {
			log.Fatal(err)
		}
	}
	if _, err := ch.QueueDeclarePassive("error", true, false, false, false, nil); err != nil {
		log.Fatal(err)
	}
}
