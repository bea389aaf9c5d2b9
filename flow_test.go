package harebus_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/brokertest"
	"github.com/harebus/harebus/topology"
)

// TestReplyLoop has two services answer each other's answers.
func TestReplyLoop(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		var services []*harebus.Setup
		for _, queue := range []string{"ping", "pong"} {
			cfg := r.config(queue)
			cfg.Reply.MaxHops = 6
			s := r.setup(cfg)
			s.HandleMessage(harebus.AnyType, func(ctx context.Context, bus *harebus.Bus, m *harebus.Message) error {
				return bus.Reply(ctx, answer{1})
			})
			r.start(s)
			services = append(services, s)
		}
		if err := services[0].Bus().Send(r.ctx, "pong", order{1}); err != nil {
			t.Fatal(err)
		}
		r.quiet("error")
		m := r.await("error", 1)[0]
		details, _ := m.Headers[prefixed("ErrorDetails")].(string)
		contains(t, details, "loop: ", "7")
		if got := services[0].Stats().Handled + services[1].Stats().Handled; got != 7 {
			t.Errorf("%d messages were handled, want the first and 6 replies", got)
		}
	})
}

// TestPoisonFrame sends messages whose headers the client library cannot read: they are
// parked at once, with the headers in bytes, and the connection goes on.
func TestPoisonFrame(t *testing.T) {
	deep := amqp.Table{"end": "x"}
	for range 33 {
		deep = amqp.Table{"deep": deep}
	}
	for name, headers := range map[string]amqp.Table{"deep": deep, "wide": {"wide": make([]any, 8193)}, "many": many("h", 8193, 0)} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, r *rig) {
				s, got := counting(r, r.config("orders"))
				r.start(s)
				ch := r.channel()
				poison := ordered(headers)
				poison.MessageId, poison.CorrelationId = "poison", "conversation"
				r.publish(ch, "orders", plain(`{"ID":1}`), poison, plain(`{"ID":2}`))
				r.quiet("error")
				parked, ok, err := ch.Get("error", true) // with the client's own limits
				if err != nil || !ok {
					t.Fatalf("the parked copy: %v, %v", ok, err)
				}
				details, _ := parked.Headers[prefixed("ErrorDetails")].(string)
				contains(t, details, "bad-header", "8192")
				raw, _ := parked.Headers[prefixed("RawHeaders")].([]byte)
				if string(parked.Body) != `{"ID":7}` || parked.MessageId != "poison" || parked.CorrelationId != "conversation" || len(raw) < 100 {
					t.Errorf("parked %q with id %q and %d bytes of headers", parked.Body, parked.MessageId, len(raw))
				}
				if first, second := receive(r, got), receive(r, got); first+second != 3 {
					t.Errorf("handled %d and %d", first, second)
				}
				if n := s.Stats(); n.Connections != 2 || n.Delivered != 3 || n.Parked != 1 {
					t.Errorf("%+v", n)
				}
				if err := s.Ready(); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

// TestPoisonFrameThatFillsAFrame: headers that cannot be read, and whose bytes leave no
// room for the details of the failure. The copy names what it left out and has the rest
// of the message.
func TestPoisonFrameThatFillsAFrame(t *testing.T) {
	for name, c := range map[string]struct {
		size int
		kept bool
	}{"room": {120_000, true}, "no room": {130_500, false}} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, r *rig) {
				headers := amqp.Table{"end": strings.Repeat("x", c.size)}
				for range 33 {
					headers = amqp.Table{"deep": headers}
				}
				s, got := counting(r, r.config("orders"))
				r.start(s)
				poison := ordered(headers)
				poison.MessageId, poison.CorrelationId, poison.AppId = "poison", "conversation", "shop"
				ch := r.channel()
				r.publish(ch, "orders", poison, plain(`{"ID":2}`))
				r.quiet("error")
				m, ok, err := ch.Get("error", true)
				if err != nil || !ok {
					t.Fatalf("the parked copy: %v, %v", ok, err)
				}
				raw, kept := m.Headers[prefixed("RawHeaders")].([]byte)
				if kept != c.kept || kept && len(raw) < c.size {
					t.Errorf("%d bytes of headers", len(raw))
				}
				details, _ := m.Headers[prefixed("ErrorDetails")].(string)
				contains(t, details, "bad-header")
				if !c.kept {
					contains(t, details, "left out", prefixed("RawHeaders"))
				}
				if string(m.Body) != `{"ID":7}` || m.MessageId != "poison" || m.CorrelationId != "conversation" || m.AppId != "shop" || m.Headers[prefixed("SourceQueue")] != "orders" {
					t.Errorf("parked %q, %q, %q, %q, %v", m.Body, m.MessageId, m.CorrelationId, m.AppId, m.Headers[prefixed("SourceQueue")])
				}
				if receive(r, got) != 2 {
					t.Error("the message behind it was not handled")
				}
				if n := s.Stats(); n.Connections != 2 || n.Parked != 1 {
					t.Errorf("%+v", n)
				}
			})
		})
	}
}

