package migrate_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/brokertest"
	"github.com/harebus/harebus/internal/access"
	"github.com/harebus/harebus/internal/migrate"
	"github.com/harebus/harebus/topology"
)

// rig is a broker with the classic queue "orders", which is to become a quorum queue, its exit
// of delays, and three messages in it.
type rig struct {
	*testing.T

	broker *brokertest.Broker
	ch     *amqp.Channel
	sent   []string
}

var bindings = []topology.Binding{
	{Exchange: "direct", Key: "orders", Queue: "orders"},
	{Exchange: "topic", Key: "payment.*", Queue: "orders"},
}

func wanted() topology.Queue {
	return topology.Queue{Name: "orders", Arguments: map[string]any{"x-delivery-limit": 20}}
}

func newRig(t *testing.T) *rig {
	t.Helper()
	r := &rig{T: t, broker: brokertest.New()}
	conn, err := amqp.DialConfig(r.broker.URL(), amqp.Config{Dial: r.broker.Dial})
	r.try(err)
	r.ch, err = conn.Channel()
	r.try(err)
	r.try(topology.Join(topology.Topology{
		Exchanges: []topology.Exchange{{Name: "direct", Kind: topology.Direct}, {Name: "topic", Kind: topology.Topic}},
		Queues:    []topology.Queue{{Name: "orders", Type: topology.Classic}},
		Bindings:  bindings,
	}, topology.Delays{}.Base(), topology.Delays{}.Exit("", "orders")).Declare(r.ch))
	r.try(r.ch.Confirm(false))
	r.publish("direct", "orders")
	r.publish("topic", "payment.made")
	r.publish("harebus.delay.out", "harebus.delay.due//orders")
	return r
}

func (r *rig) try(err error) {
	r.Helper()
	if err != nil {
		r.Fatal(err)
	}
}

// publish sends a message with an id of its own and awaits the confirm.
func (r *rig) publish(exchange, key string) {
	r.Helper()
	id := fmt.Sprint(len(r.sent))
	c, err := r.ch.PublishWithDeferredConfirmWithContext(r.Context(), exchange, key, true, false, amqp.Publishing{MessageId: id, Body: []byte(id)})
	r.try(err)
	if !c.Wait() {
		r.Fatalf("message %s is not confirmed", id)
	}
	r.sent = append(r.sent, id)
}

// migrate runs a migration. said may be nil.
func (r *rig) migrate(ctx context.Context, said func(string)) error {
	_, err := migrate.Run(ctx, migrate.Options{
		Broker: access.Broker{URLs: []string{r.broker.URL()}, Dial: r.broker.Dial},
		Queue:  wanted(), Bindings: bindings, Drain: time.Second, Settle: time.Second, Hold: time.Minute,
		Said: func(format string, args ...any) {
			if said != nil {
				said(fmt.Sprintf(format, args...))
			}
		},
	})
	return err
}

// check fails unless all that was sent is in the queue, at most so many of them twice, the queue
// has the type and the bindings, and nothing is left of the migration.
func (r *rig) check(kind string, twice int) {
	r.Helper()
	r.try(r.broker.WaitQueue(r.Context(), "harebus.delay.due//orders", func(q brokertest.Queue) bool { return q.Ready+q.Unacked == 0 }))
	ids := map[string]int{}
	all := 0
	for _, m := range r.broker.Messages("orders") {
		ids[m.MessageId]++
		all++
	}
	slices.Sort(r.sent)
	if got := slices.Sorted(maps.Keys(ids)); !slices.Equal(got, r.sent) || all > len(r.sent)+twice {
		r.Errorf("%d messages with the ids %v, sent were %v", all, got, r.sent)
	}
	if q, _ := r.broker.Queue("orders"); q.Type != kind {
		r.Errorf("the queue is %q", q.Type)
	}
	for _, q := range r.broker.Queues() {
		if strings.Contains(q.Name, "migrate") {
			r.Errorf("queue %q is left", q.Name)
		}
	}
	for _, x := range r.broker.Exchanges() {
		if strings.Contains(x.Name, "migrate") {
			r.Errorf("exchange %q is left", x.Name)
		}
	}
	var keys []string
	for _, b := range r.broker.Bindings() {
		if strings.Contains(b.Destination, "orders") {
			keys = append(keys, b.Source+" "+b.RoutingKey)
		}
	}
	slices.Sort(keys)
	if want := []string{"direct orders", "harebus.delay.exits due//orders", "harebus.delay.out harebus.delay.due//orders", "topic payment.*"}; !slices.Equal(keys, want) {
		r.Errorf("the queue and its exit are bound with %q", keys)
	}
}

