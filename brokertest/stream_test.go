package brokertest_test

import (
	"fmt"
	"maps"
	"testing"
	"testing/synctest"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/harebus/harebus/brokertest"
)

// streaming runs a test in a bubble, with a client that has a stream "log".
func streaming(t *testing.T, args amqp.Table, opts []brokertest.Option, run func(t *testing.T, b *brokertest.Broker, c *client)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		b := brokertest.New(append(opts, brokertest.WithLog(t.Logf))...)
		defer b.Close()
		c := connect(t, b)
		all := amqp.Table{"x-queue-type": "stream"}
		maps.Copy(all, args)
		c.queue("log", all)
		run(t, b, c)
		_ = c.conn.Close() // it may be cut
	})
}

// read attaches to the stream, on a channel of its own.
func (c *client) read(prefetch int, offset any) (*amqp.Channel, <-chan amqp.Delivery) {
	c.Helper()
	ch, err := c.conn.Channel()
	c.ok(err)
	c.ok(ch.Qos(prefetch, 0, false))
	in, err := ch.Consume("log", "", false, false, false, false, amqp.Table{"x-stream-offset": offset})
	c.ok(err)
	return ch, in
}

// came are the bodies and offsets of what has come.
func came(in <-chan amqp.Delivery) string {
	var out []string
	for {
		synctest.Wait()
		select {
		case d, ok := <-in:
			if !ok {
				return fmt.Sprint(append(out, "ended"))
			}
			out = append(out, fmt.Sprintf("%s@%v", d.Body, d.Headers["x-stream-offset"]))
		default:
			return fmt.Sprint(out)
		}
	}
}

// TestStreamAge: a segment goes when the next one begins and its last chunk is too old.
func TestStreamAge(t *testing.T) {
	streaming(t, amqp.Table{"x-max-age": "1h", "x-stream-max-segment-size-bytes": 1000}, nil, func(t *testing.T, b *brokertest.Broker, c *client) {
		for i := range 3 {
			c.publish("log", fmt.Sprintf("%d%0999d", i, 0)).Wait()
			time.Sleep(40 * time.Minute)
		}
		q, _ := b.Queue("log")
		equal(t, "type", q.Type, "stream")
		equal(t, "messages", q.Ready, 2)
		time.Sleep(100 * time.Hour)
		q, _ = b.Queue("log")
		equal(t, "messages after a long silence", q.Ready, 2)
		c.publish("log", "x").Wait()
		messages := b.Messages("log")
		equal(t, "messages after the next one", len(messages), 1)
		equal(t, "its offset", messages[0].Offset, int64(6)) // each new segment takes one
	})
}

// TestStreamTime: a time and an interval mean the first chunk that is not older.
func TestStreamTime(t *testing.T) {
	streaming(t, nil, nil, func(t *testing.T, _ *brokertest.Broker, c *client) {
		begin := time.Now()
		for i := range 4 {
			c.publish("log", fmt.Sprint(i)).Wait()
			time.Sleep(time.Hour)
		}
		for _, at := range []struct {
			offset any
			want   string
		}{
			{begin.Add(time.Hour), "[1@1 2@2 3@3]"}, {begin.Add(time.Hour + time.Second), "[2@2 3@3]"}, {"2h", "[2@2 3@3]"}, {"119m", "[3@3]"}, {"59m", "[]"},
		} {
			ch, in := c.read(10, at.offset)
			equal(t, fmt.Sprint(at.offset), came(in), at.want)
			c.ok(ch.Close())
		}
	})
}

// TestStreamChunk: what one operation publishes comes together, beyond the prefetch; as of RabbitMQ 4 it does not.
func TestStreamChunk(t *testing.T) {
	for name, c := range map[string]struct {
		opts []brokertest.Option
		want string
	}{"3.10": {nil, "[0@0 1@1 2@2]"}, "4": {[]brokertest.Option{brokertest.WithModernStreams()}, "[0@0]"}} {
		t.Run(name, func(t *testing.T) {
			streaming(t, nil, c.opts, func(t *testing.T, _ *brokertest.Broker, cl *client) {
				tx, err := cl.conn.Channel()
				cl.ok(err)
				cl.ok(tx.Tx())
				for i := range 3 {
					cl.ok(tx.Publish("", "log", false, false, amqp.Publishing{Body: fmt.Append(nil, i)}))
				}
				cl.ok(tx.TxCommit())
				_, in := cl.read(1, "first")
				equal(t, "came", came(in), c.want)
				_, in = cl.read(10, "last")
				equal(t, "the last chunk", came(in), "[0@0 1@1 2@2]")
				_, in = cl.read(10, 1)
				equal(t, "from the middle of it", came(in), "[1@1 2@2]")
			})
		})
	}
}

