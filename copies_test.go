package harebus_test

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cenkalti/backoff/v4"
	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/brokertest"
)

// full declares a queue that has no room left: what comes is nacked.
func (r *rig) full(ch *amqp.Channel, queue string) {
	r.t.Helper()
	args := amqp.Table{"x-max-length": int32(0), "x-overflow": "reject-publish"}
	if _, err := ch.QueueDeclare(queue, true, false, false, false, args); err != nil {
		r.t.Fatal(err)
	}
}

// bind binds queues to an exchange.
func (r *rig) bind(ch *amqp.Channel, exchange, kind, key string, queues ...string) {
	r.t.Helper()
	if err := ch.ExchangeDeclare(exchange, kind, true, false, false, false, nil); err != nil {
		r.t.Fatal(err)
	}
	for _, q := range queues {
		if err := ch.QueueBind(q, key, exchange, false, nil); err != nil {
			r.t.Fatal(err)
		}
	}
}

// sender is a bus or a transaction.
type sender interface {
	Send(ctx context.Context, queue string, message any, opts ...harebus.SendOption) error
	Publish(ctx context.Context, topic string, message any, opts ...harebus.SendOption) error
}

// TestCopiesBesideAFullQueue: a message that one queue takes and another refuses is
// refused after few attempts, however it got to both. Each makes a copy in the healthy one.
func TestCopiesBesideAFullQueue(t *testing.T) {
	for name, c := range map[string]struct {
		send   func(ctx context.Context, bus sender) error
		want   error
		copies int
	}{
		"event": {func(ctx context.Context, bus sender) error { return bus.Publish(ctx, "a.b", order{1}) }, harebus.ErrNacked, 3},
		"event by another exchange": {func(ctx context.Context, bus sender) error {
			return bus.Publish(ctx, "a.b", order{1}, harebus.WithExchange("amq.topic"))
		}, harebus.ErrNacked, 3},
		"command by another exchange": {func(ctx context.Context, bus sender) error {
			return bus.Send(ctx, "a.b", order{1}, harebus.WithExchange("amq.topic"))
		}, harebus.ErrNacked, 3},
		"command to bindings, not to a queue of the name": {func(ctx context.Context, bus sender) error {
			return bus.Send(ctx, "alias", order{1})
		}, harebus.ErrNacked, 3},
		"command to a queue whose binding another shares": {func(ctx context.Context, bus sender) error {
			return bus.Send(ctx, "healthy", order{1})
		}, nil, 2},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, r *rig) {
				ch := r.channel()
				r.declare(ch, "healthy")
				r.full(ch, "full")
				r.bind(ch, "PikaBusTopic", "topic", "a.*", "healthy", "full")
				r.bind(ch, "amq.topic", "topic", "a.*", "healthy", "full")
				r.bind(ch, "PikaBusDirect", "direct", "alias", "healthy", "full")
				r.bind(ch, "PikaBusDirect", "direct", "healthy", "healthy", "full")
				bus := r.setup(r.config("")).Bus()
				start := time.Now()
				if err := c.send(r.ctx, bus); !errors.Is(err, c.want) {
					t.Errorf("got %v, want %v", err, c.want)
				}
				if took := time.Since(start); took > 4*time.Second {
					t.Errorf("it took %v", took)
				}
				r.await("healthy", c.copies)
				tx := bus.Begin()
				if err := errors.Join(c.send(r.ctx, tx), tx.Send(r.ctx, "healthy", order{2}), c.send(r.ctx, tx)); err != nil {
					t.Fatal(err)
				}
				_ = tx.Commit(r.ctx)
				copies := map[string]int{}
				for _, m := range r.broker.Messages("healthy") {
					copies[m.MessageId]++
				}
				for id, n := range copies {
					if n > 3 {
						t.Errorf("%d copies of %s", n, id)
					}
				}
			})
		})
	}
}

// TestCopiesOfAHandlersEvent: the handler runs as often as its policy says, and so do the
// attempts at its event: three each time.
func TestCopiesOfAHandlersEvent(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		ch := r.channel()
		r.declare(ch, "healthy")
		r.full(ch, "full")
		r.bind(ch, "PikaBusTopic", "topic", "a.*", "healthy", "full")
		s := r.setup(r.config("orders"))
		harebus.Handle(s, func(ctx context.Context, bus *harebus.Bus, _ order) error {
			return bus.Publish(ctx, "a.b", answer{1})
		})
		r.start(s)
		r.publish(ch, "orders", plain(`{"ID":1}`))
		r.await("error", 1)
		const perCall, attempts = 3, 6
		copies := r.await("healthy", perCall*attempts)
		for _, m := range copies {
			if m.MessageId != copies[0].MessageId {
				t.Error("the copies have different ids")
			}
		}
	})
}

