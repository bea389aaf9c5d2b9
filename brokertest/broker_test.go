package brokertest_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/harebus/harebus/brokertest"
)

// client is a connection to a broker with a channel in confirm mode.
type client struct {
	testing.TB
	conn *amqp.Connection
	ch   *amqp.Channel
}

func connect(t testing.TB, b *brokertest.Broker) *client {
	t.Helper()
	c := &client{TB: t}
	var err error
	c.conn, err = amqp.DialConfig(b.URL(), amqp.Config{
		Dial: b.Dial, Heartbeat: 10 * time.Second,
		Properties: amqp.Table{"connection_name": t.Name()},
	})
	c.ok(err)
	t.Cleanup(func() { _ = c.conn.Close() }) // the test may have cut it
	c.ch, err = c.conn.Channel()
	c.ok(err)
	c.ok(c.ch.Confirm(false))
	return c
}

func (c *client) ok(err error) {
	c.Helper()
	if err != nil {
		c.Fatal(err)
	}
}

func (c *client) queue(name string, args amqp.Table) {
	c.Helper()
	_, err := c.ch.QueueDeclare(name, true, false, false, false, args)
	c.ok(err)
}

// publish publishes a mandatory message and returns its confirmation.
func (c *client) publish(queue, body string) *amqp.DeferredConfirmation {
	c.Helper()
	d, err := c.ch.PublishWithDeferredConfirm("", queue, true, false, amqp.Publishing{
		Body: []byte(body), MessageId: body[:min(len(body), 20)], DeliveryMode: amqp.Persistent,
	})
	c.ok(err)
	return d
}

func (c *client) consume(queue string) <-chan amqp.Delivery {
	c.Helper()
	in, err := c.ch.Consume(queue, "", false, false, false, false, nil)
	c.ok(err)
	return in
}

// bodies are those of the messages in a queue.
func bodies(b *brokertest.Broker, queue string) []string {
	var out []string
	for _, m := range b.Messages(queue) {
		out = append(out, string(m.Body))
	}
	return out
}

func equal[T comparable](t testing.TB, what string, got, want T) {
	t.Helper()
	if got != want {
		t.Fatalf("%s: got %v, want %v", what, got, want)
	}
}

func TestVirtualTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := brokertest.New()
		defer b.Close()
		c := connect(t, b)
		c.queue("work", nil)
		c.queue("wait", amqp.Table{
			"x-message-ttl": time.Hour.Milliseconds(), "x-dead-letter-exchange": "", "x-dead-letter-routing-key": "work",
		})
		in := c.consume("work")
		start := time.Now()
		c.publish("work", "job").Wait()
		for n := range 24 {
			d := <-in
			equal(t, "time", time.Since(start), time.Duration(n)*time.Hour)
			if n > 0 {
				death := d.Headers["x-death"].([]any)[0].(amqp.Table)
				equal(t, "count", death["count"], any(int64(n)))
			}
			ok, err := c.ch.PublishWithDeferredConfirm("", "wait", true, false, amqp.Publishing{Body: d.Body, Headers: d.Headers})
			c.ok(err)
			ok.Wait()
			c.ok(d.Ack(false))
		}
		equal(t, "waiting", b.Messages("wait")[0].Expires, start.Add(24*time.Hour))
		c.ok(c.conn.Close())
	})
}

func TestIdleConnectionLivesOnHeartbeats(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := brokertest.New()
		defer b.Close()
		c := connect(t, b)
		time.Sleep(24 * time.Hour) // of virtual time
		c.queue("still here", nil)
		c.ok(c.conn.Close())
	})
}

func TestSilentClientIsCut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := brokertest.New()
		defer b.Close()
		conn, err := b.Dial("", "")
		if err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		buf := make([]byte, 1024)
		for err == nil {
			_, err = conn.Read(buf)
		}
		equal(t, "handshake timeout", time.Since(start), 10*time.Second)
		equal(t, "connections", len(b.Connections()), 0)
	})
}

func TestConsumerTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := brokertest.New()
		defer b.Close()
		c := connect(t, b)
		c.queue("q", nil)
		c.publish("q", "slow").Wait()
		closed := c.ch.NotifyClose(make(chan *amqp.Error, 1))
		<-c.consume("q")
		start := time.Now()
		err := <-closed
		equal(t, "code", err.Code, amqp.PreconditionFailed)
		equal(t, "after", time.Since(start), 30*time.Minute)
		equal(t, "back in the queue", len(bodies(b, "q")), 1)
		c.ok(c.conn.Close())
	})
}

func TestAtLeastOnceDeadLetteringTriesAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := brokertest.New()
		defer b.Close()
		c := connect(t, b)
		c.queue("q", amqp.Table{
			"x-queue-type": "quorum", "x-dead-letter-strategy": "at-least-once", "x-overflow": "reject-publish",
			"x-dead-letter-exchange": "", "x-dead-letter-routing-key": "late",
		})
		for i := range 40 {
			c.publish("q", fmt.Sprint(i)).Wait()
		}
		in := c.consume("q")
		for range 40 {
			d := <-in
			c.ok(d.Nack(false, false))
		}
		synctest.Wait()
		q, _ := b.Queue("q")
		equal(t, "held back", q.DeadLettering, 40)
		equal(t, "ready", q.Ready, 0)
		start := time.Now()
		c.queue("late", nil)
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		c.ok(b.WaitQueue(ctx, "late", func(q brokertest.Queue) bool { return q.Ready == 40 }))
		if d := time.Since(start); d > 3*time.Minute {
			t.Fatalf("took %v", d)
		}
		c.ok(c.conn.Close())
	})
}

