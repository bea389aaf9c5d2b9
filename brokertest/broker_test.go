package brokertest_test

import (
	"testing"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/harebus/harebus/brokertest"
)

func dial(t *testing.T, b *brokertest.Broker) *amqp.Connection {
	t.Helper()
	conn, err := amqp.DialConfig(b.URL(), amqp.Config{Dial: b.Dial})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

func TestSmoke(t *testing.T) {
	b := brokertest.New(brokertest.WithLog(t.Logf))
	defer b.Close()
	conn := dial(t, b)
	ch, err := conn.Channel()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ch.QueueDeclare("q", true, false, false, false, amqp.Table{"x-queue-type": "quorum", "x-delivery-limit": 2, "x-dead-letter-exchange": "", "x-dead-letter-routing-key": "dead"}); err != nil {
		t.Fatal(err)
	}
	if _, err := ch.QueueDeclare("dead", true, false, false, false, nil); err != nil {
		t.Fatal(err)
	}
	if err := ch.Confirm(false); err != nil {
		t.Fatal(err)
	}
	c, err := ch.PublishWithDeferredConfirm("", "q", true, false, amqp.Publishing{Body: []byte("hi"), MessageId: "1"})
	if err != nil {
		t.Fatal(err)
	}
	if !c.Wait() {
		t.Fatal("nacked")
	}
	in, err := ch.Consume("q", "", false, false, false, false, nil)
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		d := <-in
		t.Log(d.Headers, d.Redelivered)
		_ = d.Nack(false, true)
	}
	dead, err := ch.Consume("dead", "", false, false, false, false, nil)
	if err != nil {
		t.Fatal(err)
	}
	d := <-dead
	t.Log(d.Headers)
	if err := d.Ack(false); err != nil {
		t.Fatal(err)
	}
}
