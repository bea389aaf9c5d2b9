package brokertest_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/harebus/harebus/brokertest"
)

// faulty runs a test in a bubble, with a client that has a queue "q".
func faulty(t *testing.T, run func(t *testing.T, b *brokertest.Broker, c *client)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		b := brokertest.New(brokertest.WithLog(t.Logf))
		defer b.Close()
		c := connect(t, b)
		c.queue("q", nil)
		run(t, b, c)
		_ = c.conn.Close() // it may be cut
	})
}

func TestCutBeforePublishLosesIt(t *testing.T) {
	faulty(t, func(t *testing.T, b *brokertest.Broker, c *client) {
		b.Inject(brokertest.Fault{On: "basic.publish", Nth: 3})
		var last *amqp.DeferredConfirmation
		for i := range 3 {
			last = c.publish("q", fmt.Sprint(i))
		}
		last.Wait()
		equal(t, "acked", last.Acked(), false)
		equal(t, "closed", c.conn.IsClosed(), true)
		equal(t, "in the queue", fmt.Sprint(bodies(b, "q")), "[0 1]")
	})
}

func TestCutAfterPublishLosesOnlyTheConfirm(t *testing.T) {
	faulty(t, func(t *testing.T, b *brokertest.Broker, c *client) {
		f := b.Inject(brokertest.Fault{On: "basic.publish", Nth: 2, Do: brokertest.CutAfter})
		first, second := c.publish("q", "1"), c.publish("q", "2")
		second.Wait()
		equal(t, "first acked", first.Acked(), true)
		equal(t, "second acked", second.Acked(), false)
		equal(t, "fired", f.Fired(), 1)
		equal(t, "in the queue", fmt.Sprint(bodies(b, "q")), "[1 2]")
	})
}

func TestCutAroundTheBrokersFrames(t *testing.T) {
	for name, c := range map[string]struct {
		do   brokertest.Action
		acks int
	}{"before": {brokertest.CutBefore, 1}, "after": {brokertest.CutAfter, 2}} {
		t.Run(name, func(t *testing.T) {
			faulty(t, func(t *testing.T, b *brokertest.Broker, cl *client) {
				confirms := cl.ch.NotifyPublish(make(chan amqp.Confirmation, 10))
				b.Inject(brokertest.Fault{On: "basic.ack", From: brokertest.FromBroker, Nth: 2, Do: c.do})
				cl.publish("q", "1").Wait()
				cl.publish("q", "2").Wait()
				synctest.Wait()
				equal(t, "closed", cl.conn.IsClosed(), true)
				acks := 0
				for confirm := range confirms {
					if confirm.Ack {
						acks++
					}
				}
				equal(t, "acks", acks, c.acks)
				equal(t, "in the queue", len(bodies(b, "q")), 2)
			})
		})
	}
}

func TestCutDelivery(t *testing.T) {
	faulty(t, func(t *testing.T, b *brokertest.Broker, c *client) {
		c.publish("q", "1").Wait()
		c.publish("q", "2").Wait()
		b.Inject(brokertest.Fault{On: "basic.deliver", From: brokertest.FromBroker, Nth: 2})
		for d := range c.consume("q") {
			equal(t, "delivered", string(d.Body), "1")
		}
		equal(t, "back in the queue", fmt.Sprint(bodies(b, "q")), "[1 2]")
		q, _ := b.Queue("q")
		equal(t, "unacked", q.Unacked, 0)
		equal(t, "consumers", len(q.Consumers), 0)
	})
}