// bubble runs a test in virtual time.
func bubble(t *testing.T, test func(r *rig)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		defer r.broker.Close()
		test(r)
	})
}

// TestRun: what waits, what is published, and what falls due meanwhile is in the new queue.
func TestRun(t *testing.T) {
	t.Parallel()
	bubble(t, func(r *rig) {
		steps := 0
		r.try(r.migrate(r.Context(), func(string) {
			steps++
			r.publish("topic", "payment.made")
			r.publish("harebus.delay.out", "harebus.delay.due//orders")
			r.publish("harebus.delay.exits", "due//orders")
		}))
		if steps < 4 {
			r.Errorf("only %d steps were told", steps)
		}
		r.check("quorum", 0)
		for _, m := range r.broker.Messages("orders") {
			if m.RoutingKey != "orders" && m.RoutingKey != "payment.made" {
				r.Errorf("message %s has the routing key %q", m.MessageId, m.RoutingKey)
			}
		}
	})
}

// TestInterrupted cuts the connection before and after each request of a migration, and runs it
// again: nothing is lost, at most one message is there twice, and the end is the same.
func TestInterrupted(t *testing.T) {
	t.Parallel()
	for _, method := range []string{
		"queue.declare", "queue.bind", "queue.unbind", "queue.delete", "exchange.declare", "exchange.bind", "exchange.unbind", "exchange.delete",
		"basic.consume", "basic.publish", "basic.ack",
	} {
		for name, action := range map[string]brokertest.Action{"before": brokertest.CutBefore, "after": brokertest.CutAfter} {
			t.Run(method+"/"+name, func(t *testing.T) {
				t.Parallel()
				for nth, fired := 1, true; fired; nth++ {
					bubble(t, func(r *rig) { fired = r.interrupted(method, action, nth) })
					if !fired && nth == 1 {
						t.Error("no request of this kind")
					}
				}
			})
		}
	}
}

// interrupted runs a migration that is cut at the nth request of a kind, if there are as many,
// and then another.
func (r *rig) interrupted(method string, action brokertest.Action, nth int) bool {
	fault := r.broker.Inject(brokertest.Fault{
		On: method, Nth: nth, Do: action, Match: func(f brokertest.Frame) bool { return strings.Contains(f.Connection, "migrate") },
	})
	err := r.migrate(r.Context(), nil)
	if fault.Fired() == 0 {
		fault.Remove()
		r.try(err)
		r.check("quorum", 0)
		return false
	}
	r.publish("topic", "payment.made")
	r.publish("harebus.delay.out", "harebus.delay.due//orders")
	if err := r.migrate(r.Context(), nil); err != nil {
		r.Errorf("cut at %s %d: %v", method, nth, err)
	}
	time.Sleep(time.Minute) // the queue that is tried expires
	r.check("quorum", 1)
	return !r.Failed()
}

// TestStillBeingDeleted: while a run goes on where another was killed, the last request of that one is carried out: at each
// request of the new run, what the killed one was about to delete goes away.
func TestStillBeingDeleted(t *testing.T) {
	t.Parallel()
	for _, method := range []string{"queue.declare", "queue.bind", "queue.delete", "exchange.declare", "exchange.delete", "basic.consume"} {
		for what, remove := range map[string]func(r *rig) error{
			"holding": func(r *rig) error {
				_, err := r.ch.QueueDelete("harebus.migrate.orders.holding", false, false, false)
				return err
			},
			"gate": func(r *rig) error { return r.ch.ExchangeDelete("harebus.migrate.orders.gate", false, false) },
			"keep": func(r *rig) error { return r.ch.ExchangeDelete("harebus.migrate.orders.keep", false, false) },
		} {
			t.Run(method+"/"+what, func(t *testing.T) {
				t.Parallel()
				for nth, fired := 1, true; fired; nth++ {
					bubble(t, func(r *rig) { fired = r.stillDeleted(method, nth, remove) })
					if !fired && nth == 1 {
						t.Error("no request of this kind")
					}
				}
			})
		}
	}
}

