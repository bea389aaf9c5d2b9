package order_test

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/brokertest"
	"github.com/harebus/harebus/order"
)

// BenchmarkOrder is what a message costs in an ordered queue, against plain consumption with the same prefetch and
// concurrency: on the broker at AMQP_URL, or on the in-process broker. Run it with -count, for pairs.
func BenchmarkOrder(b *testing.B) {
	for _, c := range []struct {
		name string
		keys int // 0: plain
	}{{"plain", 0}, {"keys=1000", 1000}, {"keys=10", 10}} {
		b.Run(c.name, func(b *testing.B) {
			var handled atomic.Int64
			cfg := harebus.Config{URL: os.Getenv("AMQP_URL"), Consume: harebus.ConsumeConfig{Concurrency: 10, Prefetch: order.Window}}
			cfg.Queue = fmt.Sprintf("bench-%d", time.Now().UnixNano())
			if c.keys > 0 {
				cfg.Consume.Order = &order.Config{}
			}
			if cfg.URL == "" {
				broker := brokertest.New()
				defer broker.Close()
				cfg.Dial = broker.Dial
			}
			s, err := harebus.New(cfg)
			if err != nil {
				b.Fatal(err)
			}
			harebus.Handle(s, func(context.Context, *harebus.Bus, step) error { handled.Add(1); return nil })
			if err := s.Init(b.Context()); err != nil {
				b.Fatal(err)
			}
			defer func() { _ = s.Close() }()
			tx := s.Bus().Begin()
			for i := range b.N {
				key := strconv.Itoa(i % max(c.keys, 1000))
				if c.keys > 0 {
					key = strconv.Itoa(i % c.keys)
				}
				if err := tx.Send(b.Context(), cfg.Queue, step{key, i}, harebus.WithKey(key)); err != nil {
					b.Fatal(err)
				}
			}
			if err := tx.Commit(b.Context()); err != nil {
				b.Fatal(err)
			}
			b.ReportAllocs()
			b.ResetTimer()
			if err := s.Start(b.Context()); err != nil {
				b.Fatal(err)
			}
			for handled.Load() < int64(b.N) {
				select {
				case <-time.After(time.Millisecond):
				case <-b.Context().Done():
					b.Fatal("not all are handled")
				}
			}
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "messages/s")
		})
	}
}
