package order_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/brokertest"
	"github.com/harebus/harebus/order"
)

var errBad = errors.New("bad")

// bad fails for ever for one message.
func bad(key string, n int) func(context.Context, step) error {
	return func(_ context.Context, s step) error {
		if s.Key == key && s.N == n {
			return errBad
		}
		return nil
	}
}

// TestHoldKey: a message that is not retried any more holds its key, also for the next owner, until an
// operator's word; other keys go on.
func TestHoldKey(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		var mended atomic.Bool
		fn := func(_ context.Context, s step) error {
			if s.Key == "a" && s.N == 2 && !mended.Load() {
				return errBad
			}
			return nil
		}
		first := r.serve(fn)
		r.send("a1 b1 a2 a3 b2")
		r.rest(time.Minute)
		r.send("a4 b3")
		r.rest(time.Minute)
		r.wants("a", "1")
		r.wants("b", "1 2 3")
		if q, _ := r.broker.Queue("error"); q.Ready != 0 || !r.said("a message holds its key") {
			t.Errorf("%d in the error queue", q.Ready)
		}
		r.try(first.Close())
		r.serve(fn)
		r.send("a5 b4")
		r.rest(time.Minute)
		r.wants("a", "1")
		r.wants("b", "1 2 3 4")
		r.word("retry", "a") // it is not mended yet
		r.rest(time.Minute)
		r.wants("a", "1")
		mended.Store(true)
		r.word("retry", "z")
		r.rest(time.Minute)
		r.wants("a", "1")
		r.word("retry", "a")
		r.rest(time.Minute)
		r.wants("a", "1 2 3 4 5")
		r.send("a6")
		r.rest(time.Second)
		r.wants("a", "1 2 3 4 5 6")
		r.empty()
	})
}

// TestDiscard: the word to discard drops the message that holds the key, and nothing else.
func TestDiscard(t *testing.T) {
	bubble(t, func(_ *testing.T, r *rig) {
		r.serve(bad("a", 2))
		r.send("a1 a2 a3 a4")
		r.rest(time.Minute)
		r.word("discard", "")
		r.word("discard", "") // nothing is held any more
		r.rest(time.Minute)
		r.wants("a", "1 3 4")
		r.empty()
	})
}

// TestSkipMessage: the message goes to the error queue, without the headers of the order, and the next one follows.
func TestSkipMessage(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.cfg.Consume.Order = &order.Config{GiveUp: order.SkipMessage}
		r.serve(bad("a", 2))
		r.send("a1 a2 a3 a4")
		r.rest(time.Minute)
		r.wants("a", "1 3 4")
		parked := r.broker.Messages("error")
		if len(parked) != 1 {
			t.Fatalf("%d in the error queue", len(parked))
		}
		for name := range parked[0].Headers {
			if strings.Contains(name, "Order") {
				t.Errorf("header %s", name)
			}
		}
		r.empty()
	})
}

// TestPostponed: a message that its handler postpones keeps its place, and the attempt does not count.
func TestPostponed(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		attempts := []int{}
		r.serve(func(ctx context.Context, s step) error {
			if s.Key == "a" && s.N == 1 {
				if attempts = append(attempts, harebus.Incoming(ctx).Attempt); len(attempts) < 10 {
					return harebus.Postpone(time.Hour, errBad)
				}
			}
			return nil
		})
		r.send("a1 a2")
		r.rest(8*time.Hour + time.Minute)
		r.wants("a", "")
		r.rest(time.Hour)
		r.wants("a", "1 2")
		if fmt.Sprint(attempts) != "[1 1 1 1 1 1 1 1 1 1]" {
			t.Error(attempts)
		}
		r.empty()
	})
}

