package integration_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/integration_test/rabbit"
	"github.com/harebus/harebus/topology"
)

// full declares a queue and fills it: what comes is nacked.
func (p *place) full(b *broker, name string, queueType topology.QueueType) string {
	p.Helper()
	queue := p.queue(name)
	b.declareQueue(queue, amqp.Table{"x-queue-type": string(queueType), "x-max-length": 1, "x-overflow": "reject-publish"})
	bus := p.bus()
	for range 10 { // a quorum queue takes a few more before it says no
		if err := bus.Send(p.within(patience), queue, note{0}); errors.Is(err, harebus.ErrNacked) {
			return queue
		}
	}
	p.Fatalf("%s is not full", queue)
	return ""
}

// A message that one queue takes and another refuses makes few copies in the first, and the call does not take long.
func TestCopiesBesideAFullQueue(t *testing.T) {
	t.Parallel()
	bothTypes(t, func(t *testing.T, queueType topology.QueueType) {
		p := shared(t)
		b := p.broker()
		full, healthy, topic := p.full(b, "full", queueType), p.queue("healthy"), p.name+".event"
		b.declareQueue(healthy, amqp.Table{"x-queue-type": string(queueType)})
		for _, q := range []string{full, healthy} {
			b.bind(q, topic, "PikaBusTopic")
			b.bind(q, healthy, "PikaBusDirect")
		}
		bus, ctx := p.bus(), p.within(patience)
		started := time.Now()
		p.is(bus.Publish(ctx, topic, note{1}), harebus.ErrNacked)
		p.inTime("the error", started, soon)
		b.take(healthy, 3)
		started = time.Now()
		p.try(bus.Send(ctx, healthy, note{2})) // it answers for the queue of the name
		p.inTime("the command", started, soon)
		b.take(healthy, 2)
		if q, err := b.look(healthy); err != nil || q.Messages != 0 {
			t.Errorf("%d messages are left: %v", q.Messages, err)
		}
	})
}

// What is sent to a queue that nobody has bound arrives in order, also with NonMandatory and beside events to it.
func TestOrderToAQueueThatIsNotBound(t *testing.T) {
	t.Parallel()
	p := shared(t)
	b := p.broker()
	queue, topic := p.queue("legacy"), p.name+".event"
	b.declareQueue(queue, nil)
	p.try(p.setup(p.config("")).Init(p.within(patience)))
	b.bind(queue, topic, "PikaBusTopic")
	bus, ctx := p.bus(), p.within(patience)
	const messages = 60
	p.try(bus.Transaction(ctx, func(ctx context.Context, tx *harebus.Tx) error {
		for n := range messages {
			var err error
			switch n % 3 {
			case 0:
				err = tx.Send(ctx, queue, note{n})
			case 1:
				err = tx.Send(ctx, queue, note{n}, harebus.NonMandatory())
			default:
				err = tx.Publish(ctx, topic, note{n})
			}
			if err != nil {
				return err
			}
		}
		return nil
	}))
	for n, d := range b.take(queue, messages) {
		if got := number(p, &harebus.Message{Body: d.Body}); got != n {
			t.Errorf("message %d is %d", n, got)
		}
	}
	p.try(bus.Send(ctx, p.queue("nobody"), note{1}, harebus.NonMandatory()))
}

// A body above the broker's max_message_size is refused for certain, alone and in a transaction.
func TestBodyAboveTheBrokersLimit(t *testing.T) {
	t.Parallel()
	p := private(t, rabbit.Options{})
	const limit = 100_000
	_, err := p.node.Eval(p.within(patience), fmt.Sprintf("application:set_env(rabbit, max_message_size, %d), persistent_term:put(max_message_size, %d).", limit, limit))
	p.try(err)
	b := p.broker()
	queue := p.queue("out")
	b.declareQueue(queue, nil)
	bus, ctx := p.bus(), p.within(patience)
	large := make([]byte, 2*limit)
	check := func(err error) {
		t.Helper()
		p.is(err, harebus.ErrRefused)
		if errors.Is(err, harebus.ErrUnknownOutcome) {
			t.Errorf("not known: %v", err)
		}
		p.mentions(err, "larger than")
	}
	check(bus.Send(ctx, queue, large))
	tx := bus.Begin()
	for n := range 10 {
		var value any = note{n}
		if n == 5 {
			value = large
		}
		p.try(tx.Send(ctx, queue, value))
	}
	var failed *harebus.TransactionError
	if err := tx.Commit(ctx); !errors.As(err, &failed) || len(failed.With(harebus.Confirmed)) != 9 {
		t.Fatalf("got %v", err)
	}
	check(failed.Messages[5].Err)
	for _, d := range b.take(queue, 9) {
		if len(d.Body) > limit {
			t.Error("it has arrived")
		}
	}
}
