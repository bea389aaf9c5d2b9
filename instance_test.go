package harebus_test

import (
	"strings"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/topology"
)

// TestPerInstance: every instance of a service gets every event, also after a
// reconnect and a restart of the setup, and the queue of one that has gone goes too.
func TestPerInstance(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		got := make(chan placed, 4)
		instance := func() *harebus.Setup {
			cfg := r.config("cache")
			cfg.QueueOptions.PerInstance = true
			s := r.setup(cfg)
			harebus.HandleEvent(s, heard(got))
			r.start(s)
			return s
		}
		one, two := instance(), instance()
		names := func() (found []string) {
			for _, q := range r.broker.Queues() {
				if strings.HasPrefix(q.Name, "cache.") {
					found = append(found, q.Name)
				}
			}
			return found
		}
		before := names()
		if len(before) != 2 {
			t.Fatalf("the queues are %q", before)
		}
		both := func(id int) {
			t.Helper()
			if err := one.Bus().PublishEvent(r.ctx, placed{id}); err != nil {
				t.Fatal(err)
			}
			if a, b := receive(r, got), receive(r, got); a.ID != id || b.ID != id {
				t.Errorf("got %v and %v, want %d twice", a, b, id)
			}
			r.quiet()
		}
		both(1)
		r.broker.CutConnections()
		both(2)
		if err := two.Stop(r.ctx); err != nil {
			t.Fatal(err)
		}
		time.Sleep(29 * time.Minute) // in virtual time
		r.setClock(time.Now())
		r.start(two)
		both(3)
		if after := names(); len(after) != 2 || after[0] != before[0] || after[1] != before[1] {
			t.Errorf("the queues were %q and are %q", before, after)
		}
		if err := two.Stop(r.ctx); err != nil {
			t.Fatal(err)
		}
		time.Sleep(31 * time.Minute)
		if left := names(); len(left) != 1 {
			t.Errorf("%q are left", left)
		}
	})
}

// TestPredeclaredExchanges: those that every broker has are used, and not declared.
func TestPredeclaredExchanges(t *testing.T) {
	for name, mode := range map[string]harebus.DeclareMode{"declare": harebus.DeclareAll, "check": harebus.CheckOnly} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, r *rig) {
				cfg := r.config("billing")
				cfg.Exchanges.Direct, cfg.Exchanges.Topic = "amq.direct", "amq.topic"
				if err := r.setup(cfg).Init(r.ctx); err != nil {
					t.Fatal(err)
				}
				cfg.Declare.Mode = mode
				s := r.setup(cfg)
				got := make(chan placed, 2)
				if mode == harebus.CheckOnly {
					ch := r.channel()
					if err := ch.QueueBind("billing", placed{}.Topic(), "amq.topic", false, nil); err != nil {
						t.Fatal(err)
					}
				}
				harebus.HandleEvent(s, heard(got))
				r.start(s)
				if err := s.Bus().PublishEvent(r.ctx, placed{1}); err != nil {
					t.Fatal(err)
				}
				if err := s.Bus().Send(r.ctx, "billing", placed{2}); err != nil {
					t.Fatal(err)
				}
				if sum := receive(r, got).ID + receive(r, got).ID; sum != 3 {
					t.Errorf("got %d", sum)
				}
				for _, e := range r.broker.Exchanges() {
					if strings.HasPrefix(e.Name, "PikaBus") {
						t.Errorf("exchange %s was declared", e.Name)
					}
				}
			})
		})
	}
}

// TestEmptyKey: exchanges that do not look at the key can be published to without one.
func TestEmptyKey(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		ch := r.channel()
		r.declare(ch, "all", "matching")
		cfg := r.config("")
		cfg.Declare.Topology = topology.Topology{
			Exchanges: []topology.Exchange{{Name: "everyone", Kind: topology.Fanout}, {Name: "some", Kind: topology.Headers}},
			Bindings: []topology.Binding{
				{Exchange: "everyone", Queue: "all"},
				{Exchange: "some", Queue: "matching", Arguments: amqp.Table{"x-match": "all", "country": "no"}},
			},
		}
		s := r.setup(cfg)
		if err := s.Init(r.ctx); err != nil {
			t.Fatal(err)
		}
		bus := s.Bus()
		for call, err := range map[string]error{
			"fanout":  bus.Publish(r.ctx, "", placed{1}, harebus.WithExchange("everyone")),
			"headers": bus.Publish(r.ctx, "", placed{1}, harebus.WithExchange("some"), harebus.WithHeader("country", "no")),
			"send":    bus.Send(r.ctx, "", placed{1}, harebus.WithExchange("everyone")),
			"defer":   bus.Defer(r.ctx, "", time.Minute, placed{1}, harebus.WithExchange("everyone")),
		} {
			if err != nil {
				t.Errorf("%s: %v", call, err)
			}
		}
		r.await("matching", 1)
		r.await("all", 2)
		r.await("all", 3)
	})
}

// TestLongQueueName: what New accepts works throughout, and a name that nobody gave
// is not at fault.
func TestLongQueueName(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		queue := strings.Repeat("ü", 127) + "x"
		got := make(chan placed, 2)
		s := r.setup(r.config(queue))
		harebus.HandleEvent(s, heard(got))
		r.start(s)
		if err := s.Bus().Send(r.ctx, queue, placed{1}); err != nil {
			t.Fatal(err)
		}
		if err := s.Bus().Defer(r.ctx, queue, time.Minute, placed{2}); err != nil {
			t.Fatal(err)
		}
		if sum := receive(r, got).ID + receive(r, got).ID; sum != 3 {
			t.Errorf("got %d", sum)
		}
	})
}
