package order_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/brokertest"
	"github.com/harebus/harebus/order"
	"github.com/harebus/harebus/topology"
)

// divided runs a test about a queue with four partitions.
func divided(t *testing.T, test func(t *testing.T, r *rig)) {
	t.Helper()
	bubble(t, func(t *testing.T, r *rig) {
		r.cfg.Consume.Order = &order.Config{Partitions: 4}
		test(t, r)
	})
}

// team are instances that share the partitions.
type team struct {
	*rig
	has map[int]string // which instance has a partition: it has handled the last message of it
}

func newTeam(r *rig) *team { return &team{r, map[int]string{}} }

// joins starts an instance.
func (m *team) joins(name string) *harebus.Setup {
	m.t.Helper()
	m.cfg.Connect.Name = name
	return m.serve(func(ctx context.Context, s step) error {
		if order.Fence(ctx) == 0 {
			m.t.Error("no fencing number")
		}
		m.mu.Lock()
		defer m.mu.Unlock()
		m.has[order.Partition(s.Key, 4)] = name
		return nil
	})
}

// shares sends a message to each partition and says how many each instance has: "a2 b2".
func (m *team) shares(n int) string {
	m.t.Helper()
	for _, key := range keysOfAll {
		m.send(fmt.Sprint(key, n))
	}
	m.rest(time.Second)
	m.mu.Lock()
	defer m.mu.Unlock()
	count := map[string]int{}
	for _, name := range m.has {
		count[name]++
	}
	var all []string
	for name, n := range count {
		all = append(all, fmt.Sprint(name, n))
	}
	slices.Sort(all)
	return strings.Join(all, " ")
}

// keysOfAll are keys of all partitions.
var keysOfAll = strings.Split("abcdefghijklmnop", "")

// TestPartitions: messages of a key are handled in their order, also when one fails, and none is lost.
func TestPartitions(t *testing.T) {
	divided(t, func(_ *testing.T, r *rig) {
		failed := map[string]bool{}
		for range 2 {
			r.serve(func(_ context.Context, s step) error {
				r.mu.Lock()
				defer r.mu.Unlock()
				if s.N == 3 && !failed[s.Key] {
					failed[s.Key] = true
					return errors.New("the first time")
				}
				return nil
			})
		}
		for _, key := range keysOfAll {
			r.send(numbers(key, 8))
		}
		r.rest(time.Minute)
		for _, key := range keysOfAll {
			r.wants(key, upTo(8))
		}
	})
}

// TestShares: who joins gets its share of the partitions, and what belonged to one that stops or dies goes to the others.
func TestShares(t *testing.T) {
	divided(t, func(t *testing.T, r *rig) {
		m := newTeam(r)
		want := func(n int, want string) {
			t.Helper()
			if got := m.shares(n); got != want {
				t.Errorf("%d: shares %s, want %s", n, got, want)
			}
		}
		a := m.joins("a")
		want(1, "a4")
		m.joins("b")
		r.rest(2 * time.Second)
		want(2, "a2 b2")
		c := m.joins("c")
		d := m.joins("d")
		r.rest(3 * time.Second)
		want(3, "a1 b1 c1 d1")
		r.try(c.Close())
		r.try(d.Close())
		r.rest(time.Second)
		want(4, "a2 b2")
		r.try(a.Pause(r.ctx))
		r.rest(time.Second)
		want(5, "b4")
		r.try(a.Resume())
		r.rest(3 * time.Second)
		want(6, "a2 b2")
		r.try(a.Close())
		want(7, "b4")
		for _, key := range keysOfAll {
			r.wants(key, upTo(7))
		}
	})
}

// TestTakenOver: what a process had that dies is with the others within half a second.
func TestTakenOver(t *testing.T) {
	divided(t, func(t *testing.T, r *rig) {
		m := newTeam(r)
		m.joins("a")
		b := m.joins("b")
		r.rest(3 * time.Second)
		for _, one := range r.broker.Connections() {
			if strings.HasPrefix(one.Name, "b") {
				r.broker.CutConnections(one.Name)
			}
		}
		began := time.Now()
		r.try(b.Close())
		for _, key := range keysOfAll {
			r.send(key + "1")
		}
		for len(r.all()) < len(keysOfAll) && time.Since(began) < time.Minute {
			r.rest(10 * time.Millisecond)
		}
		if took := time.Since(began); took > 500*time.Millisecond {
			t.Errorf("it took %v", took)
		}
	})
}