// TestNackedCommandIsPatient: a queue that has no leader for four seconds costs a command
// nothing but time, and no copies; nor does one that is there again after the broker was away.
func TestNackedCommandIsPatient(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.bound(r.channel(), "out")
		cfg := r.config("")
		cfg.Connect.BackOff = func() backoff.BackOff { return backoff.NewConstantBackOff(time.Second) }
		bus := r.setup(cfg).Bus()
		for i := range 2 {
			election := r.broker.Inject(brokertest.Fault{On: "basic.publish", Times: -1, Do: brokertest.Nack})
			time.AfterFunc(4*time.Second+time.Duration(i)*30*time.Second, election.Remove)
			if err := bus.Send(r.ctx, "out", order{i}); err != nil {
				t.Fatal(err)
			}
			r.await("out", i+1)
			r.broker.Refuse(30 * time.Second)
			r.broker.CutConnections()
		}
	})
}

// returns counts the messages that are returned from now on.
func (r *rig) returns() (count func() int64) {
	var n atomic.Int64
	r.broker.Inject(brokertest.Fault{On: "basic.return", From: brokertest.FromBroker, Times: -1, Match: func(brokertest.Frame) bool {
		n.Add(1)
		return false
	}})
	return n.Load
}

// TestWayIsRemembered: only the first message to a queue that is not bound is returned, for
// a minute, and none to one that is.
func TestWayIsRemembered(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		ch := r.channel()
		r.declare(ch, "legacy")
		r.bound(ch, "out")
		returns := r.returns()
		bus := r.setup(r.config("")).Bus()
		send := func(queues ...string) {
			t.Helper()
			start := time.Now()
			for i, q := range queues {
				if err := bus.Send(r.ctx, q, order{i}); err != nil {
					t.Fatal(err)
				}
			}
			if took := time.Since(start); took != 0 {
				t.Errorf("it took %v", took)
			}
		}
		send("legacy", "out", "legacy", "out", "legacy")
		if n := returns(); n != 1 {
			t.Errorf("%d returns for three messages", n)
		}
		<-time.After(2 * time.Minute)
		send("legacy", "legacy")
		if n := returns(); n != 2 {
			t.Errorf("%d returns after two minutes", n)
		}
		// Bound, it is found by the direct exchange, and so is another that wants the same.
		r.declare(ch, "copy")
		r.bind(ch, "PikaBusDirect", "direct", "legacy", "legacy", "copy")
		<-time.After(2 * time.Minute)
		send("legacy")
		r.await("copy", 1)
		r.await("legacy", 6)
		if n := returns(); n != 2 {
			t.Errorf("%d returns in the end", n)
		}
	})
}

// TestRetriesKnowTheWay: parked messages go to an error queue that nobody has bound; only
// the first is returned.
func TestRetriesKnowTheWay(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		returns := r.returns()
		s := r.setup(r.config("orders"))
		harebus.Handle(s, func(context.Context, *harebus.Bus, order) error { return harebus.NoRetry(errNo) })
		r.start(s)
		ch := r.channel()
		for range 5 {
			r.publish(ch, "orders", plain(`{"ID":1}`))
		}
		r.await("error", 5)
		if n := returns(); n > 1 {
			t.Errorf("%d returns", n)
		}
	})
}

// TestTransactionOrderToAnyDestination: a transaction arrives in its order, also where its
// messages reach one queue by different ways, some of which are found only by trying.
func TestTransactionOrderToAnyDestination(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		ch := r.channel()
		r.declare(ch, "legacy", "late", "late2")
		r.bind(ch, "PikaBusTopic", "topic", "a.b", "legacy", "late", "late2")
		r.bound(ch, "out")
		bus := r.setup(r.config("")).Bus()
		commit := func(queues ...string) {
			t.Helper()
			tx := bus.Begin()
			for i := range 30 {
				var err error
				if i%3 == 2 {
					err = tx.Publish(r.ctx, "a.b", order{i})
				} else {
					err = tx.Send(r.ctx, queues[i%len(queues)], order{i})
				}
				if err != nil {
					t.Fatal(err)
				}
			}
			if err := tx.Commit(r.ctx); err != nil {
				t.Fatal(err)
			}
			for _, q := range []string{"legacy", "late", "late2", "out"} {
				last := -1
				for _, m := range r.broker.Messages(q) {
					var n int
					if _, err := fmt.Sscanf(string(m.Body), `{"ID":%d}`, &n); err != nil {
						t.Fatal(err)
					}
					if n < last {
						t.Errorf("%d after %d in %s", n, last, q)
					}
					last = n
				}
				if _, err := ch.QueuePurge(q, false); err != nil {
					t.Fatal(err)
				}
			}
		}
		commit("legacy", "out")
		commit("legacy", "late", "out")
		<-time.After(2 * time.Minute) // what is not bound is tried again
		commit("late", "legacy", "late2", "out")
		bus = r.setup(r.config("")).Bus() // and on another connection
		commit("out", "late2", "late", "legacy")
	})
}

