package order_test

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/integration_test/rabbit"
	"github.com/harebus/harebus/order"
)

const parkedMany = 4000

// TestManyParked: thousands of messages behind one that holds its key are there again after a restart of the service, and are handled
// in their order when it is discarded. It logs how long each takes.
func TestManyParked(t *testing.T) {
	node := rabbit.Need(t, rabbit.Options{Kind: rabbit.KindNode})
	var last, disorder atomic.Int64
	start := func() *harebus.Setup {
		setup, err := harebus.New(harebus.Config{
			URL: node.URL(), Queue: "steps", Logger: zap.NewNop(), Consume: harebus.ConsumeConfig{Order: &order.Config{MaxParked: 10_000}},
			Retry: harebus.RetryConfig{MaxRetries: -1},
		})
		if err != nil {
			t.Fatal(err)
		}
		harebus.Handle(setup, func(_ context.Context, _ *harebus.Bus, s step) error {
			if s.N == 1 {
				return errPlanned
			}
			if !last.CompareAndSwap(int64(s.N-1), int64(s.N)) {
				disorder.Add(1)
			}
			return nil
		})
		if err := setup.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		return setup
	}
	last.Store(1)
	until := func(what string, ok func() bool) {
		t.Helper()
		began := time.Now()
		for !ok() {
			if time.Since(began) > 2*time.Minute {
				t.Fatalf("%s: not after two minutes", what)
			}
			(&havoc{t: t}).pause(2 * time.Millisecond)
		}
		t.Logf("%s: %v", what, time.Since(began).Round(time.Millisecond))
	}
	parked := func(s *harebus.Setup) func() bool {
		return func() bool {
			keys := s.Parked()
			return len(keys) == 1 && keys[0].Held && keys[0].Waiting == parkedMany
		}
	}
	first := start()
	tx := first.Bus().Begin()
	for n := range parkedMany {
		if err := tx.Send(t.Context(), "steps", step{"a", n + 1}, harebus.WithKey("a")); err != nil {
			t.Fatal(err)
		}
	}
	if err := tx.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	until("parked", parked(first))
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	second := start()
	until("loaded", parked(second))
	said := time.Now()
	(&havoc{t: t, plan: plan{URLs: []string{node.URL()}}}).discard()
	until("handled after the answer to the word", func() bool { return last.Load() == parkedMany })
	t.Logf("handled after the word was said: %v", time.Since(said).Round(time.Millisecond))
	if err := second.Close(); err != nil {
		t.Fatal(err)
	}
	if disorder.Load() > 0 {
		t.Errorf("%d were out of their order", disorder.Load())
	}
}