// TestStreamRefused: giving back ends the connection, or gives credit as of RabbitMQ 4.
func TestStreamRefused(t *testing.T) {
	for name, opts := range map[string][]brokertest.Option{"3.10": nil, "4": {brokertest.WithModernStreams()}} {
		t.Run(name, func(t *testing.T) {
			streaming(t, nil, opts, func(t *testing.T, _ *brokertest.Broker, c *client) {
				c.publish("log", "0").Wait()
				c.publish("log", "1").Wait()
				closed := c.conn.NotifyClose(make(chan *amqp.Error, 1))
				_, in := c.read(1, "first")
				c.ok((<-in).Nack(false, true))
				if opts != nil {
					equal(t, "came", came(in), "[1@1]")
					return
				}
				select {
				case err := <-closed:
					equal(t, "code", err.Code, amqp.NotImplemented)
				case <-time.After(time.Minute):
					t.Error("the connection is still open")
				}
			})
		})
	}
}

// TestStreamFaults: what retention, an operator and a lost node do to readers.
func TestStreamFaults(t *testing.T) {
	streaming(t, nil, nil, func(t *testing.T, b *brokertest.Broker, c *client) {
		c.ok(c.ch.QueueBind("log", "#", "amq.topic", false, nil))
		for i := range 6 {
			c.publish("log", fmt.Sprint(i)).Wait()
		}
		_, in := c.read(2, "first")
		equal(t, "came", came(in), "[0@0 1@1]")
		c.ok(b.TruncateStream("log", 4))
		_, other := c.read(2, 1)
		equal(t, "behind the cut", came(other), "[4@4 5@5]")

		c.ok(b.LoseReplica("log", time.Minute))
		equal(t, "without a replica", came(in), "[ended]")
		ch, err := c.conn.Channel()
		c.ok(err)
		c.ok(ch.Qos(2, 0, false))
		_, err = ch.Consume("log", "", false, false, false, false, nil)
		equal(t, "error", fmt.Sprint(err), `Exception (406) Reason: "PRECONDITION_FAILED - queue 'log' in vhost '/' does not have a running replica on the local node"`)
		time.Sleep(time.Minute)

		_, in = c.read(2, "next")
		c.ok(b.RecreateStream("log"))
		equal(t, "made anew", came(in), "[ended]")
		c.ok(c.ch.Publish("amq.topic", "a.b", false, false, amqp.Publishing{Body: []byte("new")}))
		_, in = c.read(2, "first")
		equal(t, "in the new one", came(in), "[new@0]")
		b.Restart()
		equal(t, "after a restart", len(b.Messages("log")), 1)

		if err := b.TruncateStream("none", 1); err == nil {
			t.Error("no queue was truncated")
		}
	})
	synctest.Test(t, func(t *testing.T) {
		b := brokertest.New()
		defer b.Close()
		c := connect(t, b)
		c.queue("q", nil)
		if err := b.RecreateStream("q"); err == nil {
			t.Error("a queue was made anew as a stream")
		}
		c.ok(c.conn.Close())
	})
}

// TestStreamQuiet: WaitQuiet waits for readers, and not for what nobody reads.
func TestStreamQuiet(t *testing.T) {
	streaming(t, nil, nil, func(t *testing.T, b *brokertest.Broker, c *client) {
		c.publish("log", "0").Wait()
		c.ok(b.WaitQuiet(t.Context()))
		_, in := c.read(1, "first")
		begin := time.Now()
		time.AfterFunc(time.Minute, func() { _ = (<-in).Ack(false) }) // a failure shows as a wait without end
		c.ok(b.WaitQuiet(t.Context()))
		equal(t, "waited", time.Since(begin), time.Minute)
	})
}
