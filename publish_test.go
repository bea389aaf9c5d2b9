package harebus_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cenkalti/backoff/v4"
	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/brokertest"
)

// publishError is the error of a call that was not confirmed.
func publishError(t *testing.T, err error) *harebus.PublishError {
	t.Helper()
	var failed *harebus.PublishError
	if !errors.As(err, &failed) {
		t.Fatalf("not a PublishError: %v", err)
	}
	return failed
}

// bodies returns the ids and bodies of what is in a queue.
func (r *rig) bodies(queue string) (ids, bodies []string) {
	for _, m := range r.broker.Messages(queue) {
		ids, bodies = append(ids, m.MessageId), append(bodies, string(m.Body))
	}
	return ids, bodies
}

func TestUnroutable(t *testing.T) {
	for name, call := range map[string]func(ctx context.Context, bus *harebus.Bus) error{
		"send": func(ctx context.Context, bus *harebus.Bus) error {
			return bus.Send(ctx, "nowhere", order{1}, harebus.WithMessageID("mine"))
		},
		"publish": func(ctx context.Context, bus *harebus.Bus) error {
			return bus.Publish(ctx, "nowhere", order{1}, harebus.WithMessageID("mine"))
		},
		"defer": func(ctx context.Context, bus *harebus.Bus) error {
			return bus.Defer(ctx, "nowhere", time.Minute, order{1}, harebus.WithMessageID("mine"))
		},
		"other exchange": func(ctx context.Context, bus *harebus.Bus) error {
			return bus.Send(ctx, "nowhere", order{1}, harebus.WithMessageID("mine"), harebus.WithExchange("amq.direct"))
		},
		"no exchange": func(ctx context.Context, bus *harebus.Bus) error {
			return bus.Send(ctx, "nowhere", order{1}, harebus.WithMessageID("mine"), harebus.WithExchange("absent"))
		},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, r *rig) {
				s := r.setup(r.config(""))
				start := time.Now()
				failed := publishError(t, call(r.ctx, s.Bus()))
				if !errors.Is(failed, harebus.ErrUnroutable) || errors.Is(failed, harebus.ErrUnknownOutcome) {
					t.Errorf("not ErrUnroutable: %v", failed)
				}
				if failed.Outcome != harebus.Returned || failed.MessageID != "mine" || failed.RoutingKey != "nowhere" || failed.Exchange == "" {
					t.Errorf("got %+v", failed)
				}
				contains(t, failed.Error(), "nowhere", "mine", failed.Exchange)
				if took := time.Since(start); took > 5*time.Second {
					t.Errorf("it took %v", took)
				}
				if got := s.Stats(); got.Unpublished != 1 || got.Published != 0 {
					t.Errorf("counts %+v", got)
				}
				// The channel and the bus are unharmed.
				r.declare(r.channel(), "there")
				if err := s.Bus().Send(r.ctx, "there", order{2}); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

// TestNonMandatory: what nobody takes is confirmed, by wish.
func TestNonMandatory(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		bus := r.setup(r.config("")).Bus()
		if err := errors.Join(
			bus.Publish(r.ctx, "nobody", order{1}, harebus.NonMandatory()), bus.Send(r.ctx, "nobody", order{1}, harebus.NonMandatory()),
		); err != nil {
			t.Error(err)
		}
	})
}

// TestUnboundQueue: a queue that nobody bound is reached all the same.
func TestUnboundQueue(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.declare(r.channel(), "legacy")
		s := r.setup(r.config(""))
		if err := s.Bus().Send(r.ctx, "legacy", order{1}); err != nil {
			t.Fatal(err)
		}
		r.await("legacy", 1)
		for _, b := range r.broker.Bindings() {
			if b.Destination == "legacy" {
				t.Errorf("the sender made a binding: %+v", b)
			}
		}
	})
}

