package conformance

import (
	"bytes"
	"reflect"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

func TestPublishing(t *testing.T) {
	runAll(t, []behaviour{
		{"properties and header types pass unchanged", func(e *env) {
			q := e.queue("q", nil)
			p := amqp.Publishing{
				ContentType: "ct", ContentEncoding: "ce", DeliveryMode: 2, Priority: 7, CorrelationId: "ci",
				ReplyTo: "rt", Expiration: "60000", MessageId: "mi", Timestamp: time.Unix(1234567890, 0), Type: "ty",
				UserId: "guest", AppId: "ai", Body: []byte("body"),
				Headers: amqp.Table{
					"bool": true, "int8": int8(-8), "byte": byte(200), "int16": int16(-16), "uint16": uint16(60000),
					"int32": int32(-32), "uint32": uint32(4000000000), "int64": int64(-64), "float32": float32(1.5),
					"float64": 2.25, "decimal": amqp.Decimal{Scale: 2, Value: 314}, "string": "s", "bytes": []byte{0, 1, 2},
					"time": time.Unix(987654321, 0), "nil": nil, "array": []any{int32(1), "two", nil},
					"table": amqp.Table{"inner": amqp.Table{"deep": int64(1)}},
				},
			}
			want(e, "publish", e.publish("", q, p), confirmed)
			d := e.get(q)
			got := amqp.Publishing{
				ContentType: d.ContentType, ContentEncoding: d.ContentEncoding, DeliveryMode: d.DeliveryMode,
				Priority: d.Priority, CorrelationId: d.CorrelationId, ReplyTo: d.ReplyTo, Expiration: d.Expiration,
				MessageId: d.MessageId, Timestamp: d.Timestamp, Type: d.Type, UserId: d.UserId, AppId: d.AppId,
				Body: d.Body, Headers: d.Headers,
			}
			if !reflect.DeepEqual(got, p) {
				e.Fatalf("got  %+v\nwant %+v", got, p)
			}
		}},
		{"no properties at all", func(e *env) {
			q := e.queue("q", nil)
			want(e, "publish", e.publish("", q, amqp.Publishing{}), confirmed)
			d := e.get(q)
			want(e, "headers", len(d.Headers), 0)
			want(e, "body", len(d.Body), 0)
		}},
		{"a body of many frames", func(e *env) {
			q := e.queue("q", nil)
			for _, size := range []int{131064, 131065, 1 << 20} {
				body := bytes.Repeat([]byte("0123456789abcdef"), size/16+1)[:size]
				want(e, "publish", e.publish("", q, amqp.Publishing{Body: body}), confirmed)
				if d := e.get(q); !bytes.Equal(d.Body, body) {
					e.Fatalf("body of %d came back with %d", size, len(d.Body))
				}
			}
		}},
		{"a missing exchange closes the channel", func(e *env) {
			e.fails(amqp.NotFound, func(ch *amqp.Channel) error { return ch.Publish(e.n("none"), "k", false, false, text("1")) })
		}},
		{"immediate is not implemented", func(e *env) {
			q := e.queue("q", nil)
			e.kills(amqp.NotImplemented, func(ch *amqp.Channel) error { return ch.Publish("", q, false, true, text("1")) })
		}},
		{"properties are checked", func(e *env) {
			q := e.queue("q", nil)
			for _, p := range []amqp.Publishing{
				{Expiration: "soon"}, {Expiration: "-1"}, {Expiration: "1.5"}, {Expiration: "12x"}, {Expiration: "315360000001"},
				{UserId: "somebody"}, {DeliveryMode: 3}, {ReplyTo: "amq.rabbitmq.reply-to"},
			} {
				if p.DeliveryMode == 3 && e.broker.atLeast(4, 0) {
					continue // taken as persistent since
				}
				e.fails(amqp.PreconditionFailed, func(ch *amqp.Channel) error { return ch.Publish("", q, false, false, p) })
			}
		}},
		{"confirms count from one on each channel", func(e *env) {
			q := e.queue("q", nil)
			ch := e.channel(e.conn)
			e.ok(ch.Publish("", q, false, false, text("before confirm mode")))
			e.ok(ch.Confirm(false))
			confirms := ch.NotifyPublish(make(chan amqp.Confirmation, 10))
			for range 3 {
				e.ok(ch.Publish("", q, false, false, text("1")))
			}
			for n := uint64(1); n <= 3; n++ {
				select {
				case c := <-confirms:
					want(e, "number", c.DeliveryTag, n)
					want(e, "acked", c.Ack, true)
				case <-time.After(patience):
					e.Fatal("no confirm")
				}
			}
			e.depth(q, 4)
		}},
		{"unroutable and not mandatory is confirmed", func(e *env) {
			ch := e.confirming()
			c, err := ch.PublishWithDeferredConfirm("", e.n("none"), false, false, text("1"))
			e.ok(err)
			want(e, "acked", c.Wait(), true)
		}},
		{"returned messages come back whole", func(e *env) {
			ch := e.confirming()
			returns := ch.NotifyReturn(make(chan amqp.Return, 1))
			p := text("body")
			p.MessageId, p.Headers = "id", amqp.Table{"h": "v"}
			c, err := ch.PublishWithDeferredConfirm("amq.direct", e.n("none"), true, false, p)
			e.ok(err)
			want(e, "acked", c.Wait(), true)
			r := <-returns
			want(e, "code", r.ReplyCode, uint16(312))
			want(e, "text", r.ReplyText, "NO_ROUTE")
			want(e, "exchange", r.Exchange, "amq.direct")
			want(e, "key", r.RoutingKey, e.n("none"))
			want(e, "id", r.MessageId, "id")
			want(e, "header", r.Headers["h"], any("v"))
			want(e, "body", string(r.Body), "body")
		}},
		{"a return comes before its confirm", func(e *env) {
			ch := e.confirming()
			returns := ch.NotifyReturn(make(chan amqp.Return, 1))
			for range 20 {
				c, err := ch.PublishWithDeferredConfirm("", e.n("none"), true, false, text("1"))
				e.ok(err)
				want(e, "acked", c.Wait(), true)
				want(e, "returned by then", len(returns), 1)
				<-returns
			}
		}},
		{"confirm after the queue is gone", func(e *env) {
			q := e.queue("q", nil)
			ch := e.confirming()
			_, err := e.ch.QueueDelete(q, false, false, false)
			e.ok(err)
			c, err := ch.PublishWithDeferredConfirm("", q, false, false, text("1"))
			e.ok(err)
			want(e, "acked", c.Wait(), true)
		}},
		{"direct reply-to", func(e *env) {
			const address = "amq.rabbitmq.reply-to"
			q := e.queue("q", nil)
			client := e.channel(e.conn)
			replies, err := client.Consume(address, "", true, false, false, false, nil)
			e.ok(err)
			p := text("request")
			p.ReplyTo = address
			e.ok(client.Publish("", q, false, false, p))
			d := e.get(q)
			if d.ReplyTo == address || len(d.ReplyTo) <= len(address) {
				e.Fatalf("reply-to is %q", d.ReplyTo)
			}
			got, err := e.ch.QueueDeclarePassive(d.ReplyTo, false, false, false, false, nil)
			e.ok(err)
			want(e, "consumers", got.Consumers, 1)
			wanted := returned // although it arrives
			if e.broker.atLeast(4, 3) {
				wanted = confirmed
			}
			want(e, "a mandatory reply", e.publish("", d.ReplyTo, text("reply")), wanted)
			want(e, "body", string(e.next(replies).Body), "reply")
			e.ok(client.Close())
			e.fails(amqp.NotFound, func(ch *amqp.Channel) error {
				_, err := ch.QueueDeclarePassive(d.ReplyTo, false, false, false, false, nil)
				return err
			})
		}},
		{"direct reply-to needs no-ack and is one a channel", func(e *env) {
			const address = "amq.rabbitmq.reply-to"
			e.fails(amqp.PreconditionFailed, func(ch *amqp.Channel) error {
				_, err := ch.Consume(address, "", false, false, false, false, nil)
				return err
			})
			e.fails(amqp.PreconditionFailed, func(ch *amqp.Channel) error {
				_, err := ch.Consume(address, "1", true, false, false, false, nil)
				e.ok(err)
				_, err = ch.Consume(address, "2", true, false, false, false, nil)
				return err
			})
		}},
	})
}

func TestTransactions(t *testing.T) {
	runAll(t, []behaviour{
		{"commit publishes and settles", func(e *env) {
			q, in := e.queue("q", nil), e.queue("in", nil)
			e.send(in, "1", "2")
			ch := e.channel(e.conn)
			e.ok(ch.Tx())
			d, _, err := ch.Get(in, false)
			e.ok(err)
			e.ok(d.Ack(false))
			e.ok(ch.Publish("", q, false, false, text("out")))
			<-time.After(quiet)
			e.depth(q, 0)
			e.ok(ch.TxCommit())
			e.depth(q, 1)
			e.ok(ch.Close())
			e.depth(in, 1)
		}},
		{"rollback does neither", func(e *env) {
			q, in := e.queue("q", nil), e.queue("in", nil)
			e.send(in, "1")
			ch := e.channel(e.conn)
			e.ok(ch.Tx())
			d, _, err := ch.Get(in, false)
			e.ok(err)
			e.ok(d.Ack(false))
			e.ok(ch.Publish("", q, false, false, text("out")))
			e.ok(ch.TxRollback())
			e.ok(ch.TxCommit())
			e.ok(ch.Close())
			e.depth(in, 1)
			e.depth(q, 0)
		}},
		{"a transaction that is not committed is rolled back", func(e *env) {
			q, in := e.queue("q", nil), e.queue("in", nil)
			e.send(in, "1")
			ch := e.channel(e.conn)
			e.ok(ch.Tx())
			d, _, err := ch.Get(in, false)
			e.ok(err)
			e.ok(d.Ack(false))
			e.ok(ch.Publish("", q, false, false, text("out")))
			e.ok(ch.Close())
			e.depth(in, 1)
			e.depth(q, 0)
		}},
		{"mandatory messages are returned at commit", func(e *env) {
			ch := e.channel(e.conn)
			returns := ch.NotifyReturn(make(chan amqp.Return, 1))
			e.ok(ch.Tx())
			e.ok(ch.Publish("", e.n("none"), true, false, text("1")))
			e.ok(ch.TxCommit())
			select {
			case <-returns:
			case <-time.After(patience):
				e.Fatal("not returned")
			}
		}},
		{"a rejected message fails the commit", func(e *env) {
			q := e.queue("q", amqp.Table{"x-max-length": 0, "x-overflow": "reject-publish"})
			e.fails(amqp.PreconditionFailed, func(ch *amqp.Channel) error {
				e.ok(ch.Tx())
				e.ok(ch.Publish("", q, false, false, text("1")))
				return ch.TxCommit()
			})
		}},
		{"modes exclude each other", func(e *env) {
			e.fails(amqp.PreconditionFailed, func(ch *amqp.Channel) error { e.ok(ch.Tx()); return ch.Confirm(false) })
			e.fails(amqp.PreconditionFailed, func(ch *amqp.Channel) error { e.ok(ch.Confirm(false)); return ch.Tx() })
			e.fails(amqp.PreconditionFailed, func(ch *amqp.Channel) error { return ch.TxCommit() })
			e.fails(amqp.PreconditionFailed, func(ch *amqp.Channel) error { return ch.TxRollback() })
		}},
	})
}
