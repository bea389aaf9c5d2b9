package harebus_test

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/brokertest"
)

// ends makes the broker end the connection at a method, for frames that match: with an
// exception, or for code 0 without a word.
func (r *rig) ends(method string, code int, match func(brokertest.Frame) bool) *brokertest.Injection {
	f := brokertest.Fault{On: method, Times: -1, Match: match, Do: brokertest.Raise, Code: code, Text: "boom"}
	if code == 0 {
		f.Do, f.Text = brokertest.CutBefore, ""
	}
	return r.broker.Inject(f)
}

// TestDeclarationsThatEndConnections: when declaring one object ends the connection, consuming
// and sending go on, a warning says so once a minute at most, and the object is declared again
// when that is possible.
func TestDeclarationsThatEndConnections(t *testing.T) {
	methods := map[string]func(brokertest.Frame) bool{
		"queue.bind":       func(f brokertest.Frame) bool { return f.RoutingKey == "deadly" },
		"queue.declare":    func(f brokertest.Frame) bool { return f.Queue == "orders" },
		"exchange.declare": func(f brokertest.Frame) bool { return f.Exchange == "PikaBusTopic" },
	}
	for method, match := range methods {
		for _, code := range []int{541, 503, 530, 0} {
			t.Run(fmt.Sprint(method, code), func(t *testing.T) {
				bubble(t, func(t *testing.T, r *rig) {
					cfg := r.config("orders")
					cfg.Subscriptions = []string{"a", "deadly", "z"}
					logger, logs := observed()
					cfg.Logger = logger
					s, got := counting(r, cfg)
					r.start(s)
					r.works(s, got, 1)
					deadly := r.ends(method, code, match)
					<-time.After(70 * time.Second)
					before := s.Stats().Connections
					r.consumesFor(s, got, 5*time.Minute)
					if n := s.Stats().Connections - before; n > 15 {
						t.Errorf("%d connections in five minutes", n)
					}
					if n := logs.FilterMessageSnippet("the connection ends when objects").Len(); n == 0 || n > 7 {
						t.Errorf("%d warnings", n)
					}
					deadly.Remove()
					r.setClock(time.Now())
					<-time.After(9 * time.Minute)
					r.setClock(time.Now())
					if bound := r.boundTopics(); bound != "a deadly z" {
						t.Errorf("bound to %q", bound)
					}
					before = s.Stats().Connections
					r.consumesFor(s, got, 3*time.Minute)
					if n := s.Stats().Connections - before; n > 0 {
						t.Errorf("%d connections later", n)
					}
				})
			})
		}
	}
}

// TestDeletedBesideDeadly: a queue that is deleted is declared again, with its other bindings,
// though declaring one of them ends the connection.
func TestDeletedBesideDeadly(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		cfg := r.config("orders")
		cfg.Subscriptions = []string{"a", "deadly", "z"}
		s, got := counting(r, cfg)
		r.start(s)
		r.ends("queue.bind", 541, func(f brokertest.Frame) bool { return f.RoutingKey == "deadly" })
		<-time.After(3 * time.Minute)
		if err := r.broker.DeleteQueue("orders"); err != nil {
			t.Fatal(err)
		}
		r.works(s, got, 1)
		<-time.After(10 * time.Second)
		if bound := r.boundTopics(); bound != "a z" {
			t.Errorf("bound to %q", bound)
		}
		if err := s.Ready(); err == nil {
			t.Error("ready, though a binding is missing")
		}
	})
}

// TestSendingBesideDeadly: a service that only sends goes on with the exchanges that exist.
func TestSendingBesideDeadly(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.declare(r.channel(), "orders")
		s := r.setup(r.config(""))
		send := func() {
			t.Helper()
			ctx, cancel := context.WithTimeout(r.ctx, 20*time.Second)
			defer cancel()
			if err := s.Bus().Send(ctx, "orders", order{1}); err != nil {
				t.Fatal(err)
			}
		}
		send()
		deadly := r.ends("exchange.declare", 541, nil)
		r.broker.CutConnections()
		send()
		before := s.Stats().Connections
		<-time.After(5 * time.Minute)
		send()
		if n := s.Stats().Connections - before; n == 0 || n > 10 {
			t.Errorf("%d connections", n)
		}
		deadly.Remove()
		r.setClock(time.Now())
		<-time.After(9 * time.Minute)
		tried := s.Stats().Connections
		r.setClock(time.Now())
		<-time.After(9 * time.Minute)
		send()
		if s.Stats().Connections != tried {
			t.Error("it still declares apart")
		}
	})
}

