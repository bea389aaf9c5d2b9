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
	// deferred two reminders
	// reminder: water (early: false)
	// reminder: tea (early: false)
	// a queue that does not exist is an error now, not later: true
}
