package harebus_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/brokertest"
)

// looks are more than the 20 deliveries that RabbitMQ 4 allows by default.
const looks = 25

// lookAt takes everything out of a queue and gives it back by closing the
// channel, as a tool or a person with a management page does.
func (r *rig) lookAt(conn *amqp.Connection, queue string) {
	r.t.Helper()
	ch, err := conn.Channel()
	if err != nil {
		r.t.Fatal(err)
	}
	for found := true; found; {
		if _, found, err = ch.Get(queue, false); err != nil {
			r.t.Fatal(err)
		}
	}
	if err := ch.Close(); err != nil {
		r.t.Fatal(err)
	}
}

// TestLookedAt: a message that waits, in a delay queue or in the error queue,
// can be looked at as often as one likes, although RabbitMQ 4 counts each look.
func TestLookedAt(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		s := r.setup(r.config("orders"))
		harebus.Handle(s, func(context.Context, *harebus.Bus, order) error { return harebus.NoRetry(errors.New("no")) })
		r.start(s)
		conn, err := amqp.DialConfig(r.broker.URL(), amqp.Config{Dial: r.broker.Dial})
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		r.declare(r.channel(), "plain") // of a consumer that knows nothing of deferred messages
		began := time.Now()
		if err := s.Bus().Defer(r.ctx, "plain", time.Minute, order{1}); err != nil {
			t.Fatal(err)
		}
		if err := s.Bus().Send(r.ctx, "orders", order{2}); err != nil {
			t.Fatal(err)
		}
		r.await("error", 1)
		for range looks {
			for _, q := range r.broker.Queues() {
				if q.Name == "error" || strings.HasPrefix(q.Name, "harebus.delay.") {
					r.lookAt(conn, q.Name)
				}
			}
		}
		if took := time.Since(began); took > 30*time.Second {
			t.Fatalf("looking took %v: the message may be due", took)
		}
		if got := r.broker.Messages("plain"); len(got) != 0 {
			t.Errorf("a message that was looked at came %v early", time.Minute-time.Since(began))
		}
		r.await("plain", 1)
		if took := time.Since(began); took < time.Minute || took > time.Minute+time.Second {
			t.Errorf("it came after %v", took)
		}
		r.await("error", 1)
	}, brokertest.WithDeliveryLimit(20))
}
