package harebus_test

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"strings"
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

// counting is a service that counts orders.
func counting(r *rig, cfg harebus.Config) (*harebus.Setup, chan int) {
	s := r.setup(cfg)
	got := make(chan int, 1000)
	harebus.Handle(s, func(_ context.Context, _ *harebus.Bus, o order) error {
		got <- o.ID
		return nil
	})
	return s, got
}

func TestStartTwice(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		s, _ := counting(r, r.config("orders"))
		r.start(s)
		if err := s.Start(r.ctx); !errors.Is(err, harebus.ErrStarted) {
			t.Errorf("start: %v", err)
		}
		if err := s.Run(r.ctx); !errors.Is(err, harebus.ErrStarted) {
			t.Errorf("run: %v", err)
		}
		if err := s.Ready(); err != nil {
			t.Errorf("the second start broke the first: %v", err)
		}
	})
}

func TestStopBeforeStart(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		s, got := counting(r, r.config("orders"))
		if err := errors.Join(s.Stop(r.ctx), s.Close()); err != nil {
			t.Errorf("stop: %v", err)
		}
		if err := s.Bus().Send(r.ctx, "orders", order{1}); !errors.Is(err, harebus.ErrStopped) {
			t.Errorf("send: %v", err)
		}
		r.start(s)
		if err := s.Bus().Send(r.ctx, "orders", order{1}); err != nil {
			t.Fatal(err)
		}
		receive(r, got)
		r.quiet()
	})
}

func TestStopThenStart(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		s, got := counting(r, r.config("orders"))
		bus := s.Bus()
		for round := range 3 {
			r.start(s)
			if err := bus.Send(r.ctx, "orders", order{round}); err != nil {
				t.Fatal(err)
			}
			if id := receive(r, got); id != round {
				t.Errorf("got %d in round %d", id, round)
			}
			if err := s.Live(); err != nil {
				t.Error(err)
			}
			if err := s.Stop(r.ctx); err != nil {
				t.Fatal(err)
			}
			for call, err := range map[string]error{
				"send": bus.Send(r.ctx, "orders", order{9}), "subscribe": s.Subscribe(r.ctx, "a"), "live": s.Live(), "ready": s.Ready(),
				"transaction": bus.Transaction(r.ctx, func(ctx context.Context, tx *harebus.Tx) error { return tx.Send(ctx, "orders", order{9}) }),
			} {
				if !errors.Is(err, harebus.ErrStopped) {
					t.Errorf("%s after stop: %v", call, err)
				}
			}
			if n := len(r.broker.Connections()); n != 0 {
				t.Errorf("%d connections after stop", n)
			}
		}
		if s.Stats().Handled != 3 {
			t.Errorf("counts %+v", s.Stats())
		}
	})
}

// TestStopTwice: many stops at once all return, when it is over.
func TestStopTwice(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		s, release := blocking(r, r.config("orders"))
		var stops sync.WaitGroup
		for range 5 {
			stops.Go(func() {
				if err := s.Stop(r.ctx); err != nil {
					t.Error(err)
				}
			})
		}
		synctest.Wait()
		short, cancel := context.WithTimeout(r.ctx, time.Second)
		defer cancel()
		if err := s.Stop(short); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("one that does not wait: %v", err)
		}
		if err := s.Ready(); err == nil || !strings.Contains(err.Error(), "stopping") {
			t.Errorf("ready: %v", err)
		}
		if err := s.Start(r.ctx); !errors.Is(err, harebus.ErrStarted) {
			t.Errorf("start while stopping: %v", err)
		}
		close(release)
		stops.Wait()
		if q, _ := r.broker.Queue("orders"); q.Ready+q.Unacked != 0 {
			t.Errorf("the queue has %+v", q)
		}
	})
}

// blocking is a started service with one message in its handler, which ends when
// release is closed, whatever its context says.
func blocking(r *rig, cfg harebus.Config) (*harebus.Setup, chan struct{}) {
	r.t.Helper()
	s := r.setup(cfg)
	inside, release := make(chan struct{}, 100), make(chan struct{})
	harebus.Handle(s, func(context.Context, *harebus.Bus, order) error {
		inside <- struct{}{}
		<-release
		return nil
	})
	r.start(s)
	if err := s.Bus().Send(r.ctx, "orders", order{1}); err != nil {
		r.t.Fatal(err)
	}
	receive(r, inside)
	return s, release
}

