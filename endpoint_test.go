package harebus_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/brokertest"
	"github.com/harebus/harebus/topology"
)

// endpoint adds a queue to a setup.
func (r *rig) endpoint(s *harebus.Setup, cfg harebus.EndpointConfig) *harebus.Endpoint {
	r.t.Helper()
	e, err := s.Endpoint(cfg)
	if err != nil {
		r.t.Fatal(err)
	}
	return e
}

// TestEndpoints: a setup consumes from several queues on two connections. Each has its own
// handlers, topics, retries and error queue; what a handler sends names the queue of its
// endpoint for replies; one Stop ends all.
func TestEndpoints(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		cfg := r.config("orders")
		cfg.Retry.MaxRetries = -1
		s := r.setup(cfg)
		billing := r.endpoint(s, harebus.EndpointConfig{
			Queue: "billing", Subscriptions: []string{"order.#"},
			Retry:      harebus.RetryConfig{MaxRetries: 1},
			ErrorQueue: harebus.ErrorQueueConfig{Name: "billing.error"},
		})
		replies := make(chan string, 10)
		s.HandleMessage("Answer", func(_ context.Context, _ *harebus.Bus, m *harebus.Message) error {
			replies <- m.Queue
			return nil
		})
		harebus.Handle(s, func(ctx context.Context, bus *harebus.Bus, o order) error {
			if o.ID == 13 {
				return errors.New("no orders of this number")
			}
			return bus.Publish(ctx, "order.placed", o)
		})
		var attempts atomic.Int64
		billing.HandleMessage("Answer", func(_ context.Context, _ *harebus.Bus, m *harebus.Message) error {
			replies <- m.Queue
			return nil
		})
		harebus.Handle(billing, func(ctx context.Context, bus *harebus.Bus, o order) error {
			if o.ID == 14 {
				attempts.Add(1)
				return errors.New("no bills of this number")
			}
			if harebus.Incoming(ctx).Queue != "billing" || harebus.Incoming(ctx).ReplyTo != "orders" {
				t.Errorf("received from %q, replies to %q", harebus.Incoming(ctx).Queue, harebus.Incoming(ctx).ReplyTo)
			}
			if err := bus.Send(ctx, "echo", order{o.ID}); err != nil {
				return err
			}
			if err := s.Bus().Send(ctx, "echo", order{o.ID}); err != nil { // joins the handler's transaction
				return err
			}
			return s.Bus().Transaction(ctx, func(ctx context.Context, tx *harebus.Tx) error { // so does this
				return tx.Send(ctx, "echo", order{o.ID})
			})
		})
		echo := r.setup(r.config("echo"))
		harebus.Handle(echo, func(ctx context.Context, bus *harebus.Bus, o order) error { return bus.Reply(ctx, answer(o)) })
		r.start(echo)
		r.start(s)
		if err := s.Ready(); err != nil {
			t.Error(err)
		}
		for _, id := range []int{7, 13, 14} {
			if err := s.Bus().Send(r.ctx, "orders", order{id}); err != nil {
				t.Fatal(err)
			}
		}
		for range 3 {
			if queue := receive(r, replies); queue != "billing" {
				t.Errorf("a reply came to %q", queue)
			}
		}
		r.quiet("error", "billing.error")
		if n := len(r.await("error", 1)); n != 1 || attempts.Load() != 2 {
			t.Errorf("%d parked of the first endpoint, %d attempts of the second", n, attempts.Load())
		}
		if parked := r.await("billing.error", 1)[0]; parked.Headers["PikaBus.SourceQueue"] != "billing" {
			t.Errorf("parked with %v", parked.Headers)
		}
		all, one := s.Stats(), billing.Stats()
		if all.Handled != 6 || one.Handled != 4 || all.Parked != 2 || one.Parked != 1 || one.Retried != 1 || all.Types["Order"].Failed != 3 {
			t.Errorf("%+v\n%+v", all, one)
		}
		if n := len(r.broker.Connections()); n != 4 { // two of each setup
			t.Errorf("%d connections", n)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		for _, queue := range []string{"orders", "billing"} {
			if q, _ := r.broker.Queue(queue); len(q.Consumers) > 0 {
				t.Errorf("%s: consumers after the stop: %+v", queue, q.Consumers)
			}
		}
		r.start(s)
		time.Sleep(time.Second) // each queue has its turn
		if q, _ := r.broker.Queue("billing"); len(q.Consumers) != 1 {
			t.Errorf("consumers after the second start: %+v", q.Consumers)
		}
	})
}

