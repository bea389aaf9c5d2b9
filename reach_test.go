package harebus_test

import (
	"context"
	"errors"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/brokertest"
	"github.com/harebus/harebus/topology"
)

// nodeDown makes a queue be what a classic queue is to a cluster without its
// node: it can be neither declared nor looked at.
func (r *rig) nodeDown(queue string) *brokertest.Injection {
	return r.broker.Inject(brokertest.Fault{
		On: "queue.declare", Times: -1, Match: func(f brokertest.Frame) bool { return f.Queue == queue },
		Do: brokertest.Raise, Code: 404,
		Text: "home node 'rabbit@b' of durable queue '" + queue + "' in vhost '/' is down or inaccessible",
	})
}

// works sends a message and waits until it has been handled.
func (r *rig) works(s *harebus.Setup, got <-chan int, id int) {
	r.t.Helper()
	short, cancel := context.WithTimeout(r.ctx, 5*time.Second)
	defer cancel()
	if err := s.Bus().Send(short, "orders", order{id}); err != nil {
		r.t.Fatal(err)
	}
	for receive(r, got) != id { // an acknowledgement may have been cut off
	}
}

// TestErrorQueueOutOfReach: the error queue lies on one node. While that is
// down everything goes on but parking.
func TestErrorQueueOutOfReach(t *testing.T) {
	for name, mode := range map[string]harebus.DeclareMode{"declare": harebus.DeclareAll, "check": harebus.CheckOnly} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, r *rig) {
				if err := r.setup(r.config("orders")).Init(r.ctx); err != nil {
					t.Fatal(err)
				}
				down := r.nodeDown("error")
				cfg := r.config("orders")
				cfg.Declare.Mode = mode
				s, got := counting(r, cfg)
				r.start(s)
				r.works(s, got, 1)
				r.broker.CutConnections()
				r.works(s, got, 2)
				down.Remove()
				r.broker.CutConnections()
				r.works(s, got, 3)
				if err := s.Ready(); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

// TestOwnQueueOutOfReach: a service whose own queue is out of reach still sends
// to others, and consumes when it is back.
func TestOwnQueueOutOfReach(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.declare(r.channel(), "elsewhere")
		cfg := r.config("orders")
		cfg.QueueOptions.Type = topology.Classic
		s, got := counting(r, cfg)
		r.start(s)
		r.works(s, got, 1)
		down := r.nodeDown("orders")
		r.broker.CutConnections()
		short, cancel := context.WithTimeout(r.ctx, 5*time.Second)
		defer cancel()
		if err := s.Bus().Send(short, "elsewhere", order{2}); err != nil {
			t.Fatal(err)
		}
		if s.Ready() == nil {
			t.Error("ready without its queue")
		}
		down.Remove()
		r.works(s, got, 3)
	})
}

// TestStartWaitsForItsQueue: a node that is down is waited for, as a broker is.
func TestStartWaitsForItsQueue(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		cfg := r.config("orders")
		cfg.QueueOptions.Type = topology.Classic
		s, got := counting(r, cfg)
		down := r.nodeDown("orders")
		short, cancel := context.WithTimeout(r.ctx, 5*time.Second)
		defer cancel()
		if err := s.Start(short); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("got %v", err)
		}
		back := time.AfterFunc(20*time.Second, down.Remove)
		defer back.Stop()
		r.start(s)
		r.works(s, got, 1)
	})
}

// TestMissingIsNotOutOfReach: one queue out of reach does not excuse another
// that does not exist.
func TestMissingIsNotOutOfReach(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		if err := r.setup(r.config("orders")).Init(r.ctx); err != nil {
			t.Fatal(err)
		}
		r.nodeDown("error")
		cfg := r.config("others")
		cfg.Declare.Mode = harebus.CheckOnly
		s, _ := counting(r, cfg)
		err := s.Start(r.ctx)
		if err == nil {
			t.Fatal("started without its queue")
		}
		contains(t, err.Error(), `check queue "others"`)
	})
}

// TestDeferToOutOfReach: a destination that is out of reach is no destination
// that does not exist.
func TestDeferToOutOfReach(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.declare(r.channel(), "elsewhere")
		down := r.nodeDown("elsewhere")
		bus := r.setup(r.config("")).Bus()
		if err := bus.Defer(r.ctx, "elsewhere", time.Minute, order{1}); err != nil {
			t.Fatal(err)
		}
		down.Remove()
		r.await("elsewhere", 1)
	})
}