// TestStopDrains: nothing is redelivered after a stop in the middle of work, and
// nothing is lost.
func TestStopDrains(t *testing.T) {
	for _, kind := range []topology.QueueType{topology.Quorum, topology.Classic} {
		t.Run(string(kind), func(t *testing.T) {
			bubble(t, func(t *testing.T, r *rig) {
				cfg := r.config("orders")
				cfg.QueueOptions.Type, cfg.Consume = kind, harebus.ConsumeConfig{Concurrency: 5, Prefetch: 20}
				seen := map[int]int{}
				var mu sync.Mutex
				service := func() *harebus.Setup {
					s := r.setup(cfg)
					harebus.Handle(s, func(ctx context.Context, _ *harebus.Bus, o order) error {
						<-time.After(100 * time.Millisecond)
						mu.Lock()
						defer mu.Unlock()
						seen[o.ID]++
						return nil
					})
					r.start(s)
					return s
				}
				first := service()
				bus := r.setup(r.config("")).Bus()
				for i := range 50 {
					if err := bus.Send(r.ctx, "orders", order{i}); err != nil {
						t.Fatal(err)
					}
				}
				<-time.After(450 * time.Millisecond)
				if err := first.Stop(r.ctx); err != nil {
					t.Fatal(err)
				}
				q, _ := r.broker.Queue("orders")
				done := len(seen)
				if done == 0 || done == 50 || q.Unacked != 0 || q.Ready != 50-done {
					t.Errorf("%d handled, %d ready, %d unacknowledged", done, q.Ready, q.Unacked)
				}
				service()
				r.quiet()
				for i := range 50 {
					if seen[i] != 1 {
						t.Errorf("order %d was handled %d times", i, seen[i])
					}
				}
			})
		})
	}
}

// TestStopTakesTooLong: handlers are asked to end after the shutdown timeout;
// one that does not listen is left behind, and said so.
func TestStopTakesTooLong(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		cfg := r.config("orders")
		cfg.ShutdownTimeout = 5 * time.Second
		s, release := blocking(r, cfg)
		start := time.Now()
		err := s.Stop(r.ctx)
		if err == nil || !strings.Contains(err.Error(), "1 handlers") {
			t.Errorf("got %v", err)
		}
		if took := time.Since(start); took < 7*time.Second || took > 9*time.Second {
			t.Errorf("it took %v", took)
		}
		if q, _ := r.broker.Queue("orders"); q.Ready != 1 {
			t.Errorf("the message is not back: %+v", q)
		}
		close(release)
	})
}

// TestStopCancelsHandlers: one that listens to its context ends in time, and
// its message is handled again later, uncounted.
func TestStopCancelsHandlers(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		cfg := r.config("orders")
		cfg.ShutdownTimeout = 5 * time.Second
		s := r.setup(cfg)
		inside := make(chan int, 10)
		harebus.Handle(s, func(ctx context.Context, _ *harebus.Bus, _ order) error {
			inside <- harebus.Incoming(ctx).Attempt
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(20 * time.Second):
				return nil
			}
		})
		r.start(s)
		if err := s.Bus().Send(r.ctx, "orders", order{1}); err != nil {
			t.Fatal(err)
		}
		receive(r, inside)
		start := time.Now()
		if err := s.Stop(r.ctx); err != nil {
			t.Error(err)
		}
		if took := time.Since(start); took < 5*time.Second || took > 6*time.Second {
			t.Errorf("it took %v", took)
		}
		if got := s.Stats(); got.Failed != 0 || got.Retried != 0 {
			t.Errorf("counts %+v", got)
		}
		r.start(s)
		if attempt := receive(r, inside); attempt != 1 {
			t.Errorf("attempt %d", attempt)
		}
		r.quiet()
	})
}

