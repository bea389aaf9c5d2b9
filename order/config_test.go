package order_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/batch"
	"github.com/harebus/harebus/order"
	"github.com/harebus/harebus/topology"
)

// TestConfig: what cannot be is refused by New, with the remedy.
func TestConfig(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		change func(*harebus.Config)
		says   string
	}{
		{func(c *harebus.Config) { c.Consume.Order.MaxParked = -1 }, "MaxParked -1 is not between 1 and 10000"},
		{func(c *harebus.Config) { c.Consume.Order.MaxParked = 10_001 }, "MaxParked 10001 is not between 1 and 10000"},
		{func(c *harebus.Config) { c.Consume.Order.GiveUp = 7 }, "GiveUp 7 is neither HoldKey nor SkipMessage"},
		{func(c *harebus.Config) { c.Consume.Order.Header = strings.Repeat("x", 256) }, "Header is longer than 255 bytes"},
		{func(c *harebus.Config) { c.QueueOptions.Type = topology.Classic }, "it needs a quorum queue"},
		{func(c *harebus.Config) { c.QueueOptions.Exclusive = true }, "the instances of a service share an ordered queue"},
		{func(c *harebus.Config) { c.QueueOptions.PerInstance = true }, "the instances of a service share an ordered queue"},
		{func(c *harebus.Config) { c.QueueOptions.AsFound = true }, "the instances of a service share an ordered queue"},
		{func(c *harebus.Config) { c.Consume.Exclusive = true }, "leave Consume.Exclusive out"},
		{func(c *harebus.Config) { c.Consume.Consumers = 2 }, "raise Consume.Concurrency instead"},
		{func(c *harebus.Config) { c.Consume.Concurrency = 201 }, "Consume.Prefetch 200 is not between 201 and"},
		{func(c *harebus.Config) { c.QueueOptions.Arguments = map[string]any{"x-delivery-limit": 20} }, "leave x-delivery-limit out"},
		{func(c *harebus.Config) { c.QueueOptions.Arguments = map[string]any{"x-max-priority": 5} }, "leave x-max-priority out"},
		{func(c *harebus.Config) { c.QueueOptions.Arguments = map[string]any{"x-message-ttl": 5} }, "leave x-message-ttl out"},
	} {
		cfg := harebus.Config{Queue: "steps", Consume: harebus.ConsumeConfig{Order: &order.Config{}}}
		c.change(&cfg)
		if _, err := harebus.New(cfg); err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("want %q: %v", c.says, err)
		}
	}
	setup, err := harebus.New(harebus.Config{Queue: "steps", Consume: harebus.ConsumeConfig{Order: &order.Config{}}})
	if err != nil {
		t.Fatal(err)
	}
	for _, queue := range []string{"steps", "steps.parked"} {
		if _, err := setup.Endpoint(harebus.EndpointConfig{Queue: queue}); err == nil {
			t.Errorf("an endpoint of %s is accepted", queue)
		}
	}
	if got := setup.Consumption(); got.Prefetch != order.Window || !setup.SingleActive() {
		t.Errorf("%+v", got)
	}
	if err := setup.SetConcurrency(50, 0); err != nil || setup.Consumption().Prefetch != order.Window {
		t.Errorf("%v, %+v", err, setup.Consumption())
	}
}

// TestKeys: a key that is empty or too long, and one with a priority, is refused at the call.
func TestKeys(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.serve(func(context.Context, step) error { return nil })
		for says, opts := range map[string][]harebus.SendOption{
			"the key is empty":         {harebus.WithKey("")},
			"the key has 10240 bytes":  {harebus.WithKey(strings.Repeat("x", 10<<10))},
			"cannot have a priority":   {harebus.WithKey("a"), harebus.WithPriority(1)},
			"is a standard header":     {harebus.WithHeader("PikaBus.Key", "a")},
			"is a standard header; us": {harebus.WithHeader("PikaBus.OrderPlace", "1 1 1 true x")},
		} {
			if err := r.sender.Send(r.ctx, "steps", step{"a", 1}, opts...); err == nil || !strings.Contains(err.Error(), says) {
				t.Errorf("want %q: %v", says, err)
			}
		}
	})
}

