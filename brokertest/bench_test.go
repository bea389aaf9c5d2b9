package brokertest_test

import (
	"testing"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/harebus/harebus/brokertest"
)

// BenchmarkStartDialClose is what a test pays for a broker of its own.
func BenchmarkStartDialClose(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		broker := brokertest.New()
		conn, err := amqp.DialConfig(broker.URL(), amqp.Config{Dial: broker.Dial})
		if err != nil {
			b.Fatal(err)
		}
		if err := conn.Close(); err != nil {
			b.Fatal(err)
		}
		broker.Close()
	}
}

// BenchmarkMessage publishes a message, waits for the confirm, receives and
// acknowledges it, one after the other.
func BenchmarkMessage(b *testing.B) {
	for _, kind := range []string{"classic", "quorum"} {
		b.Run(kind, func(b *testing.B) {
			broker := brokertest.New()
			defer broker.Close()
			c := connect(b, broker)
			c.queue("q", amqp.Table{"x-queue-type": kind})
			in := c.consume("q")
			b.ReportAllocs()
			for b.Loop() {
				confirm, err := c.ch.PublishWithDeferredConfirm("", "q", true, false, amqp.Publishing{Body: []byte("body")})
				c.ok(err)
				d := <-in
				c.ok(d.Ack(false))
				confirm.Wait()
			}
		})
	}
}

// BenchmarkThroughput keeps a window of messages under way.
func BenchmarkThroughput(b *testing.B) {
	broker := brokertest.New()
	defer broker.Close()
	c := connect(b, broker)
	c.queue("q", nil)
	in := c.consume("q")
	b.ReportAllocs()
	const window = 500
	for b.Loop() {
		for range window {
			_, err := c.ch.PublishWithDeferredConfirm("", "q", true, false, amqp.Publishing{Body: []byte("body")})
			c.ok(err)
		}
		for range window {
			d := <-in
			c.ok(d.Ack(false))
		}
	}
	b.ReportMetric(float64(b.N)*window/b.Elapsed().Seconds(), "messages/s")
}