// TestStopDuringRetry: a message that waits for its retry waits in the broker.
func TestStopDuringRetry(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		s := r.setup(r.config("orders"))
		seen := make(chan int, 10)
		harebus.Handle(s, func(ctx context.Context, _ *harebus.Bus, _ order) error {
			seen <- harebus.Incoming(ctx).Attempt
			if harebus.Incoming(ctx).Attempt == 1 {
				return harebus.RetryAfter(30*time.Second, errNo)
			}
			return nil
		})
		r.start(s)
		if err := errors.Join(s.Bus().Send(r.ctx, "orders", order{1}), s.Bus().Defer(r.ctx, "orders", 30*time.Second, order{2})); err != nil {
			t.Fatal(err)
		}
		receive(r, seen)
		synctest.Wait()
		if err := s.Stop(r.ctx); err != nil {
			t.Fatal(err)
		}
		r.broker.Restart()
		<-time.After(time.Minute)
		if q, _ := r.broker.Queue("orders"); q.Ready != 2 {
			t.Errorf("the queue has %+v", q)
		}
		r.start(s)
		r.quiet("error")
		if sum := receive(r, seen) + receive(r, seen); sum != 3 {
			t.Errorf("attempts sum up to %d", sum)
		}
		if got := s.Stats(); got.Handled != 2 {
			t.Errorf("counts %+v", got)
		}
	})
}

func TestRun(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		s, got := counting(r, r.config("orders"))
		ctx, cancel := context.WithCancel(r.ctx)
		done := make(chan error, 1)
		go func() { done <- s.Run(ctx) }()
		if err := r.broker.WaitQueue(r.ctx, "orders", func(q brokertest.Queue) bool { return len(q.Consumers) > 0 }); err != nil {
			t.Fatal(err)
		}
		if err := s.Bus().Send(r.ctx, "orders", order{1}); err != nil {
			t.Fatal(err)
		}
		receive(r, got)
		cancel()
		if err := receive(r, done); err != nil {
			t.Errorf("run: %v", err)
		}
		if n := len(r.broker.Connections()); n != 0 {
			t.Errorf("%d connections", n)
		}
	})
}

// TestRunCancelled: a context that has ended already starts nothing that lasts.
func TestRunCancelled(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		s, _ := counting(r, r.config("orders"))
		ctx, cancel := context.WithCancel(r.ctx)
		cancel()
		if err := s.Run(ctx); err != nil && !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
		synctest.Wait()
		if n := len(r.broker.Connections()); n != 0 {
			t.Errorf("%d connections", n)
		}
		r.start(s) // and it can be started later
	})
}

// TestStartWaits: a broker that comes later is waited for.
func TestStartWaits(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		s, got := counting(r, r.config("orders"))
		r.broker.Refuse(20 * time.Second)
		short, cancel := context.WithTimeout(r.ctx, 5*time.Second)
		defer cancel()
		if err := s.Start(short); !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "refused") {
			t.Errorf("got %v", err)
		}
		start := time.Now()
		r.start(s)
		if took := time.Since(start); took < 15*time.Second || took > 18*time.Second {
			t.Errorf("it took %v", took)
		}
		if err := s.Bus().Send(r.ctx, "orders", order{1}); err != nil {
			t.Fatal(err)
		}
		receive(r, got)
		r.quiet()
	})
}

// TestStartRefused: what waiting cannot cure is an error at once.
func TestStartRefused(t *testing.T) {
	for name, c := range map[string]struct {
		prepare func(r *rig, cfg *harebus.Config)
		says    []string
	}{
		"password": {func(_ *rig, cfg *harebus.Config) { cfg.Connect.Username, cfg.Connect.Password = "guest", "s3cr3t" }, []string{"403"}},
		"vhost":    {func(_ *rig, cfg *harebus.Config) { cfg.URL += "nowhere" }, []string{"nowhere"}},
		"queue": {func(r *rig, _ *harebus.Config) {
			r.declare(r.channel(), "orders")
		}, []string{"406", `queue "orders"`, "quorum"}},
		"exchange": {func(r *rig, _ *harebus.Config) {
			if err := r.channel().ExchangeDeclare("PikaBusTopic", "fanout", true, false, false, false, nil); err != nil {
				r.t.Fatal(err)
			}
		}, []string{"406", "PikaBusTopic"}},
		"check only": {func(_ *rig, cfg *harebus.Config) { cfg.Declare.Mode = harebus.CheckOnly }, []string{"404", "PikaBusDirect"}},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, r *rig) {
				cfg := r.config("orders")
				c.prepare(r, &cfg)
				logger, logs := observed()
				cfg.Logger = logger
				s, _ := counting(r, cfg)
				start := time.Now()
				err := s.Start(r.ctx)
				if err == nil {
					t.Fatal("started")
				}
				if again := logs.FilterMessageSnippet("trying again").All(); len(again) > 0 {
					t.Errorf("the log says that it tries again, and it does not: %v", again)
				}
				contains(t, err.Error(), c.says...)
				if strings.Contains(err.Error(), "s3cr3t") {
					t.Error("the error holds the password")
				}
				if took := time.Since(start); took > 4*time.Second {
					t.Errorf("it took %v", took)
				}
				if err := s.Init(r.ctx); err == nil {
					t.Error("init succeeded")
				}
			})
		})
	}
}