// TestTransientlyUnroutable: a queue that is away for a moment costs no error.
func TestTransientlyUnroutable(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.bound(r.channel(), "out")
		r.broker.Inject(brokertest.Fault{On: "basic.publish", Times: 3, Do: brokertest.Return})
		if err := r.setup(r.config("")).Bus().Send(r.ctx, "out", order{1}); err != nil {
			t.Fatal(err)
		}
		r.await("out", 1)
	})
}

// TestNacked: a channel that nacked is never used again, and a message that is
// always refused is an error in the end.
func TestNacked(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.bound(r.channel(), "out")
		s := r.setup(r.config(""))
		var channels []int
		fault := r.broker.Inject(brokertest.Fault{On: "basic.publish", Times: 2, Do: brokertest.Nack, Match: func(f brokertest.Frame) bool {
			channels = append(channels, f.Channel)
			return true
		}})
		if err := s.Bus().Send(r.ctx, "out", order{1}); err != nil {
			t.Fatal(err)
		}
		if len(channels) != 2 && len(channels) != 3 || channels[0] == channels[1] {
			t.Errorf("published on channels %v", channels)
		}
		if got := s.Stats(); got.Republished != 2 || got.Published != 1 || got.Unpublished != 0 {
			t.Errorf("counts %+v", got)
		}
		fault.Remove()
		r.broker.Inject(brokertest.Fault{On: "basic.publish", Times: -1, Do: brokertest.Nack})
		failed := publishError(t, s.Bus().Send(r.ctx, "out", order{1}))
		if !errors.Is(failed, harebus.ErrNacked) || failed.Outcome != harebus.Nacked {
			t.Errorf("got %v", failed)
		}
		r.await("out", 1)
	})
}

// TestQueueFull: reject-publish is a nack, and what it refused is not there.
func TestQueueFull(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		ch := r.channel()
		args := amqp.Table{"x-max-length": int32(1), "x-overflow": "reject-publish"}
		if _, err := ch.QueueDeclare("small", true, false, false, false, args); err != nil {
			t.Fatal(err)
		}
		bus := r.setup(r.config("")).Bus()
		if err := bus.Send(r.ctx, "small", order{1}); err != nil {
			t.Fatal(err)
		}
		if err := bus.Send(r.ctx, "small", order{2}); !errors.Is(err, harebus.ErrNacked) {
			t.Errorf("got %v", err)
		}
		r.await("small", 1)
	})
}

// TestUnknownIsSentAgain: when the confirm is lost with the connection, the
// message is sent again under the same id; the copies can be recognised.
func TestUnknownIsSentAgain(t *testing.T) {
	for name, c := range map[string]struct {
		fault  brokertest.Fault
		copies int
	}{
		"confirm lost":    {brokertest.Fault{On: "basic.publish", Do: brokertest.CutAfter}, 2},
		"publish lost":    {brokertest.Fault{On: "basic.publish", Do: brokertest.CutBefore}, 1},
		"ack cut":         {brokertest.Fault{On: "basic.ack", From: brokertest.FromBroker, Do: brokertest.CutBefore}, 2},
		"ack dropped":     {brokertest.Fault{On: "basic.ack", From: brokertest.FromBroker, Do: brokertest.Drop}, 2},
		"publish dropped": {brokertest.Fault{On: "basic.publish", Do: brokertest.Drop}, 1},
		"ack late":        {brokertest.Fault{On: "basic.ack", From: brokertest.FromBroker, Do: brokertest.Delay, For: 8 * time.Second}, 1},
		"channel error":   {brokertest.Fault{On: "basic.publish", Do: brokertest.Raise, Code: 541, Text: "leader gone"}, 1},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, r *rig) {
				r.bound(r.channel(), "out")
				bus := r.setup(r.config("")).Bus()
				if err := bus.Send(r.ctx, "out", order{0}); err != nil { // connected and warm
					t.Fatal(err)
				}
				c.fault.Match = func(f brokertest.Frame) bool { return strings.Contains(f.Connection, "publish") }
				fault := r.broker.Inject(c.fault)
				start := time.Now()
				if err := bus.Send(r.ctx, "out", order{1}, harebus.WithMessageID("mine")); err != nil {
					t.Fatal(err)
				}
				if fault.Fired() != 1 {
					t.Error("the fault did not strike")
				}
				if took := time.Since(start); took > 45*time.Second {
					t.Errorf("it took %v", took)
				}
				ids, bodies := r.bodies("out")
				if len(ids) != 1+c.copies {
					t.Fatalf("%d copies, want %d", len(ids)-1, c.copies)
				}
				for i := 1; i < len(ids); i++ {
					if ids[i] != "mine" || bodies[i] != `{"ID":1}` {
						t.Errorf("copy %d is %s %s", i, ids[i], bodies[i])
					}
				}
			})
		})
	}
}

