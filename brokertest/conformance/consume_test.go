package conformance

import (
	"fmt"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

func TestConsuming(t *testing.T) {
	runAll(t, []behaviour{
		{"acknowledged messages are gone, others come back in their order", func(e *env) {
			for _, k := range kinds {
				q := e.queue("q-"+k.name, k.args)
				e.send(q, "1", "2", "3", "4")
				ch, in := e.consume(q, 0)
				ds := e.expect(in, "1", "2", "3", "4")
				for i, d := range ds {
					want(e, "redelivered", d.Redelivered, false)
					want(e, "tag", d.DeliveryTag, uint64(i+1))
				}
				e.ok(ds[1].Ack(false))
				e.leave(ch)
				e.depth(q, 3)
				_, in = e.consume(q, 0)
				for _, d := range e.expect(in, "1", "3", "4") {
					want(e, "redelivered", d.Redelivered, true)
				}
			}
		}},
		{"multiple settles all up to a tag", func(e *env) {
			for _, k := range kinds {
				q := e.queue("q-"+k.name, k.args)
				e.send(q, "1", "2", "3", "4")
				ch, in := e.consume(q, 0)
				ds := e.expect(in, "1", "2", "3", "4")
				e.ok(ds[2].Ack(true))
				e.ok(ds[3].Ack(false))
				e.leave(ch)
				e.depth(q, 0)
			}
		}},
		{"tag 0 with multiple is everything", func(e *env) {
			q := e.queue("q", nil)
			e.send(q, "1", "2")
			ch, in := e.consume(q, 0)
			e.expect(in, "1", "2")
			e.ok(ch.Ack(0, true))
			e.ok(ch.Ack(0, true)) // of nothing
			e.leave(ch)
			e.depth(q, 0)
		}},
		{"unknown tags close the channel", func(e *env) {
			q := e.queue("q", nil)
			e.send(q, "1")
			for _, settle := range []func(ch *amqp.Channel) error{
				func(ch *amqp.Channel) error { return ch.Ack(1, false) },
				func(ch *amqp.Channel) error { return ch.Ack(7, true) },
				func(ch *amqp.Channel) error { return ch.Nack(1, false, true) },
				func(ch *amqp.Channel) error { return ch.Reject(1, true) },
				func(ch *amqp.Channel) error { return ch.Ack(0, false) },
				func(ch *amqp.Channel) error {
					d, _, err := ch.Get(q, false)
					e.ok(err)
					e.ok(d.Ack(false))
					return d.Ack(false)
				},
			} {
				e.fails(amqp.PreconditionFailed, settle)
			}
		}},
		{"a classic queue takes back messages where they were", func(e *env) {
			q := e.queue("q", nil)
			e.send(q, "1", "2", "3")
			_, in := e.consume(q, 1)
			for range 3 {
				d := e.expect(in, "1")[0]
				e.ok(d.Nack(false, true))
			}
			d := e.expect(in, "1")[0]
			want(e, "redelivered", d.Redelivered, true)
			e.ok(d.Ack(false))
			d = e.expect(in, "2")[0]
			want(e, "redelivered", d.Redelivered, false)
		}},
		{"nack of several returns them in order", func(e *env) {
			q := e.queue("q", nil)
			e.send(q, "1", "2", "3", "4")
			ch, in := e.consume(q, 3)
			e.expect(in, "1", "2", "3")
			e.ok(ch.Nack(2, true, true))
			e.expect(in, "1", "2")
			e.ok(ch.Nack(0, true, true))
			e.expect(in, "1", "2", "3")
		}},
		{"reject without requeue drops", func(e *env) {
			for _, k := range kinds {
				q := e.queue("q-"+k.name, k.args)
				e.send(q, "1", "2")
				ch, in := e.consume(q, 0)
				ds := e.expect(in, "1", "2")
				e.ok(ds[0].Reject(false))
				e.ok(ds[1].Nack(false, false))
				e.leave(ch)
				e.depth(q, 0)
			}
		}},
		{"prefetch limits each consumer", func(e *env) {
			for _, k := range kinds {
				q := e.queue("q-"+k.name, k.args)
				e.send(q, "1", "2", "3", "4", "5")
				ch, in := e.consume(q, 2)
				ds := e.expect(in, "1", "2")
				e.none(in)
				e.ok(ds[1].Ack(false))
				e.expect(in, "3")
				e.none(in)
				in2, err := ch.Consume(q, "", false, false, false, false, nil)
				e.ok(err)
				e.expect(in2, "4", "5")
			}
		}},
		{"global prefetch limits the channel", func(e *env) {
			if e.broker.atLeast(4, 3) {
				return // not applied any more
			}
			q1, q2 := e.queue("q1", nil), e.queue("q2", nil)
			e.send(q1, "1", "2")
			e.send(q2, "3", "4")
			ch := e.channel(e.conn)
			e.ok(ch.Qos(3, 0, true))
			in1, err := ch.Consume(q1, "", false, false, false, false, nil)
			e.ok(err)
			ds := e.expect(in1, "1", "2")
			in2, err := ch.Consume(q2, "", false, false, false, false, nil)
			e.ok(err)
			e.expect(in2, "3")
			e.none(in2)
			e.ok(ds[0].Ack(false))
			e.expect(in2, "4")
			e.kills(amqp.NotImplemented, func(ch *amqp.Channel) error {
				e.ok(ch.Qos(3, 0, true))
				_, err := ch.Consume(e.queue("quorum", quorum), "", false, false, false, false, nil)
				return err
			})
		}},
		{"prefetch size is not implemented", func(e *env) {
			e.kills(amqp.NotImplemented, func(ch *amqp.Channel) error { return ch.Qos(0, 10, false) })
		}},
		{"no-ack ignores prefetch", func(e *env) {
			for _, k := range kinds {
				q := e.queue("q-"+k.name, k.args)
				e.send(q, "1", "2", "3")
				ch := e.channel(e.conn)
				e.ok(ch.Qos(1, 0, false))
				in, err := ch.Consume(q, "", true, false, false, false, nil)
				e.ok(err)
				e.expect(in, "1", "2", "3")
				e.leave(ch)
				e.depth(q, 0)
			}
		}},
		{"consumers take turns", func(e *env) {
			for _, k := range kinds {
				q := e.queue("q-"+k.name, k.args)
				_, a := e.consume(q, 0)
				_, b := e.consume(q, 0)
				_, c := e.consume(q, 0)
				e.send(q, "1", "2", "3", "4", "5", "6")
				e.expect(a, "1", "4")
				e.expect(b, "2", "5")
				e.expect(c, "3", "6")
			}
		}},
		{"a higher priority goes first until it is full", func(e *env) {
			for _, k := range kinds {
				q := e.queue("q-"+k.name, k.args)
				consume := func(priority int) <-chan amqp.Delivery {
					ch := e.channel(e.conn)
					e.ok(ch.Qos(2, 0, false))
					in, err := ch.Consume(q, "", false, false, false, false, amqp.Table{"x-priority": priority})
					e.ok(err)
					return in
				}
				low, high := consume(-1), consume(5)
				e.send(q, "1", "2", "3", "4")
				ds := e.expect(high, "1", "2")
				e.expect(low, "3", "4")
				e.send(q, "5")
				e.ok(ds[0].Ack(false))
				e.expect(high, "5")
			}
		}},
		{"single active consumer", func(e *env) {
			for _, k := range kinds {
				q := e.queue("q-"+k.name, with(k.args, amqp.Table{"x-single-active-consumer": true}))
				first, a := e.consume(q, 1)
				_, b := e.consume(q, 0)
				e.send(q, "1", "2")
				e.expect(a, "1")
				e.none(b)
				e.ok(first.Close())
				e.expect(b, "1", "2")
			}
		}},
		{"single active quorum queues refuse basic.get", func(e *env) {
			q := e.queue("q", with(quorum, amqp.Table{"x-single-active-consumer": true}))
			e.fails(amqp.ResourceLocked, func(ch *amqp.Channel) error { _, _, err := ch.Get(q, true); return err })
		}},
		{"exclusive consumer", func(e *env) {
			q := e.queue("q", nil)
			ch := e.channel(e.conn)
			_, err := ch.Consume(q, "", false, true, false, false, nil)
			e.ok(err)
			for _, exclusive := range []bool{true, false} {
				e.fails(amqp.AccessRefused, func(ch *amqp.Channel) error {
					_, err := ch.Consume(q, "", false, exclusive, false, false, nil)
					return err
				})
			}
			e.leave(ch)
			_, _ = e.consume(q, 0)
			e.fails(amqp.AccessRefused, func(ch *amqp.Channel) error {
				_, err := ch.Consume(q, "", false, true, false, false, nil)
				return err
			})
		}},
		{"a quorum queue knows no exclusive consumers", func(e *env) {
			q := e.queue("q", quorum)
			for _, exclusive := range []bool{true, false, true} {
				ch := e.channel(e.conn)
				e.ok(ch.Qos(1, 0, false))
				in, err := ch.Consume(q, "", false, exclusive, false, false, nil)
				e.ok(err)
				e.send(q, fmt.Sprint(exclusive)) // the others are busy
				e.expect(in, fmt.Sprint(exclusive))
			}
		}},
		{"consumer tags are unique on a channel", func(e *env) {
			q := e.queue("q", nil)
			_, err := e.ch.Consume(q, "tag", false, false, false, false, nil)
			e.ok(err)
			_, err = e.channel(e.conn).Consume(q, "tag", false, false, false, false, nil)
			e.ok(err)
			e.kills(amqp.NotAllowed, func(ch *amqp.Channel) error {
				_, err := ch.Consume(q, "tag", false, false, false, false, nil)
				e.ok(err)
				_, err = ch.Consume(q, "tag", false, false, false, false, nil)
				return err
			})
		}},
		{"consumer arguments are checked", func(e *env) {
			q := e.queue("q", nil)
			e.fails(amqp.PreconditionFailed, func(ch *amqp.Channel) error {
				_, err := ch.Consume(q, "", false, false, false, false, amqp.Table{"x-priority": "high"})
				return err
			})
		}},
		{"cancel keeps what is unacknowledged", func(e *env) {
			for _, k := range kinds {
				q := e.queue("q-"+k.name, k.args)
				e.send(q, "1", "2")
				ch := e.channel(e.conn)
				e.ok(ch.Qos(1, 0, false))
				in, err := ch.Consume(q, "tag", false, false, false, false, nil)
				e.ok(err)
				d := e.expect(in, "1")[0]
				e.ok(ch.Cancel("tag", false))
				e.ok(ch.Cancel("never", false))
				e.depth(q, 1)
				e.ok(ch.Ack(d.DeliveryTag, false))
				e.leave(ch)
				e.depth(q, 1)
			}
		}},
		{"deleting a queue cancels its consumers", func(e *env) {
			for _, k := range kinds {
				q := e.queue("q-"+k.name, k.args)
				e.send(q, "1")
				ch := e.channel(e.conn)
				cancels := ch.NotifyCancel(make(chan string, 1))
				in, err := ch.Consume(q, "tag", false, false, false, false, nil)
				e.ok(err)
				d := e.expect(in, "1")[0]
				_, err = e.ch.QueueDelete(q, false, false, false)
				e.ok(err)
				select {
				case tag := <-cancels:
					want(e, "tag", tag, "tag")
				case <-time.After(patience):
					e.Fatal("not cancelled")
				}
				e.ok(d.Ack(false))
				_, err = ch.QueueDeclare("", false, false, true, false, nil) // the channel lives
				e.ok(err)
			}
		}},
		{"consuming what does not exist", func(e *env) {
			e.fails(amqp.NotFound, func(ch *amqp.Channel) error {
				_, err := ch.Consume(e.n("none"), "", false, false, false, false, nil)
				return err
			})
		}},
		{"get", func(e *env) {
			for _, k := range kinds {
				q := e.queue("q-"+k.name, k.args)
				_, ok, err := e.ch.Get(q, false)
				e.ok(err)
				want(e, "got one", ok, false)
				e.send(q, "1", "2", "3")
				ch := e.channel(e.conn)
				d, ok, err := ch.Get(q, false)
				e.ok(err)
				want(e, "got one", ok, true)
				want(e, "body", string(d.Body), "1")
				want(e, "left", d.MessageCount, uint32(2))
				want(e, "redelivered", d.Redelivered, false)
				want(e, "key", d.RoutingKey, q)
				d2, _, err := ch.Get(q, true)
				e.ok(err)
				want(e, "body", string(d2.Body), "2")
				e.leave(ch)
				e.depth(q, 2)
				d, _, err = e.ch.Get(q, true)
				e.ok(err)
				want(e, "body", string(d.Body), "1")
				want(e, "redelivered", d.Redelivered, true)
			}
		}},
		{"recover gives everything back", func(e *env) {
			q := e.queue("q", nil)
			e.send(q, "1", "2")
			ch, in := e.consume(q, 0)
			e.expect(in, "1", "2")
			e.ok(ch.Recover(true))
			for _, d := range e.expect(in, "1", "2") {
				want(e, "redelivered", d.Redelivered, true)
			}
			e.kills(amqp.NotImplemented, func(ch *amqp.Channel) error { return ch.Recover(false) })
		}},
		{"a lost connection gives everything back", func(e *env) {
			for _, k := range kinds {
				q := e.queue("q-"+k.name, k.args)
				e.send(q, "1", "2")
				conn := e.dial()
				in, err := e.channel(conn).Consume(q, "", false, false, false, false, nil)
				e.ok(err)
				e.expect(in, "1", "2")
				e.ok(conn.Close())
				_, in = e.consume(q, 0)
				for _, d := range e.expect(in, "1", "2") {
					want(e, "redelivered", d.Redelivered, true)
				}
			}
		}},
		{"a quorum queue counts deliveries", func(e *env) {
			q := e.queue("q", quorum)
			e.send(q, "1")
			_, in := e.consume(q, 1)
			for n := range 4 {
				d := e.next(in)
				count, has := d.Headers["x-delivery-count"]
				if n == 0 {
					want(e, "count there", has, false)
				} else if !e.broker.atLeast(4, 3) { // which counts rejects only
					want(e, "count", count, any(int64(n)))
				}
				want(e, "redelivered", d.Redelivered, n > 0)
				e.ok(d.Nack(false, true))
			}
		}},
		{"a quorum queue with a delivery limit serves returned messages first", func(e *env) {
			q := e.queue("q", with(quorum, amqp.Table{"x-delivery-limit": 5}))
			e.send(q, "1", "2", "3", "4")
			_, in := e.consume(q, 2)
			ds := e.expect(in, "1", "2")
			e.ok(ds[1].Nack(false, true))
			ds = append(ds, e.expect(in, "2")...)
			e.ok(ds[0].Nack(false, true))
			e.expect(in, "1")
		}},
		{"a quorum queue without one has them start again at the end", func(e *env) {
			if e.broker.atLeast(4, 0) {
				return // there is always a limit
			}
			q := e.queue("q", quorum)
			e.send(q, "1", "2", "3")
			ch, in := e.consume(q, 1)
			d := e.expect(in, "1")[0]
			e.ok(d.Nack(false, true))
			d = e.expect(in, "2")[0]
			e.ok(d.Ack(false))
			e.expect(in, "3")
			e.leave(ch) // what is lost, not given back, goes first
			_, in = e.consume(q, 0)
			e.expect(in, "3", "1")
		}},
		{"several are given back consumer by consumer", func(e *env) {
			if e.broker.atLeast(4, 0) {
				return
			}
			q := e.queue("q", with(quorum, amqp.Table{"x-delivery-limit": 5}))
			ch := e.channel(e.conn)
			e.ok(ch.Qos(2, 0, false))
			b, err := ch.Consume(q, "b", false, false, false, false, nil)
			e.ok(err)
			a, err := ch.Consume(q, "a", false, false, false, false, nil)
			e.ok(err)
			e.send(q, "1", "2", "3", "4")
			e.expect(b, "1", "3")
			e.expect(a, "2", "4")
			e.ok(ch.Cancel("a", false))
			e.ok(ch.Cancel("b", false))
			e.ok(ch.Nack(0, true, true))
			_, in := e.consume(q, 0)
			e.expect(in, "2", "4", "1", "3")
		}},
		{"consumers a quorum queue counts", func(e *env) {
			q := e.queue("q", quorum)
			count := func(n int) {
				e.Helper()
				for deadline := time.Now().Add(patience); ; pause() {
					got, err := e.ch.QueueDeclarePassive(q, true, false, false, false, nil)
					e.ok(err)
					if got.Consumers == n {
						return
					}
					if time.Now().After(deadline) {
						e.Fatalf("%d consumers, want %d", got.Consumers, n)
					}
				}
			}
			e.send(q, "1", "2")
			ch := e.channel(e.conn)
			d, _, err := ch.Get(q, false)
			e.ok(err)
			count(1)
			e.ok(d.Ack(false))
			count(0)
			in, err := ch.Consume(q, "tag", false, false, false, false, nil)
			e.ok(err)
			d = e.next(in)
			e.ok(ch.Cancel("tag", false))
			count(1)
			e.ok(d.Ack(false))
			count(0)
		}},
		{"channel.flow", func(e *env) {
			e.ok(e.ch.Flow(true))
			e.kills(amqp.NotImplemented, func(ch *amqp.Channel) error { return ch.Flow(false) })
		}},
		{"a thousand messages keep their order", func(e *env) {
			for _, k := range kinds {
				q := e.queue("q-"+k.name, k.args)
				ch := e.confirming()
				var last *amqp.DeferredConfirmation
				for i := range 1000 {
					var err error
					last, err = ch.PublishWithDeferredConfirm("", q, false, false, text(fmt.Sprint(i)))
					e.ok(err)
				}
				want(e, "acked", last.Wait(), true)
				c, in := e.consume(q, 50)
				for i := range 1000 {
					d := e.next(in)
					want(e, "body", string(d.Body), fmt.Sprint(i))
					e.ok(d.Ack(false))
				}
				e.ok(c.Cancel("consumer", false)) // or acknowledgements may be lost
				e.ok(c.Close())
				e.depth(q, 0)
			}
		}},
	})
}