// TestInit declares everything and leaves; CheckOnly then finds it.
func TestInit(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		cfg := r.config("orders")
		cfg.Subscriptions = []string{"a.*"}
		cfg.Declare.Topology = topology.Topology{Queues: []topology.Queue{{Name: "other"}}}
		if err := r.setup(cfg).Init(r.ctx); err != nil {
			t.Fatal(err)
		}
		if n := len(r.broker.Connections()); n != 0 {
			t.Errorf("%d connections", n)
		}
		for _, queue := range []string{"orders", "error", "other"} {
			if q, ok := r.broker.Queue(queue); !ok || !q.Durable {
				t.Errorf("queue %s: %+v", queue, q)
			}
		}
		if q, _ := r.broker.Queue("error"); q.Type != "quorum" || fmt.Sprint(q.Arguments["x-delivery-limit"]) != "1000000" {
			t.Errorf("the error queue is %+v", q)
		}
		before := len(r.broker.Queues())
		cfg.Declare.Mode = harebus.CheckOnly
		declared := r.broker.Inject(brokertest.Fault{On: "queue.bind", Times: -1, Do: brokertest.Raise, Code: 403, Text: "no"})
		s, got := counting(r, cfg)
		if err := s.Init(r.ctx); err != nil {
			t.Error(err)
		}
		r.start(s)
		if err := errors.Join(s.Bus().Publish(r.ctx, "a.b", order{1}), s.Bus().Defer(r.ctx, "orders", time.Second, order{2})); err != nil {
			t.Fatal(err)
		}
		receive(r, got)
		receive(r, got)
		if declared.Fired() != 0 || len(r.broker.Queues()) != before {
			t.Errorf("CheckOnly has declared something")
		}
		r.quiet()
	})
}

// TestSubscriptions: at run time, kept across reconnects, and undone.
func TestSubscriptions(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		cfg := r.config("orders")
		cfg.Subscriptions = []string{"a.*"}
		s, got := counting(r, cfg)
		r.start(s)
		topics := func() string {
			var keys []string
			for _, b := range r.broker.Bindings() {
				if b.Source == "PikaBusTopic" && b.Destination == "orders" {
					keys = append(keys, fmt.Sprint(b.RoutingKey, b.Arguments["x"]))
				}
			}
			return strings.Join(keys, " ")
		}
		if err := errors.Join(s.Subscribe(r.ctx, "b.#", "c"), s.Subscribe(r.ctx, "c"), s.Unsubscribe(r.ctx, "a.*", "never")); err != nil {
			t.Fatal(err)
		}
		if err := s.SubscribeWith(r.ctx, map[string]any{"x": "y"}, "d"); err != nil {
			t.Fatal(err)
		}
		if got := topics(); got != "b.#<nil> c<nil> dy" {
			t.Errorf("bound to %s", got)
		}
		if err := r.broker.DeleteQueue("orders"); err != nil {
			t.Fatal(err)
		}
		if err := r.broker.WaitQueue(r.ctx, "orders", func(q brokertest.Queue) bool { return len(q.Consumers) > 0 }); err != nil {
			t.Fatal(err)
		}
		if got := topics(); got != "b.#<nil> c<nil>" {
			t.Errorf("after the queue was deleted it is bound to %s", got)
		}
		if err := s.Bus().Publish(r.ctx, "b.x.y", order{1}); err != nil {
			t.Fatal(err)
		}
		receive(r, got)
		r.quiet()
		if err := s.Bus().Publish(r.ctx, "a.x", order{1}); !errors.Is(err, harebus.ErrUnroutable) {
			t.Errorf("got %v", err)
		}
	})
}

