package harebus_test

import (
	"context"
	"errors"
	"runtime"
	"testing"
	"testing/synctest"
	"time"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/brokertest"
)

// TestHandlerEndsItsGoroutine: the attempt has failed, and the only worker goes on.
func TestHandlerEndsItsGoroutine(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		cfg := r.config("orders")
		cfg.Consume = harebus.ConsumeConfig{Concurrency: 1, Prefetch: 5}
		cfg.Retry = harebus.RetryConfig{MaxRetries: 1, BackOff: steady}
		s := r.setup(cfg)
		got := make(chan int, 10)
		harebus.Handle(s, func(ctx context.Context, bus *harebus.Bus, o order) error {
			if o.ID == 1 {
				if err := bus.Send(ctx, "orders", order{99}); err != nil {
					t.Error(err)
				}
				runtime.Goexit()
			}
			got <- o.ID
			return nil
		})
		r.start(s)
		for id := range 4 {
			if err := s.Bus().Send(r.ctx, "orders", order{id}); err != nil {
				t.Fatal(err)
			}
		}
		for _, want := range []int{0, 2, 3} {
			if id := receive(r, got); id != want {
				t.Errorf("got %d, want %d", id, want)
			}
		}
		r.quiet("error")
		contains(t, r.details(), "runtime.Goexit")
		if c := s.Stats(); c.Failed != 2 || c.Retried != 1 || c.Parked != 1 || c.Handled != 3 || c.InFlight != 0 {
			t.Errorf("counts %+v", c)
		}
		if err := s.Stop(r.ctx); err != nil {
			t.Error(err)
		}
	})
}

// TestHandlersHang: it is logged, Stats tells how old it is, and Ready fails when
// nothing is handled any more.
func TestHandlersHang(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		cfg := r.config("orders")
		cfg.Consume, cfg.Handling.Timeout = harebus.ConsumeConfig{Concurrency: 2, Prefetch: 4}, 90*time.Second
		logger, logs := observed()
		cfg.Logger = logger
		s := r.setup(cfg)
		release := make(chan struct{})
		harebus.Handle(s, func(context.Context, *harebus.Bus, order) error {
			<-release
			return nil
		})
		r.start(s)
		if err := s.Bus().Send(r.ctx, "orders", order{1}, harebus.WithMessageID("the-one")); err != nil {
			t.Fatal(err)
		}
		<-time.After(90 * time.Second)
		lines := logs.FilterMessageSnippet("running for long").All()
		if len(lines) != 1 {
			t.Fatalf("%d lines", len(lines))
		}
		if f := lines[0].ContextMap(); f["message_id"] != "the-one" || f["message_type"] != "Order" || f["age"].(time.Duration) < time.Minute {
			t.Errorf("the line says %v", f)
		}
		if age := s.Stats().OldestInFlight; age != 90*time.Second {
			t.Errorf("oldest: %v", age)
		}
		<-time.After(4 * time.Minute)
		if err := s.Ready(); err != nil {
			t.Errorf("one of two workers is free: %v", err)
		}
		if err := s.Bus().Send(r.ctx, "orders", order{2}); err != nil {
			t.Fatal(err)
		}
		<-time.After(time.Minute)
		if err := s.Ready(); err != nil {
			t.Errorf("the second is in time: %v", err)
		}
		<-time.After(time.Minute)
		err := s.Ready()
		if err == nil {
			t.Fatal("ready, but nothing is handled")
		}
		contains(t, err.Error(), "nothing is handled", "2 workers", "2m0s")
		if n := logs.FilterMessageSnippet("running for long").Len(); n > 5 {
			t.Errorf("%d lines", n)
		}
		close(release)
		r.quiet()
		if err := s.Ready(); err != nil {
			t.Error(err)
		}
		if age := s.Stats().OldestInFlight; age != 0 {
			t.Errorf("oldest: %v", age)
		}
	})
}

// TestStopInsideAHandler: it is refused at once, whoever it is that is given away by
// the context or the goroutine, and stops nothing. Another setup can be stopped.
func TestStopInsideAHandler(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		s, other := r.setup(r.config("orders")), r.setup(r.config("other"))
		harebus.Handle(other, func(context.Context, *harebus.Bus, order) error { return nil })
		r.start(other)
		got := make(chan error, 10)
		harebus.Handle(s, func(ctx context.Context, _ *harebus.Bus, _ order) error {
			start := time.Now()
			elsewhere := make(chan error, 1)
			go func() { elsewhere <- s.Stop(ctx) }()
			got <- errors.Join(<-elsewhere, s.Close(), s.Stop(context.Background()))
			got <- other.Close()
			if took := time.Since(start); took > 3*time.Second {
				t.Errorf("it took %v", took)
			}
			return nil
		})
		r.start(s)
		if err := s.Bus().Send(r.ctx, "orders", order{1}); err != nil {
			t.Fatal(err)
		}
		err := receive(r, got)
		joined, _ := err.(interface{ Unwrap() []error }) //nolint:errorlint // made by errors.Join
		if joined == nil || len(joined.Unwrap()) != 3 {
			t.Fatalf("got %v", err)
		}
		for _, one := range joined.Unwrap() {
			if !errors.Is(one, harebus.ErrInHandler) {
				t.Errorf("got %v", one)
			}
		}
		if err := receive(r, got); err != nil {
			t.Errorf("the other setup: %v", err)
		}
		r.quiet()
		if err := errors.Join(s.Ready(), s.Live()); err != nil {
			t.Error(err)
		}
	})
}

