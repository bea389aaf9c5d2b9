package stream_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/brokertest"
	"github.com/harebus/harebus/order"
	"github.com/harebus/harebus/stream"
	"github.com/harebus/harebus/topology"
)

// TestBeyondTheEnd: an offset that the stream has not reached is an error, and no wait without a word.
func TestBeyondTheEnd(t *testing.T) {
	bubble(t, func(_ *testing.T, r *rig) {
		r.publish(3)
		r.fails(stream.Config{From: stream.FromOffset(4)}, "ends at offset 2", "From is offset 4", "stream.FromEnd")
		r.fails(stream.Config{Store: &store{offset: 3, known: true}}, "ends at offset 2", "up to offset 3 is handled", "made anew", "remove the offset from the store")
		r.fails(stream.Config{Store: &store{offset: -3, known: true}}, "the store returned the offset -3")
		r.read("a", stream.Config{From: stream.FromOffset(3)}, done) // the next one
		r.publish(1)
		r.rest(time.Second)
		r.wants("a4@3")
	})
}

// TestGap: what retention has deleted before it was read is noticed, before anything behind it is handled.
func TestGap(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		cfg := stream.Config{Group: "g"}
		s := r.read("a", cfg, done)
		r.publish(3)
		r.rest(time.Second)
		r.try(s.Stop(r.ctx))
		r.wants("a1@0 a2@1 a3@2")
		r.publish(5)
		r.try(r.broker.TruncateStream("events", 5))
		r.try(s.Start(r.ctx))
		r.rest(time.Minute)
		r.wants("")
		if err := s.Ready(); err == nil || !strings.Contains(err.Error(), "the offsets 3 to 4") || !strings.Contains(err.Error(), "stream.GapSkips to go on at 5") {
			t.Errorf("ready: %v", err)
		}
		r.try(s.Stop(r.ctx))
		cfg.OnGap = stream.GapSkips
		r.read("b", cfg, done)
		r.rest(time.Second)
		r.wants("b6@5 b7@6 b8@7")
		if !r.said("deleted before they were read") {
			t.Error("the gap was not logged")
		}
	})
}

// TestRoll: an offset that a new segment takes is no gap.
func TestRoll(t *testing.T) {
	bubble(t, func(_ *testing.T, r *rig) {
		r.publish(2)
		r.read("a", stream.Config{}, done)
		r.rest(time.Second)
		r.try(r.broker.TruncateStream("events", 3)) // 2 was housekeeping
		r.publish(1)
		r.rest(time.Second)
		r.wants("a1@0 a2@1 a3@3")
	})
}

// TestOffsetsOfTheBroker: offsets that the broker has used itself are no gap, however many, as long as an older message is there: while the stream
// is read, and when reading begins.
func TestOffsetsOfTheBroker(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		s := r.read("a", stream.Config{Group: "g"}, done)
		r.publish(2)
		r.rest(time.Second)
		r.try(r.broker.SkipOffsets("events", 100))
		r.publish(2)
		r.rest(time.Minute)
		r.wants("a1@0 a2@1 a3@102 a4@103")
		r.try(s.Stop(r.ctx))
		r.try(r.broker.SkipOffsets("events", 100))
		r.publish(1)
		r.try(s.Start(r.ctx))
		r.rest(time.Minute)
		r.wants("a5@204")
		r.try(s.Ready())
		if r.said("deleted") {
			t.Error("a gap was logged")
		}
	})
}

// TestSlowToSay: a broker that is slow to say what its oldest message is has deleted nothing.
func TestSlowToSay(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		s := r.read("a", stream.Config{Group: "g"}, done)
		r.publish(2)
		r.rest(time.Second)
		r.try(r.broker.SkipOffsets("events", 100))
		r.broker.Inject(brokertest.Fault{On: "basic.deliver", From: brokertest.FromBroker, Nth: 2, Times: -1, Do: brokertest.Delay, For: 6 * time.Second, Match: func(f brokertest.Frame) bool {
			return f.Queue == "events"
		}})
		r.publish(1)
		r.rest(time.Minute)
		r.wants("a1@0 a2@1 a3@102")
		r.try(s.Ready())
		if r.said("deleted") {
			t.Error("a gap was logged")
		}
	})
}

// TestForgedCount: a count of deliveries that a publisher has written has nothing published to the stream when a reader stops: every reader would get it.
func TestForgedCount(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.cfg.Consume.Concurrency = 1
		s := r.read("a", stream.Config{Group: "g"}, func(context.Context, happened) error {
			time.Sleep(time.Second)
			return nil
		})
		r.bulkWith(20, amqp.Table{"x-delivery-count": int64(1e9)})
		r.rest(5500 * time.Millisecond)
		r.try(s.Stop(r.ctx))
		if n := len(r.broker.Messages("events")); n != 20 {
			t.Errorf("the stream has %d messages, want 20", n)
		}
	})
}