// TestDeadlySubscribe: a topic whose binding ends connections is refused with the reason, and
// unbound; others are bound.
func TestDeadlySubscribe(t *testing.T) {
	for _, code := range []int{541, 504, 0} {
		t.Run(fmt.Sprint(code), func(t *testing.T) {
			bubble(t, func(t *testing.T, r *rig) {
				s, got := counting(r, r.config("orders"))
				r.start(s)
				r.works(s, got, 1)
				deadly := r.ends("queue.bind", code, func(f brokertest.Frame) bool { return f.RoutingKey == "deadly" })
				before := s.Stats().Connections
				ctx, cancel := context.WithTimeout(r.ctx, time.Minute)
				defer cancel()
				err := s.Subscribe(ctx, "a", "deadly")
				if err == nil || ctx.Err() != nil {
					t.Fatalf("got %v", err)
				}
				contains(t, err.Error(), "ended at each attempt", "broker's log")
				if code != 0 {
					contains(t, err.Error(), "boom")
				}
				if n := s.Stats().Connections - before; n > 4 {
					t.Errorf("%d connections", n)
				}
				tried := deadly.Fired()
				r.consumesFor(s, got, 3*time.Minute)
				if err := s.Subscribe(r.ctx, "b"); err != nil {
					t.Error(err)
				}
				if bound := r.boundTopics(); bound != "b" || deadly.Fired() != tried {
					t.Errorf("bound to %q, tried %d times more", bound, deadly.Fired()-tried)
				}
			})
		})
	}
}

// TestExclusiveQueueBesideDeadly: an exclusive queue is declared again after a reconnect,
// though declaring something else ends the connection.
func TestExclusiveQueueBesideDeadly(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		cfg := r.config("orders")
		cfg.Subscriptions = []string{"deadly"}
		s, _ := counting(r, cfg)
		own := r.endpoint(s, harebus.EndpointConfig{Queue: "own", QueueOptions: harebus.QueueOptions{Exclusive: true}})
		got := make(chan int, 10)
		harebus.Handle(own, func(_ context.Context, _ *harebus.Bus, o order) error { got <- o.ID; return nil })
		r.start(s)
		r.ends("queue.bind", 541, func(f brokertest.Frame) bool { return f.RoutingKey == "deadly" })
		<-time.After(3 * time.Minute)
		r.broker.CutConnections()
		<-time.After(20 * time.Second)
		ctx, cancel := context.WithTimeout(r.ctx, 20*time.Second)
		defer cancel()
		if err := s.Bus().Send(ctx, "own", order{7}); err != nil {
			t.Fatal(err)
		}
		if id := receive(r, got); id != 7 {
			t.Errorf("got %d", id)
		}
	})
}

// TestExclusiveQueueThatIsDeadly: when declaring an exclusive queue, or one of its bindings,
// ends the connection that consumes, that is done more and more rarely. Without the binding it
// consumes; other queues are consumed from in any case; Ready and the log say what is missing.
func TestExclusiveQueueThatIsDeadly(t *testing.T) {
	for method, match := range map[string]func(brokertest.Frame) bool{
		"queue.bind":    func(f brokertest.Frame) bool { return f.RoutingKey == "deadly" },
		"queue.declare": func(f brokertest.Frame) bool { return f.Queue == "own" },
	} {
		for _, code := range []int{541, 503, 530, 0} {
			t.Run(fmt.Sprint(method, code), func(t *testing.T) {
				bubble(t, func(t *testing.T, r *rig) { exclusiveIsDeadly(t, r, method, code, match) })
			})
		}
	}
}

func exclusiveIsDeadly(t *testing.T, r *rig, method string, code int, match func(brokertest.Frame) bool) {
	cfg := r.config("orders")
	logger, logs := observed()
	cfg.Logger = logger
	s, got := counting(r, cfg)
	own := r.endpoint(s, harebus.EndpointConfig{
		Queue: "own", QueueOptions: harebus.QueueOptions{Exclusive: true}, Subscriptions: []string{"a", "deadly", "z"},
	})
	var events atomic.Int64
	harebus.Handle(own, func(context.Context, *harebus.Bus, order) error {
		events.Add(1)
		return nil
	})
	r.start(s)
	r.works(s, got, 1)
	deadly := r.ends(method, code, match)
	r.broker.CutConnections()
	time.Sleep(30 * time.Second)
	before := s.Stats().Connections
	for id := range 12 * 9 {
		r.works(s, got, id)
		if method == "queue.bind" {
			if err := s.Bus().Publish(r.ctx, "z", order{id}, harebus.NonMandatory()); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(5 * time.Second)
	}
	if n := events.Load(); method == "queue.bind" && n < 100 { // the queue is away for a moment at each end
		t.Errorf("%d events came, want nearly 108", n)
	}
	if n := s.Stats().Connections - before; n > 45 {
		t.Errorf("%d connections in nine minutes", n)
	}
	if err := s.Ready(); err == nil {
		t.Error("ready, though a binding or queue is missing")
	} else {
		contains(t, err.Error(), "own", "the connection ends when")
	}
	if n := logs.FilterMessageSnippet("the connection ends when objects").Len(); n == 0 || n > 12 {
		t.Errorf("%d warnings", n)
	}
	deadly.Remove()
	r.setClock(time.Now())
	time.Sleep(9 * time.Minute)
	r.setClock(time.Now())
	time.Sleep(9 * time.Minute)
	if bound := r.boundTo("own"); bound != "a deadly z" {
		t.Errorf("bound to %q", bound)
	}
	if err := s.Ready(); err != nil {
		t.Error(err)
	}
}