// TestConsumerComesBack: whatever ends consuming, Ready notices, and it begins
// again.
func TestConsumerComesBack(t *testing.T) {
	for name, harm := range map[string]func(r *rig){
		"cut":     func(r *rig) { r.broker.CutConnections() },
		"closed":  func(r *rig) { r.broker.CloseConnections("maintenance") },
		"restart": func(r *rig) { r.broker.Restart() },
		"cancel": func(r *rig) {
			if err := r.broker.CancelConsumers("orders"); err != nil {
				r.t.Fatal(err)
			}
		},
		"deleted": func(r *rig) {
			if err := r.broker.DeleteQueue("orders"); err != nil {
				r.t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, r *rig) {
				cfg := r.config("orders")
				cfg.Consume.Consumers = 2
				s, got := counting(r, cfg)
				if err := s.Ready(); err == nil || !strings.Contains(err.Error(), "not started") {
					t.Errorf("ready before start: %v", err)
				}
				r.start(s)
				if err := errors.Join(s.Ready(), s.Live()); err != nil {
					t.Error(err)
				}
				r.broker.Refuse(3 * time.Second)
				harm(r)
				synctest.Wait()
				if err := s.Ready(); err == nil {
					t.Error("ready without consumers")
				}
				if err := s.Live(); err != nil {
					t.Errorf("live: %v", err)
				}
				consumers := func(n int) { // the second comes when the first has handled a message
					if err := r.broker.WaitQueue(r.ctx, "orders", func(q brokertest.Queue) bool { return len(q.Consumers) == n }); err != nil {
						t.Fatal(err)
					}
				}
				consumers(1)
				if err := s.Bus().Send(r.ctx, "orders", order{5}); err != nil {
					t.Fatal(err)
				}
				receive(r, got)
				consumers(2)
				r.quiet()
				synctest.Wait() // the broker knows of the consumer before the setup does
				if err := s.Ready(); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

// TestConsumerTimeout: a handler slower than the broker's limit loses its
// delivery, not the consumer.
func TestConsumerTimeout(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		s := r.setup(r.config("orders"))
		var n atomic.Int64 // two attempts overlap
		harebus.Handle(s, func(context.Context, *harebus.Bus, order) error {
			if n.Add(1) == 1 {
				<-time.After(10 * time.Second)
			}
			return nil
		})
		r.start(s)
		if err := s.Bus().Send(r.ctx, "orders", order{1}); err != nil {
			t.Fatal(err)
		}
		r.quiet()
		if got := s.Stats(); n.Load() != 2 || got.Redelivered != 1 {
			t.Errorf("%d attempts, counts %+v", n.Load(), got)
		}
	}, brokertest.WithConsumerTimeout(3*time.Second))
}

// TestPrefetch: one at a time until it is known that no message kills the
// process, then as configured.
func TestPrefetch(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		cfg := r.config("orders")
		cfg.Consume = harebus.ConsumeConfig{Concurrency: 4, Prefetch: 8}
		s, got := counting(r, cfg)
		r.start(s)
		prefetch := func() int {
			q, _ := r.broker.Queue("orders")
			if len(q.Consumers) != 1 {
				t.Fatalf("%d consumers", len(q.Consumers))
			}
			return q.Consumers[0].Prefetch
		}
		start := time.Now()
		if prefetch() != 1 {
			t.Errorf("prefetch %d at the start", prefetch())
		}
		if err := s.Bus().Send(r.ctx, "orders", order{1}); err != nil {
			t.Fatal(err)
		}
		receive(r, got)
		err := r.broker.WaitQueue(r.ctx, "orders", func(q brokertest.Queue) bool { return len(q.Consumers) == 1 && q.Consumers[0].Prefetch == 8 })
		if err != nil {
			t.Fatal(err)
		}
		if took := time.Since(start); took > 100*time.Millisecond {
			t.Errorf("it took %v", took)
		}
		r.quiet()
	})
}

