package order_test

import (
	"context"
	"fmt"
	"log"
	"sync"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/brokertest"
	"github.com/harebus/harebus/order"
)

// Two instances share the accounts. The changes of each account are made one after the other, whichever instance has it: each
// change comes with the fencing number of its owner.
func Example_partitions() {
	broker := brokertest.New()
	defer broker.Close()
	ctx := context.Background()
	var mu sync.Mutex // guards changes
	changes := map[string][]int{}
	var waiting sync.WaitGroup
	instance := func() *harebus.Setup {
		setup, err := harebus.New(harebus.Config{
			Dial: broker.Dial, Queue: "accounts", Consume: harebus.ConsumeConfig{Order: &order.Config{Partitions: 8}},
		})
		if err != nil {
			log.Fatal(err)
		}
		harebus.Handle(setup, func(ctx context.Context, _ *harebus.Bus, c Change) error {
			if order.Fence(ctx) == 0 {
				return fmt.Errorf("no fencing number for a change of %s", c.Account)
			}
			mu.Lock()
			defer mu.Unlock()
			changes[c.Account] = append(changes[c.Account], c.N)
			waiting.Done()
			return nil
		})
		if err := setup.Start(ctx); err != nil {
			log.Fatal(err)
		}
		return setup
	}
	for range 2 {
		defer instance().Close()
	}
	sender, err := harebus.New(harebus.Config{Dial: broker.Dial})
	if err != nil {
		log.Fatal(err)
	}
	defer sender.Close()
	accounts := []string{"ann", "bob", "cid"}
	waiting.Add(4 * len(accounts))
	for n := 1; n <= 4; n++ {
		for _, account := range accounts {
			if err := sender.Bus().Send(ctx, "accounts", Change{account, n}, harebus.WithKey(account)); err != nil {
				log.Fatal(err)
			}
		}
	}
	waiting.Wait()
	for _, account := range accounts {
		fmt.Println(account, changes[account])
	}
	// Output:
	// ann [1 2 3 4]
	// bob [1 2 3 4]
	// cid [1 2 3 4]
}
