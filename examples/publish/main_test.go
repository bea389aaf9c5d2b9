package main

import (
	"context"
	"fmt"
	"os"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/brokertest"
)

func Example() {
	broker := brokertest.New()
	defer broker.Close()
	if err := run(context.Background(), harebus.Config{Dial: broker.Dial}, os.Stdout); err != nil {
		fmt.Println(err)
	}
	// Output:
	// examples.billing heard of order 7 by "order.placed"
	// examples.parcels heard of order 7 by "order.placed"
	// examples.parcels heard of order 8 by "order.placed.express"
	// nobody subscribed: true
	// and nobody need to: <nil>
}