// TestTrialIsShared: while a message may be one that kills the process, all
// consumers together hold one; and if whoever holds it loses its channel, the
// other goes on.
func TestTrialIsShared(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		cfg := r.config("orders")
		cfg.Consume = harebus.ConsumeConfig{Concurrency: 4, Prefetch: 8, Consumers: 3}
		s := r.setup(cfg)
		slow := make(chan struct{})
		harebus.Handle(s, func(context.Context, *harebus.Bus, order) error {
			<-slow
			return nil
		})
		r.start(s)
		for i := range 20 {
			if err := s.Bus().Send(r.ctx, "orders", order{i}); err != nil {
				t.Fatal(err)
			}
		}
		holding := func(want int) {
			t.Helper()
			synctest.Wait()
			if q, _ := r.broker.Queue("orders"); q.Unacked != want {
				t.Errorf("%d messages in hand, want %d", q.Unacked, want)
			}
			if err := s.Ready(); err != nil {
				t.Error(err)
			}
		}
		holding(1)
		if err := r.broker.CancelConsumers("orders"); err != nil {
			t.Fatal(err)
		}
		<-time.After(2 * time.Second)
		holding(1) // again, or another
		<-time.After(4 * time.Second)
		holding(20) // nobody has died
		close(slow)
		r.quiet()
	})
}

// TestConcurrency: as many at once as configured, and no more.
func TestConcurrency(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		cfg := r.config("orders")
		cfg.Consume = harebus.ConsumeConfig{Concurrency: 3, Consumers: 2, Prefetch: 20}
		s := r.setup(cfg)
		var mu sync.Mutex
		now, most := 0, 0
		harebus.Handle(s, func(context.Context, *harebus.Bus, order) error {
			mu.Lock()
			now++
			most = max(most, now)
			mu.Unlock()
			<-time.After(time.Second)
			mu.Lock()
			defer mu.Unlock()
			now--
			return nil
		})
		r.start(s)
		for i := range 40 {
			if err := s.Bus().Send(r.ctx, "orders", order{i}); err != nil {
				t.Fatal(err)
			}
		}
		r.quiet()
		if most != 6 {
			t.Errorf("%d at once", most)
		}
	})
}

// TestStats: everything is counted, once.
func TestStats(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		cfg := r.config("orders")
		cfg.Retry = harebus.RetryConfig{MaxRetries: 1, BackOff: steady}
		s := r.setup(cfg)
		harebus.Handle(s, func(_ context.Context, _ *harebus.Bus, o order) error {
			if s.Stats().InFlight == 0 {
				t.Error("nothing in flight inside a handler")
			}
			if o.ID == 2 {
				return errNo
			}
			return nil
		})
		r.start(s)
		ch := r.channel()
		early := plain(`{"ID":1}`)
		early.Headers = amqp.Table{prefixed("DeferredTime"): time.Now().Add(time.Minute).UTC().Format(time.RFC3339)}
		r.publish(ch, "orders", early)
		if err := errors.Join(s.Bus().Send(r.ctx, "orders", order{1}), s.Bus().Send(r.ctx, "orders", order{2})); err != nil {
			t.Fatal(err)
		}
		if err := s.Bus().Send(r.ctx, "nowhere", order{1}); err == nil {
			t.Error("sent to nowhere")
		}
		r.quiet("error")
		got := untimed(s.Stats())
		got.Republished = 0 // how often nowhere is tried is not the point
		// Published: two sends, one postponed, one retry, one parked. Delivered:
		// three, the postponed and the retry again.
		want := harebus.Stats{
			Connections: 2, Published: 5, Unpublished: 1, Delivered: 5,
			MessageStats: harebus.MessageStats{Handled: 2, Failed: 2, Retried: 1, Parked: 1, Postponed: 1},
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("counts\n got %+v\nwant %+v", got, want)
		}
	})
}

// TestCredentials: the hook is asked at every connect.
func TestCredentials(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.bound(r.channel(), "out")
		cfg := r.config("")
		asked := 0
		cfg.Connect.Credentials = func(context.Context) (string, string, error) {
			if asked++; asked == 2 {
				return "", "", errNo // the vault is away for a moment
			}
			return "guest", "guest", nil
		}
		bus := r.setup(cfg).Bus()
		for i := range 2 {
			if err := bus.Send(r.ctx, "out", order{i}); err != nil {
				t.Fatal(err)
			}
			r.broker.CutConnections()
			r.bound(r.channel(), "out")
		}
		if asked < 3 {
			t.Errorf("asked %d times", asked)
		}
	})
}