// stillDeleted interrupts a migration before it deletes the holding queue. It calls remove at the nth request of a kind of
// the next one, if there are as many, and that must come to its end.
func (r *rig) stillDeleted(method string, nth int, remove func(*rig) error) bool {
	of := func(f brokertest.Frame) bool { return strings.Contains(f.Connection, "migrate") }
	cut := r.broker.Inject(brokertest.Fault{On: "queue.delete", Nth: 3, Do: brokertest.CutBefore, Match: of})
	if err := r.migrate(r.Context(), nil); err == nil || cut.Fired() != 1 {
		r.Fatalf("not cut before its last request: %v", err)
	}
	n := 0
	removed := make(chan error, 1)
	late := r.broker.Inject(brokertest.Fault{On: method, Nth: nth, Do: brokertest.Delay, For: time.Second, Match: func(f brokertest.Frame) bool {
		if !of(f) {
			return false
		}
		if n++; n == nth {
			go func() { removed <- remove(r) }()
		}
		return true
	}})
	defer late.Remove()
	if err := r.migrate(r.Context(), nil); err != nil {
		r.Errorf("at %s %d: %v", method, nth, err)
	}
	fired := late.Fired() > 0
	if fired {
		r.try(<-removed)
	}
	time.Sleep(time.Minute) // the queue that is tried expires
	r.check("quorum", 0)
	return fired && !r.Failed()
}

// TestBrokerIsBusy: a run goes on when the broker cannot be asked for a queue at the moment, and gives up when that stays so.
func TestBrokerIsBusy(t *testing.T) {
	t.Parallel()
	of := func(f brokertest.Frame) bool { return strings.Contains(f.Connection, "migrate") }
	for nth, fired := 1, true; fired; nth++ {
		bubble(t, func(r *rig) {
			fault := r.broker.Inject(brokertest.Fault{On: "queue.declare", Nth: nth, Do: brokertest.Raise, Code: amqp.InternalError, Text: "busy", Match: of})
			defer fault.Remove()
			if err := r.migrate(r.Context(), nil); err != nil {
				r.Errorf("at declaration %d: %v", nth, err)
			}
			time.Sleep(time.Minute) // the queue that is tried expires
			r.check("quorum", 1)
			fired = fault.Fired() > 0 && !r.Failed()
		})
	}
	bubble(t, func(r *rig) {
		fault := r.broker.Inject(brokertest.Fault{On: "queue.declare", Do: brokertest.Raise, Code: amqp.InternalError, Text: "busy", Times: -1, Match: of})
		began := time.Now()
		err := r.migrate(r.Context(), nil)
		var refused *amqp.Error
		if !errors.As(err, &refused) || refused.Code != amqp.InternalError || fault.Fired() < 4 || time.Since(began) > time.Minute {
			r.Errorf("after %v and %d refusals the error is %v", time.Since(began), fault.Fired(), err)
		}
	})
}

// TestStopped: a migration that is told to stop puts everything back.
func TestStopped(t *testing.T) {
	t.Parallel()
	bubble(t, func(r *rig) {
		ctx, cancel := context.WithCancel(r.Context())
		defer cancel()
		err := r.migrate(ctx, func(text string) {
			if strings.HasPrefix(text, "switched") {
				r.publish("topic", "payment.made")
				cancel()
			}
		})
		if !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), "as it was") {
			r.Errorf("the error is %v", err)
		}
		r.check("classic", 0)
	})
}

// TestTwoAtOnce: the second is refused while the first works.
func TestTwoAtOnce(t *testing.T) {
	t.Parallel()
	bubble(t, func(r *rig) {
		var second error
		r.try(r.migrate(r.Context(), func(text string) {
			if strings.HasPrefix(text, "switched") {
				second = r.migrate(r.Context(), nil)
			}
		}))
		if second == nil || !strings.Contains(second.Error(), "somebody else works on the queue") {
			r.Errorf("the error is %v", second)
		}
		r.check("quorum", 0)
	})
}

