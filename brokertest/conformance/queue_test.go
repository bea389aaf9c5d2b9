package conformance

import (
	"strings"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

func TestQueues(t *testing.T) {
	runAll(t, []behaviour{
		{"declare counts messages and consumers", func(e *env) {
			q := e.queue("q", nil)
			e.send(q, "1", "2")
			got, err := e.ch.QueueDeclare(q, true, false, false, false, nil)
			e.ok(err)
			want(e, "messages", got.Messages, 2)
			want(e, "consumers", got.Consumers, 0)
			_, in := e.consume(q, 1)
			e.next(in)
			e.depth(q, 1)
			got, err = e.ch.QueueDeclarePassive(q, true, false, false, false, nil)
			e.ok(err)
			want(e, "consumers", got.Consumers, 1)
		}},
		{"server-named", func(e *env) {
			q, err := e.ch.QueueDeclare("", false, false, true, false, nil)
			e.ok(err)
			if !strings.HasPrefix(q.Name, "amq.gen-") || len(q.Name) != len("amq.gen-")+22 {
				e.Fatalf("name %q", q.Name)
			}
			e.send(q.Name, "1")
			e.fails(amqp.AccessRefused, func(ch *amqp.Channel) error {
				_, err := ch.QueueDeclare(q.Name, false, false, true, false, nil)
				return err
			})
			_, err = e.ch.QueueDeclarePassive(q.Name, false, false, true, false, nil)
			e.ok(err)
		}},
		{"line breaks in names are dropped", func(e *env) {
			q, err := e.ch.QueueDeclare(e.n("a\r\nb"), true, false, false, false, nil)
			e.ok(err)
			want(e, "name", q.Name, e.n("ab"))
			e.dropQueue(q.Name)
		}},
		{"reserved prefix", func(e *env) {
			e.fails(amqp.AccessRefused, func(ch *amqp.Channel) error {
				_, err := ch.QueueDeclare("amq.mine", true, false, false, false, nil)
				return err
			})
		}},
		{"passive declare of a missing one", func(e *env) {
			e.fails(amqp.NotFound, func(ch *amqp.Channel) error {
				_, err := ch.QueueDeclarePassive(e.n("none"), true, false, false, false, nil)
				return err
			})
		}},
		{"declare again must be the same", func(e *env) {
			q := e.queue("q", amqp.Table{"x-max-length": int32(5)})
			again := func(code int, durable, autoDelete, exclusive bool, args amqp.Table) {
				e.Helper()
				e.fails(code, func(ch *amqp.Channel) error {
					_, err := ch.QueueDeclare(q, durable, autoDelete, exclusive, false, args)
					return err
				})
			}
			_, err := e.ch.QueueDeclare(q, true, false, false, false, amqp.Table{"x-max-length": int64(5)})
			e.ok(err)
			_, err = e.ch.QueueDeclare(q, true, false, false, false, amqp.Table{"x-max-length": int64(5), "x-queue-type": "classic"})
			e.ok(err)
			same := amqp.Table{"x-max-length": 5}
			again(amqp.PreconditionFailed, true, true, false, same)
			again(amqp.PreconditionFailed, false, false, false, same)
			again(amqp.PreconditionFailed, true, false, false, nil)
			again(amqp.PreconditionFailed, true, false, false, amqp.Table{"x-max-length": 6})
			again(amqp.PreconditionFailed, true, false, false, with(same, amqp.Table{"x-message-ttl": 1}))
			again(amqp.PreconditionFailed, true, false, false, with(same, quorum))
			again(amqp.ResourceLocked, true, false, true, same)
		}},
		{"arguments are checked", func(e *env) {
			for _, args := range []amqp.Table{
				{"x-message-ttl": -1}, {"x-message-ttl": "1"}, {"x-message-ttl": 1.5}, {"x-message-ttl": int64(315360000001)},
				{"x-expires": 0}, {"x-expires": -1}, {"x-max-length": -1}, {"x-max-length": "5"}, {"x-max-length-bytes": -1},
				{"x-max-priority": 256}, {"x-max-priority": -1}, {"x-overflow": "explode"}, {"x-overflow": 1},
				{"x-dead-letter-exchange": 1}, {"x-dead-letter-routing-key": "k"}, {"x-queue-type": "no-such"},
				{"x-queue-type": 1}, {"x-single-active-consumer": "yes"}, {"x-delivery-limit": 3},
				{"x-dead-letter-strategy": "at-least-once"}, {"x-queue-mode": "eager"},
				with(quorum, amqp.Table{"x-max-priority": 3}), with(quorum, amqp.Table{"x-queue-mode": "lazy"}),
				with(quorum, amqp.Table{"x-dead-letter-strategy": "sometimes"}),
			} {
				if e.broker.atLeast(4, 0) && args["x-queue-mode"] != nil {
					continue // lazy mode went with 4.0
				}
				ch := e.channel(e.conn)
				_, err := ch.QueueDeclare(e.n("q"), true, false, false, false, args)
				if err == nil {
					e.Errorf("%v accepted", args)
					_, _ = ch.QueueDelete(e.n("q"), false, false, false) // so that the next one is a new one
					continue
				}
				e.code(err, amqp.PreconditionFailed)
			}
		}},
		{"quorum queues are durable and shared", func(e *env) {
			declare := func(name string, durable, autoDelete, exclusive bool) {
				e.Helper()
				e.fails(amqp.PreconditionFailed, func(ch *amqp.Channel) error {
					_, err := ch.QueueDeclare(name, durable, autoDelete, exclusive, false, quorum)
					return err
				})
			}
			declare(e.n("q1"), false, false, false)
			declare(e.n("q2"), true, true, false)
			declare(e.n("q3"), true, false, true)
			declare("", true, false, false)
		}},
		{"exclusive belongs to its connection", func(e *env) {
			q, err := e.ch.QueueDeclare(e.n("q"), false, false, true, false, nil)
			e.ok(err)
			other := e.dial()
			try := func(f func(ch *amqp.Channel) error) {
				e.Helper()
				e.code(f(e.channel(other)), amqp.ResourceLocked)
			}
			try(func(ch *amqp.Channel) error {
				_, err := ch.QueueDeclare(q.Name, false, false, true, false, nil)
				return err
			})
			try(func(ch *amqp.Channel) error {
				_, err := ch.QueueDeclarePassive(q.Name, false, false, true, false, nil)
				return err
			})
			try(func(ch *amqp.Channel) error {
				_, err := ch.Consume(q.Name, "", true, false, false, false, nil)
				return err
			})
			try(func(ch *amqp.Channel) error { _, _, err := ch.Get(q.Name, true); return err })
			try(func(ch *amqp.Channel) error { _, err := ch.QueuePurge(q.Name, false); return err })
			try(func(ch *amqp.Channel) error { _, err := ch.QueueDelete(q.Name, false, false, false); return err })
			try(func(ch *amqp.Channel) error { return ch.QueueBind(q.Name, "k", "amq.direct", false, nil) })
			e.ok(e.channel(other).Publish("", q.Name, false, false, text("anybody may publish")))
			e.depth(q.Name, 1)
			e.ok(e.conn.Close())
			e.conn = other
			e.fails(amqp.NotFound, func(ch *amqp.Channel) error {
				_, err := ch.QueueDeclarePassive(q.Name, false, false, true, false, nil)
				return err
			})
		}},
		{"auto-delete with the last consumer", func(e *env) {
			q, err := e.ch.QueueDeclare(e.n("q"), true, true, false, false, nil)
			e.ok(err)
			e.dropQueue(q.Name)
			ch, _ := e.consume(q.Name, 0)
			ch2, _ := e.consume(q.Name, 0)
			e.ok(ch.Close())
			_, err = e.ch.QueueDeclarePassive(q.Name, true, true, false, false, nil)
			e.ok(err)
			e.ok(ch2.Close())
			<-time.After(quiet)
			e.gone(q.Name, 0)
		}},
		{"delete if unused, if empty", func(e *env) {
			q := e.queue("q", nil)
			e.send(q, "1")
			ch, in := e.consume(q, 0)
			e.next(in)
			e.fails(amqp.PreconditionFailed, func(ch *amqp.Channel) error { _, err := ch.QueueDelete(q, true, false, false); return err })
			e.ok(ch.Close())
			e.depth(q, 1)
			e.fails(amqp.PreconditionFailed, func(ch *amqp.Channel) error { _, err := ch.QueueDelete(q, false, true, false); return err })
			n, err := e.ch.QueueDelete(q, true, false, false)
			e.ok(err)
			want(e, "messages deleted", n, 1)
			n, err = e.ch.QueueDelete(q, false, false, false)
			e.ok(err)
			want(e, "messages deleted", n, 0)
		}},
		{"quorum queues do not know if-unused and if-empty", func(e *env) {
			q := e.queue("q", quorum)
			if e.broker.atLeast(3, 12) {
				return // supported since
			}
			e.kills(amqp.NotImplemented, func(ch *amqp.Channel) error { _, err := ch.QueueDelete(q, true, false, false); return err })
			e.kills(amqp.NotImplemented, func(ch *amqp.Channel) error { _, err := ch.QueueDelete(q, false, true, false); return err })
		}},
		{"purge leaves what is unacknowledged", func(e *env) {
			for _, k := range kinds {
				q := e.queue("q-"+k.name, k.args)
				e.send(q, "1", "2", "3")
				ch, in := e.consume(q, 1)
				e.expect(in, "1")
				n, err := e.ch.QueuePurge(q, false)
				e.ok(err)
				want(e, "purged", n, 2)
				e.ok(ch.Close())
				e.depth(q, 1)
			}
		}},
		{"the empty name is the queue declared last", func(e *env) {
			e.fails(amqp.NotFound, func(ch *amqp.Channel) error { _, _, err := ch.Get("", true); return err })
			q := e.queue("q", nil)
			x := e.exchange("x", "direct", nil)
			e.ok(e.ch.QueueBind("", "", x, false, nil))
			want(e, "publish to the name", e.publish(x, q, text("1")), confirmed)
			d, ok, err := e.ch.Get("", true)
			e.ok(err)
			want(e, "got one", ok, true)
			want(e, "body", string(d.Body), "1")
		}},
		{"x-expires deletes an unused queue", func(e *env) {
			for _, k := range kinds {
				q := e.queue("q-"+k.name, with(k.args, amqp.Table{"x-expires": 300}))
				e.gone(q, 300*time.Millisecond)
			}
		}},
		{"x-expires spares a consumed queue", func(e *env) {
			const lease = 2 * time.Second
			q := e.queue("q", amqp.Table{"x-expires": lease.Milliseconds()})
			ch, in := e.consume(q, 0)
			<-time.After(lease + quiet)
			e.send(q, "1")
			e.expect(in, "1")
			e.ok(ch.Close())
			e.gone(q, lease)
		}},
	})
}

// gone waits until a queue does not exist any more. It asks rarely: asking
// renews the lease of a queue that expires.
func (e *env) gone(queue string, lease time.Duration) {
	e.Helper()
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); <-time.After(lease + 500*time.Millisecond) {
		ch := e.channel(e.conn)
		_, err := ch.QueueDeclarePassive(queue, true, false, false, false, nil)
		if err != nil {
			e.code(err, amqp.NotFound)
			return
		}
		e.ok(ch.Close())
	}
	e.Fatalf("%s is still there", queue)
}
