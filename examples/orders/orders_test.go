package main

import (
	"context"
	"path/filepath"
	"testing"
	"time"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/brokertest"
)

// TestPlace: an order that is delivered twice is stored once, and its event comes once.
func TestPlace(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	broker := brokertest.New() // a broker in this process
	defer broker.Close()
	cfg := harebus.Config{Dial: broker.Dial}
	db, err := openDB(filepath.Join(t.TempDir(), "orders.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	orders, err := service(ctx, cfg, db)
	if err != nil {
		t.Fatal(err)
	}
	defer orders.Close()

	cfg.Queue, cfg.Subscriptions = "shipping", []string{"order.placed"}
	shipping, err := harebus.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer shipping.Close()
	placed := make(chan int, 10)
	harebus.Handle(shipping, func(_ context.Context, _ *harebus.Bus, e OrderPlaced) error {
		placed <- e.ID
		return nil
	})
	for _, setup := range []*harebus.Setup{shipping, orders} {
		if err := setup.Start(ctx); err != nil {
			t.Fatal(err)
		}
	}

	for _, id := range []string{"order-7", "order-7", "order-8"} {
		cmd := PlaceOrder{ID: int(id[6] - '0'), Item: "hare"}
		if err := orders.Bus().Send(ctx, "orders", cmd, harebus.WithMessageID(id)); err != nil {
			t.Fatal(err)
		}
	}
	events := map[int]int{}
	for len(events) < 2 {
		select {
		case id := <-placed:
			events[id]++
		case <-ctx.Done():
			t.Fatalf("events: %v", events)
		}
	}
	var rows int
	if err := db.QueryRowContext(ctx, `select count(*) from orders`).Scan(&rows); err != nil {
		t.Fatal(err)
	}
	if rows != 2 || events[7] != 1 || events[8] != 1 {
		t.Errorf("%d orders, events %v", rows, events)
	}
}
