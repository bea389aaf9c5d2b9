package harebus_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/brokertest"
	"github.com/harebus/harebus/topology"
)

// journal is the order in which messages were handled.
type journal struct {
	mu   sync.Mutex
	ids  []int
	seen map[int]int
}

func (j *journal) note(id int) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.seen == nil {
		j.seen = map[int]int{}
	}
	j.ids = append(j.ids, id)
	j.seen[id]++
}

// check fails the test unless each of n was handled once, and in order.
func (j *journal) check(t *testing.T, n int) {
	t.Helper()
	j.mu.Lock()
	defer j.mu.Unlock()
	if len(j.ids) != n || len(j.seen) != n || !slices.IsSorted(j.ids) {
		t.Errorf("handled %v", j.ids)
	}
}

// fill has a plain client publish n orders, numbered from 1.
func (r *rig) fill(queue string, n int) {
	r.t.Helper()
	ch := r.channel()
	for i := range n {
		r.publish(ch, queue, plain(fmt.Sprintf(`{"ID":%d}`, i+1)))
	}
}

// TestRestartsKeepTheOrder: with one worker, stopping and starting again changes
// nothing about the order, whenever it comes.
func TestRestartsKeepTheOrder(t *testing.T) {
	for _, kind := range []topology.QueueType{topology.Quorum, topology.Classic} {
		for _, prefetch := range []int{1, 5, 20} {
			t.Run(fmt.Sprint(kind, prefetch), func(t *testing.T) {
				bubble(t, func(t *testing.T, r *rig) {
					const messages = 60
					cfg := r.config("orders")
					cfg.QueueOptions.Type, cfg.Consume = kind, harebus.ConsumeConfig{Concurrency: 1, Prefetch: prefetch}
					var got journal
					s := r.setup(cfg)
					harebus.Handle(s, func(_ context.Context, _ *harebus.Bus, o order) error {
						<-time.After(time.Duration(o.ID%7) * time.Second / 2)
						got.note(o.ID)
						return nil
					})
					if err := s.Init(r.ctx); err != nil {
						t.Fatal(err)
					}
					r.fill("orders", messages)
					for i := range 12 {
						r.start(s)
						<-time.After(time.Duration(i*i) * 100 * time.Millisecond)
						if err := s.Stop(r.ctx); err != nil {
							t.Fatal(err)
						}
					}
					r.start(s)
					r.quiet()
					got.check(t, messages)
				})
			})
		}
	}
}

// TestRestartsUseUpNothing: messages that are given back at many stops, and that
// no handler has begun, are handled in the end, exactly as they came.
func TestRestartsUseUpNothing(t *testing.T) {
	for _, concurrency := range []int{1, 2} {
		t.Run(fmt.Sprint(concurrency), func(t *testing.T) {
			bubble(t, func(t *testing.T, r *rig) {
				const messages = 30
				cfg := r.config("orders")
				cfg.Consume = harebus.ConsumeConfig{Concurrency: concurrency, Prefetch: 5}
				cfg.ShutdownTimeout = 20 * time.Second
				restarting := true
				done := make(chan *harebus.Message, messages)
				s := r.setup(cfg)
				harebus.Handle(s, func(ctx context.Context, _ *harebus.Bus, _ order) error {
					if restarting {
						<-ctx.Done() // slower than any stop waits
						return ctx.Err()
					}
					done <- harebus.Incoming(ctx)
					return nil
				})
				if err := s.Init(r.ctx); err != nil {
					t.Fatal(err)
				}
				ch := r.channel()
				for i := range messages {
					m := plain(fmt.Sprintf(`{"ID":%d}`, i+1))
					m.MessageId, m.CorrelationId, m.ReplyTo, m.AppId = fmt.Sprint("id", i+1), "c", "r", "app"
					m.Headers = amqp.Table{"mine": int32(i), "x-death": []any{amqp.Table{"queue": "somewhere"}}}
					m.Priority, m.DeliveryMode, m.Timestamp, m.Expiration = 3, 2, time.Unix(1_700_000_000, 0), "600000000"
					r.publish(ch, "orders", m)
				}
				for range 25 {
					r.start(s)
					<-time.After(7 * time.Second)
					short, cancel := context.WithTimeout(r.ctx, time.Second)
					if err := s.Stop(short); err != nil {
						t.Fatal(err)
					}
					cancel()
				}
				restarting = false
				r.start(s)
				seen := map[string]bool{}
				for range messages {
					m := receive(r, done)
					seen[m.ID] = true
					p := m.Properties
					if m.Headers["mine"] == nil || m.Headers["x-death"] == nil || p.CorrelationID != "c" || p.ReplyTo != "r" || p.AppID != "app" ||
						p.Priority != 3 || p.DeliveryMode != 2 || p.Timestamp.Unix() != 1_700_000_000 || p.Expiration != "600000000" || m.Attempt != 1 {
						t.Errorf("changed on the way: %+v", m)
					}
				}
				r.quiet()
				if q, _ := r.broker.Queue("error"); len(seen) != messages || q.Ready != 0 {
					t.Errorf("%d of %d handled, %d in the error queue", len(seen), messages, q.Ready)
				}
			})
		})
	}
}

