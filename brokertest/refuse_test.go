package brokertest_test

import (
	"errors"
	"strings"
	"testing"
	"testing/synctest"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/harebus/harebus/brokertest"
)

// TestNotModelledIsRefused names what is refused rather than ignored. RabbitMQ
// takes some of it, so this is not part of the conformance suite.
func TestNotModelledIsRefused(t *testing.T) {
	queue := func(args amqp.Table) func(*amqp.Channel) error {
		return func(ch *amqp.Channel) error {
			_, err := ch.QueueDeclare("new", true, false, false, false, args)
			return err
		}
	}
	exchange := func(kind string, args amqp.Table) func(*amqp.Channel) error {
		return func(ch *amqp.Channel) error {
			return ch.ExchangeDeclare("new", kind, true, false, false, false, args)
		}
	}
	for name, c := range map[string]struct {
		code int
		do   func(*amqp.Channel) error
	}{
		"filter of a stream":     {406, queue(amqp.Table{"x-queue-type": "stream", "x-stream-filter-size-bytes": 16})},
		"unknown queue argument": {406, queue(amqp.Table{"x-no-such": 1})},
		"unknown argument of a queue that is there": {406, func(ch *amqp.Channel) error {
			_, err := ch.QueueDeclare("q", true, false, false, false, amqp.Table{"x-no-such": 1})
			return err
		}},
		"unknown exchange argument": {406, exchange("direct", amqp.Table{"x-delayed-type": "direct"})},
		"exchange type of a plugin": {503, exchange("x-delayed-message", nil)},
		"unknown consumer argument": {406, func(ch *amqp.Channel) error {
			_, err := ch.Consume("q", "", false, false, false, false, amqp.Table{"x-stream-offset": "first"})
			return err
		}},
	} {
		t.Run(name, func(t *testing.T) {
			b := brokertest.New()
			defer b.Close()
			c0 := connect(t, b)
			c0.queue("q", nil)
			err := c.do(c0.ch)
			var ae *amqp.Error
			if !errors.As(err, &ae) || ae.Code != c.code {
				t.Fatalf("got %v, want code %d", err, c.code)
			}
			if !strings.Contains(ae.Reason, "brokertest") {
				t.Fatalf("%q does not say that it is not modelled here", ae.Reason)
			}
		})
	}
}

func TestOtherArgumentsAreNobodysBusiness(t *testing.T) {
	b := brokertest.New()
	defer b.Close()
	c := connect(t, b)
	c.queue("q", amqp.Table{"owner": "me"})
	q, _ := b.Queue("q")
	equal(t, "kept", q.Arguments["owner"], any("me"))
}

func TestOptions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := brokertest.New(brokertest.WithMaxMessageSize(100), brokertest.WithDeliveryLimit(1), brokertest.WithConsumerTimeout(0))
		defer b.Close()
		c := connect(t, b)
		c.queue("q", amqp.Table{"x-queue-type": "quorum"})
		c.publish("q", strings.Repeat("x", 100)).Wait()
		in := c.consume("q")
		for range 2 {
			d := <-in
			c.ok(d.Nack(false, true))
		}
		c.ok(b.WaitQuiet(t.Context()))
		closed := c.ch.NotifyClose(make(chan *amqp.Error, 1))
		c.publish("q", strings.Repeat("x", 101))
		equal(t, "code", (<-closed).Code, 406)
		c.ok(c.conn.Close())
	})
}

func TestSeedNamesThings(t *testing.T) {
	name := func(seed uint64) string {
		b := brokertest.New(brokertest.WithSeed(seed))
		defer b.Close()
		c := connect(t, b)
		q, err := c.ch.QueueDeclare("", false, false, true, false, nil)
		c.ok(err)
		return q.Name
	}
	equal(t, "same seed", name(3), name(3))
	if name(3) == name(4) {
		t.Fatal("another seed makes the same name")
	}
}