func TestHoldConfirms(t *testing.T) {
	faulty(t, func(t *testing.T, b *brokertest.Broker, c *client) {
		f := b.Inject(brokertest.Fault{On: "basic.ack", From: brokertest.FromBroker, Times: -1, Do: brokertest.Hold})
		confirms := []*amqp.DeferredConfirmation{c.publish("q", "1"), c.publish("q", "2")}
		if err := f.WaitFired(t.Context(), 2); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		for _, d := range confirms {
			equal(t, "acked", d.Acked(), false)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		err := b.WaitQuiet(ctx, "q")
		equal(t, "not quiet", errors.Is(err, context.DeadlineExceeded), true)
		f.Release()
		for _, d := range confirms {
			equal(t, "acked", d.Wait(), true)
		}
		c.ok(b.WaitQuiet(t.Context(), "q"))
		equal(t, "after release", c.publish("q", "3").Wait(), true)
	})
}

func TestHoldOfACutConnection(t *testing.T) {
	faulty(t, func(t *testing.T, b *brokertest.Broker, c *client) {
		acks := b.Inject(brokertest.Fault{On: "basic.ack", From: brokertest.FromBroker, Do: brokertest.Hold})
		declares := b.Inject(brokertest.Fault{On: "queue.declare", Do: brokertest.Hold})
		c.publish("q", "1")
		c.ok(acks.WaitFired(t.Context(), 1))
		declared := make(chan error, 1)
		go func() {
			_, err := c.ch.QueueDeclare("never", true, false, false, false, nil)
			declared <- err
		}()
		c.ok(declares.WaitFired(t.Context(), 1))
		equal(t, "cut", b.CutConnections("somebody else"), 0)
		equal(t, "cut", b.CutConnections(t.Name()), 1)
		<-declared
		acks.Release()
		declares.Release()
		_, found := b.Queue("never")
		equal(t, "declared", found, false)
		c.ok(b.WaitQuiet(t.Context(), "q"))
	})
}

// What is held for a channel does not follow its channel.close: RabbitMQ sends the frames of
// a channel in order, and the client would take an old answer for that to its next request.
func TestHoldOfAClosedChannel(t *testing.T) {
	for _, method := range []string{"queue.bind-ok", "channel.close"} {
		faulty(t, func(t *testing.T, b *brokertest.Broker, c *client) {
			f := b.Inject(brokertest.Fault{On: method, From: brokertest.FromBroker, Do: brokertest.Hold})
			bound, declared := make(chan error, 1), make(chan error, 1)
			go func() { bound <- c.ch.QueueBind("q", "key", "amq.topic", false, nil) }()
			synctest.Wait()
			go func() { declared <- c.ch.ExchangeDeclarePassive("none", "topic", true, false, false, false, nil) }()
			synctest.Wait()
			f.Release()
			equal(t, "fired", f.Fired(), 1)
			<-bound
			<-declared
			equal(t, "closed", c.ch.IsClosed(), true)
			ch, err := c.conn.Channel()
			c.ok(err)
			c.ok(ch.QueueBind("q", "key", "amq.topic", false, nil))
		})
	}
}

func TestHoldOfAClientsMethodHoldsWhatFollows(t *testing.T) {
	faulty(t, func(t *testing.T, b *brokertest.Broker, c *client) {
		f := b.Inject(brokertest.Fault{On: "basic.publish", Do: brokertest.Hold})
		first, second := c.publish("q", "1"), c.publish("q", "2")
		synctest.Wait()
		equal(t, "in the queue", len(bodies(b, "q")), 0)
		f.Release()
		equal(t, "first", first.Wait(), true)
		equal(t, "second", second.Wait(), true)
		equal(t, "in the queue", fmt.Sprint(bodies(b, "q")), "[1 2]")
	})
}

func TestDelay(t *testing.T) {
	for name, f := range map[string]brokertest.Fault{
		"of the client": {On: "basic.publish", Do: brokertest.Delay, For: time.Minute},
		"of the broker": {On: "basic.ack", From: brokertest.FromBroker, Do: brokertest.Delay, For: time.Minute},
	} {
		t.Run(name, func(t *testing.T) {
			faulty(t, func(t *testing.T, b *brokertest.Broker, c *client) {
				b.Inject(f)
				start := time.Now()
				equal(t, "acked", c.publish("q", "1").Wait(), true)
				equal(t, "after", time.Since(start), time.Minute)
				equal(t, "then", c.publish("q", "2").Wait(), true)
				equal(t, "at once", time.Since(start), time.Minute)
			})
		})
	}
}

func TestNackReturnAndDrop(t *testing.T) {
	faulty(t, func(t *testing.T, b *brokertest.Broker, c *client) {
		returns := c.ch.NotifyReturn(make(chan amqp.Return, 1))
		b.Inject(brokertest.Fault{On: "basic.publish", Nth: 1, Do: brokertest.Nack})
		b.Inject(brokertest.Fault{On: "basic.publish", Nth: 1, Do: brokertest.Return}) // of those the first let through
		b.Inject(brokertest.Fault{On: "basic.ack", From: brokertest.FromBroker, Nth: 2, Do: brokertest.Nack})
		equal(t, "nacked", c.publish("q", "nacked").Wait(), false)
		equal(t, "returned", c.publish("q", "returned").Wait(), true)
		equal(t, "returned message", (<-returns).MessageId, "returned")
		equal(t, "nacked though there", c.publish("q", "kept").Wait(), false)
		equal(t, "in the queue", fmt.Sprint(bodies(b, "q")), "[kept]")
		equal(t, "afterwards", c.publish("q", "fine").Wait(), true)

		f := b.Inject(brokertest.Fault{On: "basic.publish", Do: brokertest.Drop})
		lost := c.publish("q", "dropped")
		c.ok(f.WaitFired(t.Context(), 1))
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		_, err := lost.WaitContext(ctx)
		equal(t, "never confirmed", errors.Is(err, context.DeadlineExceeded), true)
	})
}

func TestRaise(t *testing.T) {
	faulty(t, func(t *testing.T, b *brokertest.Broker, c *client) {
		b.Inject(brokertest.Fault{On: "queue.declare", Do: brokertest.Raise, Code: 406, Text: "not today"})
		_, err := c.ch.QueueDeclare("other", true, false, false, false, nil)
		var ae *amqp.Error
		equal(t, "an error of the broker", errors.As(err, &ae), true)
		equal(t, "code", ae.Code, 406)
		equal(t, "text", ae.Reason, "PRECONDITION_FAILED - not today")
		equal(t, "channel closed", c.ch.IsClosed(), true)
		equal(t, "connection closed", c.conn.IsClosed(), false)
		b.Inject(brokertest.Fault{On: "channel.open", Do: brokertest.Raise, Code: 541, Text: "broken"})
		_, err = c.conn.Channel()
		equal(t, "an error", err != nil, true)
		synctest.Wait()
		equal(t, "connection closed", c.conn.IsClosed(), true)
	})
}

// TestRaiseOnce: a client that has sent two methods before it reads of the error of the first
// one loses the channel, and not the connection.
func TestRaiseOnce(t *testing.T) {
	faulty(t, func(t *testing.T, b *brokertest.Broker, c *client) {
		b.Inject(brokertest.Fault{On: "queue.bind", Do: brokertest.Raise, Code: 403, Text: "no", Times: -1})
		equal(t, "first", c.ch.QueueBind("q", "a", "amq.topic", true, nil), nil)
		equal(t, "second", c.ch.QueueBind("q", "b", "amq.topic", true, nil), nil)
		synctest.Wait()
		equal(t, "channel closed", c.ch.IsClosed(), true)
		equal(t, "connection closed", c.conn.IsClosed(), false)
	})
}

func TestPoisonBreaksTheClientEachTime(t *testing.T) {
	faulty(t, func(t *testing.T, b *brokertest.Broker, c *client) {
		b.Inject(brokertest.Fault{
			On: "basic.deliver", From: brokertest.FromBroker, Times: -1, Do: brokertest.Poison,
			Match: func(f brokertest.Frame) bool { return f.MessageID == "bad" && f.Queue == "q" },
		})
		c.publish("q", "good").Wait()
		c.publish("q", "bad").Wait()
		for d := range c.consume("q") {
			equal(t, "read", d.MessageId, "good")
		}
		equal(t, "connection closed", c.conn.IsClosed(), true)
		again := connect(t, b)
		for d := range again.consume("q") {
			equal(t, "read", d.MessageId, "good")
		}
		equal(t, "connection closed again", again.conn.IsClosed(), true)
	})
}

func TestBlock(t *testing.T) {
	faulty(t, func(t *testing.T, b *brokertest.Broker, c *client) {
		blocked := c.conn.NotifyBlocked(make(chan amqp.Blocking, 2))
		b.Block("low on memory")
		first := c.publish("q", "1")
		equal(t, "reason", (<-blocked).Reason, "low on memory")
		equal(t, "the one at which it happens", first.Wait(), true)
		second := c.publish("q", "2")
		synctest.Wait()
		equal(t, "acked", second.Acked(), false)
		equal(t, "listed as blocked", b.Connections()[0].Blocked, true)
		time.Sleep(5 * time.Minute) // of virtual time, which the connection survives
		equal(t, "alive", c.conn.IsClosed(), false)
		b.Unblock()
		equal(t, "active", (<-blocked).Active, false)
		equal(t, "acked", second.Wait(), true)
	})
}

func TestBlockAndHoldDoNotMix(t *testing.T) {
	faulty(t, func(t *testing.T, b *brokertest.Broker, c *client) {
		f := b.Inject(brokertest.Fault{On: "basic.publish", Do: brokertest.Hold})
		b.Block("low on memory")
		first := c.publish("q", "1")
		second := c.publish("q", "2")
		c.ok(f.WaitFired(t.Context(), 1))
		b.Unblock()
		synctest.Wait()
		equal(t, "published while held", len(bodies(b, "q")), 0)
		b.Block("again")
		f.Release() // the first is handled, and the alarm keeps the second
		equal(t, "first acked", first.Wait(), true)
		synctest.Wait()
		equal(t, "published while blocked", fmt.Sprint(bodies(b, "q")), "[1]")
		b.Unblock()
		equal(t, "second acked", second.Wait(), true)
	})
}

func TestCancelConsumersAndDeleteQueue(t *testing.T) {
	faulty(t, func(t *testing.T, b *brokertest.Broker, c *client) {
		cancels := c.ch.NotifyCancel(make(chan string, 2))
		in, err := c.ch.Consume("q", "one", false, false, false, false, nil)
		c.ok(err)
		c.ok(b.CancelConsumers("q"))
		equal(t, "cancelled", <-cancels, "one")
		_, open := <-in
		equal(t, "deliveries go on", open, false)
		_, err = c.ch.Consume("q", "two", false, false, false, false, nil)
		c.ok(err)
		c.ok(b.DeleteQueue("q"))
		equal(t, "cancelled", <-cancels, "two")
		equal(t, "unknown queue", b.DeleteQueue("q") != nil, true)
		equal(t, "unknown queue", b.CancelConsumers("q") != nil, true)
	})
}

func TestCloseConnections(t *testing.T) {
	faulty(t, func(t *testing.T, b *brokertest.Broker, c *client) {
		closed := c.conn.NotifyClose(make(chan *amqp.Error, 1))
		equal(t, "closed", b.CloseConnections("maintenance"), 1)
		err := <-closed
		equal(t, "code", err.Code, 320)
		equal(t, "text", err.Reason, "CONNECTION_FORCED - maintenance")
	})
}

func TestChanceComesFromTheSeed(t *testing.T) {
	run := func(seed uint64) string {
		b := brokertest.New(brokertest.WithSeed(seed))
		defer b.Close()
		c := connect(t, b)
		c.queue("q", nil)
		b.Inject(brokertest.Fault{On: "basic.publish", Times: -1, Chance: 0.5, Do: brokertest.Nack})
		out := ""
		for range 40 {
			out += fmt.Sprint(c.publish("q", "m").Wait(), " ")
		}
		return out
	}
	equal(t, "same seed", run(7), run(7))
	if run(7) == run(8) {
		t.Fatal("another seed does the same")
	}
}

func TestImpossibleFaultsPanic(t *testing.T) {
	b := brokertest.New()
	defer b.Close()
	for _, f := range []brokertest.Fault{
		{}, {On: "basic.nothing"}, {On: "queue.declare", Do: brokertest.Nack}, {On: "basic.publish", From: brokertest.FromBroker, Do: brokertest.Return},
		{On: "basic.publish", Do: brokertest.Poison}, {On: "queue.declare", Do: brokertest.Raise, Code: 1}, {On: "basic.publish", Chance: 2},
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%+v accepted", f)
				}
			}()
			b.Inject(f)
		}()
	}
}
