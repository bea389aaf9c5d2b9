package harebus_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/brokertest"
)

// order is the message type of most tests.
type order struct{ ID int }

func (order) MessageType() string { return "Order" }

// answer is what handlers of order reply with.
type answer struct{ ID int }

func (answer) MessageType() string { return "Answer" }

// rig is a broker and what tests do with it.
type rig struct {
	t      *testing.T
	ctx    context.Context // ends after ten (virtual) minutes, so that nothing hangs
	broker *brokertest.Broker
	tap    *tap
}

// bubble runs a test with a broker and a clock of its own.
func bubble(t *testing.T, test func(t *testing.T, r *rig), opts ...brokertest.Option) {
	t.Helper()
	t.Parallel()
	inBubble(t, test, opts...)
}

// inBubble is bubble for subtests that are not parallel.
func inBubble(t *testing.T, test func(t *testing.T, r *rig), opts ...brokertest.Option) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		b := brokertest.New(opts...)
		t.Cleanup(b.Close)
		r := &rig{t: t, broker: b, tap: &tap{dial: b.Dial}}
		r.setClock(time.Now())
		test(t, r)
	})
}

// setClock moves the clock of the bubble forward; before anything is connected,
// that takes no time.
func (r *rig) setClock(to time.Time) {
	time.Sleep(time.Until(to))
	ctx, cancel := context.WithTimeoutCause(r.t.Context(), 10*time.Minute, errors.New("the test took ten minutes"))
	r.t.Cleanup(cancel)
	r.ctx = ctx
}

// config is the configuration of a service on the rig's broker.
func (r *rig) config(queue string) harebus.Config {
	return harebus.Config{URL: r.broker.URL(), Dial: r.tap.Dial, Queue: queue}
}

// setup makes a setup that is closed when the test ends.
func (r *rig) setup(cfg harebus.Config) *harebus.Setup {
	r.t.Helper()
	s, err := harebus.New(cfg)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() {
		if err := s.Close(); err != nil {
			r.t.Errorf("close: %v", err)
		}
	})
	return s
}

// start starts a setup.
func (r *rig) start(s *harebus.Setup) {
	r.t.Helper()
	if err := s.Start(r.ctx); err != nil {
		r.t.Fatal(err)
	}
}

// channel opens a channel of a plain client, in confirm mode.
func (r *rig) channel() *amqp.Channel {
	r.t.Helper()
	conn, err := amqp.DialConfig(r.broker.URL(), amqp.Config{Dial: r.broker.Dial})
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { _ = conn.Close() })
	ch, err := conn.Channel()
	if err != nil {
		r.t.Fatal(err)
	}
	if err := ch.Confirm(false); err != nil {
		r.t.Fatal(err)
	}
	return ch
}

// publish has a plain client put messages into a queue, confirmed.
func (r *rig) publish(ch *amqp.Channel, queue string, messages ...amqp.Publishing) {
	r.t.Helper()
	r.publishTo(ch, "", queue, messages...)
}

// publishTo is publish to any exchange.
func (r *rig) publishTo(ch *amqp.Channel, exchange, key string, messages ...amqp.Publishing) {
	r.t.Helper()
	for _, m := range messages {
		confirm, err := ch.PublishWithDeferredConfirm(exchange, key, true, false, m)
		if err != nil {
			r.t.Fatal(err)
		}
		if acked, err := confirm.WaitContext(r.ctx); err != nil || !acked {
			r.t.Fatalf("publish to %q: acked %v, %v", key, acked, err)
		}
	}
}

// declare has a plain client declare classic durable queues.
func (r *rig) declare(ch *amqp.Channel, queues ...string) {
	r.t.Helper()
	for _, q := range queues {
		if _, err := ch.QueueDeclare(q, true, false, false, false, nil); err != nil {
			r.t.Fatal(err)
		}
	}
}

// bound declares classic durable queues, bound to the direct exchange as a
// service binds its own.
func (r *rig) bound(ch *amqp.Channel, queues ...string) {
	r.t.Helper()
	r.declare(ch, queues...)
	if err := ch.ExchangeDeclare("PikaBusDirect", "direct", true, false, false, false, nil); err != nil {
		r.t.Fatal(err)
	}
	for _, q := range queues {
		if err := ch.QueueBind(q, q, "PikaBusDirect", false, nil); err != nil {
			r.t.Fatal(err)
		}
	}
}

// await waits until a queue has n ready messages and returns them.
func (r *rig) await(queue string, n int) []brokertest.Message {
	r.t.Helper()
	err := r.broker.WaitQueue(r.ctx, queue, func(q brokertest.Queue) bool { return q.Ready >= n })
	if err != nil {
		r.t.Fatal(err)
	}
	messages := r.broker.Messages(queue)
	if len(messages) != n {
		r.t.Fatalf("%d messages in %q, want %d", len(messages), queue, n)
	}
	return messages
}

// quiet waits until nothing goes on any more; queues named in except may hold
// messages.
func (r *rig) quiet(except ...string) {
	r.t.Helper()
	if err := r.broker.WaitQuiet(r.ctx, except...); err != nil {
		r.t.Fatal(err)
	}
}

// receive takes a value from a channel.
func receive[T any](r *rig, from <-chan T) T {
	r.t.Helper()
	select {
	case v := <-from:
		return v
	case <-r.ctx.Done():
		r.t.Fatal(context.Cause(r.ctx))
		panic("not reached")
	}
}

// plain is a message for a handler of order, as a foreign client sends it.
func plain(body string) amqp.Publishing {
	return amqp.Publishing{Type: "Order", ContentType: "application/json", Body: []byte(body)}
}

// contains fails the test unless text has every part.
func contains(t *testing.T, text string, parts ...string) {
	t.Helper()
	for _, part := range parts {
		if !strings.Contains(text, part) {
			t.Errorf("%q does not contain %q", text, part)
		}
	}
}
