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
	// shipping order 1, asked for by sales
	// shipping order 2, asked for by sales
	// order 3 was returned: no queue for key "examples.nobody"
}