func (r *rig) all() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.done)
}

// TestHandOverWaits: a partition is handed over when its handlers have ended, and their messages are not handled by anybody else.
func TestHandOverWaits(t *testing.T) {
	divided(t, func(t *testing.T, r *rig) {
		running := map[string]int{}
		handler := func(_ context.Context, s step) error {
			r.mu.Lock()
			if running[s.Key]++; running[s.Key] > 1 {
				t.Errorf("%s%d begins while another one of its key runs", s.Key, s.N)
			}
			r.mu.Unlock()
			time.Sleep(5 * time.Second)
			r.mu.Lock()
			defer r.mu.Unlock()
			running[s.Key]--
			return nil
		}
		r.serve(handler)
		for _, key := range keysOfAll {
			r.send(numbers(key, 4))
		}
		r.rest(time.Second)
		second := r.serve(handler)
		r.rest(2 * time.Second)
		if err := second.Ready(); err != nil {
			t.Error("not ready while it waits for its share:", err)
		}
		r.rest(time.Minute)
		for _, key := range keysOfAll {
			r.wants(key, upTo(4))
		}
	})
}

// TestRedivided: an instance with another number of partitions does not start, whether the queue was divided before or not, and takes nothing
// from the others.
func TestRedivided(t *testing.T) {
	divided(t, func(t *testing.T, r *rig) {
		first := r.serve(func(context.Context, step) error { return nil })
		r.rest(time.Second)
		r.cfg.Consume.Order = &order.Config{Partitions: 3}
		err := r.instance(nil).Start(r.ctx)
		if err == nil || !strings.Contains(err.Error(), "steps.members") || !strings.Contains(err.Error(), "keep that number") {
			t.Error("an instance with three partitions starts:", err)
		}
		r.cfg.Consume.Order = &order.Config{}
		undivided := r.serve(func(context.Context, step) error { t.Error("it handles a message"); return nil })
		r.try(first.Close())
		r.rest(10 * time.Second)
		if err := undivided.Ready(); err == nil || !strings.Contains(err.Error(), "divided into 4 partitions") {
			t.Error("an instance of an undivided queue is ready:", err)
		}
		r.send("a1")
		r.rest(10 * time.Second)
		r.cfg.Consume.Order = &order.Config{Partitions: 4}
		r.serve(func(context.Context, step) error { return nil })
		r.rest(2 * time.Minute)
		r.wants("a", "1")
	})
}

// TestDeployedDivided: instances that divide a queue, beside one that does not, say that they will never get it: a deployment that waits for them to be
// ready stops there. When the queue is theirs after all, they are ready.
func TestDeployedDivided(t *testing.T) {
	divided(t, func(t *testing.T, r *rig) {
		handler := func(context.Context, step) error { return nil }
		r.cfg.Consume.Order = &order.Config{}
		old := r.serve(handler)
		r.rest(time.Second)
		r.cfg.Consume.Order = &order.Config{Partitions: 4}
		young := []*harebus.Setup{r.serve(handler), r.serve(handler)}
		for range 120 {
			r.rest(10 * time.Second)
			for _, s := range young {
				if err := s.Ready(); err == nil || !strings.Contains(err.Error(), "divided into 0 partitions") || !strings.Contains(err.Error(), "this one says 4") {
					t.Fatal("it is ready:", err)
				}
			}
		}
		r.send("a1")
		r.rest(time.Second)
		r.wants("a", "1")
		r.try(old.Close())
		for _, queue := range []string{"steps.members", "steps.parked"} {
			r.try(r.broker.DeleteQueue(queue))
		}
		r.send("a2")
		r.rest(10 * time.Minute)
		r.wants("a", "1 2")
		for _, s := range young {
			r.try(s.Ready())
		}
	})
}