// TestEndpointWithoutAFirst: a setup may have endpoints and no queue of its own.
func TestEndpointWithoutAFirst(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		cfg := r.config("")
		s := r.setup(cfg)
		if err := s.Start(r.ctx); !errors.Is(err, harebus.ErrNoQueue) {
			t.Errorf("start without any queue: %v", err)
		}
		got := make(chan int, 1)
		e := r.endpoint(s, harebus.EndpointConfig{Queue: "work"})
		if err := s.Start(r.ctx); err == nil || !strings.Contains(err.Error(), `"work"`) {
			t.Errorf("start without a handler: %v", err)
		}
		harebus.Handle(e, func(_ context.Context, _ *harebus.Bus, o order) error { got <- o.ID; return nil })
		r.start(s)
		if err := s.Bus().Send(r.ctx, e.Queue(), order{1}); err != nil {
			t.Fatal(err)
		}
		receive(r, got)
		if _, err := s.Endpoint(harebus.EndpointConfig{Queue: "late"}); !errors.Is(err, harebus.ErrStarted) {
			t.Errorf("an endpoint after the start: %v", err)
		}
	})
}

// TestEndpointsAreListed: that of Config.Queue comes first; their stats have what they consume with now.
func TestEndpointsAreListed(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		s := r.setup(r.config("orders"))
		r.endpoint(s, harebus.EndpointConfig{Queue: "imports", Consume: harebus.ConsumeConfig{Concurrency: 1}})
		list := s.Endpoints()
		if len(list) != 2 || list[0].Queue() != "orders" || list[1].Queue() != "imports" {
			t.Fatalf("endpoints %v", list)
		}
		if err := list[1].SetConcurrency(3, 4); err != nil {
			t.Fatal(err)
		}
		for i, want := range [][3]int{{10, 50, 1}, {3, 4, 1}} {
			if c := list[i].Stats().Consume; c.Concurrency != want[0] || c.Prefetch != want[1] || c.Consumers != want[2] {
				t.Errorf("%v consumes with %+v", list[i], c)
			}
		}
		if none := r.setup(r.config("")).Endpoints(); len(none) > 0 {
			t.Errorf("without a queue: %v", none)
		}
	})
}

// TestEndpointFaults: all faults of an endpoint are reported at once, by name.
func TestEndpointFaults(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		cfg  harebus.EndpointConfig
		want []string
	}{
		"no queue":         {harebus.EndpointConfig{}, []string{"queue"}},
		"same queue":       {harebus.EndpointConfig{Queue: "orders"}, []string{`"orders" already`}},
		"an error queue":   {harebus.EndpointConfig{Queue: "error"}, []string{"error queue"}},
		"parks in another": {harebus.EndpointConfig{Queue: "a", ErrorQueue: harebus.ErrorQueueConfig{Name: "orders"}}, []string{"error queue of another"}},
		"parks in itself":  {harebus.EndpointConfig{Queue: "a", ErrorQueue: harebus.ErrorQueueConfig{Name: "a"}}, []string{"round in circles"}},
		"other error queue": {
			harebus.EndpointConfig{Queue: "a", ErrorQueue: harebus.ErrorQueueConfig{Name: "error", Type: topology.Classic}}, []string{"error"},
		},
		"a stream":           {harebus.EndpointConfig{Queue: "a", QueueOptions: harebus.QueueOptions{Type: topology.Stream, AsFound: true}}, []string{"topology.Stream"}},
		"a stream of errors": {harebus.EndpointConfig{Queue: "a", ErrorQueue: harebus.ErrorQueueConfig{Name: "e", Type: topology.Stream}}, []string{"topology.Stream"}},
		"several": {
			harebus.EndpointConfig{
				Queue: "a", Subscriptions: []string{"a*"}, Consume: harebus.ConsumeConfig{Concurrency: -1, Consumers: 2000},
				Handling: harebus.HandlingConfig{Unhandled: 7, Middleware: []harebus.Middleware{nil}},
			},
			[]string{`"a*"`, "Consume.Concurrency", "Consume.Consumers", "Handling.Unhandled", "Handling.Middleware[0]"},
		},
	} {
		s, err := harebus.New(harebus.Config{Queue: "orders"})
		if err != nil {
			t.Fatal(err)
		}
		e, err := s.Endpoint(test.cfg)
		if err == nil || e != nil {
			t.Errorf("%s: no error", name)
			continue
		}
		for _, want := range append(test.want, "harebus: new endpoint: ") {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%s: %q does not contain %q", name, err, want)
			}
		}
	}
}

