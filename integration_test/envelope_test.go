package integration_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/topology"
)

// Messages that were parked for every kind of reason are forwarded out of the error queue exactly as they lay in it.
func TestParkedMessagesAreForwarded(t *testing.T) {
	t.Parallel()
	p := shared(t)
	cfg := p.config("a")
	cfg.ErrorQueue.Type = topology.Classic
	cfg.Retry.MaxRetries = 1
	s := p.setup(cfg)
	harebus.Handle(s, func(context.Context, *harebus.Bus, note) error { return errors.New("no") })
	p.start(s)
	b, bus := p.broker(), s.Bus()
	ctx := p.within(patience)
	p.try(errors.Join(
		bus.Send(ctx, cfg.Queue, note{1}, harebus.WithHeader("tenant", "a"), harebus.WithPriority(2)),
		bus.Defer(ctx, cfg.Queue, 100*time.Millisecond, note{2}),
	))
	b.publish("", cfg.Queue, amqp.Publishing{MessageId: "no json", Type: "Note", ContentType: "application/json", Body: []byte{0, 1, 2}})
	b.publish("", cfg.Queue, amqp.Publishing{MessageId: "foreign", Type: "Note", AppId: "java", ContentType: "application/json", ContentEncoding: "utf-8",
		Headers: amqp.Table{"": "no name", "list": []any{int8(1), "x", nil, amqp.Table{"t": time.Unix(1, 0)}}, "bytes": []byte{0, 255}, "f": float32(0.5)},
		Body:    []byte(`{"n": 3}`), Timestamp: time.Unix(1_700_000_000, 0), CorrelationId: "c", ReplyTo: "somebody", Priority: 9})
	b.publish("", cfg.Queue, amqp.Publishing{MessageId: "poison", Headers: amqp.Table{"deep": nested(50)}, Body: []byte(`{"n": 4}`)})
	const parked = 5
	lying := map[string]string{}
	for _, d := range b.take(cfg.ErrorQueue.Name, parked) {
		lying[d.MessageId] = asPublished(d)
		b.publish("", cfg.ErrorQueue.Name, publishingOf(d)) // back to where it was
	}
	p.try(s.Stop(p.within(patience)))

	back := p.queue("back")
	b.declareQueue(back, nil)
	errorQueue := p.config("unused")
	errorQueue.Queue, errorQueue.Declare.Mode = cfg.ErrorQueue.Name, harebus.CheckOnly
	errorQueue.ErrorQueue = harebus.ErrorQueueConfig{Name: back, Type: topology.Classic}
	mover := p.setup(errorQueue)
	mover.HandleMessage(harebus.AnyType, func(ctx context.Context, bus *harebus.Bus, m *harebus.Message) error {
		e, err := m.Envelope("", back)
		if err != nil {
			return err
		}
		head, err := e.Head()
		if err != nil {
			return err
		}
		if e, err = harebus.OpenEnvelope(e.Exchange(), e.RoutingKey(), head, e.Body()); err != nil {
			return err
		}
		return errors.Join(bus.Forward(ctx, []harebus.Envelope{e})...)
	})
	b.bind(cfg.ErrorQueue.Name, cfg.ErrorQueue.Name, "PikaBusDirect")
	b.bind(back, back, "PikaBusDirect")
	p.start(mover)
	for _, d := range b.take(back, parked) {
		if got, want := asPublished(d), lying[d.MessageId]; got != want {
			t.Errorf("%q arrived as\n%s\nand lay as\n%s", d.MessageId, got, want)
		}
		delete(lying, d.MessageId)
	}
	if len(lying) > 0 {
		t.Errorf("%d did not arrive: %v", len(lying), lying)
	}
}

// asPublished is all of a delivery that its publisher decides.
func asPublished(d amqp.Delivery) string { return fmt.Sprintf("%+v", publishingOf(d)) }

func publishingOf(d amqp.Delivery) amqp.Publishing {
	return amqp.Publishing{
		Headers: d.Headers, ContentType: d.ContentType, ContentEncoding: d.ContentEncoding, DeliveryMode: d.DeliveryMode, Priority: d.Priority,
		CorrelationId: d.CorrelationId, ReplyTo: d.ReplyTo, Expiration: d.Expiration, MessageId: d.MessageId, Timestamp: d.Timestamp,
		Type: d.Type, AppId: d.AppId, Body: d.Body,
	}
}
