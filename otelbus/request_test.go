package otelbus_test

import (
	"context"
	"testing"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/otelbus"
)

// A request is one trace: what the service does is below it, and it ends when the reply has come.
func TestRequestSpan(t *testing.T) {
	bubble(t, func(_ *testing.T, r *rig) {
		orders, shop := r.setup("orders", otelbus.Config{}), r.setup("", otelbus.Config{})
		harebus.Handle(orders, func(ctx context.Context, bus *harebus.Bus, _ PlaceOrder) error {
			return bus.Reply(ctx, map[string]int{"ID": 7})
		})
		r.start(orders)
		_, err := harebus.Request[map[string]int](r.ctx, shop.Bus(), "orders", PlaceOrder{7})
		r.do(err)
		r.wantTree(`trace 1
  request orders
    process orders (1: handled)
      reply
      commit → reply
`)
	})
}
