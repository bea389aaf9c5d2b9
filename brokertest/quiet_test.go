package brokertest_test

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/harebus/harebus/brokertest"
)

// stuck fails the test unless WaitQuiet gives up and names every part.
func (c *client) stuck(b *brokertest.Broker, parts ...string) {
	c.Helper()
	start := time.Now()
	err := b.WaitQuiet(c.Context())
	if err == nil {
		c.Fatal("it is quiet")
	}
	if took := time.Since(start); took > 10*time.Second {
		c.Errorf("it took %v", took)
	}
	for _, part := range append(parts, "nothing will change any more") {
		if !strings.Contains(err.Error(), part) {
			c.Errorf("%q does not contain %q", err, part)
		}
	}
}

// TestWaitQuietNamesWhatIsParked: nobody consumes the queue, so nobody ends the wait.
func TestWaitQuietNamesWhatIsParked(t *testing.T) {
	parked := amqp.Publishing{MessageId: "7", Type: "Order", Headers: amqp.Table{"PikaBus.ErrorDetails": "sold out"}}
	test := func(t *testing.T) {
		b := brokertest.New()
		defer b.Close()
		c := connect(t, b)
		c.queue("error", nil)
		c.ok(c.ch.Publish("", "error", false, false, parked))
		c.stuck(b, "'error'", "1 ready", "no consumer", `message "7" of type "Order"`, `PikaBus.ErrorDetails "sold out"`)
		c.ok(b.WaitQuiet(t.Context(), "error"))
		c.ok(c.conn.Close())
	}
	t.Run("virtual-time", func(t *testing.T) { synctest.Test(t, test) })
	t.Run("real-time", func(t *testing.T) {
		t.Parallel()
		test(t)
	})
}

// TestWaitQuietWaitsForWhatStillComes: not everything that stands still is stuck.
func TestWaitQuietWaitsForWhatStillComes(t *testing.T) {
	for _, test := range []struct {
		name string
		args amqp.Table
		act  func(c *client, b *brokertest.Broker)
		took time.Duration
	}{
		{"expiry", amqp.Table{"x-message-ttl": int64(3600_000)}, nil, time.Hour},
		{"expiring-queue", amqp.Table{"x-expires": int64(3600_000)}, nil, time.Hour},
		{"slow-consumer", nil, func(c *client, _ *brokertest.Broker) {
			d := <-c.consume("q")
			time.Sleep(20 * time.Minute)
			c.ok(d.Ack(false))
		}, 20 * time.Minute},
		{"consumer-comes-soon", nil, func(c *client, _ *brokertest.Broker) {
			time.Sleep(2 * time.Second)
			c.ok((<-c.consume("q")).Ack(false))
		}, 2 * time.Second},
		{"outage", nil, func(c *client, b *brokertest.Broker) {
			b.Refuse(time.Minute)
			time.Sleep(time.Minute)
			c.ok((<-c.consume("q")).Ack(false))
		}, time.Minute},
		{"dead-letter-queue-has-room-later", amqp.Table{
			"x-queue-type": "quorum", "x-message-ttl": int64(0), "x-dead-letter-exchange": "",
			"x-dead-letter-routing-key": "full", "x-dead-letter-strategy": "at-least-once", "x-overflow": "reject-publish",
		}, func(c *client, _ *brokertest.Broker) {
			time.Sleep(time.Second)
			_, err := c.ch.QueuePurge("full", false)
			c.ok(err)
			time.Sleep(3 * time.Minute)
			_, err = c.ch.QueuePurge("full", false)
			c.ok(err)
		}, 3*time.Minute + time.Second},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := brokertest.New()
				defer b.Close()
				c := connect(t, b)
				c.queue("q", test.args)
				c.queue("full", amqp.Table{"x-max-length": 1, "x-overflow": "reject-publish"})
				if strings.HasPrefix(test.name, "dead-letter") {
					c.publish("full", "1").Wait()
				}
				c.publish("q", "1").Wait()
				start := time.Now()
				if test.act != nil {
					go test.act(c, b)
				}
				c.ok(b.WaitQuiet(t.Context()))
				equal(t, "took", time.Since(start).Truncate(time.Second), test.took)
				c.ok(c.conn.Close())
			})
		})
	}
}

// TestWaitQuietKnowsDeadEnds: dead-lettering is tried again without end, and in vain.
func TestWaitQuietKnowsDeadEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := brokertest.New()
		defer b.Close()
		c := connect(t, b)
		c.queue("q", amqp.Table{
			"x-queue-type": "quorum", "x-message-ttl": int64(0), "x-dead-letter-exchange": "",
			"x-dead-letter-routing-key": "nowhere", "x-dead-letter-strategy": "at-least-once", "x-overflow": "reject-publish",
		})
		c.publish("q", "1").Wait()
		c.stuck(b, "'q'", "1 ready")
		c.ok(c.conn.Close())
	})
}

// TestWaitingCostsNothing: what keeps the broker busy is looked at, not everything there is, and only when
// something has happened.
func TestWaitingCostsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := brokertest.New()
		defer b.Close()
		c := connect(t, b) // with heartbeats of ten seconds
		c.queue("q", amqp.Table{"x-message-ttl": int64(240 * 3600_000)})
		for i := range 100 {
			c.queue("other"+string(rune('a'+i)), nil)
		}
		c.publish("q", "1").Wait()
		looks, err := b.LooksUntilQuiet(t.Context())
		c.ok(err)
		if looks > 5 {
			t.Errorf("it looked at all queues %d times in ten days", looks)
		}
		c.ok(c.conn.Close())
	})
}

// TestNoHeartbeatsInMemory: they are for a peer that vanishes.
func TestNoHeartbeatsInMemory(t *testing.T) {
	for name, want := range map[string]time.Duration{"by-default": 0, "on-request": 20 * time.Second} {
		t.Run(name, func(t *testing.T) {
			var opts []brokertest.Option
			if want > 0 {
				opts = append(opts, brokertest.WithHeartbeat(want))
			}
			b := brokertest.New(opts...)
			defer b.Close()
			raw, err := b.Dial("", "")
			if err != nil {
				t.Fatal(err)
			}
			conn, err := amqp.Open(raw, amqp.Config{Vhost: "/", SASL: []amqp.Authentication{&amqp.PlainAuth{Username: "guest", Password: "guest"}}})
			if err != nil {
				t.Fatal(err)
			}
			equal(t, "interval", conn.Config.Heartbeat, want)
			if err := conn.Close(); err != nil {
				t.Fatal(err)
			}
		})
	}
}
