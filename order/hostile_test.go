package order_test

import (
	"context"
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/brokertest"
	"github.com/harebus/harebus/order"
)

// put publishes a message as somebody without harebus does.
func (r *rig) put(queue string, headers amqp.Table, m step) {
	r.t.Helper()
	r.putTo("", queue, headers, m)
}

func (r *rig) putTo(exchange, key string, headers amqp.Table, m step) {
	r.t.Helper()
	conn, err := amqp.DialConfig(r.broker.URL(), amqp.Config{Dial: r.broker.Dial})
	r.try(err)
	defer func() { r.try(conn.Close()) }()
	ch, err := conn.Channel()
	r.try(err)
	r.try(ch.PublishWithContext(r.ctx, exchange, key, true, false, amqp.Publishing{
		Headers: headers, Type: "Step", ContentType: "application/json", Body: fmt.Appendf(nil, `{"Key": %q, "N": %d}`, m.Key, m.N),
	}))
	r.rest(time.Second)
}

// note matches the note of a kind.
func note(kind string) func(brokertest.Frame) bool {
	return func(f brokertest.Frame) bool {
		text, _ := f.Headers["PikaBus.OrderNote"].(string)
		return strings.HasPrefix(text, kind)
	}
}

// TestNotesTwice: a note whose confirm is lost is sent again and comes twice. The owner goes on as after one.
func TestNotesTwice(t *testing.T) {
	for _, kind := range []string{"barrier", "join"} {
		for nth := 1; nth <= 2; nth++ {
			t.Run(fmt.Sprint(kind, nth), func(t *testing.T) {
				bubble(t, func(_ *testing.T, r *rig) {
					r.broker.Inject(brokertest.Fault{On: "basic.publish", Match: note(kind), Nth: nth, Do: brokertest.CutAfter})
					r.serve(bad("a", 1))
					r.send("a1 a2 b1 b2")
					r.rest(time.Minute)
					r.wants("b", "1 2")
					r.word("discard", "a")
					r.rest(time.Second)
					r.wants("a", "2")
					r.empty()
				})
			})
		}
	}
}

// TestNotesPurged: a note that is awaited and does not come, because somebody has purged the parking queue, is sent again.
func TestNotesPurged(t *testing.T) {
	for _, kind := range []string{"barrier", "join"} {
		for nth := 1; nth <= 2; nth++ {
			t.Run(fmt.Sprint(kind, nth), func(t *testing.T) {
				bubble(t, func(_ *testing.T, r *rig) {
					lost := r.broker.Inject(brokertest.Fault{On: "basic.deliver", From: brokertest.FromBroker, Match: note(kind), Nth: nth, Do: brokertest.Drop})
					r.serve(func(context.Context, step) error { return nil })
					r.send("a1 b1 a2")
					r.rest(10 * time.Minute)
					if lost.Fired() != 1 {
						t.Error("nothing was purged")
					}
					r.wants("a", "1 2")
					r.wants("b", "1")
				})
			})
		}
	}
}

// TestForgedNoteInQueue: a sender's header that looks like a note is none in the copy of a message that fails.
func TestForgedNoteInQueue(t *testing.T) {
	for _, kind := range []string{"discard  0", "barrier x 1", "join x 9223372036854775807", "sing"} {
		t.Run(kind, func(t *testing.T) {
			bubble(t, func(_ *testing.T, r *rig) {
				failed := false
				r.serve(func(_ context.Context, m step) error {
					if m.N == 1 && !failed {
						failed = true
						return errBad
					}
					return nil
				})
				r.put("steps", amqp.Table{"PikaBus.Key": "a", "PikaBus.OrderNote": kind, "PikaBus.OrderKey": ""}, step{"a", 1})
				r.send("a2")
				r.rest(time.Minute)
				r.wants("a", "1 2")
				r.empty()
			})
		})
	}
}

