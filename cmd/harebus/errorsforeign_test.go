package main

import (
	"context"
	"errors"
	"strings"
	"testing"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/brokertest"
	"github.com/harebus/harebus/dialect"
	"github.com/harebus/harebus/dialect/wolverine"
	"github.com/harebus/harebus/topology"
)

// TestErrorsOfAPeer: a message that a broker had dead-lettered for another bus, and that is parked here, shows both failures and its dialect.
func TestErrorsOfAPeer(t *testing.T) {
	t.Parallel()
	b, ch, url := failures(t)
	setup, err := harebus.New(harebus.Config{
		URL: url, Queue: "letters", ErrorQueue: harebus.ErrorQueueConfig{Type: topology.Classic},
		Payload: harebus.PayloadConfig{Dialects: []dialect.Dialect{wolverine.New(wolverine.Config{Types: dialect.Types{"PlaceOrder": "Acme.Orders.PlaceOrder"}})}},
	})
	if err != nil {
		t.Fatal(err)
	}
	setup.HandleMessage("PlaceOrder", func(context.Context, *harebus.Bus, *harebus.Message) error {
		return harebus.NoRetry(errors.New("no stock"))
	})
	if err := setup.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	const id = "08df4d3d-c679-1fec-0200-000000000000"
	put(t, ch, "letters", amqp.Publishing{MessageId: id, Type: "Acme.Orders.PlaceOrder", ContentType: "application/json", Body: []byte(`{"id":7}`), Headers: amqp.Table{
		"wolverine-protocol-version": "1.0", "x-first-death-reason": "rejected", "x-first-death-queue": "theirs",
		"x-death": []any{amqp.Table{"reason": "rejected", "queue": "theirs", "count": int64(1)}},
	}})
	if err := b.WaitQueue(t.Context(), "error", func(q brokertest.Queue) bool { return q.Ready == 4 }); err != nil {
		t.Fatal(err)
	}
	if err := setup.Close(); err != nil {
		t.Fatal(err)
	}
	r := execute(t, "", onBroker(url, []string{"show", id})...)
	r.check(t, exitOK, "")
	for _, part := range []string{"no stock", `PikaBus.Dialect: "wolverine"`, `PikaBus.x-first-death-queue: "theirs"`, `PikaBus.x-death: [{"count":1,"queue":"theirs","reason":"rejected"}]`} {
		if !strings.Contains(r.out, part) {
			t.Errorf("%s is not in\n%s", part, r.out)
		}
	}
}
