package harebus_test

import (
	"context"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/brokertest"
)

// TestAckOrders has handlers end in every kind of order, and checks all the time
// that exactly those messages are acknowledged whose handlers have ended.
func TestAckOrders(t *testing.T) {
	for _, prefetch := range []int{4, 7, 32, 100} {
		for seed := range uint64(4) {
			t.Run("", func(t *testing.T) {
				bubble(t, func(t *testing.T, r *rig) { ackOrder(t, r, prefetch, rand.New(rand.NewPCG(seed, 7))) })
			})
		}
	}
}

func ackOrder(t *testing.T, r *rig, prefetch int, random *rand.Rand) {
	const messages = 150
	cfg := r.config("orders")
	cfg.Consume = harebus.ConsumeConfig{Concurrency: prefetch, Prefetch: prefetch}
	s := r.setup(cfg)
	var mu sync.Mutex
	running, done := map[int]bool{}, map[int]bool{}
	pauses := make([]time.Duration, messages)
	for i := range pauses {
		pauses[i] = time.Duration(random.IntN(50)) * time.Millisecond
	}
	harebus.Handle(s, func(_ context.Context, _ *harebus.Bus, o order) error {
		mu.Lock()
		running[o.ID] = true
		mu.Unlock()
		<-time.After(pauses[o.ID])
		mu.Lock()
		defer mu.Unlock()
		delete(running, o.ID)
		done[o.ID] = true
		return nil
	})
	r.start(s)
	tx := s.Bus().Begin()
	for i := range messages {
		if err := tx.Send(r.ctx, "orders", order{i}); err != nil {
			t.Fatal(err)
		}
	}
	if err := tx.Commit(r.ctx); err != nil {
		t.Fatal(err)
	}
	for start := time.Now(); len(r.broker.Messages("orders")) > 0; {
		<-time.After(7 * time.Millisecond)
		mu.Lock()
		unacked := map[string]bool{}
		for _, m := range r.broker.Messages("orders") {
			unacked[string(m.Body)] = true
		}
		for id := range running {
			if body, _ := (harebus.JSON{}).Encode(order{id}); !unacked[string(body)] {
				t.Errorf("order %d is acknowledged and still in its handler", id)
			}
		}
		if waiting := len(unacked) - (messages - len(done)); waiting > prefetch {
			t.Errorf("%d acks are being put off", waiting)
		}
		mu.Unlock()
		if time.Since(start) > 20*time.Second {
			t.Fatal("some are never acknowledged")
		}
	}
	if got := s.Stats(); got.Delivered != messages || len(done) != messages || got.Redelivered != 0 {
		t.Errorf("%d done, counts %+v", len(done), got)
	}
}

// TestAckSoon: an ack does not wait for others for long.
func TestAckSoon(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		cfg := r.config("orders")
		cfg.Consume = harebus.ConsumeConfig{Concurrency: 10, Prefetch: 1000}
		s, got := counting(r, cfg)
		r.start(s)
		for i := range 3 {
			if err := s.Bus().Send(r.ctx, "orders", order{i}); err != nil {
				t.Fatal(err)
			}
			start := time.Now()
			receive(r, got)
			r.quiet()
			if took := time.Since(start); took > 5*time.Millisecond {
				t.Errorf("it took %v", took)
			}
		}
	})
}

// TestAckGathers: many acks go as few.
func TestAckGathers(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		cfg := r.config("orders")
		cfg.Consume = harebus.ConsumeConfig{Concurrency: 1, Prefetch: 200}
		s, got := counting(r, cfg)
		r.start(s)
		if err := s.Bus().Send(r.ctx, "orders", order{0}); err != nil {
			t.Fatal(err)
		}
		r.quiet()
		acks := r.broker.Inject(brokertest.Fault{On: "basic.ack", Times: -1, Do: brokertest.Delay})
		tx := s.Bus().Begin()
		for i := range 500 {
			if err := tx.Send(r.ctx, "orders", order{i}); err != nil {
				t.Fatal(err)
			}
		}
		if err := tx.Commit(r.ctx); err != nil {
			t.Fatal(err)
		}
		for range 501 {
			receive(r, got)
		}
		r.quiet()
		if n := acks.Fired(); n == 0 || n > 100 {
			t.Errorf("%d acks for 500 messages", n)
		}
	})
}
