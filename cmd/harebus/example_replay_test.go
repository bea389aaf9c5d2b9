package main

import (
	"context"
	"fmt"
	"log"
	"os"
	"strings"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/brokertest"
	"github.com/harebus/harebus/topology"
)

// Events are captured, and those of one topic are replayed into the queue of a service that is new.
func Example_replay() {
	broker := brokertest.New()
	defer broker.Close()
	address, err := broker.Listen("127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	ctx, url := context.Background(), "amqp://guest:guest@"+address.String()+"/"
	shop, err := harebus.New(harebus.Config{
		URL: url, Declare: harebus.DeclareConfig{Topology: topology.Join(topology.EventLog("events", "PikaBusTopic"), topology.Topology{Queues: []topology.Queue{{Name: "billing"}}})},
	})
	if err != nil {
		log.Fatal(err)
	}
	defer shop.Close()
	if err := shop.Init(ctx); err != nil {
		log.Fatal(err)
	}
	for id, topic := range []string{"order.placed", "payment.received", "order.placed"} {
		if err := shop.Bus().Publish(ctx, topic, id, harebus.WithType("Happened")); err != nil {
			log.Fatal(err)
		}
	}
	code := run(ctx, []string{"replay", "-url", url, "-stream", "events", "-topic", "order.*", "-queue", "billing", "-run", "november"}, strings.NewReader(""), os.Stdout, os.Stderr)
	if code != exitOK {
		log.Fatal(code)
	}
	for _, m := range broker.Messages("billing") {
		fmt.Printf("%s, offset %v of the stream\n", m.Body, m.Headers["PikaBus.StreamOffset"])
	}
	// Output:
	// replayed 2, passed over 1 of other topics, run november
	// 0, offset 0 of the stream
	// 2, offset 2 of the stream
}