// TestForgedPartitions: a note that names a number of partitions which no instance can have makes no flood of notes.
func TestForgedPartitions(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.serve(func(context.Context, step) error { return nil })
		r.rest(time.Second)
		conn, err := amqp.DialConfig(r.broker.URL(), amqp.Config{Dial: r.broker.Dial})
		r.try(err)
		defer func() { r.try(conn.Close()) }()
		ch, err := conn.Channel()
		r.try(err)
		_, err = ch.QueueDeclare(order.MembersQueue("steps"), true, false, false, false, nil)
		r.try(err)
		for _, number := range []string{"1000", "-1"} {
			r.put("steps.parked", amqp.Table{"PikaBus.OrderNote": "join x 0 0", "PikaBus.OrderKey": "Header x, Partitions " + number}, step{})
		}
		r.rest(time.Minute)
		if q, _ := r.broker.Queue(order.MembersQueue("steps")); q.Ready == 0 || q.Ready > 64 {
			t.Errorf("%d notes", q.Ready)
		}
	})
}

// TestForgedNumbers: numbers in notes and places that no instance writes neither stop the queue nor lose a message.
func TestForgedNumbers(t *testing.T) {
	for i, n := range []int64{math.MaxInt64, math.MaxInt64 - 1, 1 << 62, -1, math.MinInt64, math.MaxInt64} {
		t.Run(fmt.Sprint(i, " ", n), func(t *testing.T) {
			bubble(t, func(t *testing.T, r *rig) {
				r.cfg.Consume.Order = &order.Config{Partitions: i / 5 * 4} // the last time it is divided
				failed := map[step]bool{}
				fn := func(ctx context.Context, m step) error {
					r.mu.Lock()
					defer r.mu.Unlock()
					if order.Fence(ctx) <= 0 {
						t.Error("no fencing number")
					}
					if m.N != 2 && !failed[m] {
						failed[m] = true
						return errBad
					}
					return nil
				}
				r.try(r.instance(fn).Init(r.ctx))
				r.put("steps.parked", amqp.Table{"PikaBus.OrderNote": fmt.Sprintf("join x %d", n), "PikaBus.OrderKey": "x"}, step{})
				for i, place := range []string{"%d 0 0 false x", "1 %d 0 false x", "%[1]d %[1]d 0 false x", "2 0 %d false x", "3 0 0 true x"} {
					key := string(rune('f' + i))
					if strings.Contains(place, "%") {
						place = fmt.Sprintf(place, n)
					}
					if key == "j" { // without a key nobody could release it
						r.put("steps.parked", amqp.Table{"PikaBus.OrderPlace": place}, step{key, 1})
						continue
					}
					r.put("steps.parked", amqp.Table{"PikaBus.OrderKey": key, "PikaBus.Key": key, "PikaBus.OrderPlace": place}, step{key, 1})
				}
				s := r.serve(fn)
				r.send("f2 g2 h2 a1 a2 a3")
				r.rest(time.Minute)
				for key, want := range map[string]string{"f": "1 2", "g": "1 2", "h": "1 2", "i": "1", "j": "1"} {
					r.wants(key, want)
				}
				r.wants("a", "1 2 3")
				r.try(s.Close())
				r.serve(fn)
				r.send("a4 a2")
				r.rest(time.Minute)
				r.wants("a", "1 2 3 4 2")
				r.empty()
			})
		})
	}
}

// TestFullOfKeys: when the messages of many keys fail, no more are parked than may be; the others stay in the queue, and
// all are handled when they can be.
func TestFullOfKeys(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.cfg.Consume.Order = &order.Config{MaxParked: 20}
		down := true
		s := r.serve(func(context.Context, step) error {
			r.mu.Lock()
			defer r.mu.Unlock()
			if down {
				return errBad
			}
			return nil
		})
		send := func(from, to int) {
			for n := from; n <= to; n++ {
				r.try(r.sender.Send(r.ctx, "steps", step{"x", n}, harebus.WithKey(fmt.Sprint("key", n))))
			}
		}
		send(1, 500)
		r.rest(10 * time.Minute)
		if q, _ := r.broker.Queue("steps.parked"); q.Unacked > 20+r.cfg.Consume.Concurrency+1 {
			t.Errorf("%d are parked", q.Unacked-1)
		}
		if err := s.Ready(); err == nil || !strings.Contains(err.Error(), "as many as may be") {
			t.Errorf("ready: %v", err)
		}
		if !r.said("it stays in its queue") {
			t.Error("nothing is said")
		}
		r.mu.Lock()
		down = false
		r.mu.Unlock()
		r.word("retry", "")
		r.rest(10 * time.Minute)
		if n := len(strings.Fields(r.of("x"))); n != 500 {
			t.Errorf("%d are done", n)
		}
		r.try(s.Ready())
		r.empty()
	})
}