// TestEndpointThatCannotConsume: when the queue of one endpoint is gone and cannot be
// declared, the others go on with their whole prefetch, and Ready names the queue.
func TestEndpointThatCannotConsume(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		got := make(chan int, 100)
		s := r.setup(r.config("orders"))
		harebus.Handle(s, func(_ context.Context, _ *harebus.Bus, o order) error { got <- o.ID; return nil })
		other := r.endpoint(s, harebus.EndpointConfig{Queue: "other"})
		harebus.Handle(other, func(_ context.Context, _ *harebus.Bus, o order) error { got <- -o.ID; return nil })
		r.start(s)
		refused := r.refuses("queue.declare", func(f brokertest.Frame) bool { return f.Queue == "other" })
		if err := r.broker.DeleteQueue("other"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(5 * time.Second)
		for _, cut := range []bool{false, true} {
			if cut {
				r.broker.CutConnections()
			}
			r.fill("orders", 20)
			for range 20 {
				receive(r, got)
			}
			time.Sleep(10 * time.Second)
			for len(got) > 0 {
				<-got // what was handled when the connection was cut
			}
			if q, _ := r.broker.Queue("orders"); len(q.Consumers) != 1 || q.Consumers[0].Prefetch != 50 {
				t.Errorf("consumers (cut: %v): %+v", cut, q.Consumers)
			}
			if err := s.Ready(); err == nil || !strings.Contains(err.Error(), `queue "other"`) {
				t.Errorf("ready: %v", err)
			}
		}
		refused.Remove()
		time.Sleep(2 * time.Minute)
		if err := s.Ready(); err != nil {
			t.Error(err)
		}
		r.fill("other", 1)
		if id := receive(r, got); id != -1 {
			t.Errorf("got %d", id)
		}
	})
}

// TestTrialOfEndpoints: after a reconnect one queue after the other is tried with one
// message; an empty queue does not hold up the others.
func TestTrialOfEndpoints(t *testing.T) {
	for _, quiet := range []bool{false, true} {
		t.Run(fmt.Sprint("the others are quiet: ", quiet), func(t *testing.T) {
			bubble(t, func(t *testing.T, r *rig) {
				s := r.setup(r.config("q0"))
				on := []harebus.Registrar{s}
				queues := []string{"q0", "q1", "q2", "q3"}
				for _, queue := range queues[1:] {
					on = append(on, r.endpoint(s, harebus.EndpointConfig{Queue: queue}))
				}
				var firsts, most, handled atomic.Int64
				for _, e := range on {
					var later atomic.Bool
					harebus.Handle(e, func(context.Context, *harebus.Bus, order) error {
						if later.CompareAndSwap(false, true) {
							most.Store(max(most.Load(), firsts.Add(1)))
							defer firsts.Add(-1)
						}
						time.Sleep(time.Second)
						handled.Add(1)
						return nil
					})
				}
				want, within := int64(20), 5*time.Second
				if quiet {
					r.start(s)
					r.fill("q3", 20)
				} else {
					want, within = 80, 20*time.Second
					r.start(s) // declares the queues
					if err := s.Stop(r.ctx); err != nil {
						t.Fatal(err)
					}
					for _, queue := range queues {
						r.fill(queue, 20)
					}
					r.start(s)
				}
				time.Sleep(within)
				if n := handled.Load(); n != want {
					t.Errorf("%d messages were handled in %v, want %d", n, within, want)
				}
				if n := most.Load(); n != 1 {
					t.Errorf("the first messages of %d queues were in hand at the same time", n)
				}
			})
		})
	}
}

