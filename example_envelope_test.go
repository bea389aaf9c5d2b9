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
	ctx := context.Background()
	orders, err := harebus.New(harebus.Config{Dial: broker.Dial, Queue: "orders", ErrorQueue: harebus.ErrorQueueConfig{Name: "failures"}})
	if err != nil {
		log.Fatal(err)
	}
	defer orders.Close()
	fixed := make(chan int, 1)
	harebus.Handle(orders, func(_ context.Context, _ *harebus.Bus, cmd PlaceOrder) error {
		if cmd.ID == 7 && len(fixed) == 0 {
			return harebus.NoRetry(errors.New("out of stock"))
		}
		return nil
	})
	failures, err := harebus.New(harebus.Config{Dial: broker.Dial, Queue: "failures", Declare: harebus.DeclareConfig{Mode: harebus.CheckOnly}, ErrorQueue: harebus.ErrorQueueConfig{Name: "orders"}})
	if err != nil {
		log.Fatal(err)
	}
	defer failures.Close()
	failures.HandleMessage(harebus.AnyType, func(ctx context.Context, bus *harebus.Bus, m *harebus.Message) error {
		fmt.Printf("%s failed in %s: %s\n", m.Body, m.SourceQueue, m.ErrorDetails)
		envelope, err := m.Envelope("", m.SourceQueue)
		if err != nil {
			return err
		}
		fixed <- 1
		return errors.Join(bus.Forward(ctx, []harebus.Envelope{envelope})...)
	})
	if err := errors.Join(orders.Start(ctx), orders.Bus().Send(ctx, "orders", PlaceOrder{ID: 7})); err != nil {
		log.Fatal(err)
	}
	if err := failures.Start(ctx); err != nil {
		log.Fatal(err)
	}
	if err := broker.WaitQuiet(ctx); err != nil {
		log.Fatal(err)
	}
	fmt.Println("handled:", orders.Stats().Handled)
	// Output:
	// {"ID":7} failed in orders: out of stock
	// handled: 1
}
