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
	// harebus: send: middleware: no tenant
	// Count {"Down":2} of acme: <nil>
	// Count {"Down":1} of acme: <nil>
	// Count {"Down":0} of acme: <nil>
}