// TestPauseOfAnEndpoint: the others go on, and a handler may pause another endpoint, but not
// its own.
func TestPauseOfAnEndpoint(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		got := make(chan string, 10)
		s := r.setup(r.config("orders"))
		var other *harebus.Endpoint
		harebus.Handle(s, func(ctx context.Context, _ *harebus.Bus, _ order) error {
			got <- "orders"
			return other.Pause(ctx)
		})
		other = r.endpoint(s, harebus.EndpointConfig{Queue: "other"})
		harebus.Handle(other, func(ctx context.Context, _ *harebus.Bus, _ order) error {
			if err := other.Pause(ctx); !errors.Is(err, harebus.ErrInHandler) {
				t.Errorf("paused from inside: %v", err)
			}
			got <- "other"
			return nil
		})
		r.start(s)
		r.fill("other", 1)
		receive(r, got)
		r.fill("orders", 1)
		receive(r, got)
		time.Sleep(time.Second)
		if !other.Stats().Paused || s.Stats().Paused || s.Ready() != nil {
			t.Errorf("paused: %v, the whole setup: %v, ready: %v", other.Stats().Paused, s.Stats().Paused, s.Ready())
		}
		r.fill("other", 1)
		r.fill("orders", 1)
		if queue := receive(r, got); queue != "orders" {
			t.Errorf("a message of %q was handled", queue)
		}
		time.Sleep(time.Minute)
		if len(got) > 0 {
			t.Error("the paused endpoint handled a message")
		}
		r.broker.CutConnections()
		time.Sleep(10 * time.Second)
		if len(got) > 0 {
			t.Error("the paused endpoint handled a message after the reconnect")
		}
		if err := other.Resume(); err != nil {
			t.Fatal(err)
		}
		if queue := receive(r, got); queue != "other" {
			t.Errorf("a message of %q was handled", queue)
		}
	})
}

// TestSetConcurrency: changes under load lose and repeat nothing, whatever the queue, and
// where the concurrency stays 1 the order of the queue is kept.
func TestSetConcurrency(t *testing.T) {
	for name, change := range pausable {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, r *rig) {
				const messages = 60
				p := r.pausing(change)
				r.fill("orders", messages)
				sizes := []int{1, 4, 2, 7, 1, 5}
				if name == "ordered" {
					sizes = []int{1}
				}
				for i := range 12 {
					time.Sleep(time.Duration(337*i%1700) * time.Millisecond)
					if err := p.SetConcurrency(sizes[i%len(sizes)], 5+i); err != nil {
						t.Fatal(err)
					}
					if i == 6 {
						r.broker.CutConnections()
					}
				}
				r.quiet()
				if n := len(p.got.seen); n != messages {
					t.Errorf("%d messages were handled, want %d", n, messages)
				}
				if again := len(p.got.ids) - messages; again > 20 { // those that were in hand when the connection was cut
					t.Errorf("%d messages were handled again", again)
				}
			})
		})
	}
}

// TestSetConcurrencyCounts: what was set counts: at once, after a reconnect and after
// another start. A number that cannot be is refused.
func TestSetConcurrencyCounts(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		p := r.pausing(func(c *harebus.Config) { c.Consume.Concurrency = 2 })
		runs := func(want, prefetch int, when string) {
			t.Helper()
			r.fill("orders", 200)
			time.Sleep(10 * time.Second)
			most := 0
			for range 30 { // one that has just ended makes room for the next
				time.Sleep(37 * time.Millisecond)
				most = max(most, int(p.running.Load()))
			}
			if most != want {
				t.Errorf("%s: %d handlers run, want %d", when, most, want)
			}
			if q, _ := r.broker.Queue("orders"); len(q.Consumers) != 1 || q.Consumers[0].Prefetch != prefetch {
				t.Errorf("%s: consumers %+v, want prefetch %d", when, q.Consumers, prefetch)
			}
		}
		runs(2, 10, "at first")
		for _, bad := range [][2]int{{0, 0}, {-1, 0}, {5, 4}, {1, 70000}} {
			if err := p.SetConcurrency(bad[0], bad[1]); err == nil || !strings.Contains(err.Error(), "Consume.") {
				t.Errorf("%v: %v", bad, err)
			}
		}
		if err := p.SetConcurrency(6, 0); err != nil {
			t.Fatal(err)
		}
		runs(6, 30, "after the change")
		r.broker.CutConnections()
		runs(6, 30, "after a reconnect")
		if err := p.Stop(r.ctx); err != nil {
			t.Fatal(err)
		}
		if err := p.SetConcurrency(3, 3); err != nil {
			t.Fatal(err)
		}
		r.start(p.Setup)
		runs(3, 3, "after another start")
	})
}

