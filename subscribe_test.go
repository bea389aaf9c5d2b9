package harebus_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/brokertest"
)

// boundTopics are the topics of the queue "orders", sorted.
func (r *rig) boundTopics() string { return r.boundTo("orders") }

func (r *rig) boundTo(queue string) string {
	var keys []string
	for _, b := range r.broker.Bindings() {
		if b.Source == "PikaBusTopic" && b.Destination == queue {
			keys = append(keys, b.RoutingKey)
		}
	}
	slices.Sort(keys)
	return strings.Join(keys, " ")
}

// refuses makes the broker refuse a method, for frames that match.
func (r *rig) refuses(method string, match func(brokertest.Frame) bool) *brokertest.Injection {
	return r.broker.Inject(brokertest.Fault{On: method, Times: -1, Match: match, Do: brokertest.Raise, Code: 403, Text: "ACCESS_REFUSED"})
}

func secret(f brokertest.Frame) bool { return strings.HasPrefix(f.RoutingKey, "secret") }

// observed is a logger whose lines can be counted.
func observed() (*zap.Logger, *observer.ObservedLogs) {
	core, logs := observer.New(zap.WarnLevel)
	return zap.New(core), logs
}

// consumesFor checks all the time that messages are handled and that the setup is
// ready.
func (r *rig) consumesFor(s *harebus.Setup, got <-chan int, d time.Duration) {
	r.t.Helper()
	for start, id := time.Now(), 100; time.Since(start) < d; id++ {
		r.works(s, got, id)
		if err := s.Ready(); err != nil {
			r.t.Fatalf("after %v: %v", time.Since(start), err)
		}
		<-time.After(5 * time.Second)
	}
}

// TestSubscribeRefused: a topic that the broker refuses is an error of the call
// and of nothing else: it is not kept, the others of the call are not either, and
// consuming goes on.
func TestSubscribeRefused(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		cfg := r.config("orders")
		cfg.Subscriptions = []string{"a.*"}
		s, got := counting(r, cfg)
		r.start(s)
		refusal := r.refuses("queue.bind", secret)
		var broker *amqp.Error
		if err := s.Subscribe(r.ctx, "b", "a.*", "secret.#", "c"); !errors.As(err, &broker) || broker.Code != 403 {
			t.Errorf("subscribe: %v", err)
		}
		if bound := r.boundTopics(); bound != "a.*" {
			t.Errorf("bound to %q", bound)
		}
		tried := refusal.Fired()
		r.consumesFor(s, got, 3*time.Minute)
		if refusal.Fired() != tried {
			t.Error("the topic was bound again later")
		}
		refusal.Remove()
		r.broker.CutConnections()
		r.consumesFor(s, got, 2*time.Minute)
		if bound := r.boundTopics(); bound != "a.*" {
			t.Errorf("later bound to %q", bound)
		}
	})
}

// TestOneStaysBound: when the broker refuses to unbind one topic of a failed call, the others
// are unbound and the log names that one.
func TestOneStaysBound(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		cfg := r.config("orders")
		logger, logs := observed()
		cfg.Logger = logger
		s, _ := counting(r, cfg)
		r.start(s)
		r.refuses("queue.bind", secret)
		r.refuses("queue.unbind", func(f brokertest.Frame) bool { return f.RoutingKey == "a" })
		if err := s.Subscribe(r.ctx, "a", "b", "c", "secret.d"); err == nil {
			t.Error("subscribed")
		}
		if bound := r.boundTopics(); bound != "a" {
			t.Errorf("bound to %q", bound)
		}
		lines := logs.FilterMessageSnippet("cannot take back").All()
		if len(lines) != 1 || fmt.Sprint(lines[0].ContextMap()["topics"]) != "[a]" {
			t.Errorf("logged %v", lines)
		}
	})
}

// TestUnsubscribeRefused: what cannot be unbound stays bound and kept.
func TestUnsubscribeRefused(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		cfg := r.config("orders")
		cfg.Subscriptions = []string{"a", "secret.b", "c"}
		logger, logs := observed()
		cfg.Logger = logger
		s, got := counting(r, cfg)
		r.start(s)
		both := []*brokertest.Injection{r.refuses("queue.unbind", secret), r.refuses("queue.bind", secret)}
		if err := s.Unsubscribe(r.ctx, "a", "secret.b", "c"); err == nil {
			t.Error("unsubscribed")
		}
		if bound := r.boundTopics(); bound != "a c secret.b" {
			t.Errorf("bound to %q", bound)
		}
		if n := logs.Len(); n > 0 {
			t.Errorf("logged: %v", logs.All())
		}
		both[1].Remove()
		if err := r.broker.DeleteQueue("orders"); err != nil {
			t.Fatal(err)
		}
		r.works(s, got, 1)
		if bound := r.boundTopics(); bound != "a c secret.b" {
			t.Errorf("bound to %q after the queue was deleted", bound)
		}
	})
}