// TestUnknownToTheCaller: a context that ends before the confirm leaves the
// caller with the truth and the id.
func TestUnknownToTheCaller(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.bound(r.channel(), "out")
		s := r.setup(r.config(""))
		hold := r.broker.Inject(brokertest.Fault{On: "basic.ack", From: brokertest.FromBroker, Do: brokertest.Hold, Match: func(f brokertest.Frame) bool {
			return strings.Contains(f.Connection, "publish")
		}})
		ctx, cancel := context.WithTimeout(r.ctx, 3*time.Second)
		defer cancel()
		start := time.Now()
		failed := publishError(t, s.Bus().Send(ctx, "out", order{1}, harebus.WithMessageID("mine")))
		if failed.Outcome != harebus.Unknown || !errors.Is(failed, harebus.ErrUnknownOutcome) || !errors.Is(failed, context.DeadlineExceeded) || failed.MessageID != "mine" {
			t.Errorf("got %+v", failed)
		}
		if took := time.Since(start); took != 3*time.Second {
			t.Errorf("it took %v", took)
		}
		hold.Release()
		if err := s.Bus().Send(r.ctx, "out", order{1}, harebus.WithMessageID("mine")); err != nil {
			t.Error(err)
		}
		if ids, _ := r.bodies("out"); len(ids) != 2 || ids[0] != ids[1] {
			t.Errorf("ids %v", ids)
		}
	})
}

// TestNotSent: no broker, no doubt.
func TestNotSent(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.broker.Refuse(time.Hour)
		s := r.setup(r.config(""))
		for name, call := range map[string]func(ctx context.Context) error{
			"send":    func(ctx context.Context) error { return s.Bus().Send(ctx, "out", order{1}) },
			"defer":   func(ctx context.Context) error { return s.Bus().Defer(ctx, "out", time.Hour, order{1}) },
			"publish": func(ctx context.Context) error { return s.Bus().Publish(ctx, "a.b", order{1}) },
		} {
			ctx, cancel := context.WithTimeout(r.ctx, 3*time.Second)
			start := time.Now()
			failed := publishError(t, call(ctx))
			cancel()
			if failed.Outcome != harebus.NotSent || !errors.Is(failed, harebus.ErrNotSent) || !errors.Is(failed, context.DeadlineExceeded) ||
				errors.Is(failed, harebus.ErrUnknownOutcome) {
				t.Errorf("%s: %+v", name, failed)
			}
			contains(t, failed.Error(), "refused")
			if took := time.Since(start); took != 3*time.Second {
				t.Errorf("%s: it took %v", name, took)
			}
		}
		if n := r.tap.dialed(); n != 0 {
			t.Errorf("%d connections", n)
		}
	})
}

