package harebus_test

import (
	"context"
	"errors"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/brokertest"
	"github.com/harebus/harebus/stream"
)

// renting is an instance of a service whose handler runs for long, and can be killed.
type renting struct {
	*harebus.Setup
	began chan harebus.Message
	ended chan int
	end   chan struct{} // lets handlers return

	mu    sync.Mutex // guards what follows
	dead  bool
	conns []net.Conn
}

// renting starts an instance. Its handler returns nil when it is let, or err.
func (r *rig) renting(change func(*harebus.Config), err error, opts ...harebus.HandlerOption) *renting {
	r.t.Helper()
	s := &renting{began: make(chan harebus.Message, 100), ended: make(chan int, 100), end: make(chan struct{}, 100)}
	cfg := r.config("long")
	cfg.Consume.Concurrency, cfg.Logger = 1, zap.NewNop()
	cfg.Dial = func(network, address string) (net.Conn, error) {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.dead {
			return nil, errors.New("killed")
		}
		c, err := r.broker.Dial(network, address)
		s.conns = append(s.conns, c)
		return c, err
	}
	if change != nil {
		change(&cfg)
	}
	s.Setup = r.setup(cfg)
	harebus.Handle(s.Setup, func(ctx context.Context, _ *harebus.Bus, o order) error {
		s.began <- *harebus.Incoming(ctx)
		select {
		case <-s.end:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		s.ended <- o.ID
		return err
	}, append([]harebus.HandlerOption{harebus.WithLease(30 * time.Second)}, opts...)...)
	r.start(s.Setup)
	return s
}

// kill ends the instance for the broker, as SIGKILL does.
func (s *renting) kill(dead bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.dead = dead; dead {
		for _, c := range s.conns {
			_ = c.Close()
		}
	}
}

// rented runs a test on a broker that takes messages back after a minute.
func rented(t *testing.T, test func(t *testing.T, r *rig)) {
	bubble(t, test, brokertest.WithConsumerTimeout(time.Minute))
}

// settled waits until nothing is under way and no lease can end any more, and fails the test if a handler has begun.
func (r *rig) settled(of ...*renting) {
	r.t.Helper()
	time.Sleep(90 * time.Second)
	for _, s := range of {
		if len(s.began) > 0 {
			r.t.Errorf("a handler has begun with attempt %d", (<-s.began).Attempt)
		}
	}
	for _, name := range []string{"long", "error"} {
		if q, _ := r.broker.Queue(name); q.Ready+q.Unacked > 0 {
			r.t.Errorf("%s has %d messages, %d of them unacknowledged", name, q.Ready+q.Unacked, q.Unacked)
		}
	}
}

// TestLease: a handler with a lease runs for three times as long as the broker waits for an acknowledgement. Its message
// is handled once, on the connection that it came from, and others are left to other instances meanwhile.
func TestLease(t *testing.T) {
	rented(t, func(t *testing.T, r *rig) {
		first := r.renting(nil, nil)
		for id := range 3 {
			if err := first.Bus().Send(r.ctx, "long", order{id}); err != nil {
				t.Fatal(err)
			}
		}
		receive(r, first.began)
		time.Sleep(10 * time.Second)
		if q, _ := r.broker.Queue("long"); q.Ready != 2 || q.Unacked != 0 {
			t.Errorf("%d are ready, %d unacknowledged; want two for other instances", q.Ready, q.Unacked)
		}
		second := r.renting(nil, nil)
		receive(r, second.began)
		time.Sleep(3 * time.Minute)
		if err := errors.Join(first.Ready(), second.Ready()); err != nil {
			t.Error(err)
		}
		for range 3 {
			first.end <- struct{}{}
			second.end <- struct{}{}
		}
		for _, s := range []*renting{first, second} {
			receive(r, s.ended)
			if stats := s.Stats(); stats.Connections != 2 || stats.Failed != 0 {
				t.Errorf("%d connections, %d failures", stats.Connections, stats.Failed)
			}
		}
		time.Sleep(10 * time.Second)
		if n := first.Stats().Handled + second.Stats().Handled; n != 3 {
			t.Errorf("%d were handled, want 3", n)
		}
		for len(first.began)+len(second.began) > 1 || len(first.began)+len(second.began) == 0 {
			t.Fatal("want one more")
		}
		for _, s := range []*renting{first, second} {
			for len(s.began) > 0 {
				<-s.began
			}
		}
		r.settled(first, second)
	})
}

// TestLeaseIsTakenUp: when the process dies, another instance gets the message within the lease, as the next attempt,
// and with the reason. What the first one does then changes nothing.
func TestLeaseIsTakenUp(t *testing.T) {
	rented(t, func(t *testing.T, r *rig) {
		first := r.renting(nil, nil)
		if err := first.Bus().Send(r.ctx, "long", order{1}, harebus.WithMessageID("the-order"), harebus.WithHeader("kept", "as it is")); err != nil {
			t.Fatal(err)
		}
		receive(r, first.began)
		second := r.renting(nil, nil)
		time.Sleep(105 * time.Second) // it was extended until now, and is not being extended
		if len(second.began) > 0 {
			t.Fatal("two handlers run")
		}
		first.kill(true)
		killed := time.Now()
		m := receive(r, second.began)
		if took := time.Since(killed); took > 31*time.Second || took < 18*time.Second {
			t.Errorf("taken up after %v", took)
		}
		if m.ID != "the-order" || m.Attempt != 2 || m.Headers["kept"] != "as it is" || m.SourceQueue != "long" || !strings.Contains(m.ErrorDetails, "the lease of the handler ended") {
			t.Errorf("%+v", m)
		}
		time.Sleep(2 * time.Minute)
		second.end <- struct{}{}
		receive(r, second.ended)
		r.settled(second)
	})
}

// TestLeaseOfTheLastAttempt: what ends its process at every attempt is parked in the end.
func TestLeaseOfTheLastAttempt(t *testing.T) {
	rented(t, func(t *testing.T, r *rig) {
		change := func(c *harebus.Config) { c.Retry.MaxRetries = 1 }
		first := r.renting(change, nil)
		if err := first.Bus().Send(r.ctx, "long", order{1}); err != nil {
			t.Fatal(err)
		}
		receive(r, first.began)
		second := r.renting(change, nil)
		first.kill(true)
		if m := receive(r, second.began); !m.LastAttempt {
			t.Error("it is not the last attempt")
		}
		third := r.renting(change, nil)
		time.Sleep(time.Minute)
		second.kill(true)
		parked := r.await("error", 1)
		if text, _ := parked[0].Headers["PikaBus.ErrorDetails"].(string); !strings.Contains(text, "the lease of the handler ended") || parked[0].Headers["PikaBus.SourceQueue"] != "long" {
			t.Errorf("%v", parked[0].Headers)
		}
		if len(third.began) > 0 {
			t.Error("it was handled once more")
		}
	})
}

// TestLeaseFailure: a failure is retried once, and not a second time when the lease would have ended; the end of the
// goroutine is a failure, too.
func TestLeaseFailure(t *testing.T) {
	rented(t, func(t *testing.T, r *rig) {
		s := r.renting(func(c *harebus.Config) { c.Retry.MaxRetries = 1 }, errors.New("no"))
		if err := s.Bus().Send(r.ctx, "long", order{1}); err != nil {
			t.Fatal(err)
		}
		for attempt := 1; attempt <= 2; attempt++ {
			if m := receive(r, s.began); m.Attempt != attempt {
				t.Errorf("attempt %d", m.Attempt)
			}
			time.Sleep(70 * time.Second)
			s.end <- struct{}{}
			receive(r, s.ended)
		}
		r.await("error", 1)
		time.Sleep(90 * time.Second)
		r.await("error", 1)
		if len(s.began) > 0 || s.Stats().Retried != 1 {
			t.Errorf("%d more, %d retried", len(s.began), s.Stats().Retried)
		}
	})
}

// TestLeaseConnection: a lost connection does not disturb the handler: its message is handled once, and what it sent is
// published.
func TestLeaseConnection(t *testing.T) {
	rented(t, func(t *testing.T, r *rig) {
		s := r.renting(nil, nil)
		if err := s.Bus().Send(r.ctx, "long", order{1}); err != nil {
			t.Fatal(err)
		}
		receive(r, s.began)
		for range 5 {
			time.Sleep(20 * time.Second)
			r.broker.CloseConnections("test")
		}
		s.end <- struct{}{}
		receive(r, s.ended)
		time.Sleep(time.Second)
		if stats := s.Stats(); stats.Handled != 1 || stats.Failed != 0 {
			t.Errorf("%d handled, %d failed", stats.Handled, stats.Failed)
		}
		r.settled(s)
	})
}

// TestLeaseOutage: when the broker was away for longer than the lease, and gives the message to the same process, no
// second handler begins there.
func TestLeaseOutage(t *testing.T) {
	rented(t, func(t *testing.T, r *rig) {
		s := r.renting(func(c *harebus.Config) { c.Consume.Concurrency = 3 }, nil)
		if err := s.Bus().Send(r.ctx, "long", order{1}); err != nil {
			t.Fatal(err)
		}
		receive(r, s.began)
		time.Sleep(15 * time.Second)
		s.kill(true)
		time.Sleep(time.Minute)
		s.kill(false)
		time.Sleep(time.Minute)
		s.end <- struct{}{}
		receive(r, s.ended)
		time.Sleep(time.Second)
		if stats := s.Stats(); stats.Handled != 1 || len(s.began) != 0 {
			t.Errorf("%d handled, %d more have begun", stats.Handled, len(s.began))
		}
		r.settled(s)
	})
}

// TestLeaseStop: a handler that outlasts the shutdown timeout is taken up within its lease; one that ends in time is not.
func TestLeaseStop(t *testing.T) {
	for name, end := range map[string]bool{"in time": true, "too late": false} {
		t.Run(name, func(t *testing.T) {
			rented(t, func(t *testing.T, r *rig) {
				first := r.renting(func(c *harebus.Config) { c.ShutdownTimeout = 90 * time.Second }, nil)
				if err := first.Bus().Send(r.ctx, "long", order{1}); err != nil {
					t.Fatal(err)
				}
				receive(r, first.began)
				second := r.renting(nil, nil)
				if end {
					time.AfterFunc(80*time.Second, func() { first.end <- struct{}{} })
				}
				began := time.Now()
				if err := first.Close(); err != nil {
					t.Error(err)
				}
				if took := time.Since(began); took > 91*time.Second {
					t.Errorf("the stop took %v", took)
				}
				if len(second.began) > 0 {
					t.Error("two handlers run")
				}
				if !end {
					receive(r, second.began)
					second.end <- struct{}{}
					receive(r, second.ended)
				}
				r.settled(second)
			})
		})
	}
}

// TestLeaseNotGiven: when the broker does not take the copy, the handler does not begin, and the message is not lost.
func TestLeaseNotGiven(t *testing.T) {
	rented(t, func(t *testing.T, r *rig) {
		s := r.renting(nil, nil)
		refused := r.broker.Inject(brokertest.Fault{On: "basic.publish", Times: -1, Do: brokertest.Nack, Match: func(f brokertest.Frame) bool {
			return strings.HasPrefix(f.Exchange, "harebus.delay")
		}})
		if err := s.Bus().Send(r.ctx, "long", order{1}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(30 * time.Second)
		if len(s.began) > 0 || refused.Fired() == 0 {
			t.Errorf("%d have begun, %d copies refused", len(s.began), refused.Fired())
		}
		refused.Remove()
		receive(r, s.began)
		s.end <- struct{}{}
		receive(r, s.ended)
		r.settled(s)
	})
}

// TestLeaseOfOneID: two messages to which another program gave the same id are handled both, at the same time.
func TestLeaseOfOneID(t *testing.T) {
	rented(t, func(t *testing.T, r *rig) {
		s := r.renting(func(c *harebus.Config) { c.Consume.Concurrency = 3 }, nil)
		for _, m := range []struct {
			id     int
			tenant string
		}{{1, "north"}, {2, "north"}, {2, "south"}} {
			if err := s.Bus().Send(r.ctx, "long", order{m.id}, harebus.WithMessageID("one"), harebus.WithHeader("tenant", m.tenant)); err != nil {
				t.Fatal(err)
			}
		}
		for range 3 {
			receive(r, s.began)
			s.end <- struct{}{}
		}
		for range 3 {
			receive(r, s.ended)
		}
		r.settled(s)
	})
}

// TestLeaseHold: a message that is acknowledged cannot be held, not even where the order was kept until a handler with a
// lease was added. That has failed then, and nothing is lost.
func TestLeaseHold(t *testing.T) {
	rented(t, func(t *testing.T, r *rig) {
		cfg := r.config("long")
		cfg.Consume.Concurrency, cfg.Consume.Consumers, cfg.Retry.MaxRetries = 1, 1, -1
		s := r.setup(cfg)
		harebus.Handle(s, func(context.Context, *harebus.Bus, answer) error { return nil })
		r.start(s)
		harebus.Handle(s, func(context.Context, *harebus.Bus, order) error { return new(harebus.Hold) }, harebus.WithLease(time.Minute))
		if err := s.Bus().Send(r.ctx, "long", order{1}); err != nil {
			t.Fatal(err)
		}
		r.await("error", 1)
	})
}

// TestLeaseEndsAsItsCopyComes: a copy that comes while the lease ends does not extend it once more: the message is handled.
func TestLeaseEndsAsItsCopyComes(t *testing.T) {
	rented(t, func(t *testing.T, r *rig) {
		s := r.renting(func(c *harebus.Config) { c.Consume.Concurrency = 3 }, nil)
		if err := s.Bus().Send(r.ctx, "long", order{1}); err != nil {
			t.Fatal(err)
		}
		receive(r, s.began)
		delays := func(f brokertest.Frame) bool { return strings.HasPrefix(f.Exchange, "harebus.delay") }
		refused := r.broker.Inject(brokertest.Fault{On: "basic.publish", Times: -1, Do: brokertest.Nack, Match: delays})
		time.Sleep(29 * time.Second) // it cannot be extended
		refused.Remove()
		late := r.broker.Inject(brokertest.Fault{On: "queue.bind", Times: 1, Do: brokertest.Delay, For: 5 * time.Second})
		s.end <- struct{}{}
		receive(r, s.ended)
		r.settled(s)
		if n := s.Stats().Handled; n != 1 || late.Fired() != 1 {
			t.Errorf("handled %d times; %d cancellations were late", n, late.Fired())
		}
	})
}

// TestLeaseFaults: a lease that cannot be is refused by Start; a time limit holds as in other handlers.
func TestLeaseFaults(t *testing.T) {
	rented(t, func(t *testing.T, r *rig) {
		for want, change := range map[string]func(c *harebus.Config) time.Duration{
			"the lease of 1s is not between": func(*harebus.Config) time.Duration { return time.Second },
			"the lease of 0s is not between": func(*harebus.Config) time.Duration { return 0 },
			"the lease of 25h0m0s is not":    func(*harebus.Config) time.Duration { return 25 * time.Hour },
			"and not a stream": func(c *harebus.Config) time.Duration {
				c.Consume.Stream = &stream.Config{}
				return time.Minute
			},
			"which has a single active consumer": func(c *harebus.Config) time.Duration {
				c.QueueOptions.Arguments = map[string]any{"x-single-active-consumer": true}
				return time.Minute
			},
		} {
			cfg := r.config("long")
			lease := change(&cfg)
			s := r.setup(cfg)
			harebus.Handle(s, func(context.Context, *harebus.Bus, order) error { return nil }, harebus.WithLease(lease))
			if err := s.Start(r.ctx); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%v, want %q", err, want)
			}
		}
		s := r.renting(func(c *harebus.Config) { c.Retry.MaxRetries = -1 }, nil, harebus.WithTimeout(2*time.Minute))
		if err := s.Bus().Send(r.ctx, "long", order{1}); err != nil {
			t.Fatal(err)
		}
		receive(r, s.began)
		time.Sleep(119 * time.Second)
		if s.Stats().Failed != 0 {
			t.Error("it has failed before its time")
		}
		r.await("error", 1)
	})
}
