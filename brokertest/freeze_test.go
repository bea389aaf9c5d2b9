package brokertest_test

import (
	"testing"
	"testing/synctest"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/harebus/harebus/brokertest"
)

// TestFreeze: nothing is answered, no timer runs, no connection is made, until it is over.
func TestFreeze(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := brokertest.New()
		defer b.Close()
		c := connect(t, b) // with heartbeats of ten seconds
		c.queue("q", amqp.Table{"x-message-ttl": int64(5000), "x-dead-letter-exchange": "", "x-dead-letter-routing-key": "dead"})
		c.queue("dead", nil)
		c.publish("q", "1").Wait()
		start := time.Now()
		b.Freeze(12 * time.Second)
		confirm := c.publish("q", "2")
		dialed := make(chan time.Time, 1)
		go func() {
			defer close(dialed)
			other := connect(t, b)
			dialed <- time.Now()
			_ = other.conn.Close()
		}()
		time.Sleep(10 * time.Second)
		q, _ := b.Queue("q")
		equal(t, "ready while frozen", q.Ready, 1)
		equal(t, "acked", confirm.Wait(), true)
		equal(t, "confirmed after", time.Since(start).Truncate(time.Second), 12*time.Second)
		equal(t, "connected after", (<-dialed).Sub(start).Truncate(time.Second), 12*time.Second)
		q, _ = b.Queue("dead")
		equal(t, "expired", q.Ready, 1)
		c.ok(c.conn.Close())
	})
}

// TestFrozenTooLong: a client with heartbeats gives the connection up, and the broker finds out when it goes on.
func TestFrozenTooLong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := brokertest.New()
		defer b.Close()
		c := connect(t, b)
		c.queue("q", nil)
		c.publish("q", "1").Wait()
		<-c.consume("q")
		closed := c.conn.NotifyClose(make(chan *amqp.Error, 1))
		start := time.Now()
		b.Freeze(time.Minute)
		<-closed
		if took := time.Since(start); took > 20*time.Second {
			t.Errorf("noticed after %v", took)
		}
		q, _ := b.Queue("q")
		equal(t, "unacknowledged while frozen", q.Unacked, 1)
		time.Sleep(time.Until(start.Add(time.Minute + time.Second)))
		q, _ = b.Queue("q")
		equal(t, "given back", q.Ready, 1)
		b.Freeze(time.Hour)
		b.Freeze(0)
		c.ok(b.WaitQuiet(t.Context(), "q"))
		b.Freeze(time.Hour) // which Close ends
	})
}