// TestParkedWithoutID: a message to which its sender has given no id, and that is parked while its connection is lost, is known again by its content: it is
// not handled a second time, and does not come behind others of its key.
func TestParkedWithoutID(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		var failed atomic.Bool
		r.serve(func(_ context.Context, s step) error {
			if s.N == 1 && !failed.Swap(true) {
				return errBad
			}
			return nil
		})
		r.rest(time.Second)
		cut := r.broker.Inject(brokertest.Fault{On: "basic.ack", Do: brokertest.CutBefore, Match: func(brokertest.Frame) bool { return failed.Load() }})
		for n := range 3 {
			r.strange(step{"a", n + 1})
		}
		r.rest(time.Minute)
		r.wants("a", upTo(3))
		if cut.Fired() != 1 {
			t.Error("no connection was cut")
		}
		r.empty()
	})
}

// TestWithoutKey: messages without a key have no order and are retried as anywhere; a key of another type
// counts as it is printed, and so does a long one.
func TestWithoutKey(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.cfg.Consume.Order = &order.Config{Header: "customer"}
		failed := map[string]bool{}
		r.serve(func(_ context.Context, s step) error {
			r.mu.Lock()
			defer r.mu.Unlock()
			if s.N == 1 && !failed[s.Key] {
				failed[s.Key] = true
				return errBad
			}
			return nil
		})
		send := func(m step, opts ...harebus.SendOption) {
			r.try(r.sender.Send(r.ctx, "steps", m, opts...))
		}
		for n := 1; n <= 3; n++ {
			send(step{"n", n})
			send(step{"e", n}, harebus.WithHeader("customer", ""))
			send(step{"i", n}, harebus.WithHeader("customer", 7))
			send(step{"t", n}, harebus.WithHeader("customer", map[string]any{"id": 7}))
			send(step{"l", n}, harebus.WithHeader("customer", strings.Repeat("x", 10<<10)))
			send(step{"b", n}, harebus.WithHeader("customer", []byte{0xff, 1}))
		}
		r.rest(time.Minute)
		for _, key := range []string{"n", "e"} {
			r.wants(key, "2 3 1")
		}
		for _, key := range []string{"i", "t", "l", "b"} {
			r.wants(key, "1 2 3")
		}
		if q, _ := r.broker.Queue("error"); q.Ready != 0 {
			t.Errorf("%d in the error queue", q.Ready)
		}
		r.empty()
	})
}

// word sends the word of an operator.
func (r *rig) word(word, key string) {
	r.t.Helper()
	conn, err := amqp.DialConfig(r.broker.URL(), amqp.Config{Dial: r.broker.Dial})
	r.try(err)
	defer func() { r.try(conn.Close()) }()
	ch, err := conn.Channel()
	r.try(err)
	for _, queue := range r.queues() {
		r.try(ch.PublishWithContext(r.ctx, "", order.ParkingQueue(queue), true, false, amqp.Publishing{
			Headers: amqp.Table{"PikaBus.OrderNote": word + " ", "PikaBus.OrderKey": key},
		}))
	}
	r.rest(time.Second)
}

// empty fails the test unless nothing is left but the note of the owner.
func (r *rig) empty() {
	r.t.Helper()
	for _, queue := range r.queues() {
		for name, want := range map[string]int{queue: 0, order.ParkingQueue(queue): 1} {
			if q, _ := r.broker.Queue(name); q.Ready+q.Unacked != want {
				r.t.Errorf("%d messages are left in %s", q.Ready+q.Unacked, name)
			}
		}
	}
}

// queues are the queue and its partitions.
func (r *rig) queues() []string {
	return append(r.cfg.Consume.Order.PartitionQueues("steps"), "steps")
}

// TestParkedWhileHandled: what is told of a parked message is what it came with: its handler may be changing the headers that it was given.
func TestParkedWhileHandled(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		s := r.serve(func(ctx context.Context, _ step) error {
			m := harebus.Incoming(ctx)
			if m.Attempt == 1 {
				return errBad
			}
			m.Headers["PikaBus.ErrorDetails"], m.Headers["PikaBus.MessageId"] = "changed", "changed"
			time.Sleep(time.Minute)
			return nil
		})
		r.send("a1")
		r.rest(30 * time.Second)
		if all := s.Parked(); len(all) != 1 || all[0].ID == "changed" || all[0].Error != errBad.Error() {
			t.Errorf("%+v", all)
		}
		r.rest(time.Minute)
		r.wants("a", "1")
	})
}

