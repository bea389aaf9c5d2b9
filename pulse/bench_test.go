package pulse_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/brokertest"
	"github.com/harebus/harebus/pulse"
)

// BenchmarkAsk asks 50 instances with 12 types each: ms/round is the time until the last answer, without the quiet after it.
func BenchmarkAsk(b *testing.B) {
	const instances, types = 50, 12
	broker := brokertest.New()
	defer broker.Close()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{}, instances)
	for i := range instances {
		p, err := pulse.New(pulse.Config{})
		if err != nil {
			b.Fatal(err)
		}
		cfg := harebus.Config{URL: broker.URL(), Dial: broker.Dial, Queue: fmt.Sprint("orders", i%5)}
		p.Use(&cfg)
		setup, err := harebus.New(cfg)
		if err != nil {
			b.Fatal(err)
		}
		for n := range types {
			setup.HandleMessage(fmt.Sprint("Type", n), func(context.Context, *harebus.Bus, *harebus.Message) error { return nil })
		}
		if err := setup.Start(ctx); err != nil {
			b.Fatal(err)
		}
		go func() {
			_ = p.Serve(ctx, setup)
			_ = setup.Close()
			ended <- struct{}{}
		}()
	}
	c, err := pulse.Open(pulse.ClientConfig{Connect: harebus.ConnectConfig{URLs: []string{broker.URL()}}, Dial: broker.Dial})
	if err != nil {
		b.Fatal(err)
	}
	for round := new(pulse.Round); len(round.Answers) < instances; {
		if round, err = c.Ask(ctx, pulse.Target{}); err != nil {
			b.Fatal(err)
		}
	}
	var took time.Duration
	b.ReportAllocs()
	for b.Loop() {
		round, err := c.Ask(ctx, pulse.Target{})
		if err != nil || len(round.Answers) != instances {
			b.Fatalf("%d answers, %v", len(round.Answers), err)
		}
		took += round.Took
	}
	b.ReportMetric(float64(took.Microseconds())/1000/float64(b.N), "ms/round")
	c.Close()
	cancel()
	for range instances {
		<-ended
	}
}