// TestNonMandatoryGoesTheSameWay: the option decides whether it is an error that nothing is
// there, and not whether what is there is found.
func TestNonMandatoryGoesTheSameWay(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		ch := r.channel()
		r.declare(ch, "legacy", "client", "later")
		s := r.setup(r.config("orders"))
		harebus.Handle(s, func(ctx context.Context, bus *harebus.Bus, _ order) error {
			return bus.Reply(ctx, answer{1}, harebus.NonMandatory())
		})
		r.start(s)
		bus := s.Bus()
		start := time.Now()
		tx := bus.Begin()
		if err := errors.Join(
			bus.Send(r.ctx, "legacy", order{1}, harebus.NonMandatory()), bus.Send(r.ctx, "nobody", order{1}, harebus.NonMandatory()),
			bus.Defer(r.ctx, "later", time.Second, order{1}, harebus.NonMandatory()),
			tx.Send(r.ctx, "nobody", order{2}, harebus.NonMandatory()), tx.Send(r.ctx, "legacy", order{2}, harebus.NonMandatory()),
			tx.Commit(r.ctx),
		); err != nil {
			t.Error(err)
		}
		if took := time.Since(start); took != 0 {
			t.Errorf("it took %v", took)
		}
		for _, to := range []string{"client", "gone"} {
			m := plain(`{"ID":1}`)
			m.ReplyTo = to
			r.publish(ch, "orders", m)
		}
		r.await("client", 1)
		r.await("legacy", 2)
		r.await("later", 1)
		r.quiet("client", "legacy", "later")
		if q, _ := r.broker.Queue("error"); q.Ready != 0 {
			t.Error("a reply to nobody was parked")
		}
	})
}

// TestBodyAboveTheBrokersLimit: what the broker closes the channel over has not arrived, and
// the error says so, also when others were under way and the connection was cut before.
func TestBodyAboveTheBrokersLimit(t *testing.T) {
	const limit = 1000
	large := make([]byte, 2*limit)
	bubble(t, func(t *testing.T, r *rig) {
		r.bound(r.channel(), "out")
		s := r.setup(r.config(""))
		check := func(err error) {
			t.Helper()
			failed := publishError(t, err)
			if failed.Outcome != harebus.Refused || !errors.Is(err, harebus.ErrRefused) || errors.Is(err, harebus.ErrUnknownOutcome) {
				t.Errorf("got %v", err)
			}
			contains(t, err.Error(), "larger than configured max size")
		}
		check(s.Bus().Send(r.ctx, "out", large))
		check(s.Bus().Publish(r.ctx, "a.b", large))
		if n := s.Stats().Republished; n != 0 {
			t.Errorf("%d repeated attempts at what was alone", n)
		}
		r.broker.Inject(brokertest.Fault{On: "basic.publish", Do: brokertest.CutBefore})
		check(s.Bus().Send(r.ctx, "out", large))
		tx := s.Bus().Begin()
		for i := range 10 {
			var value any = order{i}
			if i == 5 {
				value = large
			}
			if err := tx.Send(r.ctx, "out", value); err != nil {
				t.Fatal(err)
			}
		}
		var failed *harebus.TransactionError
		if err := tx.Commit(r.ctx); !errors.As(err, &failed) {
			t.Fatalf("got %v", err)
		}
		if n := len(failed.With(harebus.Confirmed)); n != 9 {
			t.Errorf("%d confirmed", n)
		}
		check(failed.Messages[5].Err)
		for _, m := range r.broker.Messages("out") {
			if len(m.Body) > limit {
				t.Error("it has arrived")
			}
		}
	}, brokertest.WithMaxMessageSize(limit))
}