// TestBlocked: while the broker blocks publishers calls wait, and end with
// their context; afterwards they go on.
func TestBlocked(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.bound(r.channel(), "out")
		cfg := r.config("")
		cfg.Connect.WriteTimeout = time.Hour
		s := r.setup(cfg)
		r.broker.Block("low on memory")
		// The broker says so at the first publish.
		if err := s.Bus().Send(r.ctx, "out", order{1}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait() // it has arrived
		ctx, cancel := context.WithTimeout(r.ctx, 3*time.Second)
		defer cancel()
		err := s.Bus().Send(ctx, "out", order{2})
		if failed := publishError(t, err); failed.Outcome != harebus.NotSent || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
		contains(t, err.Error(), "low on memory")
		if err := s.Ready(); err == nil || !strings.Contains(err.Error(), "low on memory") {
			t.Errorf("ready: %v", err)
		}
		done := make(chan error)
		go func() { done <- s.Bus().Send(r.ctx, "out", order{3}) }()
		time.AfterFunc(time.Minute, r.broker.Unblock)
		if err := receive(r, done); err != nil {
			t.Error(err)
		}
		if err := s.Ready(); err != nil {
			t.Error(err)
		}
		if _, bodies := r.bodies("out"); fmt.Sprint(bodies) != `[{"ID":1} {"ID":3}]` {
			t.Errorf("the queue has %v", bodies)
		}
	})
}

// TestSlowNetwork: large messages wait for a slow network before they are published, and not all at once behind it, where
// the confirm timeout runs; nor does a transaction take those for late that are confirmed already. A call whose context
// ends meanwhile has sent nothing.
func TestSlowNetwork(t *testing.T) {
	const messages, size, rate = 20, 512 << 10, 64 << 10 // 8 s each
	large := []byte(strings.Repeat("x", size))
	bubble(t, func(t *testing.T, r *rig) {
		r.bound(r.channel(), "out")
		cfg := r.config("")
		cfg.Publish.ConfirmTimeout = 100 * time.Second
		s := r.setup(cfg)
		if err := s.Bus().Send(r.ctx, "out", order{1}); err != nil {
			t.Fatal(err)
		}
		r.tap.throttle(rate)
		longer := []byte(strings.Repeat("x", 90*rate)) // than the channel may take to answer, but that is asked behind it
		if err := s.Bus().Send(r.ctx, "out", longer); err != nil {
			t.Error(err)
		}
		done := make(chan error, messages)
		for range messages {
			go func() { done <- s.Bus().Send(r.ctx, "out", large) }()
		}
		<-time.After(time.Second) // the channel answers
		ctx, cancel := context.WithTimeout(r.ctx, 3*time.Second)
		defer cancel()
		err := s.Bus().Send(ctx, "out", order{2})
		if failed := publishError(t, err); failed.Outcome != harebus.NotSent || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
		for range messages {
			if err := receive(r, done); err != nil {
				t.Error(err)
			}
		}
		err = s.Bus().Transaction(r.ctx, func(ctx context.Context, tx *harebus.Tx) error {
			for range messages {
				if err := tx.Send(ctx, "out", large); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
		if stats := s.Stats(); stats.Republished != 0 || stats.Connections != 1 {
			t.Errorf("%d repeated publishes, %d connections", stats.Republished, stats.Connections)
		}
		if ids, _ := r.bodies("out"); len(ids) != 2+2*messages {
			t.Errorf("%d messages arrived", len(ids))
		}
	})
}

// TestStuckChannelBesideABusyOne: a channel that answers nothing is given up though the network is busy all the time,
// and what was sent on it goes out again.
func TestStuckChannelBesideABusyOne(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		const timeout, size, rate = time.Minute, 64 << 10, 64 << 10
		r.bound(r.channel(), "out")
		cfg := r.config("")
		cfg.Publish.ConfirmTimeout = timeout
		cfg.Publish.Channels = 2
		s := r.setup(cfg)
		if err := s.Bus().Send(r.ctx, "out", order{1}); err != nil {
			t.Fatal(err)
		}
		stuck := 0 // guarded by the broker's lock
		onOne := func(f brokertest.Frame) bool {
			if stuck == 0 {
				stuck = f.Channel
			}
			return f.Channel == stuck
		}
		acks := r.broker.Inject(brokertest.Fault{On: "basic.ack", From: brokertest.FromBroker, Do: brokertest.Drop, Times: -1, Match: onOne})
		asked := r.broker.Inject(brokertest.Fault{On: "basic.qos", Do: brokertest.Drop, Times: -1, Match: onOne})
		r.tap.throttle(rate)
		began := time.Now()
		var senders sync.WaitGroup
		for s.Stats().Connections == 1 && time.Since(began) < 2*timeout {
			senders.Go(func() {
				if err := s.Bus().Send(r.ctx, "out", []byte(strings.Repeat("x", size))); err != nil {
					t.Error(err)
				}
			})
			<-time.After(time.Second)
		}
		if took := time.Since(began); took > timeout || asked.Fired() == 0 {
			t.Errorf("connected again after %v, the channel was asked %d times", took, asked.Fired())
		}
		acks.Remove()
		asked.Remove()
		r.tap.throttle(0)
		senders.Wait()
	})
}

// TestSlowBroker: a broker that takes long for each message is not given up while it confirms one after the other, though
// no other answer can come before that.
func TestSlowBroker(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		const messages, each = 11, 5 * time.Second
		r.bound(r.channel(), "out")
		cfg := r.config("")
		cfg.Publish.ConfirmTimeout = time.Minute
		cfg.Publish.Channels = 1
		s := r.setup(cfg)
		r.broker.Inject(brokertest.Fault{On: "basic.publish", Do: brokertest.Delay, For: each, Times: messages})
		began := time.Now()
		done := make(chan error, messages)
		for i := range messages {
			go func() { done <- s.Bus().Send(r.ctx, "out", order{i}) }()
		}
		for range messages {
			if err := receive(r, done); err != nil {
				t.Error(err)
			}
		}
		if took := time.Since(began); took != messages*each {
			t.Errorf("the broker took %v", took)
		}
		if stats := s.Stats(); stats.Republished != 0 || stats.Connections != 1 {
			t.Errorf("%d repeated publishes, %d connections", stats.Republished, stats.Connections)
		}
	})
}