// TestDeployedDividedMeanwhile: an instance that divides a queue is told so also if the owner changes while it joins.
func TestDeployedDividedMeanwhile(t *testing.T) {
	divided(t, func(t *testing.T, r *rig) {
		handler := func(context.Context, step) error { return nil }
		r.cfg.Consume.Order = &order.Config{}
		old := r.serve(handler)
		r.rest(time.Second)
		r.serve(handler)
		r.rest(time.Second)
		unread := r.broker.Inject(brokertest.Fault{On: "basic.deliver", From: brokertest.FromBroker, Do: brokertest.Drop, Match: func(f brokertest.Frame) bool {
			about, _ := f.Headers["PikaBus.OrderKey"].(string)
			return strings.Contains(about, "Partitions 4")
		}})
		r.cfg.Consume.Order = &order.Config{Partitions: 4}
		young := r.serve(handler)
		r.rest(time.Second)
		if r.try(young.Ready()); unread.Fired() != 1 {
			t.Error("the owner knows of it")
		}
		r.try(old.Close())
		r.rest(10 * time.Second)
		if err := young.Ready(); err == nil || !strings.Contains(err.Error(), "divided into 0 partitions") {
			t.Error("it is ready:", err)
		}
	})
}

// TestPartitionDeleted: a partition that is deleted is declared again, and its messages get there.
func TestPartitionDeleted(t *testing.T) {
	divided(t, func(t *testing.T, r *rig) {
		r.serve(func(context.Context, step) error { return nil })
		r.rest(time.Second)
		for _, queue := range []string{"steps.0", "steps.1.parked", "steps.2", "steps.3", "steps.members", "steps.parked"} {
			r.try(r.broker.DeleteQueue(queue))
		}
		for _, key := range keysOfAll {
			r.send(numbers(key, 4))
		}
		r.rest(time.Minute)
		for _, key := range keysOfAll {
			r.wants(key, upTo(4))
		}
	})
}

// TestLateCopy: a copy that comes into a partition behind a newer one of the same message is dropped; one that an operator has sent anew, and
// one with a route that nobody of ours has written, are handled.
func TestLateCopy(t *testing.T) {
	divided(t, func(t *testing.T, r *rig) {
		r.serve(func(context.Context, step) error { return nil })
		r.rest(time.Second)
		send := func(route string) {
			r.put(order.PartitionQueue("steps", order.Partition("a", 4)), amqp.Table{"PikaBus.Key": "a", "PikaBus.MessageId": "a1", "PikaBus.OrderRoute": route}, step{"a", 1})
		}
		for _, one := range []struct{ route, done string }{{"7 3", "1"}, {"7 3", "1"}, {"6 9", "1"}, {"7 4", "1 1"}, {"8 1", "1 1 1"}, {"-1 nonsense", "1 1 1 1"}} {
			send(one.route)
			r.wants("a", one.done)
		}
	})
}

// TestSentAgain: of what a new router sends again a partition drops what it still has, but not behind one that it has handled, and handles again.
func TestSentAgain(t *testing.T) {
	divided(t, func(_ *testing.T, r *rig) {
		r.serve(func(_ context.Context, s step) error {
			if s.N > 1 {
				time.Sleep(time.Minute)
			}
			return nil
		})
		r.rest(time.Second)
		for one := range strings.SplitSeq("7 1,7 2,8 1 again,8 2 again,9 1 again,9 2 again,9 3 again", ",") {
			n := int(one[2] - '0')
			r.put(order.PartitionQueue("steps", order.Partition("a", 4)), amqp.Table{"PikaBus.Key": "a", "PikaBus.MessageId": fmt.Sprint("a", n), "PikaBus.OrderRoute": one}, step{"a", n})
		}
		r.rest(time.Hour)
		r.wants("a", "1 2 1 2 3")
	})
}

