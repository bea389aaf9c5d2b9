package saga_test

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/brokertest"
	"github.com/harebus/harebus/saga"
	"github.com/harebus/harebus/saga/sagatest"
)

// The messages of an order, and its state.
type (
	OrderPlaced struct {
		Order string
		Total int
	}
	Paid           struct{ Order string }
	PaymentLate    struct{}
	ShipOrder      struct{ Order string }
	OrderCancelled struct{ Order string }

	Order struct{ Total int }
)

func (OrderPlaced) MessageType() string    { return "OrderPlaced" }
func (Paid) MessageType() string           { return "OrderPaid" }
func (PaymentLate) MessageType() string    { return "PaymentLate" }
func (ShipOrder) MessageType() string      { return "ShipOrder" }
func (OrderCancelled) MessageType() string { return "OrderCancelled" }

func registerOrders(setup *harebus.Setup, store saga.Store) error {
	return saga.Register(setup, saga.Config{Name: "order", Store: store},
		saga.Start(func(m OrderPlaced) string { return m.Order }, func(ctx context.Context, o *saga.Instance[Order], m OrderPlaced) error {
			o.State.Total = m.Total
			return o.Timeout(ctx, 24*time.Hour, PaymentLate{})
		}),
		saga.On(func(m Paid) string { return m.Order }, func(ctx context.Context, o *saga.Instance[Order], m Paid) error {
			o.Complete()
			return o.Send(ctx, "shipping", ShipOrder{o.Key})
		}),
		saga.OnTimeout(func(ctx context.Context, o *saga.Instance[Order], _ PaymentLate) error {
			o.Complete()
			return o.Publish(ctx, "order.cancelled", OrderCancelled{o.Key})
		}))
}

// An order is shipped when it is paid. It would be cancelled a day later. A service passes
// saga.SQL(), and an outbox as Transactor; here the store is in memory.
func Example() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	broker := brokertest.New()
	defer broker.Close()
	store := sagatest.NewStore()
	orders, err := harebus.New(harebus.Config{Dial: broker.Dial, Queue: "orders", Handling: harebus.HandlingConfig{Transactor: store}})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer orders.Close()
	shipping, err := harebus.New(harebus.Config{Dial: broker.Dial, Queue: "shipping"})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer shipping.Close()
	shipped := make(chan string)
	harebus.Handle(shipping, func(_ context.Context, _ *harebus.Bus, m ShipOrder) error {
		shipped <- m.Order
		return nil
	})
	if err := errors.Join(registerOrders(orders, store), shipping.Start(ctx), orders.Start(ctx)); err != nil {
		fmt.Println(err)
		return
	}

	// The payment may come first: then it is handled again a little later.
	for _, message := range []any{OrderPlaced{"7", 120}, Paid{"7"}} {
		if err := orders.Bus().Send(ctx, "orders", message); err != nil {
			fmt.Println(err)
			return
		}
	}
	fmt.Println("ship order", <-shipped)
	// Output: ship order 7
}