func TestRestart(t *testing.T) {
	b := brokertest.New()
	defer b.Close()
	c := connect(t, b)
	c.queue("durable", nil)
	_, err := c.ch.QueueDeclare("transient", false, false, false, false, nil)
	c.ok(err)
	c.ok(c.ch.ExchangeDeclare("x", "fanout", true, false, false, false, nil))
	c.ok(c.ch.ExchangeDeclare("gone", "fanout", false, false, false, false, nil))
	c.ok(c.ch.QueueBind("durable", "", "x", false, nil))
	c.ok(c.ch.QueueBind("durable", "", "gone", false, nil))
	c.publish("durable", "persistent").Wait()
	d, err := c.ch.PublishWithDeferredConfirm("", "durable", true, false, amqp.Publishing{Body: []byte("transient")})
	c.ok(err)
	d.Wait()
	in := c.consume("durable")
	<-in
	closed := c.conn.NotifyClose(make(chan *amqp.Error, 1))
	b.Restart()
	<-closed
	equal(t, "messages", fmt.Sprint(bodies(b, "durable")), "[persistent]")
	equal(t, "redelivered", b.Messages("durable")[0].Redelivered, true)
	_, found := b.Queue("transient")
	equal(t, "transient queue there", found, false)
	equal(t, "bindings", fmt.Sprint(b.Bindings()), fmt.Sprint([]brokertest.Binding{{Source: "x", Destination: "durable", DestinationType: "queue"}}))
	equal(t, "exchange there", slices.ContainsFunc(b.Exchanges(), func(x brokertest.Exchange) bool { return x.Name == "gone" }), false)
	connect(t, b).publish("durable", "after").Wait()
}

func TestRefuse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := brokertest.New()
		defer b.Close()
		b.Refuse(time.Minute)
		_, err := b.Dial("tcp", "anywhere")
		equal(t, "refused", errors.Is(err, brokertest.ErrRefused), true)
		time.Sleep(time.Minute) // of virtual time
		c := connect(t, b)
		c.ok(c.conn.Close())
		b.Close()
		_, err = b.Dial("tcp", "anywhere")
		equal(t, "closed", errors.Is(err, brokertest.ErrClosed), true)
	})
}

func TestListen(t *testing.T) {
	b := brokertest.New(brokertest.WithUser("me", "secret"), brokertest.WithVHost("other"))
	defer b.Close()
	addr, err := b.Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	conn, err := amqp.Dial("amqp://me:secret@" + addr.String() + "/other")
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "vhost", b.Connections()[0].VHost, "other")
	equal(t, "user", b.Connections()[0].User, "me")
	ch, err := conn.Channel()
	if err != nil {
		t.Fatal(err)
	}
	_, err = ch.QueueDeclare("q", true, false, false, false, nil)
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "queues there", len(b.VHost("other").Queues()), 1)
	equal(t, "queues in /", len(b.Queues()), 0)
	closed := conn.NotifyClose(make(chan *amqp.Error, 1))
	b.Close()
	<-closed
	if _, err := net.Dial("tcp", addr.String()); err == nil {
		t.Fatal("it still listens")
	}
}

func TestWaitQuiet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := brokertest.New()
		defer b.Close()
		c := connect(t, b)
		c.queue("error", nil)
		c.queue("q", nil)
		c.publish("q", "1").Wait()
		c.publish("error", "parked").Wait()
		quiet := make(chan error, 1)
		go func() { quiet <- b.WaitQuiet(t.Context(), "error") }()
		d := <-c.consume("q")
		synctest.Wait()
		equal(t, "quiet with a message unacknowledged", len(quiet), 0)
		c.ok(d.Ack(false))
		c.ok(<-quiet)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		err := b.WaitQuiet(ctx)
		equal(t, "in time", errors.Is(err, context.DeadlineExceeded), true)
		c.ok(c.conn.Close())
	})
}

func TestInspection(t *testing.T) {
	b := brokertest.New()
	defer b.Close()
	c := connect(t, b)
	c.queue("q", amqp.Table{"x-queue-type": "quorum", "x-message-ttl": int64(60000)})
	c.publish("q", "1").Wait()
	c.publish("q", "2").Wait()
	c.ok(c.ch.Qos(1, 0, false))
	in, err := c.ch.Consume("q", "tag", false, false, false, false, amqp.Table{"x-priority": 3})
	c.ok(err)
	<-in
	q, ok := b.Queue("q")
	equal(t, "found", ok, true)
	equal(t, "type", q.Type, "quorum")
	equal(t, "ready", q.Ready, 1)
	equal(t, "unacked", q.Unacked, 1)
	equal(t, "ttl", q.Arguments["x-message-ttl"], any(int64(60000)))
	equal(t, "consumer", fmt.Sprintf("%+v", q.Consumers), "[{Tag:tag Channel:1 NoAck:false Exclusive:false Active:true Prefetch:1 Priority:3 Unacked:1}]")
	ms := b.Messages("q")
	equal(t, "first unacked", ms[0].Unacked, true)
	equal(t, "first", ms[0].MessageId, "1")
	equal(t, "second unacked", ms[1].Unacked, false)
	equal(t, "second", string(ms[1].Body), "2")
	if d := time.Until(ms[1].Expires); d <= 0 || d > time.Minute {
		t.Fatalf("expires in %v", d)
	}
	equal(t, "connection", b.Connections()[0].Name, t.Name())
}