// TestSingleActiveConsumer: two instances on a queue with a single active consumer
// keep its order, at the start of the second and when the first one stops.
func TestSingleActiveConsumer(t *testing.T) {
	for _, concurrency := range []int{1, 3} {
		t.Run(fmt.Sprint(concurrency), func(t *testing.T) {
			bubble(t, func(t *testing.T, r *rig) {
				const messages = 20
				cfg := r.config("orders")
				cfg.QueueOptions.Arguments = map[string]any{"x-single-active-consumer": true}
				cfg.Consume = harebus.ConsumeConfig{Concurrency: concurrency, Prefetch: 8}
				var got journal
				var active sync.Map // instances with a message in a handler
				instance := func(name string) *harebus.Setup {
					s := r.setup(cfg)
					harebus.Handle(s, func(_ context.Context, _ *harebus.Bus, o order) error {
						active.Store(name, true)
						defer active.Delete(name)
						active.Range(func(other, _ any) bool {
							if other != name {
								t.Errorf("%s handles %d while %s is busy", name, o.ID, other)
							}
							return true
						})
						<-time.After(7 * time.Second)
						got.note(o.ID)
						return nil
					})
					r.start(s)
					return s
				}
				a := instance("a")
				instance("b")
				r.fill("orders", messages)
				<-time.After(10 * time.Second)
				if err := a.Stop(r.ctx); err != nil {
					t.Fatal(err)
				}
				r.quiet()
				if concurrency == 1 {
					got.check(t, messages)
				}
			})
		})
	}
}

// TestAcksInOrder: the acks of one flush leave in ascending order.
func TestAcksInOrder(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		cfg := r.config("orders")
		cfg.Consume = harebus.ConsumeConfig{Concurrency: 40, Prefetch: 400}
		s := r.setup(cfg)
		first := make(chan struct{})
		harebus.Handle(s, func(_ context.Context, _ *harebus.Bus, o order) error {
			if o.ID == 2 {
				<-first
			}
			return nil
		})
		r.start(s)
		var mu sync.Mutex
		var tags []uint64
		r.broker.Inject(brokertest.Fault{On: "basic.ack", Times: -1, Match: func(f brokertest.Frame) bool {
			mu.Lock()
			defer mu.Unlock()
			tags = append(tags, f.DeliveryTag)
			return false
		}})
		r.fill("orders", 1)
		r.quiet()
		synctest.Wait() // by then it consumes all from one channel
		mu.Lock()
		tags = nil
		mu.Unlock()
		tx := s.Bus().Begin()
		for i := range 30 {
			if err := tx.Send(r.ctx, "orders", order{i + 2}); err != nil {
				t.Fatal(err)
			}
		}
		if err := tx.Commit(r.ctx); err != nil {
			t.Fatal(err)
		}
		<-time.After(time.Second)
		mu.Lock()
		if len(tags) < 25 || !slices.IsSorted(tags) {
			t.Errorf("acks of %v", tags)
		}
		mu.Unlock()
		close(first)
		r.quiet()
	})
}

// TestRetryRefusedForLong: while the delay queues cannot be declared, a failed message goes back to its queue again
// and again. That uses up nothing: it is retried once it can be.
func TestRetryRefusedForLong(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		s := r.setup(r.config("orders"))
		var attempts, last atomic.Int64
		harebus.Handle(s, func(ctx context.Context, _ *harebus.Bus, _ order) error {
			attempts.Add(1)
			attempt := harebus.Incoming(ctx).Attempt
			if last.Store(int64(attempt)); attempt == 1 {
				return errors.New("boom")
			}
			return nil
		})
		r.start(s)
		refused := r.broker.Inject(brokertest.Fault{
			On: "queue.declare", Do: brokertest.Raise, Code: 403, Text: "ACCESS_REFUSED", Times: -1,
			Match: func(f brokertest.Frame) bool { return f.Queue != "orders" && f.Queue != "error" },
		})
		if err := s.Bus().Send(r.ctx, "orders", order{1}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(5 * time.Minute) // virtual
		if n := attempts.Load(); n <= 22 {
			t.Fatalf("only %d attempts: the limit was not reached", n)
		}
		refused.Remove()
		r.quiet()
		if got := last.Load(); got != 2 {
			t.Errorf("the last attempt was %d", got)
		}
	})
}
