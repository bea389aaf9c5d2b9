package ordered_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/brokertest"
	"github.com/harebus/harebus/internal/access"
	"github.com/harebus/harebus/internal/ordered"
	"github.com/harebus/harebus/order"
)

// TestListGivenUp: a list whose context ends while the broker is asked returns, and what comes later does no harm.
func TestListGivenUp(t *testing.T) {
	t.Parallel()
	b := brokertest.New()
	defer b.Close()
	s, err := harebus.New(harebus.Config{Dial: b.Dial, Queue: "steps", Consume: harebus.ConsumeConfig{Order: &order.Config{}}})
	if err != nil {
		t.Fatal(err)
	}
	harebus.Handle(s, func(context.Context, *harebus.Bus, struct{}) error { return nil }, harebus.WithType("Step"))
	if err := errors.Join(s.Init(t.Context()), s.Close()); err != nil {
		t.Fatal(err)
	}
	o := ordered.Options{Broker: access.Broker{URLs: []string{b.URL()}, Dial: b.Dial}, Queue: "steps", HeaderPrefix: "PikaBus.", Timeout: 5 * time.Second}
	for _, after := range []time.Duration{20, 100, 300, 490} {
		b.Inject(brokertest.Fault{On: "basic.consume", Do: brokertest.Delay, For: 50 * time.Millisecond})
		ctx, cancel := context.WithTimeout(t.Context(), after*time.Millisecond)
		if keys, err := o.List(ctx); err == nil || keys != nil {
			t.Errorf("after %v ms: %v, %v", int(after), keys, err)
		}
		cancel()
	}
	if keys, err := o.List(t.Context()); err != nil || len(keys) != 0 {
		t.Errorf("%v, %v", keys, err)
	}
}