// TestLostInStop: when the connection is lost while a stop or a pause waits for handlers, their contexts end, because another
// instance begins.
func TestLostInStop(t *testing.T) {
	for _, what := range []string{"stop", "pause"} {
		t.Run(what, func(t *testing.T) {
			bubble(t, func(t *testing.T, r *rig) {
				var ended time.Time
				first := r.serve(func(ctx context.Context, _ step) error {
					select {
					case <-ctx.Done():
						ended = time.Now()
						return context.Cause(ctx)
					case <-time.After(20 * time.Second):
						return nil
					}
				})
				r.send("a1")
				r.rest(time.Second)
				over := make(chan error, 1)
				go func() {
					if what == "pause" {
						over <- first.Pause(r.ctx)
						return
					}
					over <- first.Close()
				}()
				r.rest(time.Second)
				cut := time.Now()
				r.broker.CutConnections()
				r.rest(time.Second)
				if ended.IsZero() || ended.Sub(cut) > time.Second {
					t.Errorf("the context of the handler has not ended: %v", ended)
				}
				<-over
			})
		})
	}
}

// TestStrangerComesFirst: a message that somebody has put into the parking queue while no instance ran is handled behind
// those that have a place there, and takes the number of none.
func TestStrangerComesFirst(t *testing.T) {
	bubble(t, func(_ *testing.T, r *rig) {
		failed := map[step]bool{}
		fn := func(_ context.Context, m step) error {
			r.mu.Lock()
			defer r.mu.Unlock()
			if m.Key == "b" && !failed[m] {
				failed[m] = true
				return errBad
			}
			return nil
		}
		r.try(r.instance(fn).Init(r.ctx))
		r.put("steps.parked", amqp.Table{"PikaBus.Key": "a"}, step{"a", 3})
		for n := 1; n <= 2; n++ {
			for _, key := range []string{"a", "b"} { // the same number for both
				r.put("steps.parked", amqp.Table{"PikaBus.OrderKey": key, "PikaBus.Key": key, "PikaBus.OrderPlace": fmt.Sprintf("%d 0 0 false x", 1<<21+n)}, step{key, n})
			}
		}
		r.serve(fn)
		r.rest(time.Minute)
		r.wants("a", "1 2 3")
		r.wants("b", "1 2")
		r.empty()
	})
}

// TestBarrierTwice: the second copy of a barrier, which comes before the note that is awaited next, does nothing.
func TestBarrierTwice(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		var barrier amqp.Table
		r.broker.Inject(brokertest.Fault{On: "basic.publish", Do: brokertest.Drop, Match: func(f brokertest.Frame) bool {
			if barrier == nil && note("barrier")(f) {
				barrier = f.Headers
			}
			return false
		}})
		r.broker.Inject(brokertest.Fault{
			On: "basic.deliver", From: brokertest.FromBroker, Match: note("join"), Nth: 2, Do: brokertest.Delay, For: 5 * time.Second,
		})
		r.serve(func(context.Context, step) error { return nil })
		r.rest(time.Second)
		if barrier == nil {
			t.Fatal("no barrier")
		}
		r.put("steps.parked", barrier, step{})
		r.send("a1 a2")
		r.rest(time.Minute)
		r.wants("a", "1 2")
		r.empty()
	})
}
