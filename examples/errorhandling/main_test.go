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
	// late card: paid at attempt 3
	// slow card: paid at attempt 2
	// {"By":"empty card"}: parked by examples.payments after 2 failures: the account is empty
	// {"By":"lost card"}: parked by examples.payments after 1 failures: card "lost card": no such account
}