// mayNotLook makes the broker refuse to say whether anything exists, as RabbitMQ 4.3
// does to users who have no permission on the name.
func (r *rig) mayNotLook() {
	for _, method := range []string{"queue.declare", "exchange.declare"} {
		r.broker.Inject(brokertest.Fault{
			On: method, Times: -1, Do: brokertest.Raise, Code: 403, Text: "access refused for user 'guest'",
		})
	}
}

// TestMayNotLook: what the broker does not say may exist. Everything goes on without
// having looked.
func TestMayNotLook(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		cfg := r.config("orders")
		if err := r.setup(cfg).Init(r.ctx); err != nil {
			t.Fatal(err)
		}
		r.mayNotLook()
		cfg.Declare.Mode = harebus.CheckOnly
		s, got := counting(r, cfg)
		r.start(s)
		r.works(s, got, 1)
		if err := s.Bus().Defer(r.ctx, "orders", time.Minute, order{2}); err != nil {
			t.Fatal(err)
		}
		if err := s.Bus().Send(r.ctx, "orders", order{3}, harebus.WithExchange("PikaBusDirect")); err != nil {
			t.Fatal(err)
		}
		for _, want := range []int{3, 2} {
			if id := receive(r, got); id != want {
				t.Errorf("got %d, want %d", id, want)
			}
		}
		err := s.Bus().Send(r.ctx, "orders", order{4}, harebus.WithExchange("nowhere"))
		if err == nil || !strings.Contains(err.Error(), "no exchange 'nowhere'") {
			t.Errorf("to an exchange that does not exist: %v", err)
		}
		r.works(s, got, 5)
	})
}

// TestSlowDeclarations: the time of a request is for each of the many that
// declare the queues for delays, and not for all of them together.
func TestSlowDeclarations(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		cfg := r.config("orders")
		cfg.Connect.RequestTimeout = 5 * time.Second
		slow := r.broker.Inject(brokertest.Fault{On: "queue.declare", Times: -1, Do: brokertest.Delay, For: time.Second})
		start := time.Now()
		if err := r.setup(cfg).Init(r.ctx); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(start); took < 4*cfg.Connect.RequestTimeout {
			t.Fatalf("it took %v: nothing was slow", took)
		}
		slow.Remove()
		r.broker.Inject(brokertest.Fault{On: "queue.bind", Nth: 5, Do: brokertest.Delay, For: 6 * time.Second})
		s := r.setup(cfg)
		if err := s.Init(r.ctx); err != nil {
			t.Fatal(err)
		}
		if made := s.Stats().Connections; made != 2 {
			t.Errorf("%d connections, though a single request took longer than it may", made)
		}
	})
}

// TestSendingDespiteAConflict: a queue that somebody has declared otherwise in
// the meantime is a fault of this service's, which Start reports. It keeps
// nothing from being sent when the exchanges are declared again.
func TestSendingDespiteAConflict(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		ch := r.channel()
		r.declare(ch, "elsewhere", "taken")
		cfg := r.config("orders")
		cfg.Declare.Topology = topology.Topology{Queues: []topology.Queue{{Name: "taken", Type: topology.Classic}}}
		s, _ := counting(r, cfg)
		r.start(s)
		if _, err := ch.QueueDelete("taken", false, false, false); err != nil {
			t.Fatal(err)
		}
		if _, err := ch.QueueDeclare("taken", true, false, false, false, amqp.Table{"x-max-length": 1}); err != nil {
			t.Fatal(err)
		}
		r.broker.CloseConnections("a test")
		if err := s.Bus().Send(r.ctx, "elsewhere", order{1}); err != nil {
			t.Error(err)
		}
		var broker *amqp.Error
		if err := s.Init(r.ctx); !errors.As(err, &broker) || broker.Code != amqp.PreconditionFailed {
			t.Errorf("init: %v", err)
		}
		if err := s.Subscribe(r.ctx, "some.topic"); err != nil {
			t.Errorf("subscribe, which has nothing to do with it: %v", err)
		}
	})
}

