package fair_test

import (
	"context"
	"fmt"
	"log"
	"sync/atomic"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/brokertest"
	"github.com/harebus/harebus/fair"
)

// Invoice is what tenants ask for.
type Invoice struct{ Number int }

func (Invoice) MessageType() string { return "Invoice" }

// One tenant sends a thousand messages at once, and another one a single message after them. It is handled within a
// moment: the flood moves to the backlog and comes back from there bit by bit.
func Example() {
	broker := brokertest.New()
	defer broker.Close()
	ctx := context.Background()
	setup, err := harebus.New(harebus.Config{Dial: broker.Dial, Queue: "invoices", Payload: harebus.PayloadConfig{
		Context: []harebus.ContextHeader{{Name: "tenant"}},
	}})
	if err != nil {
		log.Fatal(err)
	}
	tenants, err := fair.New(setup, fair.Config{By: func(m *harebus.Message) string {
		tenant, _ := m.Headers["tenant"].(string)
		return tenant
	}})
	if err != nil {
		log.Fatal(err)
	}
	var before atomic.Int64
	sent := make(chan struct{})
	harebus.Handle(setup, func(ctx context.Context, _ *harebus.Bus, i Invoice) error {
		if i.Number > 0 {
			<-sent
		}
		if harebus.ContextValue(ctx, "tenant") == "small" {
			fmt.Println("small has its invoice before half of the thousand:", before.Load() < 500)
		}
		before.Add(1)
		return nil
	})
	if err := setup.Start(ctx); err != nil {
		log.Fatal(err)
	}
	defer setup.Close()

	flood := harebus.WithContextValue(ctx, "tenant", "big")
	for i := range 1000 {
		if err := setup.Bus().Send(flood, "invoices", Invoice{i}); err != nil {
			log.Fatal(err)
		}
	}
	if err := setup.Bus().Send(harebus.WithContextValue(ctx, "tenant", "small"), "invoices", Invoice{1}); err != nil {
		log.Fatal(err)
	}
	if err := broker.WaitQueue(ctx, "invoices", func(q brokertest.Queue) bool { return q.Ready == 0 && q.Unacked <= 101 }); err != nil {
		log.Fatal(err)
	}
	close(sent)
	if err := broker.WaitQuiet(ctx); err != nil {
		log.Fatal(err)
	}
	fmt.Println("handled:", setup.Stats().Handled, "parked:", setup.Stats().Parked, "all came back:", tenants.Stats().Moved == tenants.Stats().Returned)
	// Output:
	// small has its invoice before half of the thousand: true
	// handled: 1001 parked: 0 all came back: true
}
