package harebus_test

import (
	"bytes"
	"context"
	"fmt"
	"log"
	"sync"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/brokertest"
	"github.com/harebus/harebus/seal"
)

// demoKey makes a key. A program reads its keys with seal.ReadKeys.
func demoKey(id string, b byte) *seal.Key {
	key, err := seal.NewKey(id, bytes.Repeat([]byte{b}, 32))
	if err != nil {
		log.Fatal(err)
	}
	return key
}

// sealedService makes a service that protects its messages with the current key and accepts the others.
func sealedService(broker *brokertest.Broker, queue string, current *seal.Key, accepted ...*seal.Key) *harebus.Setup {
	keys, err := seal.NewKeyring(current, accepted...)
	if err != nil {
		log.Fatal(err)
	}
	cfg := harebus.Config{Dial: broker.Dial, Queue: queue}
	cfg.Payload.Guards = []harebus.Guard{seal.New(keys, seal.Policy{Types: []string{"*"}, Headers: []string{"tenant"}})}
	setup, err := harebus.New(cfg)
	if err != nil {
		log.Fatal(err)
	}
	return setup
}

// Messages are sealed: the broker has ciphertext. The key is changed while services are at work: the receiver accepts the old
// and the new one before a sender uses the new one. A message that somebody without a key has sent is parked.
func Example_sealing() {
	broker := brokertest.New()
	defer broker.Close()
	ctx := context.Background()
	old, young := demoKey("2026-08", 1), demoKey("2026-11", 2)

	receiver := sealedService(broker, "orders", old, young)
	var handled sync.WaitGroup
	handled.Add(2)
	harebus.Handle(receiver, func(ctx context.Context, _ *harebus.Bus, o PlaceOrder) error {
		defer handled.Done()
		m := harebus.Incoming(ctx)
		fmt.Println("order", o.ID, "of tenant", m.Headers["tenant"], "came as", m.Properties.ContentType)
		return nil
	})
	if err := receiver.Start(ctx); err != nil {
		log.Fatal(err)
	}
	defer receiver.Close()

	// Before the change and after it.
	for i, sender := range []*harebus.Setup{sealedService(broker, "", old), sealedService(broker, "", young, old)} {
		if err := sender.Bus().Send(ctx, "orders", PlaceOrder{ID: i + 1}, harebus.WithHeader("tenant", "blue")); err != nil {
			log.Fatal(err)
		}
		if err := broker.WaitQuiet(ctx); err != nil {
			log.Fatal(err)
		}
		if err := sender.Close(); err != nil {
			log.Fatal(err)
		}
	}
	handled.Wait()

	stranger, err := harebus.New(harebus.Config{Dial: broker.Dial})
	if err != nil {
		log.Fatal(err)
	}
	defer stranger.Close()
	if err := stranger.Bus().Send(ctx, "orders", PlaceOrder{ID: 3}); err != nil {
		log.Fatal(err)
	}
	if err := broker.WaitQuiet(ctx, "error"); err != nil {
		log.Fatal(err)
	}
	fmt.Println("parked:", broker.Messages("error")[0].Headers["PikaBus.ErrorDetails"])
	// Output:
	// order 1 of tenant blue came as application/vnd.harebus.sealed
	// order 2 of tenant blue came as application/vnd.harebus.sealed
	// parked: in-the-clear: the message is not sealed
}