// TestListenOnErrorQueue: what fails there must not come back there.
func TestListenOnErrorQueue(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		if _, err := harebus.New(r.config("error")); err == nil || !strings.Contains(err.Error(), "circles") {
			t.Errorf("a service that listens on its own error queue: %v", err)
		}
		cfg := r.config("error")
		cfg.ErrorQueue.Name, cfg.QueueOptions.Type = "error.of.errors", "classic"
		s := r.setup(cfg)
		s.HandleMessage(harebus.AnyType, func(context.Context, *harebus.Bus, *harebus.Message) error {
			return harebus.NoRetry(errors.New("cannot help either"))
		})
		r.start(s)
		r.publish(r.channel(), "error", plain(`{}`))
		r.quiet("error.of.errors")
		r.await("error.of.errors", 1)
		if got := s.Stats().Delivered; got != 1 {
			t.Errorf("%d deliveries", got)
		}
	})
}

// TestErrorQueueGone: it is made again, and the message parked.
func TestErrorQueueGone(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		s := r.setup(r.config("orders"))
		harebus.Handle(s, func(context.Context, *harebus.Bus, order) error { return harebus.NoRetry(errors.New("no")) })
		r.start(s)
		if err := r.broker.DeleteQueue("error"); err != nil {
			t.Fatal(err)
		}
		r.publish(r.channel(), "orders", plain(`{"ID":1}`))
		r.quiet("error")
		r.await("error", 1)
	})
}

// TestErrorQueueFull: a message that cannot be parked stays in its queue, is not
// tried at full speed, and is parked when there is room.
func TestErrorQueueFull(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		cfg := r.config("orders")
		cfg.ErrorQueue.Type = topology.Classic // a quorum queue takes one more than its maximum
		cfg.ErrorQueue.Arguments = map[string]any{"x-max-length": 1, "x-overflow": "reject-publish"}
		s := r.setup(cfg)
		harebus.Handle(s, func(context.Context, *harebus.Bus, order) error { return harebus.NoRetry(errors.New("no")) })
		r.start(s)
		ch := r.channel()
		r.publish(ch, "orders", plain(`{"ID":1}`))
		r.await("error", 1)
		r.publish(ch, "orders", plain(`{"ID":2}`))
		minute, cancel := context.WithTimeout(r.ctx, time.Minute)
		defer cancel()
		<-minute.Done()
		if n := s.Stats().Delivered; n < 3 || n > 30 {
			t.Errorf("%d deliveries in a minute", n)
		}
		if m := r.broker.Messages("error"); len(m) != 1 || string(m[0].Body) != `{"ID":1}` {
			t.Fatalf("the error queue holds %v", m)
		}
		if _, err := ch.QueuePurge("error", false); err != nil {
			t.Fatal(err)
		}
		r.quiet("error")
		if m := r.await("error", 1); string(m[0].Body) != `{"ID":2}` {
			t.Errorf("the error queue holds %s", m[0].Body)
		}
	})
}