// TestBlockedChannelIsNotStuck: a channel that was asked whether it lives, and does not answer, is given up, but not while
// the broker blocks publishers and reads nothing.
func TestBlockedChannelIsNotStuck(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		const timeout = 20 * time.Second
		r.bound(r.channel(), "out")
		cfg := r.config("")
		cfg.Publish.ConfirmTimeout = timeout
		cfg.Publish.Channels = 2
		s := r.setup(cfg)
		r.broker.Inject(brokertest.Fault{On: "basic.ack", From: brokertest.FromBroker, Do: brokertest.Drop})
		asked := r.broker.Inject(brokertest.Fault{On: "basic.qos", Do: brokertest.Drop})
		done := make(chan error, 2)
		send := func(id int) { done <- s.Bus().Send(r.ctx, "out", order{id}) }
		go send(1)
		if err := asked.WaitFired(r.ctx, 1); err != nil {
			t.Fatal(err)
		}
		r.broker.Block("low on memory")
		go send(2) // the broker says so at the next publish
		<-time.After(3 * timeout)
		if n := s.Stats().Connections; n != 1 {
			t.Errorf("%d connections while publishers are blocked", n)
		}
		r.broker.Unblock()
		for range cap(done) {
			if err := receive(r, done); err != nil {
				t.Error(err)
			}
		}
		if n := s.Stats().Connections; n != 2 {
			t.Errorf("%d connections: the channel did not answer", n)
		}
	})
}