// TestRouterConfirms: a message stays in the queue until its partition has confirmed it. What the partition does not take stays there with those of
// its key, is no failure, and makes the setup not ready; the other partitions go on.
func TestRouterConfirms(t *testing.T) {
	divided(t, func(t *testing.T, r *rig) {
		a := order.PartitionQueue("steps", order.Partition("a", 4))
		refuse := r.broker.Inject(brokertest.Fault{
			On: "basic.publish", Times: -1, Do: brokertest.Nack, Match: func(f brokertest.Frame) bool { return f.RoutingKey == a },
		})
		setup := r.serve(func(context.Context, step) error { return nil })
		for _, key := range keysOfAll {
			r.send(numbers(key, 3))
		}
		r.rest(time.Minute)
		waiting := 0
		for _, key := range keysOfAll {
			if order.PartitionQueue("steps", order.Partition(key, 4)) == a {
				waiting += 3
				r.wants(key, "")
			} else {
				r.wants(key, upTo(3))
			}
		}
		if q, _ := r.broker.Queue("steps"); q.Unacked != waiting {
			t.Errorf("%d messages are in the queue, want %d", q.Unacked, waiting)
		}
		if err := setup.Ready(); err == nil || !strings.Contains(err.Error(), "has not got to its partition") {
			t.Error("it is ready:", err)
		}
		refuse.Remove()
		r.rest(time.Minute)
		r.try(setup.Ready())
		for _, key := range keysOfAll {
			r.wants(key, upTo(3))
		}
	})
}

// TestUnkeyedInPartitions: messages without a key go to all partitions, and are retried as anywhere.
func TestUnkeyedInPartitions(t *testing.T) {
	divided(t, func(t *testing.T, r *rig) {
		failed := false
		r.serve(func(_ context.Context, s step) error {
			if s.N == 5 && !failed {
				failed = true
				return errors.New("the first time")
			}
			return nil
		})
		for n := range 12 {
			r.try(r.sender.Send(r.ctx, "steps", step{"x", n}))
		}
		r.rest(time.Minute)
		if n := len(r.all()); n != 12 {
			t.Errorf("%d are done", n)
		}
	})
}

// TestRouterSaysWhatWaits: the setup is not ready while a partition takes one message and not another one, or refuses it whenever it is sent, and while the
// broker confirms none. The message is tried again, after pauses.
func TestRouterSaysWhatWaits(t *testing.T) {
	for name, do := range map[string]brokertest.Fault{
		"one is refused":       {Do: brokertest.Nack},
		"no confirm":           {Do: brokertest.Drop},
		"one ends the channel": {Do: brokertest.Raise, Code: 406, Text: "PRECONDITION_FAILED - message size 17 is larger than configured max size 16"},
	} {
		t.Run(name, func(t *testing.T) {
			divided(t, func(t *testing.T, r *rig) {
				a, tries := order.PartitionQueue("steps", order.Partition("a", 4)), 0
				setup := r.serve(func(context.Context, step) error { return nil })
				r.rest(time.Second)
				do.On, do.Times, do.Match = "basic.publish", -1, func(f brokertest.Frame) bool {
					is := f.RoutingKey == a && f.Headers["PikaBus.Key"] == "a"
					if is {
						tries++
					}
					return is
				}
				r.broker.Inject(do)
				r.try(r.sender.Send(r.ctx, "steps", step{"a", 1}, harebus.WithKey("a")))
				sent := 0
				for n := range 60 {
					if do.Do != brokertest.Drop { // others get there
						r.try(r.sender.Send(r.ctx, "steps", step{"x", n}, harebus.WithKey(sibling("a"))))
						sent++
					}
					r.rest(200 * time.Millisecond)
				}
				if err := setup.Ready(); err == nil || !strings.Contains(err.Error(), "has not got to its partition "+a) || do.Text != "" && !strings.Contains(err.Error(), "max size 16") {
					t.Error("it is ready:", err)
				}
				if n := len(r.all()); n != sent {
					t.Errorf("%d others are done, want %d", n, sent)
				}
				if r.rest(10 * time.Minute); tries > 300 { // of some seconds each, with pauses up to 30 s
					t.Errorf("it was tried %d times", tries)
				}
			})
		})
	}
}

// sibling is another key of the same partition.
func sibling(of string) string {
	for n := 0; ; n++ {
		if key := fmt.Sprint("x", n); order.Partition(key, 4) == order.Partition(of, 4) {
			return key
		}
	}
}