// TestKeyTravels: the key is a header, and a handler that passes a message on sets its own.
func TestKeyTravels(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		var got any
		s := r.instance(func(ctx context.Context, _ step) error {
			got = harebus.Incoming(ctx).Headers["PikaBus.Key"]
			return nil
		})
		r.try(s.Start(r.ctx))
		r.send("k1")
		r.rest(time.Second)
		if got != "k" {
			t.Errorf("%v", got)
		}
	})
}

// TestQueueOfBefore: a queue that exists without a single active consumer is refused, with the ways out.
func TestQueueOfBefore(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		before, err := harebus.New(harebus.Config{Dial: r.broker.Dial, Queue: "steps"})
		r.try(err)
		harebus.Handle(before, func(context.Context, *harebus.Bus, step) error { return nil })
		r.try(before.Init(r.ctx))
		r.try(before.Close())
		s := r.instance(func(context.Context, step) error { return nil })
		err = s.Start(r.ctx)
		for _, says := range []string{"x-single-active-consumer", "harebus topology migrate"} {
			if err == nil || !strings.Contains(err.Error(), says) {
				t.Errorf("want %q: %v", says, err)
			}
		}
	})
}

// TestSettingsDiffer: an instance that sees the settings of another one, which differ, is not ready and says both.
func TestSettingsDiffer(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		first := r.serve(func(context.Context, step) error { return nil })
		r.rest(100 * time.Second) // so that it renews its own note at another time than the other one
		r.try(first.Ready())
		r.cfg.Consume.Order = &order.Config{Header: "customer"}
		other := r.serve(func(context.Context, step) error { return nil })
		r.rest(time.Second)
		err := first.Ready()
		for _, says := range []string{`Header "customer"`, `Header "PikaBus.Key"`, "another instance has other settings"} {
			if err == nil || !strings.Contains(err.Error(), says) {
				t.Errorf("want %q: %v", says, err)
			}
		}
		for range 120 {
			r.rest(10 * time.Second)
			if first.Ready() == nil {
				t.Fatal("it is ready while the other one is there")
			}
		}
		r.try(other.Close())
		r.rest(10 * time.Minute)
		r.try(first.Ready())
	})
}

// TestStandby: instances that stand by are ready, and one takes over at once when the owner has died or stopped.
func TestStandby(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		fn := func(context.Context, step) error { return nil }
		r.cfg.Connect.Name = "owner"
		first := r.serve(fn)
		r.cfg.Connect.Name = "standby"
		second := r.serve(fn)
		r.rest(time.Second)
		r.try(first.Ready())
		r.try(second.Ready())
		for _, c := range r.broker.Connections() {
			if strings.HasPrefix(c.Name, "owner") {
				r.broker.CutConnections(c.Name)
			}
		}
		r.send("a1")
		r.rest(200 * time.Millisecond)
		r.wants("a", "1")
		r.try(second.Close())
		r.send("a2")
		r.rest(200 * time.Millisecond)
		r.wants("a", "1 2")
	})
}

// TestQueuesDeleted: when the parking queue or the queue is deleted, it is declared again and messages go on.
func TestQueuesDeleted(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		s := r.serve(func(context.Context, step) error { return nil })
		r.send("a1")
		for i, queue := range []string{"steps.parked", "steps"} {
			r.rest(time.Second)
			r.try(r.broker.DeleteQueue(queue))
			r.rest(time.Minute)
			r.try(s.Ready())
			r.send([]string{"a2", "a3"}[i])
		}
		r.rest(time.Second)
		r.wants("a", "1 2 3")
	})
}