// TestSameWithoutID: of two messages without an id that have the same key and body the second one is not taken for the first one, which is parked, when an
// instance has stopped that had both.
func TestSameWithoutID(t *testing.T) {
	for _, partitions := range []int{0, 4} {
		t.Run(fmt.Sprint(partitions), func(t *testing.T) {
			bubble(t, func(_ *testing.T, r *rig) {
				r.cfg.Consume.Order = &order.Config{Partitions: partitions, MaxParked: 1} // so the second one stays where it is
				bad := r.serve(func(context.Context, step) error { return errBad })
				r.rest(time.Second)
				r.strange(step{"a", 1})
				r.rest(time.Minute)
				stays := r.broker.Inject(brokertest.Fault{
					On: "basic.publish", Times: -1, Do: brokertest.Nack, Match: func(f brokertest.Frame) bool {
						return f.RoutingKey == order.PartitionQueue("steps", order.Partition("a", 4))
					},
				})
				r.strange(step{"a", 1})
				r.rest(time.Minute)
				r.try(bad.Close())
				stays.Remove()
				r.serve(func(context.Context, step) error { return nil })
				r.rest(time.Minute)
				r.word("retry", "a")
				r.rest(time.Minute)
				r.wants("a", "1 1")
				r.empty()
			})
		})
	}
}

type other struct{ N int }

// TestOtherTypeWithoutID: a message without an id is not taken for a parked one of another type that has the same body, also when their owner is lost.
func TestOtherTypeWithoutID(t *testing.T) {
	bubble(t, func(_ *testing.T, r *rig) {
		r.cfg.Consume.Order = &order.Config{MaxParked: 1}
		var well atomic.Bool
		s := r.instance(func(context.Context, step) error {
			if !well.Load() {
				return errBad
			}
			return nil
		})
		harebus.Handle(s, func(_ context.Context, _ *harebus.Bus, m other) error {
			r.note(step{"o", m.N})
			return nil
		}, harebus.WithType("Other"))
		r.try(s.Start(r.ctx))
		r.rest(time.Second)
		for _, kind := range []string{"Step", "Other"} {
			r.put("steps", amqp.Table{"PikaBus.Key": "a", "PikaBus.MessageType": kind}, step{"a", 1})
			r.rest(time.Minute)
		}
		for _, c := range r.broker.Connections() {
			r.broker.CutConnections(c.Name)
		}
		r.rest(time.Minute)
		well.Store(true)
		r.word("retry", "a")
		r.rest(time.Minute)
		r.wants("a", "1")
		r.wants("o", "1")
	})
}

// TestAcksLost: a message that was handled, and whose ack was lost, is repeated with all behind it that had come: none of these is passed over, or the
// message would be the last one of its key.
func TestAcksLost(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		failed := false
		r.serve(func(_ context.Context, s step) error {
			if s.N == 2 && !failed {
				failed = true
				return errBad
			}
			return nil
		})
		r.rest(time.Second)
		lost := r.broker.Inject(brokertest.Fault{On: "basic.ack", Times: -1, Do: brokertest.Drop})
		r.send(numbers("a", 3))
		r.rest(500 * time.Millisecond)
		if q, _ := r.broker.Queue("steps.parked"); q.Ready+q.Unacked < 3 { // the note of the owner, a2 and a3
			t.Errorf("%d messages are parked", q.Ready+q.Unacked)
		}
		lost.Remove()
		for _, c := range r.broker.Connections() {
			r.broker.CutConnections(c.Name)
		}
		r.rest(time.Minute)
		r.wants("a", "1 2 3 1 2 3")
		r.empty()
	})
}