// TestMembersForbidden: an instance that may not be counted among the others does not start.
func TestMembersForbidden(t *testing.T) {
	divided(t, func(t *testing.T, r *rig) {
		r.broker.Inject(brokertest.Fault{
			On: "basic.consume", Times: -1, Do: brokertest.Raise, Code: 403, Text: "ACCESS_REFUSED", Match: func(f brokertest.Frame) bool { return f.Queue == "steps.members" },
		})
		err := r.instance(func(context.Context, step) error { return nil }).Start(r.ctx)
		if err == nil || !strings.Contains(err.Error(), "steps.members") {
			t.Error("it starts:", err)
		}
	})
}

// TestUnreadableInPartitions: a message whose headers cannot be read, so that the router cannot send it on, goes to the error queue as anywhere.
func TestUnreadableInPartitions(t *testing.T) {
	divided(t, func(t *testing.T, r *rig) {
		setup := r.serve(func(context.Context, step) error { return nil })
		r.rest(time.Second)
		deep := amqp.Table{"end": "x"}
		for range 33 {
			deep = amqp.Table{"deep": deep}
		}
		r.put("steps", deep, step{"a", 1})
		r.send("a2")
		r.rest(time.Minute)
		r.wants("a", "2")
		for name, want := range map[string]int{"steps": 0, "error": 1} {
			if q, _ := r.broker.Queue(name); q.Ready+q.Unacked != want {
				t.Errorf("%d messages are in %s, want %d", q.Ready+q.Unacked, name, want)
			}
		}
		r.try(setup.Ready())
	})
}

// TestDeadlyHeaderInPartitions: a header that ends the connection of whoever sends it again is left out by the router, as by everybody.
func TestDeadlyHeaderInPartitions(t *testing.T) {
	divided(t, func(t *testing.T, r *rig) {
		r.serve(func(ctx context.Context, _ step) error {
			headers := harebus.Incoming(ctx).Headers
			if left, _ := headers["PikaBus.LeftOut"].(string); headers["nan"] != nil || !strings.Contains(left, "nan") {
				t.Errorf("the headers are %v", headers)
			}
			return nil
		})
		r.rest(time.Second)
		r.put("steps", amqp.Table{"PikaBus.Key": "a", "nan": math.NaN()}, step{"a", 1})
		r.rest(time.Minute)
		r.wants("a", "1")
	})
}

// TestDeadlyKeyInPartitions: messages whose key is a header that the router has to leave out are in order all the same.
func TestDeadlyKeyInPartitions(t *testing.T) {
	for name, key := range map[string]any{"NaN": math.NaN(), "decimal": amqp.Decimal{Scale: 2, Value: 314}} {
		t.Run(name, func(t *testing.T) {
			divided(t, func(_ *testing.T, r *rig) {
				r.serve(func(_ context.Context, s step) error {
					time.Sleep(time.Duration(10-s.N) * time.Second)
					return nil
				})
				r.rest(time.Second)
				for n := range 5 {
					r.put("steps", amqp.Table{"PikaBus.Key": key}, step{"a", n + 1})
				}
				r.rest(time.Minute)
				r.wants("a", upTo(5))
			})
		})
	}
}

// TestEventInPartitions: a message that nothing but the exchange of events says to be one is one in its partition, and when it is retried.
func TestEventInPartitions(t *testing.T) {
	for _, partitions := range []int{0, 4} {
		t.Run(fmt.Sprint(partitions), func(t *testing.T) {
			bubble(t, func(t *testing.T, r *rig) {
				r.cfg.Consume.Order, r.cfg.Subscriptions = &order.Config{Partitions: partitions}, []string{"step.made"}
				r.serve(func(ctx context.Context, _ step) error {
					if m := harebus.Incoming(ctx); m.Intent != harebus.IntentEvent {
						t.Errorf("the %dth time it is a %s", m.Attempt, m.Intent)
					} else if m.Attempt == 1 {
						return errors.New("the first time")
					}
					return nil
				})
				r.rest(time.Second)
				for _, headers := range []amqp.Table{{"PikaBus.Key": "a"}, {}} {
					r.putTo("PikaBusTopic", "step.made", headers, step{"a", 1})
				}
				r.rest(time.Minute)
				r.wants("a", "1 1")
			})
		})
	}
}

