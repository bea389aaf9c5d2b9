package harebus_test

import (
	"context"
	"fmt"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/brokertest"
)

// Charge was renamed when its amount became a number of cents.
type Charge struct{ Euros float64 }

// ChargeV2 is the new version, with a wire name of its own.
type ChargeV2 struct{ Cents int }

func (Charge) MessageType() string   { return "Charge" }
func (ChargeV2) MessageType() string { return "Charge.v2" }

// Messages of the older version are handled as the newer one while there are senders of both.
func ExampleUpcast() {
	setup, err := harebus.New(harebus.Config{Queue: "charges", Dial: brokertest.New().Dial})
	if err != nil {
		fmt.Println(err)
		return
	}
	harebus.Handle(setup, func(ctx context.Context, _ *harebus.Bus, c ChargeV2) error {
		fmt.Println(c.Cents, "cents, sent as", harebus.Incoming(ctx).Type)
		return nil
	})
	harebus.Upcast(setup, func(_ context.Context, old Charge) (ChargeV2, error) {
		return ChargeV2{Cents: int(old.Euros*100 + 0.5)}, nil
	})
	for _, message := range []any{Charge{12.5}, ChargeV2{99}} {
		if _, err := setup.Invoke(context.Background(), message); err != nil {
			fmt.Println(err)
		}
	}
	// Output:
	// 1250 cents, sent as Charge
	// 99 cents, sent as Charge.v2
}