// TestSubscribeDuringAnOutage: a call that its context ends, before the broker is
// there or while it thinks, takes no effect later.
func TestSubscribeDuringAnOutage(t *testing.T) {
	for name, trouble := range map[string]func(r *rig){
		"no broker": func(r *rig) { r.broker.Refuse(time.Minute); r.broker.CutConnections() },
		"slow broker": func(r *rig) {
			for _, method := range []string{"queue.bind", "queue.unbind"} {
				r.broker.Inject(brokertest.Fault{On: method, Do: brokertest.Delay, For: 10 * time.Second})
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, r *rig) {
				cfg := r.config("orders")
				cfg.Subscriptions = []string{"a"}
				s, got := counting(r, cfg)
				r.start(s)
				trouble(r)
				for call, change := range map[string]func(context.Context, ...string) error{"b": s.Subscribe, "a": s.Unsubscribe} {
					short, cancel := context.WithTimeout(r.ctx, 5*time.Second)
					if err := change(short, call); !errors.Is(err, context.DeadlineExceeded) {
						t.Errorf("%s: %v", call, err)
					}
					cancel()
				}
				<-time.After(3 * time.Minute)
				if bound := r.boundTopics(); bound != "a" {
					t.Errorf("bound to %q", bound)
				}
				r.works(s, got, 1)
			})
		})
	}
}

// TestSubscribeWaitsOutALostConnection: a connection that ends in between has
// decided nothing.
func TestSubscribeWaitsOutALostConnection(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		s, _ := counting(r, r.config("orders"))
		r.start(s)
		r.broker.Inject(brokertest.Fault{On: "queue.bind", Match: func(f brokertest.Frame) bool { return f.RoutingKey == "b" }, Times: 2})
		if err := s.Subscribe(r.ctx, "a", "b"); err != nil {
			t.Error(err)
		}
		if bound := r.boundTopics(); bound != "a b" {
			t.Errorf("bound to %q", bound)
		}
	})
}

// TestSubscribeCutOff: a call whose connection is lost after the broker has changed a
// binding, and whose context ends before there is another one, takes no effect later.
func TestSubscribeCutOff(t *testing.T) {
	for method, change := range map[string]func(*harebus.Setup, context.Context, ...string) error{
		"queue.bind": (*harebus.Setup).Subscribe, "queue.unbind": (*harebus.Setup).Unsubscribe,
	} {
		t.Run(method, func(t *testing.T) {
			bubble(t, func(t *testing.T, r *rig) {
				cfg := r.config("orders")
				cfg.Subscriptions = []string{"a", "b"}
				s, got := counting(r, cfg)
				r.start(s)
				if err := s.Subscribe(r.ctx, "a"); err != nil { // which connects
					t.Fatal(err)
				}
				r.broker.Refuse(time.Minute)
				r.broker.Inject(brokertest.Fault{On: method, Nth: 3, Do: brokertest.CutAfter})
				short, cancel := context.WithTimeout(r.ctx, 5*time.Second)
				defer cancel()
				if err := change(s, short, "a", "b", "c", "d"); !errors.Is(err, context.DeadlineExceeded) {
					t.Error(err)
				}
				<-time.After(3 * time.Minute)
				if bound := r.boundTopics(); bound != "a b" {
					t.Errorf("bound to %q", bound)
				}
				r.works(s, got, 1)
			})
		})
	}
}

// TestSubscribeRefusedAfterACut: what the broker has bound before the connection was lost is
// unbound when it refuses the next attempt.
func TestSubscribeRefusedAfterACut(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		s, _ := counting(r, r.config("orders"))
		r.start(s)
		r.broker.Inject(brokertest.Fault{On: "queue.bind", Match: func(f brokertest.Frame) bool { return f.RoutingKey == "b" }, Do: brokertest.CutAfter})
		r.broker.Inject(brokertest.Fault{
			On: "queue.bind", Match: func(f brokertest.Frame) bool { return f.RoutingKey == "a" },
			Nth: 2, Times: -1, Do: brokertest.Raise, Code: 403, Text: "ACCESS_REFUSED",
		})
		var refusal *amqp.Error
		if err := s.Subscribe(r.ctx, "a", "b", "c"); !errors.As(err, &refusal) || refusal.Code != 403 {
			t.Error(err)
		}
		if bound := r.boundTopics(); bound != "" {
			t.Errorf("bound to %q", bound)
		}
	})
}