// TestDeferredIntoPartition: a message that comes out of the delay queues is due, whatever the clock of this process says.
func TestDeferredIntoPartition(t *testing.T) {
	divided(t, func(_ *testing.T, r *rig) {
		s := r.instance(func(context.Context, step) error { return nil })
		r.try(s.Init(r.ctx))
		r.try(s.Start(r.ctx))
		r.rest(time.Second)
		due := time.Now().Add(time.Hour).UTC().Format(time.RFC3339Nano) // for a clock that is an hour late
		r.put(topology.Delays{}.Exit("", "steps").Queues[0].Name, amqp.Table{"PikaBus.Key": "a", "PikaBus.DeferredTime": due}, step{"a", 1})
		r.rest(time.Minute)
		r.wants("a", "1")
	})
}

// TestPartitionTaken: an endpoint whose partition is a queue of the setup already, or its error queue, is refused, and leaves nothing behind.
func TestPartitionTaken(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ other, errorQueue string }{{"steps.2", "error"}, {"other", "steps.3"}} {
		s, err := harebus.New(harebus.Config{Queue: c.other})
		if err != nil {
			t.Fatal(err)
		}
		_, err = s.Endpoint(harebus.EndpointConfig{
			Queue: "steps", Consume: harebus.ConsumeConfig{Order: &order.Config{Partitions: 4}}, ErrorQueue: harebus.ErrorQueueConfig{Name: c.errorQueue},
		})
		if err == nil || !strings.Contains(err.Error(), "would be a partition") {
			t.Error(err)
		}
		if all := s.Endpoints(); len(all) != 1 {
			t.Error("there are", all)
		}
	}
}

// TestPartsOfOne: what the endpoint of the queue has is there once, and not again for each partition: the Transactor, which need not be
// comparable, the end of the delay queues, and the subscriptions.
func TestPartsOfOne(t *testing.T) {
	divided(t, func(t *testing.T, r *rig) {
		runs := 0
		r.cfg.Handling.Transactor = transactor{func() { runs++ }}
		s := r.instance(func(context.Context, step) error { return nil })
		r.try(s.Init(r.ctx))
		if _, there := r.broker.Queue(topology.Delays{}.Exit("", "steps.0").Queues[0].Name); there {
			t.Error("there is an end of the delay queues at a partition")
		}
		r.try(s.Start(r.ctx))
		r.rest(time.Second)
		if runs != 1 {
			t.Errorf("the Transactor runs %d times", runs)
		}
		for _, e := range s.Endpoints() {
			if err := e.Subscribe(r.ctx, "step.made"); (err == nil) != (e.Queue() == "steps") {
				t.Errorf("subscribe %s: %v", e.Queue(), err)
			}
		}
	})
}

// TestOldestInPartition: the endpoint of the queue says how old the oldest message in a handler is, in whatever partition.
func TestOldestInPartition(t *testing.T) {
	divided(t, func(t *testing.T, r *rig) {
		s := r.serve(func(context.Context, step) error { time.Sleep(time.Minute); return nil })
		r.send("a1")
		r.rest(30 * time.Second)
		if oldest := s.Endpoints()[0].Stats().OldestInFlight; oldest < 29*time.Second {
			t.Errorf("the oldest is of %v", oldest)
		}
		r.rest(time.Minute)
	})
}

type transactor []func()

func (transactor) Check(context.Context) error { return nil }

func (transactor) Transact(context.Context, *harebus.Message, func(context.Context) ([]harebus.Envelope, error)) error {
	return nil
}

func (t transactor) Run(ctx context.Context, _ *harebus.Bus) error {
	t[0]()
	<-ctx.Done()
	return nil
}

