package harebus_test

import (
	"context"
	"fmt"
	"math"
	"slices"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/harebus/harebus"
)

// untimed are the counts without those by type and without times.
func untimed(s harebus.Stats) harebus.Stats {
	s.Types, s.HandlingTime, s.CriticalTime = nil, harebus.Histogram{}, harebus.Histogram{}
	return s
}

// TestStatsByType: messages are counted by their type, with the time that they took; a handler that changes the type of
// its message does not change the count, and the totals are the sums.
func TestStatsByType(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		cfg := r.config("orders")
		cfg.Retry = harebus.RetryConfig{MaxRetries: 1, BackOff: steady}
		cfg.Handling.Unhandled = harebus.UnhandledPark
		s := r.setup(cfg)
		harebus.Handle(s, func(context.Context, *harebus.Bus, order) error {
			<-time.After(time.Second)
			return nil
		})
		s.HandleMessage("Changed", func(_ context.Context, _ *harebus.Bus, m *harebus.Message) error {
			m.Type = "New"
			return errNo
		})
		harebus.Handle(s, func(context.Context, *harebus.Bus, answer) error { return nil })
		r.start(s)
		sent := ordered(amqp.Table{"PikaBus.TimeSent": time.Now().UTC().Add(-time.Minute).Format("2006-01-02T15:04:05")})
		future := ordered(amqp.Table{"PikaBus.TimeSent": time.Now().UTC().Add(time.Hour).Format("2006-01-02T15:04:05")})
		r.publish(r.channel(), "orders", sent, future, amqp.Publishing{Type: "Changed"}, amqp.Publishing{Type: "Stranger"})
		r.quiet("error")
		got := s.Stats()
		if n := got.Types["Order"]; n.Handled != 2 || n.HandlingTime.Sum != 2*time.Second || n.HandlingTime.Count() != 2 || n.CriticalTime.Count() != 1 || n.CriticalTime.Sum != time.Minute+time.Second {
			t.Errorf("orders: %+v", n)
		}
		if n := got.Types["Changed"]; n.Failed != 2 || n.Retried != 1 || n.Parked != 1 || n.HandlingTime.Count() != 2 || n.CriticalTime.Count() != 0 {
			t.Errorf("changed: %+v", n)
		}
		if n := got.Types["Stranger"]; n.Failed != 1 || n.Parked != 1 || n.HandlingTime.Count() != 0 {
			t.Errorf("strangers: %+v", n)
		}
		if n, ok := got.Types["Answer"]; !ok || n.Handled != 0 {
			t.Error("a type that has a handler and no message yet has no counts")
		}
		if got.Handled != 2 || got.Failed != 3 || got.Parked != 2 || got.HandlingTime.Count() != 4 || got.CriticalTime.Sum != time.Minute+time.Second || len(got.Types) != 4 {
			t.Errorf("all: %+v", got)
		}
	})
}

// TestStatsAreBounded: types that strangers make up are counted together from some number on, and do not push out one that
// has a handler.
func TestStatsAreBounded(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		cfg := r.config("orders")
		cfg.Handling.Unhandled = harebus.UnhandledIgnore
		s := r.setup(cfg)
		harebus.Handle(s, func(context.Context, *harebus.Bus, order) error { return nil })
		r.start(s)
		var strangers []amqp.Publishing
		for n := range 250 {
			strangers = append(strangers, amqp.Publishing{Type: fmt.Sprint("Stranger", n)})
		}
		ch := r.channel()
		r.publish(ch, "orders", strangers...)
		r.publish(ch, "orders", plain(`{"ID":1}`))
		r.quiet()
		got := s.Stats()
		if len(got.Types) != 201 || got.Types[harebus.OtherTypes].Ignored != 51 || got.Types["Order"].Handled != 1 || got.Ignored != 250 {
			t.Errorf("%d types, %d of others, all ignored %d", len(got.Types), got.Types[harebus.OtherTypes].Ignored, got.Ignored)
		}
	})
}

// TestHistogramQuantiles: a quantile is the bound of the bucket in which it lies.
func TestHistogramQuantiles(t *testing.T) {
	t.Parallel()
	bounds := harebus.HistogramBounds()
	at := func(counts map[int]uint64) harebus.Histogram {
		h := harebus.Histogram{Counts: make([]uint64, len(bounds)+1)}
		for i, n := range counts {
			h.Counts[i] = n
		}
		return h
	}
	second := slices.Index(bounds, time.Second)
	for name, c := range map[string]struct {
		h    harebus.Histogram
		q    float64
		want time.Duration
	}{
		"nothing was counted":  {harebus.Histogram{}, 0.5, 0},
		"empty":                {at(nil), 0.5, 0},
		"one":                  {at(map[int]uint64{second: 1}), 0, time.Second},
		"the half":             {at(map[int]uint64{0: 50, second: 50}), 0.5, bounds[0]},
		"more than the half":   {at(map[int]uint64{0: 50, second: 50}), 0.51, time.Second},
		"the slowest":          {at(map[int]uint64{0: 99, second: 1}), 1, time.Second},
		"longer than measured": {at(map[int]uint64{0: 98, len(bounds): 2}), 0.99, math.MaxInt64},
	} {
		if got := c.h.Quantile(c.q); got != c.want {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
}