// TestServiceDeclaresTheOldQueueMeanwhile: a consumer of the old version declares the queue as it
// was when the broker has ended it.
func TestServiceDeclaresTheOldQueueMeanwhile(t *testing.T) {
	t.Parallel()
	bubble(t, func(r *rig) {
		r.broker.Inject(brokertest.Fault{
			On: "queue.declare", Times: 1, Do: brokertest.Delay, For: time.Millisecond,
			Match: func(f brokertest.Frame) bool { return strings.Contains(f.Connection, "migrate") && f.Queue == "orders" },
		})
		deliveries, err := r.ch.Consume("orders", "old", false, false, false, false, nil)
		r.try(err)
		held := []amqp.Delivery{<-deliveries, <-deliveries, <-deliveries}
		for _, d := range held {
			r.try(d.Ack(false))
		}
		r.sent = nil
		done := make(chan error, 1)
		go func() {
			for range deliveries { //nolint:revive // until the broker ends the consumer
			}
			_, err := r.ch.QueueDeclare("orders", true, false, false, false, nil)
			done <- err
		}()
		r.try(r.migrate(r.Context(), nil))
		<-done
		r.check("quorum", 0)
	})
}

// bindAgain declares the bindings of the queue again, as services do, and publishes, until the returned function is
// called.
func (r *rig) bindAgain(every time.Duration) (stop func()) {
	stopped, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for next := time.Now(); ; {
			select {
			case <-stopped:
				return
			case <-time.After(200 * time.Millisecond):
			}
			if time.Now().After(next) {
				r.Check(topology.Topology{Bindings: bindings}.Declare(r.ch))
				next = time.Now().Add(every)
			}
			r.publish("topic", "payment.made")
		}
	}()
	return func() { close(stopped); <-ended }
}

// Check reports an error; it may be called by any goroutine.
func (r *rig) Check(err error) {
	r.Helper()
	if err != nil {
		r.Error(err)
	}
}

// TestServicesBindAgain: services that declare their bindings again while messages are held do not keep the migration
// from its end, and only what is published until the binding is removed again is there twice.
func TestServicesBindAgain(t *testing.T) {
	t.Parallel()
	bubble(t, func(r *rig) {
		ctx, cancel := context.WithTimeout(r.Context(), time.Minute)
		defer cancel()
		stop := func() {}
		r.Check(r.migrate(ctx, func(text string) {
			if strings.HasPrefix(text, "switched") {
				stop = r.bindAgain(3 * time.Second)
			}
		}))
		stop()
		r.check("quorum", 2*5)
	})
}

type placeOrder struct{}

func (placeOrder) MessageType() string { return "PlaceOrder" }

// TestCommandsThatFoundNoWay: a service whose command the direct exchange has returned, as while the node of a classic queue is down, goes
// by the name of the queue for a minute after that. So long a migration is refused; after it the same command works.
func TestCommandsThatFoundNoWay(t *testing.T) {
	t.Parallel()
	bubble(t, func(r *rig) {
		setup, err := harebus.New(harebus.Config{URL: r.broker.URL(), Dial: r.broker.Dial, Exchanges: harebus.ExchangeConfig{Direct: "direct", Topic: "topic"}})
		r.try(err)
		defer func() { r.try(setup.Close()) }()
		send := func(want string) {
			r.Helper()
			id := fmt.Sprint(len(r.sent))
			r.try(setup.Bus().Send(r.Context(), "orders", placeOrder{}, harebus.WithMessageID(id)))
			r.sent = append(r.sent, id)
			for _, m := range r.broker.Messages("orders") {
				if m.MessageId == id && m.Exchange != want {
					r.Errorf("message %s came by exchange %q, want %q", id, m.Exchange, want)
				}
			}
		}
		send("direct")
		r.try(r.ch.QueueUnbind("orders", "orders", "direct", nil))
		send("")
		r.try(topology.Topology{Bindings: bindings}.Declare(r.ch))
		send("")
		if err := r.migrate(r.Context(), nil); !errors.Is(err, migrate.ErrByName) {
			r.Fatalf("the error is %v", err)
		}
		r.check("classic", 0)
		time.Sleep(time.Minute + time.Second) // virtual
		_, err = r.ch.QueuePurge("orders", false)
		r.try(err)
		r.sent = nil
		send("direct")
		r.try(r.migrate(r.Context(), nil))
		r.check("quorum", 0)
	})
}