// TestMembersLost: an instance that is counted anew, after its connection was lost or its queue paused, has no reason to think that queues are
// missing, which its user may not declare any more.
func TestMembersLost(t *testing.T) {
	divided(t, func(_ *testing.T, r *rig) {
		s := r.serve(func(context.Context, step) error { return nil })
		r.rest(time.Second)
		r.broker.Inject(brokertest.Fault{On: "exchange.declare", Times: -1, Do: brokertest.Raise, Code: 403, Text: "ACCESS_REFUSED"})
		for range 2 {
			for _, one := range r.broker.Connections() {
				r.broker.CutConnections(one.Name)
			}
			r.rest(time.Minute)
			r.try(s.Ready())
			r.try(errors.Join(s.Pause(r.ctx), s.Resume()))
			r.rest(time.Minute)
			r.try(s.Ready())
		}
	})
}

// TestHandOverDeclaresNothing: an instance that hands partitions over need not declare everything again for each.
func TestHandOverDeclaresNothing(t *testing.T) {
	divided(t, func(t *testing.T, r *rig) {
		r.cfg.Connect.Name = "a"
		r.serve(func(context.Context, step) error { return nil })
		r.rest(time.Second)
		declared := 0
		r.broker.Inject(brokertest.Fault{On: "exchange.declare", Times: -1, Do: brokertest.Drop, Match: func(f brokertest.Frame) bool {
			if strings.HasPrefix(f.Connection, "a") {
				declared++
			}
			return false
		}})
		r.cfg.Connect.Name = "b"
		r.serve(func(context.Context, step) error { return nil })
		r.rest(3 * time.Second)
		if declared != 0 {
			t.Errorf("%d exchanges are declared again", declared)
		}
	})
}

// TestAnotherNumber: the number of partitions changes as docs/ordering.md says, and nothing is lost.
func TestAnotherNumber(t *testing.T) {
	for _, to := range []int{3, 6, 0} {
		t.Run(fmt.Sprint(to), func(t *testing.T) {
			divided(t, func(_ *testing.T, r *rig) {
				handler := func(context.Context, step) error { time.Sleep(time.Second); return nil }
				instances := []*harebus.Setup{r.serve(handler), r.serve(handler)}
				for _, key := range keysOfAll {
					r.send(numbers(key, 3))
				}
				for _, s := range instances {
					all := s.Endpoints()
					r.try(all[0].Pause(r.ctx))
					for _, partition := range all[1:] {
						r.try(partition.Resume())
					}
				}
				r.rest(time.Minute)
				r.try(errors.Join(instances[0].Close(), instances[1].Close()))
				for _, queue := range []string{"steps.members", "steps.parked", "steps.3", "steps.3.parked"} {
					r.try(r.broker.DeleteQueue(queue))
				}
				r.cfg.Consume.Order = &order.Config{Partitions: to}
				s := r.serve(handler)
				for _, key := range keysOfAll {
					r.send(key + "4")
				}
				r.rest(time.Minute)
				for _, key := range keysOfAll {
					r.wants(key, upTo(4))
				}
				r.try(s.Ready())
			})
		})
	}
}

// TestEndsAreNoCrashes: messages that wait while partitions are handed over, or while instances stop, are not handled alone for that.
func TestEndsAreNoCrashes(t *testing.T) {
	for name, partitions := range map[string]int{"handed over": 4, "stopped": 0} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, r *rig) {
				const messages, atOnce = 800, 5
				r.cfg.Consume.Order = &order.Config{Partitions: partitions}
				handler := func(context.Context, step) error { time.Sleep(time.Second); return nil }
				last := r.serve(handler)
				for n := range messages / 4 * max(partitions, 1) {
					r.try(r.sender.Send(r.ctx, "steps", step{"k", n}, harebus.WithKey(fmt.Sprint(n))))
				}
				began, want := time.Now(), messages/4*max(partitions, 1)
				for range 4 {
					r.rest(3 * time.Second)
					if partitions == 0 {
						r.try(last.Close())
					}
					last = r.serve(handler)
				}
				for len(r.all()) < want && time.Since(began) < time.Hour {
					r.rest(time.Second)
				}
				if took, most := time.Since(began), messages/4/atOnce*time.Second*3/2; took > most {
					t.Errorf("it took %v, and %v would do", took, most)
				}
			})
		})
	}
}