// TestKindsOfQueues: exclusive and auto-delete queues, and one that somebody else has
// declared, handle, retry and reply as others do, also after the connection was lost.
func TestKindsOfQueues(t *testing.T) {
	for name, test := range map[string]struct {
		options harebus.QueueOptions
		check   func(q brokertest.Queue) bool
	}{
		"exclusive":              {harebus.QueueOptions{Exclusive: true}, func(q brokertest.Queue) bool { return q.Exclusive && q.Type == "classic" }},
		"exclusive per instance": {harebus.QueueOptions{Exclusive: true, PerInstance: true}, func(q brokertest.Queue) bool { return q.Exclusive }},
		"auto-delete":            {harebus.QueueOptions{AutoDelete: true}, func(q brokertest.Queue) bool { return q.AutoDelete && q.Type == "classic" }},
		"as found": {
			harebus.QueueOptions{AsFound: true},
			func(q brokertest.Queue) bool { return q.Type == "classic" && q.Arguments["x-max-length"] != nil },
		},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, r *rig) {
				if test.options.AsFound {
					_, err := r.channel().QueueDeclare("work", true, false, false, false, amqp.Table{"x-max-length": 1000})
					if err != nil {
						t.Fatal(err)
					}
				}
				s := r.setup(r.config("orders"))
				answers := make(chan int, 10)
				s.HandleMessage("Answer", func(_ context.Context, _ *harebus.Bus, m *harebus.Message) error {
					var a answer
					err := m.Decode(&a)
					answers <- a.ID
					return err
				})
				e := r.endpoint(s, harebus.EndpointConfig{
					Queue: "work", QueueOptions: test.options, Subscriptions: []string{"work.#"},
					Consume: harebus.ConsumeConfig{Arguments: map[string]any{"x-priority": 5}, Exclusive: !test.options.AutoDelete},
				})
				harebus.Handle(e, func(ctx context.Context, bus *harebus.Bus, o order) error {
					if harebus.Incoming(ctx).Attempt == 1 {
						return errors.New("not at the first time")
					}
					return bus.Reply(ctx, answer(o))
				})
				r.start(s)
				works := func(id int) {
					t.Helper()
					if err := s.Bus().Publish(r.ctx, "work.one", order{id}); err != nil {
						t.Fatal(err)
					}
					if got := receive(r, answers); got != id {
						t.Errorf("got the answer %d, want %d", got, id)
					}
					if q, ok := r.broker.Queue(e.Queue()); !ok || !test.check(q) || len(q.Consumers) != 1 || q.Consumers[0].Priority != 5 || q.Consumers[0].Exclusive == test.options.AutoDelete {
						t.Errorf("the queue: %v %+v", ok, q)
					}
				}
				works(1)
				if err := e.SetConcurrency(1, 0); err != nil {
					t.Fatal(err)
				}
				for i := range 20 { // the queue stays, with its messages, when the consumer changes
					if err := s.Bus().Publish(r.ctx, "work.one", order{100 + i}); err != nil {
						t.Fatal(err)
					}
					if i == 10 {
						if err := e.SetConcurrency(7, 9); err != nil {
							t.Fatal(err)
						}
					}
				}
				for range 20 {
					receive(r, answers)
				}
				time.Sleep(time.Second) // for the acks
				r.broker.CutConnections()
				time.Sleep(10 * time.Second)
				works(2)
				if err := e.Subscribe(r.ctx, "more.*"); err != nil {
					t.Fatal(err)
				}
				time.Sleep(3 * time.Minute) // several refreshes
				works(3)
				if err := s.Bus().Publish(r.ctx, "more.one", order{4}); err != nil {
					t.Fatal(err)
				}
				if got := receive(r, answers); got != 4 {
					t.Errorf("got the answer %d", got)
				}
				if err := s.Ready(); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

// TestQueueThatIsNotFound: a setup with AsFound does not declare the queue, and Start says
// that it does not exist.
func TestQueueThatIsNotFound(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		cfg := r.config("orders")
		cfg.QueueOptions.AsFound = true
		s := r.setup(cfg)
		harebus.Handle(s, func(context.Context, *harebus.Bus, order) error { return nil })
		err := s.Start(r.ctx)
		if err == nil || !strings.Contains(err.Error(), "orders") || !strings.Contains(err.Error(), "404") {
			t.Errorf("start: %v", err)
		}
		if _, ok := r.broker.Queue("orders"); ok {
			t.Error("the queue was declared")
		}
	})
}