// TestUnsubscribeWhileDeclaring: a declaration under way, from the list as it was,
// does not bring the topic back.
func TestUnsubscribeWhileDeclaring(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		cfg := r.config("orders")
		cfg.Subscriptions = []string{"a", "b", "c"}
		s, got := counting(r, cfg)
		r.start(s)
		slow := r.broker.Inject(brokertest.Fault{
			On: "queue.bind", Do: brokertest.Delay, For: 5 * time.Second, Match: func(f brokertest.Frame) bool { return f.RoutingKey == "a" },
		})
		if err := slow.WaitFired(r.ctx, 1); err != nil { // the periodic declaration
			t.Fatal(err)
		}
		if err := s.Unsubscribe(r.ctx, "c"); err != nil {
			t.Fatal(err)
		}
		<-time.After(2 * time.Minute)
		if bound := r.boundTopics(); bound != "a b" {
			t.Errorf("bound to %q", bound)
		}
		r.works(s, got, 1)
	})
}

// TestRefusedDeclarations: permissions that are taken away from a service that
// consumes end nothing: not at the periodic declaration, not after a reconnect.
// It is said once a minute; what is missing in fact Ready says, and it comes back
// with the permissions.
func TestRefusedDeclarations(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		cfg := r.config("orders")
		cfg.Subscriptions = []string{"a", "secret.b", "c"}
		cfg.Consume.Consumers = 3
		logger, logs := observed()
		cfg.Logger = logger
		s, got := counting(r, cfg)
		r.start(s)
		configure := []*brokertest.Injection{r.refuses("exchange.declare", nil), r.refuses("queue.declare", nil)}
		r.consumesFor(s, got, 3*time.Minute)
		if n := logs.FilterMessageSnippet("refuses to declare").Len(); n < 2 || n > 4 {
			t.Errorf("%d lines about it in three minutes", n)
		}
		r.broker.CutConnections()
		synctest.Wait()
		if err := r.broker.WaitQueue(r.ctx, "orders", func(q brokertest.Queue) bool { return len(q.Consumers) == 1 }); err != nil {
			t.Fatal(err)
		}
		r.publish(r.channel(), "orders", plain(`{"ID":7}`)) // sending needs the exchanges
		for receive(r, got) != 7 {
		}
		synctest.Wait()
		if err := r.broker.DeleteQueue("orders"); err != nil {
			t.Fatal(err)
		}
		<-time.After(10 * time.Second)
		err := s.Ready()
		if err == nil {
			t.Fatal("ready without a queue")
		}
		contains(t, err.Error(), "404", "403", `queue "orders"`)
		for _, c := range configure {
			c.Remove()
		}
		topic := r.refuses("queue.bind", secret)
		<-time.After(10 * time.Second)
		r.works(s, got, 8)
		if err = s.Ready(); err == nil {
			t.Fatal("ready without a binding")
		}
		contains(t, err.Error(), "403", `"secret.b"`)
		if bound := r.boundTopics(); bound != "a c" {
			t.Errorf("bound to %q", bound)
		}
		topic.Remove()
		<-time.After(time.Minute)
		if err = s.Ready(); err != nil {
			t.Error(err)
		}
		if bound := r.boundTopics(); bound != "a c secret.b" {
			t.Errorf("bound to %q", bound)
		}
	})
}

// TestOneDeclaration: however many consumers there are, a setup declares its topics
// once when it starts, and then once or twice a minute.
func TestOneDeclaration(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		cfg := r.config("orders")
		cfg.Consume.Consumers = 20
		cfg.Subscriptions = []string{"a"}
		s, got := counting(r, cfg)
		binds := r.broker.Inject(brokertest.Fault{
			On: "queue.bind", Times: -1, Do: brokertest.Delay, Match: func(f brokertest.Frame) bool { return f.RoutingKey == "a" },
		})
		r.start(s)
		r.works(s, got, 1)
		if n := binds.Fired(); n > 2 { // one for each connection
			t.Errorf("bound %d times by the start", n)
		}
		<-time.After(5 * time.Minute)
		if n := binds.Fired(); n < 5 || n > 12 {
			t.Errorf("bound %d times in five minutes", n)
		}
	})
}

