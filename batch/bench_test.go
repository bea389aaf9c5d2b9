package batch_test

import (
	"context"
	"fmt"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/batch"
	"github.com/harebus/harebus/brokertest"
)

// BenchmarkBatch is what a message costs in batches of 100, against a plain handler with the same
// concurrency: on the broker at AMQP_URL, or on the in-process broker.
func BenchmarkBatch(b *testing.B) {
	var handled atomic.Int64
	register := map[string]func(*harebus.Setup) error{
		"plain": func(s *harebus.Setup) error {
			harebus.Handle(s, func(context.Context, *harebus.Bus, row) error { handled.Add(1); return nil })
			return nil
		},
		"batch": func(s *harebus.Setup) error {
			return batch.Handle(s, func(_ context.Context, rows []batch.Item[row]) []error {
				handled.Add(int64(len(rows)))
				return make([]error, len(rows))
			}, batch.Config{Size: 100})
		},
	}
	for _, name := range []string{"plain", "batch"} {
		b.Run(name, func(b *testing.B) {
			cfg := harebus.Config{URL: os.Getenv("AMQP_URL"), Consume: harebus.ConsumeConfig{Concurrency: 100}}
			cfg.Queue = fmt.Sprintf("bench-%d", time.Now().UnixNano())
			cfg.QueueOptions.Arguments = map[string]any{"x-expires": 60_000}
			if cfg.URL == "" {
				broker := brokertest.New()
				defer broker.Close()
				cfg.Dial = broker.Dial
			}
			s, err := harebus.New(cfg)
			if err == nil {
				err = register[name](s)
			}
			if err == nil {
				err = s.Init(b.Context())
			}
			if err != nil {
				b.Fatal(err)
			}
			defer func() { _ = s.Close() }()
			tx := s.Bus().Begin()
			for i := range b.N {
				if err := tx.Send(b.Context(), cfg.Queue, row{i}); err != nil {
					b.Fatal(err)
				}
			}
			if err := tx.Commit(b.Context()); err != nil {
				b.Fatal(err)
			}
			handled.Store(0)
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
		})
	}
}