// TestConcurrentStops: all of them tell of the handlers that were left behind.
func TestConcurrentStops(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		cfg := r.config("orders")
		cfg.ShutdownTimeout = 5 * time.Second
		s, release := blocking(r, cfg)
		errs := make(chan error, 2)
		for range 2 {
			go func() { errs <- s.Stop(r.ctx) }()
			synctest.Wait()
		}
		for range 2 {
			if err := receive(r, errs); err == nil {
				t.Error("nil, though a handler has not returned")
			}
		}
		close(release)
	})
}

// TestUnbegunGoBack: when all workers have been busy with the same messages for ten
// minutes, the deliveries that wait behind them go back for others, and consuming
// goes on as workers get free.
func TestUnbegunGoBack(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		cfg := r.config("orders")
		cfg.Consume, cfg.Handling.Timeout = harebus.ConsumeConfig{Concurrency: 2, Prefetch: 10}, -1
		s := r.setup(cfg)
		release, got := make(chan struct{}), make(chan int, 20)
		harebus.Handle(s, func(_ context.Context, _ *harebus.Bus, o order) error {
			if o.ID == 1 || o.ID == 2 {
				<-release
			}
			got <- o.ID
			return nil
		})
		r.start(s)
		queue := func(ready, unacked, prefetch int) {
			t.Helper()
			synctest.Wait()
			q, _ := r.broker.Queue("orders")
			if q.Ready != ready || q.Unacked != unacked || (prefetch == 0) != (len(q.Consumers) == 0) || prefetch != 0 && q.Consumers[0].Prefetch != prefetch {
				t.Errorf("%d ready, %d unacknowledged, consumers %+v", q.Ready, q.Unacked, q.Consumers)
			}
		}
		r.fill("orders", 10)
		<-time.After(9 * time.Minute)
		queue(0, 10, 10)
		r.setClock(time.Now()) // ten more minutes
		<-time.After(2 * time.Minute)
		queue(8, 2, 0)
		release <- struct{}{}
		receive(r, got)
		for range 8 {
			if id := receive(r, got); id < 3 {
				t.Errorf("got %d", id)
			}
		}
		<-time.After(time.Minute)
		queue(0, 1, 1)
		release <- struct{}{}
		receive(r, got)
		<-time.After(time.Minute)
		queue(0, 0, 10)
		if c := s.Stats(); c.Handled != 10 {
			t.Errorf("counts %+v", c)
		}
	})
}

// TestHungInOrder: where the order is kept, messages behind handlers that ignore their
// timeouts do not use up their deliveries, however long that lasts, and they are handled in
// order when the handlers have returned. One consumer timeout of the broker passes 25 times.
func TestHungInOrder(t *testing.T) {
	for name, single := range map[string]bool{"one worker": false, "single active consumer": true} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, r *rig) {
				cfg := r.config("orders")
				cfg.Consume, cfg.ShutdownTimeout = harebus.ConsumeConfig{Concurrency: 1, Prefetch: 8}, time.Second
				if single {
					cfg.Consume.Concurrency = 3
					cfg.QueueOptions.Arguments = map[string]any{"x-single-active-consumer": true}
				}
				hung := cfg.Consume.Concurrency
				s := r.setup(cfg)
				release := make(chan struct{})
				var got journal
				harebus.Handle(s, func(_ context.Context, _ *harebus.Bus, o order) error {
					if o.ID <= hung {
						<-release
					} else {
						got.note(o.ID)
					}
					return nil
				})
				r.start(s)
				const messages = 20
				r.fill("orders", messages)
				for _, long := range []time.Duration{12 * time.Minute, 25 * 31 * time.Minute} {
					<-time.After(long)
					if q, _ := r.broker.Queue("orders"); q.Ready != messages {
						t.Errorf("%d messages are ready", q.Ready)
					}
				}
				for _, m := range r.broker.Messages("orders") {
					if count, _ := m.Headers["x-delivery-count"].(int64); count > 1 {
						t.Errorf("%s was delivered %d times", m.Body, count)
					}
				}
				contains(t, s.Ready().Error(), "nothing is handled")
				close(release)
				<-time.After(time.Minute)
				r.setClock(time.Now())
				r.quiet()
				if !single {
					got.check(t, messages-hung)
				}
				if q, _ := r.broker.Queue("error"); q.Ready > 0 || len(got.seen) != messages-hung {
					t.Errorf("%d messages in the error queue, handled %v", q.Ready, got.ids)
				}
			}, brokertest.WithConsumerTimeout(30*time.Minute))
		})
	}
}

// TestLongInOrder: a handler without a timeout may take as long as it needs where the order is
// kept; its message is not taken from it.
func TestLongInOrder(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		cfg := r.config("orders")
		cfg.Consume, cfg.Handling.Timeout = harebus.ConsumeConfig{Concurrency: 1, Prefetch: 8}, -1
		s := r.setup(cfg)
		var got journal
		harebus.Handle(s, func(_ context.Context, _ *harebus.Bus, o order) error {
			<-time.After(20 * time.Minute)
			got.note(o.ID)
			return nil
		})
		r.start(s)
		r.fill("orders", 5)
		<-time.After(2 * time.Hour)
		got.check(t, 5)
	}, brokertest.WithConsumerTimeout(10*time.Hour))
}