// TestHeldForTooLong: when messages come to the old queue again and again, everything is put back in time.
func TestHeldForTooLong(t *testing.T) {
	t.Parallel()
	bubble(t, func(r *rig) {
		ctx, cancel := context.WithTimeout(r.Context(), 5*time.Minute)
		defer cancel()
		began := time.Now()
		stop := func() {}
		err := r.migrate(ctx, func(text string) {
			if strings.HasPrefix(text, "switched") {
				stop = r.bindAgain(300 * time.Millisecond)
			}
			if strings.HasPrefix(text, "giving up") {
				stop()
			}
		})
		if err == nil || !strings.Contains(err.Error(), "-hold") || !strings.Contains(err.Error(), "as it was") {
			r.Errorf("the error is %v", err)
		}
		if took := time.Since(began); took > 2*time.Minute {
			r.Errorf("it took %v", took)
		}
		r.check("classic", len(r.sent))
	})
}

// TestExchangeIsMissing: a binding whose exchange does not exist is not in the way.
func TestExchangeIsMissing(t *testing.T) {
	t.Parallel()
	bubble(t, func(r *rig) {
		r.try(r.ch.ExchangeDelete("direct", false, false))
		r.try(r.migrate(r.Context(), nil))
		if q, _ := r.broker.Queue("orders"); q.Type != "quorum" || q.Ready != len(r.sent) {
			r.Errorf("the queue is %q with %d messages", q.Type, q.Ready)
		}
	})
}

// TestExpiresWhileHeld: a message that expires in the holding queue goes where it would have gone from its own queue.
func TestExpiresWhileHeld(t *testing.T) {
	t.Parallel()
	bubble(t, func(r *rig) {
		_, err := r.ch.QueueDelete("orders", false, false, false)
		r.try(err)
		r.try(topology.Topology{
			Queues: []topology.Queue{
				{Name: "error"},
				{Name: "orders", Type: topology.Classic, Arguments: map[string]any{"x-dead-letter-exchange": "", "x-dead-letter-routing-key": "error"}},
			},
			Bindings: bindings,
		}.Declare(r.ch))
		r.try(r.migrate(r.Context(), func(text string) {
			if strings.HasPrefix(text, "switched") {
				r.try(r.ch.PublishWithContext(r.Context(), "topic", "payment.made", true, false, amqp.Publishing{MessageId: "short", Expiration: "100"}))
			}
		}))
		if got := r.broker.Messages("error"); len(got) != 1 || got[0].MessageId != "short" {
			r.Errorf("in the error queue are %+v", got)
		}
	})
}

// TestDeadLettersOnTheirWay: AMQP does not tell what a queue keeps until it has arrived elsewhere.
func TestDeadLettersOnTheirWay(t *testing.T) {
	t.Parallel()
	bubble(t, func(r *rig) {
		_, err := r.ch.QueueDelete("orders", false, false, false)
		r.try(err)
		r.try(topology.Topology{Queues: []topology.Queue{{Name: "orders", Arguments: map[string]any{
			"x-dead-letter-exchange": "", "x-dead-letter-routing-key": "error", "x-dead-letter-strategy": "at-least-once", "x-overflow": "reject-publish",
		}}}, Bindings: bindings}.Declare(r.ch))
		if err := r.migrate(r.Context(), nil); err == nil || !strings.Contains(err.Error(), "-accept-dead-letters") {
			r.Errorf("the error is %v", err)
		}
	})
}

// TestApiOfAnEarlierRun: after a run that knew all bindings was interrupted, one that knows only those of the file
// would delete the others.
func TestApiOfAnEarlierRun(t *testing.T) {
	t.Parallel()
	bubble(t, func(r *rig) {
		r.try(topology.Topology{Exchanges: []topology.Exchange{{Name: "harebus.migrate.orders.api", Kind: topology.Fanout}}}.Declare(r.ch))
		if err := r.migrate(r.Context(), nil); err == nil || !strings.Contains(err.Error(), "give -api again") {
			r.Errorf("the error is %v", err)
		}
		r.try(r.ch.ExchangeDelete("harebus.migrate.orders.api", false, false))
		r.check("classic", 0)
	})
}
