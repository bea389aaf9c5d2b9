package main

import (
	"bytes"
	"testing"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/seal"
)

// guards are none, and those that package seal has.
func guards(b *testing.B) map[string][]harebus.Guard {
	b.Helper()
	key, err := seal.NewKey("2026-11", bytes.Repeat([]byte{1}, 32))
	if err != nil {
		b.Fatal(err)
	}
	keys, err := seal.NewKeyring(key)
	if err != nil {
		b.Fatal(err)
	}
	policy := seal.Policy{Types: []string{"*"}}
	return map[string][]harebus.Guard{"plain": nil, "sealed": {seal.New(keys, policy)}, "signed": {seal.Sign(keys, policy)}}
}

// BenchmarkGuards is what encryption and signatures cost a sender: fifty goroutines for each processor on the null broker.
func BenchmarkGuards(b *testing.B) {
	for name, list := range guards(b) {
		b.Run(name, func(b *testing.B) {
			cfg := harebus.Config{URL: onNull(b).url}
			cfg.Payload.Guards = list
			s, err := harebus.New(cfg)
			if err != nil {
				b.Fatal(err)
			}
			defer func() { _ = s.Close() }()
			bus, filler := s.Bus(), text(small)
			if err := bus.Send(b.Context(), "queue", newJob(filler)); err != nil {
				b.Fatal(err)
			}
			b.ReportAllocs()
			b.ResetTimer()
			b.SetParallelism(50)
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					if err := bus.Send(b.Context(), "queue", newJob(filler)); err != nil {
						b.Error(err)
						return
					}
				}
			})
		})
	}
}