// TestBeforeTheCut: a place to begin at that is gone is a gap as well.
func TestBeforeTheCut(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.publish(6)
		r.try(r.broker.TruncateStream("events", 4))
		s := r.read("a", stream.Config{From: stream.FromOffset(1)}, done)
		r.rest(time.Second)
		if err := s.Ready(); err == nil || !strings.Contains(err.Error(), "the offsets 1 to 3") {
			t.Errorf("ready: %v", err)
		}
		r.read("b", stream.Config{From: stream.FromOffset(1), OnGap: stream.GapSkips}, done)
		r.read("c", stream.Config{}, done)
		r.rest(time.Second)
		r.wants("b5@4 b6@5 c5@4 c6@5")
	})
}

// TestMadeAnew: a stream that was deleted and declared again is noticed: while it is read, at the next start, and when it is still
// empty, by the first message. A group begins again when its queue was deleted.
func TestMadeAnew(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		cfg := stream.Config{Group: "g"}
		s := r.read("a", cfg, done)
		r.publish(5)
		r.rest(time.Second)
		r.wants("a1@0 a2@1 a3@2 a4@3 a5@4")
		r.try(r.broker.RecreateStream("events"))
		r.publish(2)
		r.rest(time.Minute)
		r.wants("")
		for _, text := range []string{"made anew", "stop all instances of the group and delete the queue", "harebus.group/events/g"} {
			if err := s.Ready(); err == nil || !strings.Contains(err.Error(), text) {
				t.Errorf("ready: %v", err)
			}
		}
		r.try(s.Stop(r.ctx))
		r.fails(cfg, "ends at offset 1", "up to offset 4 is handled already", "made anew")
		r.try(r.broker.RecreateStream("events"))
		other := r.read("b", cfg, done)
		r.publish(1)
		r.rest(time.Minute)
		r.wants("")
		if err := other.Ready(); err == nil || !strings.Contains(err.Error(), "made anew") {
			t.Errorf("ready: %v", err)
		}
		r.try(other.Stop(r.ctx))
		r.try(r.broker.DeleteQueue("harebus.group/events/g"))
		r.read("c", cfg, done)
		r.rest(time.Second)
		r.wants("c8@0")
	})
}

// TestNoReplica: a node without a replica is not asked for ever, and nothing is lost.
func TestNoReplica(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.cfg.Connect.URLs = []string{r.broker.URL(), r.broker.URL()}
		s := r.read("a", stream.Config{Group: "g"}, done)
		r.publish(2)
		r.rest(time.Second)
		r.try(r.broker.LoseReplica("events", 30*time.Second))
		r.publish(1)
		r.rest(5 * time.Second)
		if err := s.Ready(); err == nil || !strings.Contains(err.Error(), "no replica of the stream") {
			t.Errorf("ready: %v", err)
		}
		if !r.said("connection lost") && !r.said("lost") {
			t.Errorf("no other address was tried: %v", r.logs.All())
		}
		r.rest(time.Minute)
		r.wants("a1@0 a2@1 a3@2")
		r.try(s.Ready())
	})
}

// TestNoStream: what is no stream, or is not there, is an error that says so.
func TestNoStream(t *testing.T) {
	bubble(t, func(_ *testing.T, r *rig) {
		conn, err := amqp.DialConfig(r.broker.URL(), amqp.Config{Dial: r.broker.Dial})
		r.try(err)
		defer conn.Close()
		ch, err := conn.Channel()
		r.try(err)
		for name, args := range map[string]amqp.Table{"classic": nil, "quorum": {"x-queue-type": "quorum"}} {
			_, err := ch.QueueDeclare(name, true, false, false, false, args)
			r.try(err)
			r.try(ch.Publish("", name, false, false, amqp.Publishing{Body: []byte("x")}))
			r.cfg.Queue = name
			r.fails(stream.Config{}, `the queue "`+name+`" is no stream`)
			if kept := r.broker.Messages(name); len(kept) != 1 || kept[0].Unacked {
				r.t.Errorf("%s: %+v", name, kept)
			}
		}
		r.cfg.Queue = "none"
		r.fails(stream.Config{}, `"none" does not exist`, "topology.EventLog")
	})
}

