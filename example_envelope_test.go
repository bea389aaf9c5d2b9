package harebus_test

import (
	"context"
	"errors"
	"fmt"
	"log"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/brokertest"
)

// row is an envelope as a table of a database would have it.
type row struct {
	exchange, key string
	head, body    []byte
}

// What a transaction has buffered can be stored, together with the effects that the
// messages tell of, and published later, by another process if need be.
func ExampleTx_Detach() {
	broker := brokertest.New()
	defer broker.Close()
	ctx := context.Background()
	setup, err := harebus.New(harebus.Config{Dial: broker.Dial, Queue: "orders"})
	if err != nil {
		log.Fatal(err)
	}
	if err := setup.Init(ctx); err != nil {
		log.Fatal(err)
	}
	defer setup.Close()
	bus := setup.Bus()

	tx := bus.Begin()
	defer tx.Rollback() // does nothing after Detach
	if err := errors.Join(tx.Send(ctx, "orders", PlaceOrder{ID: 1}), tx.Send(ctx, "nobody", PlaceOrder{ID: 2})); err != nil {
		log.Fatal(err)
	}
	envelopes, err := tx.Detach()
	if err != nil {
		log.Fatal(err)
	}
	var table []row
	for _, e := range envelopes {
		head, err := e.Head()
		if err != nil {
			log.Fatal(err)
		}
		table = append(table, row{e.Exchange(), e.RoutingKey(), head, e.Body()})
	}

	var opened []harebus.Envelope
	for _, r := range table {
		e, err := harebus.OpenEnvelope(r.exchange, r.key, r.head, r.body)
		if err != nil {
			log.Fatal(err)
		}
		opened = append(opened, e)
	}
	for i, err := range bus.Forward(ctx, opened) {
		fmt.Printf("%s: confirmed %v, no queue takes it %v\n", table[i].body, err == nil, errors.Is(err, harebus.ErrUnroutable))
	}
	// Output:
	// {"ID":1}: confirmed true, no queue takes it false
	// {"ID":2}: confirmed false, no queue takes it true
}

// A service on the error queue can put messages back where they failed, exactly as they
// were parked.
func ExampleMessage_Envelope() {
	broker := brokertest.New()
	defer broker.Close()
	setup, err := harebus.New(harebus.Config{Dial: broker.Dial, Queue: "error", ErrorQueue: harebus.ErrorQueueConfig{Name: "error.error"}})
	if err != nil {
		log.Fatal(err)
	}
	setup.HandleMessage(harebus.AnyType, func(ctx context.Context, bus *harebus.Bus, m *harebus.Message) error {
		envelope, err := m.Envelope("", m.SourceQueue)
		if err != nil {
			return err
		}
		return errors.Join(bus.Forward(ctx, []harebus.Envelope{envelope})...)
	})
}