// TestStrangersInParking: a message that somebody has put into the parking queue is handled, behind what is there.
func TestStrangersInParking(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.serve(bad("a", 1))
		r.send("a1 a2")
		r.rest(time.Minute)
		conn, err := amqp.DialConfig(r.broker.URL(), amqp.Config{Dial: r.broker.Dial})
		r.try(err)
		defer func() { r.try(conn.Close()) }()
		ch, err := conn.Channel()
		r.try(err)
		for _, headers := range []amqp.Table{{"PikaBus.Key": "a"}, {"PikaBus.Key": "z", "PikaBus.OrderPlace": "nonsense"}, {}} {
			body := `{"Key": "a", "N": 3}`
			if headers["PikaBus.Key"] != "a" {
				body = `{"Key": "z", "N": 9}`
			}
			r.try(ch.PublishWithContext(r.ctx, "", "steps.parked", true, false, amqp.Publishing{
				Headers: headers, Type: "Step", ContentType: "application/json", Body: []byte(body),
			}))
		}
		r.try(ch.PublishWithContext(r.ctx, "", "steps.parked", true, false, amqp.Publishing{Headers: amqp.Table{"PikaBus.OrderNote": "sing"}}))
		r.rest(time.Minute)
		r.wants("z", "9 9")
		r.word("discard", "a")
		r.rest(time.Minute)
		r.wants("a", "2 3")
		r.empty()
	})
}

// TestBatches: batches take one message of each key; a failed one blocks its key and no other of the batch.
func TestBatches(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		s, err := harebus.New(r.cfg)
		r.try(err)
		t.Cleanup(func() { r.try(s.Close()) })
		failed := false
		r.try(batch.Handle(s, func(_ context.Context, all []batch.Item[step]) []error {
			results, keys := make([]error, len(all)), map[string]bool{}
			for i, one := range all {
				if keys[one.Message.Key] {
					t.Error("two of a key in a batch")
				}
				keys[one.Message.Key] = true
				if one.Message.Key == "a" && one.Message.N == 2 && !failed {
					failed = true
					results[i] = errBad
					continue
				}
				r.note(one.Message)
			}
			return results
		}, batch.Config{Size: 3, Wait: 100 * time.Millisecond}))
		r.try(s.Start(r.ctx))
		r.send("a1 b1 c1 a2 b2 c2 a3 b3 c3")
		r.rest(time.Minute)
		for _, key := range []string{"a", "b", "c"} {
			r.wants(key, "1 2 3")
		}
		r.empty()
	})
}

// TestBatchesAfterStops: messages that have waited while instances stopped are handled in batches as before, because the deliveries to these say nothing
// of the messages.
func TestBatchesAfterStops(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		const messages, size = 100, 5
		batches := 0
		instance := func() *harebus.Setup {
			s, err := harebus.New(r.cfg)
			r.try(err)
			t.Cleanup(func() { r.try(s.Close()) })
			r.try(batch.Handle(s, func(_ context.Context, all []batch.Item[step]) []error {
				time.Sleep(time.Second)
				for _, one := range all {
					r.note(one.Message)
				}
				batches++ // one runs at a time
				return make([]error, len(all))
			}, batch.Config{Size: size, Wait: 100 * time.Millisecond}))
			return s
		}
		r.try(instance().Init(r.ctx))
		for n := range messages {
			r.try(r.sender.Send(r.ctx, "steps", step{"k", n}, harebus.WithKey(fmt.Sprint(n))))
		}
		for range 4 {
			s := instance()
			r.try(s.Start(r.ctx))
			r.rest(500 * time.Millisecond)
			r.try(s.Close())
		}
		r.try(instance().Start(r.ctx))
		r.rest(5 * time.Minute)
		if n := len(r.all()); n != messages || batches > messages/size+1 {
			t.Errorf("%d messages were handled in %d batches", n, batches)
		}
	})
}

// TestHold: a message that its handler keeps blocks its key until it is released.
func TestHold(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		var hold *harebus.Hold
		r.serve(func(_ context.Context, m step) error {
			if m.Key == "a" && m.N == 1 && hold == nil {
				hold = &harebus.Hold{}
				return hold
			}
			return nil
		})
		r.send("a1 a2 b1")
		r.rest(time.Minute)
		r.wants("a", "")
		r.wants("b", "1")
		if !hold.Holds() {
			t.Error("it is not held")
		}
		hold.Release()
		r.rest(time.Second)
		r.wants("a", "1 2")
		r.empty()
	})
}