// TestConfig: what cannot be is refused by New, with the remedy.
func TestConfig(t *testing.T) {
	t.Parallel()
	for says, change := range map[string]func(*harebus.Config){
		"needs the name of the stream":          func(c *harebus.Config) { c.Queue = "" },
		"leave Subscriptions out":               func(c *harebus.Config) { c.Subscriptions = []string{"a.*"} },
		"leave Consume.Order out":               func(c *harebus.Config) { c.Consume.Order = &order.Config{} },
		"leave Consume.Exclusive out":           func(c *harebus.Config) { c.Consume.Exclusive = true },
		"raise Consume.Concurrency instead":     func(c *harebus.Config) { c.Consume.Consumers = 3 },
		"leave QueueOptions out":                func(c *harebus.Config) { c.QueueOptions.Type = topology.Classic },
		"has no x-single-active-consumer":       func(c *harebus.Config) { c.QueueOptions.Arguments = map[string]any{"x-single-active-consumer": true} },
		"leave x-stream-offset out":             func(c *harebus.Config) { c.Consume.Arguments = map[string]any{"x-stream-offset": "first"} },
		"leave x-priority out":                  func(c *harebus.Config) { c.Consume.Arguments = map[string]any{"x-priority": 1} },
		`Topics: topology: validate topic "a*"`: func(c *harebus.Config) { c.Consume.Stream.Topics = []string{"a*"} },
		"Group is a part of the name":           func(c *harebus.Config) { c.Consume.Stream.Group = strings.Repeat("g", 250) },
		"contains a slash":                      func(c *harebus.Config) { c.Consume.Stream.Group = "a/b" },
		"From is offset -1":                     func(c *harebus.Config) { c.Consume.Stream.From = stream.FromOffset(-1) },
		"before 1970":                           func(c *harebus.Config) { c.Consume.Stream.From = stream.FromTime(time.Time{}) },
		"neither GapFails nor GapSkips":         func(c *harebus.Config) { c.Consume.Stream.OnGap = 7 },
	} {
		cfg := harebus.Config{Queue: "events", Consume: harebus.ConsumeConfig{Stream: &stream.Config{}}}
		change(&cfg)
		if _, err := harebus.New(cfg); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%q: %v", says, err)
		}
	}
	if _, err := harebus.New(harebus.Config{Queue: "events", Consume: harebus.ConsumeConfig{Stream: &stream.Config{}}}); err != nil {
		t.Error(err)
	}
}

// TestSubscribe: the bindings of a stream are not those of its readers.
func TestSubscribe(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		s := r.read("a", stream.Config{}, done)
		if err := s.Subscribe(r.ctx, "x.*"); err == nil || !strings.Contains(err.Error(), "Consume.Stream.Topics") {
			t.Errorf("subscribe: %v", err)
		}
		for _, b := range r.broker.Bindings() {
			if b.Destination == "events" && b.RoutingKey != "#" {
				t.Errorf("a binding was made: %+v", b)
			}
		}
	})
}

// TestNoReplicaAtLast: the same when the replica goes at the last moment.
func TestNoReplicaAtLast(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.broker.Inject(brokertest.Fault{
			On: "basic.consume", Do: brokertest.Raise, Code: 406, Text: "queue 'events' in vhost '/' does not have a running replica on the local node",
			Match: func(f brokertest.Frame) bool { return f.ConsumerTag == "harebus-0" },
		})
		r.read("a", stream.Config{}, done)
		r.publish(1)
		r.rest(5 * time.Second)
		r.wants("a1@0")
		if !r.said("connection lost") {
			t.Errorf("no other address was tried: %v", r.logs.All())
		}
	})
}

// TestDeferred: a message that its sender has deferred, and left the waiting to the receivers, does not wait in a delay queue, from
// which it would come back into the stream.
func TestDeferred(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		conn, err := amqp.DialConfig(r.broker.URL(), amqp.Config{Dial: r.broker.Dial})
		r.try(err)
		defer conn.Close()
		ch, err := conn.Channel()
		r.try(err)
		r.read("a", stream.Config{}, done)
		r.try(ch.Publish("PikaBusTopic", "order.placed", false, false, amqp.Publishing{Body: []byte(`{"N":7}`), ContentType: "application/json", Headers: amqp.Table{
			"PikaBus.MessageType": "Happened", "PikaBus.MessageId": harebus.NewMessageID(), "PikaBus.DeferredTime": time.Now().Add(time.Hour).Format(time.RFC3339),
		}}))
		r.rest(time.Second)
		r.wants("a7@0")
		if got := len(r.broker.Messages("events")); got != 1 {
			t.Errorf("the stream has %d messages", got)
		}
	})
}

// TestUnreadable: a message with headers that no client reads is parked, as from a queue, and what comes behind it is handled.
func TestUnreadable(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		conn, err := amqp.DialConfig(r.broker.URL(), amqp.Config{Dial: r.broker.Dial})
		r.try(err)
		defer conn.Close()
		ch, err := conn.Channel()
		r.try(err)
		s := r.read("a", stream.Config{Group: "g"}, done)
		r.publish(1)
		r.rest(time.Second)
		many := amqp.Table{}
		for i := range 8193 {
			many[fmt.Sprint("h", i)] = int8(1)
		}
		r.try(ch.Publish("PikaBusTopic", "order.placed", false, false, amqp.Publishing{MessageId: "poison", Body: []byte(`{}`), Headers: many}))
		r.rest(time.Second)
		r.publish(1)
		r.rest(time.Minute)
		r.wants("a1@0 a2@2")
		r.try(s.Ready())
		if parked := r.broker.Messages("error"); len(parked) != 1 || parked[0].MessageId != "poison" || parked[0].Headers["PikaBus.StreamOffset"] != int64(1) {
			t.Errorf("%d parked", len(parked))
		}
	})
}
