package harebus_test

import (
	"context"
	"errors"
	"fmt"
	"log"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/brokertest"
	"github.com/harebus/harebus/topology"
)

// New reports everything that is wrong with a Config at once.
func ExampleNew() {
	_, err := harebus.New(harebus.Config{
		Queue:         "orders",
		Connect:       harebus.ConnectConfig{Password: "secret"},
		Subscriptions: []string{"order*"},
		Consume:       harebus.ConsumeConfig{Concurrency: 10, Prefetch: 5},
	})
	fmt.Println(err)
	// Output:
	// harebus: new setup: Connect.Password is set without Connect.Username
	// topology: validate topic "order*": invalid name: a wildcard must be a word of its own, but the word "order*" contains one
	// Consume.Prefetch 5 is not between 10 and 65535
}

// A broker that refuses is an error of Start at once; the text says what to do.
// One that is not up yet is waited for.
func ExampleSetup_Start() {
	broker := brokertest.New()
	defer broker.Close()
	ctx := context.Background()
	setup := func(kind topology.QueueType) *harebus.Setup {
		s, err := harebus.New(harebus.Config{Dial: broker.Dial, Queue: "orders", QueueOptions: harebus.QueueOptions{Type: kind}})
		if err != nil {
			log.Fatal(err)
		}
		harebus.Handle(s, func(context.Context, *harebus.Bus, PlaceOrder) error { return nil })
		return s
	}
	classic := setup(topology.Classic)
	if err := classic.Start(ctx); err != nil {
		log.Fatal(err)
	}
	defer classic.Close()

	err := setup(topology.Quorum).Start(ctx) // the queue is there, and of another type
	var object *topology.Error
	var answer *amqp.Error
	if errors.As(err, &object) && errors.As(err, &answer) {
		fmt.Println(object.Op, object.Object, answer.Code)
	}
	// Output:
	// declare queue "orders" 406
}

// Live and Ready are made for probes: Live says whether the process should be
// left alone, Ready whether it can do its work now.
func ExampleSetup_Ready() {
	broker := brokertest.New()
	defer broker.Close()
	ctx := context.Background()
	setup, err := harebus.New(harebus.Config{Dial: broker.Dial, Queue: "orders"})
	if err != nil {
		log.Fatal(err)
	}
	harebus.Handle(setup, func(context.Context, *harebus.Bus, PlaceOrder) error { return nil })
	fmt.Println("ready:", setup.Ready())
	if err := setup.Start(ctx); err != nil {
		log.Fatal(err)
	}
	fmt.Println("ready:", setup.Ready())

	if err := setup.Close(); err != nil {
		log.Fatal(err)
	}
	fmt.Println("live:", setup.Live())
	// Output:
	// ready: harebus: health: not started
	// ready: <nil>
	// live: harebus: health: stopped
}
