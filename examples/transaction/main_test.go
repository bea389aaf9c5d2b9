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
	// rolled back: no seat left
	// committed, and booked: train hotel
	// examples.bookings: confirmed
	// examples.nobody: returned
	// booked: museum
}
