package harebus_test

import (
	"context"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/brokertest"
)

// channels is the number of channels on the connection that consumes.
func (r *rig) channels() int {
	n := 0
	for _, c := range r.broker.Connections() {
		if strings.Contains(c.Name, "consume") {
			n += c.Channels
		}
	}
	return n
}

// TestReplacedChannelsEnd: any number of pauses and changes of the concurrency under load
// loses and repeats nothing, ends no connection, and leaves no channel behind.
func TestReplacedChannelsEnd(t *testing.T) {
	for name, change := range pausable {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, r *rig) {
				const messages, times = 60, 50
				p := r.pausing(change)
				r.fill("orders", messages)
				for i := range times {
					time.Sleep(time.Duration(137*i%900) * time.Millisecond)
					if i%2 == 0 {
						time.Sleep(time.Duration(i) * time.Microsecond)
					}
					if err := p.Pause(r.ctx); err != nil {
						t.Fatal(err)
					}
					if err := p.Resume(); err != nil {
						t.Fatal(err)
					}
					if err := p.SetConcurrency(2+i%4, 5+i%7); err != nil {
						t.Fatal(err)
					}
				}
				r.quiet()
				if len(p.got.ids) != messages || len(p.got.seen) != messages {
					t.Errorf("%d messages were handled %d times", len(p.got.seen), len(p.got.ids))
				}
				if n := p.Stats().Connections; n != 1 {
					t.Errorf("%d connections", n)
				}
				time.Sleep(time.Minute)
				if n := r.channels(); n > 3 {
					t.Errorf("%d channels are left", n)
				}
			}, brokertest.WithChannelMax(10))
		})
	}
}

// TestReplacedChannelsOfHungHandlers: when handlers that do not return keep all channels that
// the broker allows, the connection stays, and the end of a pause waits for one of them.
func TestReplacedChannelsOfHungHandlers(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		cfg := r.config("orders")
		cfg.Consume = harebus.ConsumeConfig{Concurrency: 20, Prefetch: 20}
		s := r.setup(cfg)
		release := make(chan struct{})
		var handled, begun atomic.Int64
		harebus.Handle(s, func(_ context.Context, _ *harebus.Bus, _ order) error {
			begun.Add(1)
			<-release
			handled.Add(1)
			return nil
		})
		r.start(s)
		time.Sleep(10 * time.Second)
		for i := range 15 {
			r.fill("orders", 1)
			time.Sleep(time.Second)
			ctx, cancel := context.WithTimeout(r.ctx, time.Second)
			if err := s.Pause(ctx); err == nil {
				t.Fatal("no handler hangs")
			}
			cancel()
			if err := s.Resume(); err != nil {
				t.Fatal(err)
			}
			if n := r.channels(); n > 10 {
				t.Fatalf("%d channels after %d pauses", n, i+1)
			}
		}
		if n := s.Stats().Connections; n != 1 {
			t.Errorf("%d connections", n)
		}
		if n := begun.Load(); n < 5 || n == 15 {
			t.Errorf("%d handlers have begun", n)
		}
		close(release)
		r.quiet()
		if n := handled.Load(); n != 15 {
			t.Errorf("%d messages were handled, want 15", n)
		}
		time.Sleep(time.Minute)
		if n := r.channels(); n > 2 {
			t.Errorf("%d channels are left", n)
		}
	}, brokertest.WithChannelMax(10))
}