// TestToOneWorkerDuringAHandler: a consumer that has changed its channel since a handler
// began, and is then to keep the order, goes on when that handler returns.
func TestToOneWorkerDuringAHandler(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		cfg := r.config("orders")
		cfg.Consume = harebus.ConsumeConfig{Concurrency: 3, Prefetch: 3}
		s := r.setup(cfg)
		got := make(chan int, 10)
		harebus.Handle(s, func(_ context.Context, _ *harebus.Bus, o order) error {
			if o.ID == 1 {
				time.Sleep(10 * time.Second)
			}
			got <- o.ID
			return nil
		})
		r.start(s)
		if err := s.Bus().Send(r.ctx, "orders", order{0}); err != nil { // which ends the trial of the connection
			t.Fatal(err)
		}
		receive(r, got)
		time.Sleep(time.Second)
		if err := s.Bus().Send(r.ctx, "orders", order{1}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second) // it is in its handler
		for _, concurrency := range []int{5, 1} {
			if err := s.SetConcurrency(concurrency, 5); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Second)
			if err := s.SetConcurrency(concurrency, 9); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Second)
		}
		if err := s.Bus().Send(r.ctx, "orders", order{2}); err != nil {
			t.Fatal(err)
		}
		for _, want := range []int{1, 2} {
			if id := receive(r, got); id != want {
				t.Errorf("received %d; want %d", id, want)
			}
		}
	})
}

// TestAutoDeleteDuringATrial: a change of the concurrency leaves an auto-delete queue its
// consumer while the first message of another queue is tried.
func TestAutoDeleteDuringATrial(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		s := r.setup(r.config("orders"))
		began := make(chan struct{}, 1)
		harebus.Handle(s, func(context.Context, *harebus.Bus, order) error {
			began <- struct{}{}
			time.Sleep(4 * time.Second)
			return nil
		})
		e := r.endpoint(s, harebus.EndpointConfig{Queue: "work", QueueOptions: harebus.QueueOptions{AutoDelete: true}})
		got := make(chan int, 1)
		harebus.Handle(e, func(_ context.Context, _ *harebus.Bus, o order) error { got <- o.ID; return nil })
		r.start(s) // declares the queue
		if err := s.Stop(r.ctx); err != nil {
			t.Fatal(err)
		}
		r.fill("orders", 1)
		r.start(s)
		receive(r, began)
		if err := e.SetConcurrency(3, 3); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		if q, ok := r.broker.Queue("work"); !ok || len(q.Consumers) != 1 || q.Consumers[0].Prefetch != 3 {
			t.Errorf("the queue: %v %+v", ok, q)
		}
		if err := s.Bus().Send(r.ctx, "work", order{7}); err != nil {
			t.Fatal(err)
		}
		receive(r, got)
	})
}

// TestLoggerMayCallTheSetup: what a change or a pause logs may ask the setup for its counts.
func TestLoggerMayCallTheSetup(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		var s atomic.Pointer[harebus.Setup]
		var logged atomic.Int64
		cfg := r.config("orders")
		core, _ := observer.New(zap.InfoLevel)
		cfg.Logger = zap.New(core, zap.Hooks(func(zapcore.Entry) error {
			if s := s.Load(); s != nil {
				logged.Add(1)
				s.Stats()
				_ = s.Ready()
			}
			return nil
		}))
		setup := r.setup(cfg)
		harebus.Handle(setup, func(context.Context, *harebus.Bus, order) error { return nil })
		r.start(setup)
		s.Store(setup)
		if err := errors.Join(setup.SetConcurrency(3, 3), setup.Pause(r.ctx), setup.Resume()); err != nil || logged.Load() < 3 {
			t.Errorf("%v; %d lines in the log", err, logged.Load())
		}
	})
}