// TestThousandsOfTopics: a start does not wait for the answer to each binding, and a
// refusal among thousands is still told of the topic it is about.
func TestThousandsOfTopics(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		const topics, answer = 2000, 100 * time.Millisecond
		cfg := r.config("orders")
		for n := range topics {
			cfg.Subscriptions = append(cfg.Subscriptions, fmt.Sprintf("customer.%04d", n))
		}
		r.broker.Inject(brokertest.Fault{On: "queue.bind-ok", From: brokertest.FromBroker, Times: -1, Do: brokertest.Delay, For: answer})
		s, got := counting(r, cfg)
		began := time.Now()
		r.start(s)
		if took := time.Since(began); took > topics*answer/50 {
			t.Errorf("the start took %v", took)
		}
		r.works(s, got, 1)
		if n := strings.Count(r.boundTopics(), "customer."); n != topics {
			t.Errorf("bound to %d topics", n)
		}
	})
	t.Run("one is refused at the start", func(t *testing.T) {
		bubble(t, func(t *testing.T, r *rig) {
			cfg := r.config("orders")
			for n := range 1000 {
				cfg.Subscriptions = append(cfg.Subscriptions, fmt.Sprintf("customer.%04d", n))
			}
			cfg.Subscriptions[777] = "secret.777"
			r.refuses("queue.bind", secret)
			s, _ := counting(r, cfg)
			err := s.Start(r.ctx)
			if err == nil {
				t.Fatal("started")
			}
			contains(t, err.Error(), "403", `"secret.777"`)
		})
	})
}

// TestChangesOfThousandsOfTopics: Subscribe does not wait for the answer to each binding. If
// one topic of thousands is refused, Subscribe and Unsubscribe change nothing.
func TestChangesOfThousandsOfTopics(t *testing.T) {
	const many, answer = 2000, 100 * time.Millisecond
	topics := make([]string, many)
	for n := range topics {
		topics[n] = fmt.Sprintf("customer.%04d", n)
	}
	bubble(t, func(t *testing.T, r *rig) {
		cfg := r.config("orders")
		cfg.Subscriptions = []string{"a", topics[300]}
		s, got := counting(r, cfg)
		r.start(s)
		before := r.boundTopics()
		r.broker.Inject(brokertest.Fault{On: "queue.bind-ok", From: brokertest.FromBroker, Times: -1, Do: brokertest.Delay, For: answer})
		change := func(what string, call func(context.Context, ...string) error, topics []string, refused bool, want string) {
			t.Helper()
			began := time.Now()
			if err := call(r.ctx, topics...); (err != nil) != refused {
				t.Errorf("%s: %v", what, err)
			}
			// Each of the group with the refused topic is sent again alone.
			if took := time.Since(began); took > many*answer/50+128*answer {
				t.Errorf("%s: took %v", what, took)
			}
			if bound := r.boundTopics(); bound != want {
				t.Errorf("%s: bound to %d topics", what, len(strings.Fields(bound)))
			}
		}
		mixed := slices.Concat(topics[:700], []string{"secret.1"}, topics[700:])
		all := strings.Join(slices.Concat([]string{"a"}, topics, []string{"secret.1"}), " ")
		refused := []*brokertest.Injection{r.refuses("queue.bind", secret)}
		change("subscribe with one that is refused", s.Subscribe, mixed, true, before)
		refused[0].Remove()
		change("subscribe", s.Subscribe, mixed, false, all)
		refused = []*brokertest.Injection{r.refuses("queue.bind", secret), r.refuses("queue.unbind", secret)}
		change("unsubscribe with one that is refused", s.Unsubscribe, mixed, true, all)
		refused[0].Remove()
		refused[1].Remove()
		change("unsubscribe", s.Unsubscribe, mixed, false, "a")
		r.works(s, got, 1)
	})
}

// TestFailingStartSaysSo: nobody says that a start which has failed goes on.
func TestFailingStartSaysSo(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.declare(r.channel(), "orders") // classic
		cfg := r.config("orders")
		cfg.Consume.Consumers = 3
		logger, logs := observed()
		cfg.Logger = logger
		s, _ := counting(r, cfg)
		if err := s.Start(r.ctx); err == nil {
			t.Fatal("started")
		}
		for _, line := range logs.All() {
			if strings.Contains(line.Message, "again") || strings.Contains(line.Message, "resuming") {
				t.Errorf("logged: %s", line.Message)
			}
		}
	})
}
