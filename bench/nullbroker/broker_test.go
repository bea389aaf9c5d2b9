package nullbroker_test

import (
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
	"go.uber.org/goleak"

	"github.com/harebus/harebus/bench/nullbroker"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func channel(t *testing.T) *amqp.Channel {
	t.Helper()
	b, err := nullbroker.Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.Close() })
	conn, err := amqp.Dial(b.URL())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	ch, err := conn.Channel()
	if err != nil {
		t.Fatal(err)
	}
	return ch
}

func publish(t *testing.T, ch *amqp.Channel, n int, body string) {
	t.Helper()
	var confirms []*amqp.DeferredConfirmation
	for range n {
		c, err := ch.PublishWithDeferredConfirm("x", "q", true, false, amqp.Publishing{MessageId: "7", Body: []byte(body)})
		if err != nil {
			t.Fatal(err)
		}
		confirms = append(confirms, c)
	}
	for i, c := range confirms {
		select {
		case <-c.Done():
			if !c.Acked() {
				t.Fatalf("message %d of %d was not acked", i, n)
			}
		case <-time.After(10 * time.Second):
			t.Fatalf("message %d of %d is not confirmed", i, n)
		}
	}
}

func TestEveryPublishIsConfirmed(t *testing.T) {
	ch := channel(t)
	if err := ch.Confirm(false); err != nil {
		t.Fatal(err)
	}
	publish(t, ch, 3000, "body")
}

func TestConsumerIsFedWithinPrefetch(t *testing.T) {
	ch := channel(t)
	if err := ch.Confirm(false); err != nil {
		t.Fatal(err)
	}
	publish(t, ch, 1, "body")
	const prefetch = 5
	if err := ch.Qos(prefetch, 0, false); err != nil {
		t.Fatal(err)
	}
	deliveries, err := ch.Consume("q", "tag", false, false, false, false, nil)
	if err != nil {
		t.Fatal(err)
	}
	next := uint64(1)
	take := func() amqp.Delivery {
		t.Helper()
		select {
		case d := <-deliveries:
			if d.DeliveryTag != next || string(d.Body) != "body" || d.MessageId != "7" || d.Exchange != "x" || d.RoutingKey != "q" {
				t.Fatalf("delivery %+v, want number %d of what was published", d, next)
			}
			next++
			return d
		case <-time.After(10 * time.Second):
			t.Fatalf("delivery %d does not come", next)
		}
		panic("not reached")
	}
	for range prefetch {
		take()
	}
	select {
	case d := <-deliveries:
		t.Fatalf("delivery %d is beyond the prefetch", d.DeliveryTag)
	case <-time.After(50 * time.Millisecond):
	}
	if err := ch.Ack(2, false); err != nil { // out of order
		t.Fatal(err)
	}
	take()
	if err := ch.Ack(4, true); err != nil { // 1, 3 and 4: 2 counts once
		t.Fatal(err)
	}
	for range 3 {
		take()
	}
	select {
	case d := <-deliveries:
		t.Fatalf("delivery %d is beyond the prefetch", d.DeliveryTag)
	case <-time.After(50 * time.Millisecond):
	}
	if err := ch.Cancel("tag", false); err != nil {
		t.Fatal(err)
	}
}