// TestErrorQueueSilent: the node of the error queue is frozen, so that the
// broker has no answer for it. The connection is as good as ever.
func TestErrorQueueSilent(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		s, got := counting(r, r.config("orders"))
		r.start(s)
		r.works(s, got, 1)
		silent := r.broker.Inject(brokertest.Fault{
			On: "queue.declare", Times: -1, Match: func(f brokertest.Frame) bool { return f.Queue == "error" }, Do: brokertest.Drop,
		})
		r.broker.CutConnections()
		start, before := time.Now(), s.Stats().Connections
		if err := s.Bus().Send(r.ctx, "orders", order{2}); err != nil {
			t.Fatal(err)
		}
		for receive(r, got) != 2 {
		}
		if took := time.Since(start); took > 8*time.Second {
			t.Errorf("it took %v", took)
		}
		time.Sleep(2 * time.Minute)
		if err := s.Ready(); err != nil {
			t.Error(err)
		}
		if made := s.Stats().Connections - before; made > 2 {
			t.Errorf("%d connections were made", made)
		}
		silent.Remove()
		r.works(s, got, 3)
	})
}

// TestFrozenNodeIsTriedLast: a node that lets clients connect and then says
// nothing costs the whole timeout, so the one that was just lost comes last.
func TestFrozenNodeIsTriedLast(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		cfg := r.config("orders")
		cfg.URL, cfg.Connect.URLs = "", []string{"amqp://guest:guest@a:1/", "amqp://guest:guest@b:1/", "amqp://guest:guest@c:1/"}
		for range 20 {
			var frozen atomic.Bool
			var home atomic.Value // the node of the first connection
			cfg.Dial = func(network, address string) (net.Conn, error) {
				home.CompareAndSwap(nil, address)
				if frozen.Load() && address == home.Load() {
					silent, _ := net.Pipe()
					return silent, nil
				}
				return r.broker.Dial(network, address)
			}
			s := r.setup(cfg)
			if err := s.Bus().Publish(r.ctx, "topic", order{1}, harebus.NonMandatory()); err != nil {
				t.Fatal(err)
			}
			frozen.Store(true)
			start := time.Now()
			r.broker.CutConnections()
			if err := s.Bus().Publish(r.ctx, "topic", order{2}, harebus.NonMandatory()); err != nil {
				t.Fatal(err)
			}
			if took := time.Since(start); took > 5*time.Second {
				t.Fatalf("it took %v", took)
			}
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// TestExchangeVanishesTwice: the message that meets the gap a second time, on a
// channel of its own, is not to blame for it.
func TestExchangeVanishesTwice(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		s, got := counting(r, r.config("orders"))
		r.start(s)
		gone := r.broker.Inject(brokertest.Fault{
			On: "basic.publish", Times: 3, Do: brokertest.Raise, Code: 404, Text: "no exchange 'PikaBusDirect' in vhost '/'",
		})
		r.works(s, got, 1)
		gone.Remove()
	})
}

// TestLateFailuresAreTriedLast: an address that failed is tried last for minutes, not
// only until another has failed.
func TestLateFailuresAreTriedLast(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		cfg := r.config("orders")
		cfg.URL = ""
		for _, host := range []string{"a", "b", "c", "d"} {
			cfg.Connect.URLs = append(cfg.Connect.URLs, "amqp://guest:guest@"+host+":1/")
		}
		silent := map[string]bool{"a:1": true, "b:1": true} // frozen: they let clients connect and say nothing
		var dialed sync.Map
		cfg.Dial = func(network, address string) (net.Conn, error) {
			dialed.Store(address, true)
			if silent[address] {
				ours, _ := net.Pipe()
				return ours, nil
			}
			return r.broker.Dial(network, address)
		}
		s := r.setup(cfg)
		send := func() time.Duration {
			start := time.Now()
			if err := s.Bus().Publish(r.ctx, "topic", order{1}, harebus.NonMandatory()); err != nil {
				t.Fatal(err)
			}
			return time.Since(start)
		}
		cost := func(address string) bool { _, ok := dialed.Load(address); return ok }
		for !cost("a:1") || !cost("b:1") { // until both have cost their time
			send()
			r.broker.CutConnections()
			time.Sleep(5 * time.Second)
		}
		send() // the last dial of the above has ended
		r.broker.CutConnections()
		time.Sleep(5 * time.Second)
		for range 10 {
			if took := send(); took > 5*time.Second {
				t.Errorf("it took %v", took)
			}
			r.broker.CutConnections()
			time.Sleep(5 * time.Second)
		}
	})
}