// TestResendRefused: while a retry is not confirmed its original is not
// acknowledged.
func TestResendRefused(t *testing.T) {
	for name, action := range map[string]brokertest.Action{"nacked": brokertest.Nack, "returned": brokertest.Return} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, r *rig) {
				s := r.setup(r.config("orders"))
				var attempts []int
				cfg := make(chan struct{}, 10)
				harebus.Handle(s, func(ctx context.Context, _ *harebus.Bus, o order) error {
					attempts = append(attempts, harebus.Incoming(ctx).Attempt)
					if harebus.Incoming(ctx).Attempt == 1 {
						return errors.New("once more")
					}
					cfg <- struct{}{}
					return nil
				})
				r.start(s)
				fault := r.broker.Inject(brokertest.Fault{On: "basic.publish", Times: 40, Do: action, Match: func(f brokertest.Frame) bool {
					return strings.HasPrefix(f.Exchange, "harebus.")
				}})
				r.publish(r.channel(), "orders", plain(`{"ID":1}`))
				if err := fault.WaitFired(r.ctx, 3); err != nil {
					t.Fatal(err)
				}
				if q, _ := r.broker.Queue("orders"); q.Ready+q.Unacked != 1 {
					t.Errorf("the original is not in its queue: %+v", q)
				}
				receive(r, cfg)
				r.quiet()
				if last := attempts[len(attempts)-1]; last != 2 || s.Stats().Handled != 1 {
					t.Errorf("attempts %v, counts %+v", attempts, s.Stats())
				}
			})
		})
	}
}

// TestHandlerHangs: one that never returns costs one worker, nothing else.
func TestHandlerHangs(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		cfg := r.config("orders")
		cfg.Consume.Concurrency = 2
		s := r.setup(cfg)
		release := make(chan struct{})
		got := make(chan int, 100)
		harebus.Handle(s, func(_ context.Context, _ *harebus.Bus, o order) error {
			if o.ID == 0 {
				<-release
			}
			got <- o.ID
			return nil
		})
		r.start(s)
		ch := r.channel()
		r.publish(ch, "orders", plain(`{"ID":1}`)) // until one is done, the consumer takes one at a time
		receive(r, got)
		r.quiet()
		r.publish(ch, "orders", plain(`{"ID":0}`))
		for range 20 {
			r.publish(ch, "orders", plain(`{"ID":1}`))
		}
		for range 20 {
			if id := receive(r, got); id != 1 {
				t.Fatalf("got %d", id)
			}
		}
		if q, _ := r.broker.Queue("orders"); q.Unacked == 0 {
			t.Error("the message of the hanging handler is acknowledged")
		}
		close(release)
		receive(r, got)
		r.quiet()
	})
}

// TestCutDuringHandler: the ack of a lost connection does nothing, and what the
// handler sent is not published; the message comes again.
func TestCutDuringHandler(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		s := r.setup(r.config("orders"))
		inside, goOn := make(chan bool), make(chan struct{})
		harebus.Handle(s, func(ctx context.Context, bus *harebus.Bus, o order) error {
			redelivered := harebus.Incoming(ctx).Redelivered
			if err := bus.Send(ctx, "out", answer(o)); err != nil {
				return err
			}
			inside <- redelivered
			if !redelivered {
				<-goOn
			}
			return nil
		})
		r.start(s)
		ch := r.channel()
		r.bound(ch, "out")
		r.publish(ch, "orders", plain(`{"ID":1}`))
		receive(r, inside)
		r.broker.CutConnections()
		if err := r.broker.WaitQueue(r.ctx, "orders", func(q brokertest.Queue) bool { return q.Ready == 0 && q.Unacked == 1 }); err != nil {
			t.Fatal(err)
		}
		close(goOn)
		if !receive(r, inside) {
			t.Error("not marked as redelivered")
		}
		r.quiet("out")
		if err := s.Stop(r.ctx); err != nil {
			t.Error(err)
		}
		r.await("out", 1)
		if got := s.Stats(); got.Delivered != 2 || got.Handled != 1 {
			t.Errorf("counts %+v", got)
		}
	})
}

// TestWaitingSaysNothing: in virtual time a message that waits for days must not cost a heartbeat every few
// seconds. What is left are the declarations once a minute.
func TestWaitingSaysNothing(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.ctx = t.Context()
		s := r.setup(r.config("orders"))
		harebus.Handle(s, func(context.Context, *harebus.Bus, order) error { return nil })
		r.start(s)
		if err := s.Bus().Defer(r.ctx, "orders", 48*time.Hour, order{1}); err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		r.quiet()
		if waited := time.Since(start); waited < 48*time.Hour {
			t.Errorf("quiet after %v", waited)
		}
		if n := r.tap.count([]byte{8, 0, 0, 0, 0, 0, 0, 0xCE}); n > 0 {
			t.Errorf("%d heartbeats", n)
		}
	})
}
