package harebus_test

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/brokertest"
	"github.com/harebus/harebus/topology"
)

// TestDelayQueuesThatEndConnections: when declaring a delay queue ends the connection, other
// messages are sent and handled, and what failed is retried when that is possible.
func TestDelayQueuesThatEndConnections(t *testing.T) {
	for _, code := range []int{541, 503, 530, 0} {
		t.Run(fmt.Sprint(code), func(t *testing.T) {
			bubble(t, func(t *testing.T, r *rig) {
				cfg := r.config("orders")
				cfg.Consume.Concurrency = 3
				s := r.setup(cfg)
				got := make(chan int, 10)
				var healed atomic.Bool
				harebus.Handle(s, func(_ context.Context, _ *harebus.Bus, o order) error {
					if o.ID == 99 && !healed.Load() {
						return errBoom
					}
					got <- o.ID
					return nil
				})
				r.start(s)
				r.works(s, got, 1)
				deadly := r.ends("queue.declare", code, func(f brokertest.Frame) bool { return strings.HasPrefix(f.Queue, "harebus.delay") })
				if err := s.Bus().Send(r.ctx, "orders", order{99}); err != nil {
					t.Fatal(err)
				}
				before := s.Stats().Connections
				for id := range 60 {
					began := time.Now()
					r.works(s, got, id)
					if took := time.Since(began); took > 5*time.Second {
						t.Errorf("a message took %v", took)
					}
					time.Sleep(5 * time.Second)
				}
				if n := s.Stats().Connections - before; n == 0 || n > 20 {
					t.Errorf("%d connections in five minutes", n)
				}
				if err := s.Ready(); err == nil {
					t.Error("ready, though nothing can be retried")
				} else {
					contains(t, err.Error(), "the connection ends when delay queues are declared", "broker's log")
				}
				if err := s.Bus().Defer(r.ctx, "orders", time.Hour, order{1}); err == nil {
					t.Error("deferred")
				} else {
					contains(t, err.Error(), "the connection ends when delay queues are declared")
				}
				deadly.Remove()
				r.setClock(time.Now())
				time.Sleep(6 * time.Minute)
				if err := s.Bus().Defer(r.ctx, "orders", time.Minute, order{1}); err != nil {
					t.Error(err)
				}
				healed.Store(true)
				r.quiet("error")
				if err := s.Ready(); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

// TestExitsThatEndConnections: when looking at the exit of an own queue that expires, or
// declaring it again, ends the connection that consumes, that is done more and more rarely.
func TestExitsThatEndConnections(t *testing.T) {
	for _, method := range []string{"basic.get", "queue.declare"} {
		t.Run(method, func(t *testing.T) {
			bubble(t, func(t *testing.T, r *rig) {
				cfg := r.config("orders")
				cfg.QueueOptions.Arguments = map[string]any{"x-expires": (30 * time.Minute).Milliseconds()}
				s, got := counting(r, cfg)
				r.start(s)
				if err := s.Bus().Defer(r.ctx, "orders", time.Second, order{1}); err != nil {
					t.Fatal(err)
				}
				if id := receive(r, got); id != 1 {
					t.Fatal(id)
				}
				exit := topology.Delays{}.Exit("", "orders").Queues[0].Name
				if method == "queue.declare" {
					if err := r.broker.DeleteQueue(exit); err != nil {
						t.Fatal(err)
					}
				}
				deadly := r.ends(method, 541, func(f brokertest.Frame) bool { return f.Queue == exit })
				before := s.Stats().Connections
				time.Sleep(9 * time.Minute)
				r.setClock(time.Now())
				r.works(s, got, 2)
				time.Sleep(9 * time.Minute)
				r.setClock(time.Now())
				r.works(s, got, 3)
				if n := s.Stats().Connections - before; n < 2 || n > 10 {
					t.Errorf("%d connections in 18 minutes", n)
				}
				deadly.Remove()
				time.Sleep(9 * time.Minute)
				if _, ok := r.broker.Queue(exit); !ok {
					t.Error("the exit is missing")
				}
			})
		})
	}
}
