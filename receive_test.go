package harebus

import (
	"context"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/harebus/harebus/brokertest"
)

// TestUnreadableDelivery: a delivery that cannot be read is not settled, and the
// connection it came from is given up, so that the broker has it again.
func TestUnreadableDelivery(t *testing.T) {
	t.Parallel()
	broker := brokertest.New()
	defer broker.Close()
	s, err := New(Config{Queue: "orders", URL: broker.URL(), Dial: broker.Dial})
	if err != nil {
		t.Fatal(err)
	}
	s.HandleMessage(AnyType, func(context.Context, *Bus, *Message) error {
		t.Error("it was handled")
		return nil
	})
	if err := s.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	eng, err := s.engine()
	if err != nil {
		t.Fatal(err)
	}
	c := eng.consumers[0]
	f, _, _ := c.current()
	if c.handleDelivery(&receipt{consumer: c, setup: s, feed: f, delivery: &amqp.Delivery{Body: []byte("{}")}}) {
		t.Error("it counts as settled")
	}
	select {
	case <-f.session.Done():
	case <-time.After(10 * time.Second):
		t.Error("the connection stays")
	}
}