// TestExchangeGone: the exchanges are made again, and nobody's message is lost.
func TestExchangeGone(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		ch := r.channel()
		r.bound(ch, "out")
		s := r.setup(r.config(""))
		if err := s.Bus().Send(r.ctx, "out", order{0}); err != nil {
			t.Fatal(err)
		}
		if err := ch.ExchangeDelete("PikaBusDirect", false, false); err != nil {
			t.Fatal(err)
		}
		var senders sync.WaitGroup
		for i := range 20 {
			senders.Go(func() {
				if err := s.Bus().Send(r.ctx, "out", order{i}); err != nil {
					t.Error(err)
				}
			})
		}
		senders.Wait()
		r.await("out", 21)
	})
}

// TestManySenders: with a window of 3 all of 200 concurrent calls are confirmed,
// each exactly once.
func TestManySenders(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.bound(r.channel(), "out")
		cfg := r.config("")
		cfg.Publish = harebus.PublishConfig{Window: 3, Channels: 2}
		s := r.setup(cfg)
		var senders sync.WaitGroup
		for i := range 200 {
			senders.Go(func() {
				if err := s.Bus().Send(r.ctx, "out", order{i}); err != nil {
					t.Error(err)
				}
			})
		}
		senders.Wait()
		_, bodies := r.bodies("out")
		distinct := map[string]bool{}
		for _, b := range bodies {
			distinct[b] = true
		}
		if len(bodies) != 200 || len(distinct) != 200 || s.Stats().Published != 200 {
			t.Errorf("%d messages, %d distinct, counts %+v", len(bodies), len(distinct), s.Stats())
		}
	})
}

// TestReturnsAmongOthers: in a full window some are unroutable; exactly those
// fail.
func TestReturnsAmongOthers(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.bound(r.channel(), "out")
		cfg := r.config("")
		cfg.Publish.Window = 4
		bus := r.setup(cfg).Bus()
		var senders sync.WaitGroup
		for i := range 60 {
			senders.Go(func() {
				queue, want := "out", error(nil)
				if i%3 == 0 {
					queue, want = fmt.Sprint("nowhere", i), harebus.ErrUnroutable
				}
				if err := bus.Send(r.ctx, queue, order{i}, harebus.WithMessageID("same for all")); !errors.Is(err, want) {
					t.Errorf("to %s: %v", queue, err)
				}
			})
		}
		senders.Wait()
		r.await("out", 40)
	})
}

// TestReconnect: the broker is away for a minute; a call waits and succeeds.
func TestReconnect(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.bound(r.channel(), "out")
		cfg := r.config("")
		cfg.Connect.BackOff = func() backoff.BackOff { return backoff.NewConstantBackOff(time.Second) }
		s := r.setup(cfg)
		if err := s.Bus().Send(r.ctx, "out", order{1}); err != nil {
			t.Fatal(err)
		}
		r.broker.Refuse(time.Minute)
		r.broker.CutConnections()
		start := time.Now()
		if err := s.Bus().Send(r.ctx, "out", order{2}); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(start); took < time.Minute || took > 62*time.Second {
			t.Errorf("it took %v", took)
		}
		r.await("out", 2)
		if n := s.Stats().Connections; n != 2 {
			t.Errorf("%d connections", n)
		}
	})
}

// TestUnknownStaysUnknown: a message that may have arrived is never reported as
// one that was not sent, although the last attempts did not leave.
func TestUnknownStaysUnknown(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.bound(r.channel(), "out")
		bus := r.setup(r.config("")).Bus()
		if err := bus.Send(r.ctx, "out", order{0}); err != nil {
			t.Fatal(err)
		}
		r.broker.Inject(brokertest.Fault{On: "basic.publish", Do: brokertest.CutAfter})
		r.broker.Refuse(time.Hour)
		ctx, cancel := context.WithTimeout(r.ctx, 10*time.Second)
		defer cancel()
		failed := publishError(t, bus.Send(ctx, "out", order{1}))
		if failed.Outcome != harebus.Unknown || errors.Is(failed, harebus.ErrNotSent) {
			t.Errorf("got %v", failed)
		}
		r.await("out", 2)
	})
}
