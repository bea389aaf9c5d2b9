package conformance

import (
	"fmt"
	"strings"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

// to makes arguments that dead-letter to a queue through the default exchange.
func to(queue string, more amqp.Table) amqp.Table {
	return with(amqp.Table{"x-dead-letter-exchange": "", "x-dead-letter-routing-key": queue}, more)
}

// checkDeath compares the entries of one x-death event.
func checkDeath(e *env, t amqp.Table, queue, reason, exchange string, count int64, keys ...string) {
	e.Helper()
	want(e, "queue", t["queue"], any(queue))
	want(e, "reason", t["reason"], any(reason))
	want(e, "exchange", t["exchange"], any(exchange))
	want(e, "count", t["count"], any(count))
	want(e, "routing-keys", fmt.Sprint(t["routing-keys"]), fmt.Sprint(keys))
	at, ok := t["time"].(time.Time)
	if !ok || time.Since(at).Abs() > time.Minute {
		e.Fatalf("time is %v", t["time"])
	}
}

func TestDeadLettering(t *testing.T) {
	runAll(t, []behaviour{
		{"rejected", func(e *env) {
			for _, k := range kinds {
				dead := e.queue("dead-"+k.name, nil)
				q := e.queue("q-"+k.name, to(dead, k.args))
				p := text("1")
				p.Headers = amqp.Table{"mine": "kept"}
				p.MessageId, p.DeliveryMode = "id", 2
				want(e, "publish", e.publish("", q, p), confirmed)
				_, in := e.consume(q, 0)
				e.ok(e.next(in).Reject(false))
				d := e.get(dead)
				want(e, "body", string(d.Body), "1")
				want(e, "exchange", d.Exchange, "")
				want(e, "key", d.RoutingKey, dead)
				want(e, "id", d.MessageId, "id")
				want(e, "mode", d.DeliveryMode, uint8(2))
				if !e.broker.atLeast(4, 3) {
					want(e, "redelivered", d.Redelivered, false)
				}
				want(e, "header", d.Headers["mine"], any("kept"))
				want(e, "first queue", d.Headers["x-first-death-queue"], any(q))
				want(e, "first reason", d.Headers["x-first-death-reason"], any("rejected"))
				want(e, "first exchange", d.Headers["x-first-death-exchange"], any(""))
				ds := deaths(e, d)
				want(e, "deaths", len(ds), 1)
				want(e, "fields of a death", len(ds[0]), 6)
				checkDeath(e, ds[0], q, "rejected", "", 1, q)
			}
		}},
		{"without a routing key the message keeps its own, and CC", func(e *env) {
			for _, k := range kinds {
				dlx, x := e.exchange("dlx-"+k.name, "direct", nil), e.exchange("x-"+k.name, "direct", nil)
				a, b := e.queue("a-"+k.name, nil), e.queue("b-"+k.name, nil)
				q := e.queue("q-"+k.name, with(k.args, amqp.Table{"x-dead-letter-exchange": dlx}))
				e.bind(q, "key", x)
				e.bind(a, "key", dlx)
				e.bind(b, "copy", dlx)
				p := text("1")
				p.Headers = amqp.Table{"CC": []any{"copy"}}
				want(e, "publish", e.publish(x, "key", p), confirmed)
				_, in := e.consume(q, 0)
				e.ok(e.next(in).Nack(false, false))
				for _, dead := range []string{a, b} {
					d := e.get(dead)
					want(e, "exchange", d.Exchange, dlx)
					want(e, "key", d.RoutingKey, "key")
					want(e, "CC", fmt.Sprint(d.Headers["CC"]), "[copy]")
					want(e, "first exchange", d.Headers["x-first-death-exchange"], any(x))
					checkDeath(e, deaths(e, d)[0], q, "rejected", x, 1, "key", "copy")
				}
			}
		}},
		{"with a routing key CC goes", func(e *env) {
			for _, k := range kinds {
				dead, copied := e.queue("dead-"+k.name, nil), e.queue("copy-"+k.name, nil)
				q := e.queue("q-"+k.name, to(dead, k.args))
				p := text("1")
				p.Headers = amqp.Table{"CC": []any{copied}, "BCC": []any{"hidden"}}
				want(e, "publish", e.publish("", q, p), confirmed)
				_, in := e.consume(q, 0)
				e.ok(e.next(in).Nack(false, false))
				d := e.get(dead)
				_, has := d.Headers["CC"]
				want(e, "CC there", has, e.broker.atLeast(4, 0)) // there without effect since
				checkDeath(e, deaths(e, d)[0], q, "rejected", "", 1, q, copied)
				e.depth(copied, 1) // of the publish only
			}
		}},
		{"expired in the queue", func(e *env) {
			for _, k := range kinds {
				dead := e.queue("dead-"+k.name, nil)
				q := e.queue("q-"+k.name, to(dead, with(k.args, amqp.Table{"x-message-ttl": 50})))
				e.send(q, "1")
				d := e.get(dead)
				checkDeath(e, deaths(e, d)[0], q, "expired", "", 1, q)
				want(e, "fields of a death", len(deaths(e, d)[0]), 6)
			}
		}},
		{"expired by its own time, which is taken off", func(e *env) {
			for _, k := range kinds {
				dead := e.queue("dead-"+k.name, nil)
				q := e.queue("q-"+k.name, to(dead, k.args))
				p := text("1")
				p.Expiration = "50"
				want(e, "publish", e.publish("", q, p), confirmed)
				d := e.get(dead)
				want(e, "expiration", d.Expiration, "")
				want(e, "original", deaths(e, d)[0]["original-expiration"], any("50"))
			}
		}},
		{"the shorter time counts", func(e *env) {
			for _, k := range kinds {
				dead := e.queue("dead-"+k.name, nil)
				q := e.queue("q-"+k.name, to(dead, with(k.args, amqp.Table{"x-message-ttl": 60000})))
				p := text("short")
				p.Expiration = "50"
				want(e, "publish", e.publish("", q, p), confirmed)
				want(e, "body", string(e.get(dead).Body), "short")
				q2 := e.queue("q2-"+k.name, to(dead, with(k.args, amqp.Table{"x-message-ttl": 50})))
				p = text("long")
				p.Expiration = "60000"
				want(e, "publish", e.publish("", q2, p), confirmed)
				want(e, "body", string(e.get(dead).Body), "long")
			}
		}},
		{"only the head of a queue expires", func(e *env) {
			for _, k := range kinds {
				dead := e.queue("dead-"+k.name, nil)
				q := e.queue("q-"+k.name, to(dead, k.args))
				slow, fast := text("slow"), text("fast")
				slow.Expiration, fast.Expiration = "3000", "30"
				want(e, "publish", e.publish("", q, slow), confirmed)
				want(e, "publish", e.publish("", q, fast), confirmed)
				<-time.After(quiet)
				e.depth(q, 2)
				want(e, "first", string(e.get(dead).Body), "slow")
				want(e, "second", string(e.get(dead).Body), "fast")
			}
		}},
		{"what a consumer has does not expire", func(e *env) {
			for _, k := range kinds {
				dead := e.queue("dead-"+k.name, nil)
				q := e.queue("q-"+k.name, to(dead, with(k.args, amqp.Table{"x-message-ttl": 300})))
				_, in := e.consume(q, 1)
				e.send(q, "1")
				d := e.next(in)
				<-time.After(2 * time.Second / 5)
				e.depth(dead, 0)
				e.ok(d.Nack(false, true))
				e.get(dead) // given back, it expires at once
			}
		}},
		{"expiration 0 needs a waiting consumer", func(e *env) {
			for _, k := range kinds {
				if k.name == "quorum" {
					continue // may or may not deliver
				}
				q := e.queue("q-"+k.name, k.args)
				p := text("1")
				p.Expiration = "0"
				want(e, "publish", e.publish("", q, p), confirmed)
				e.depth(q, 0)
				_, in := e.consume(q, 0)
				e.none(in)
				want(e, "publish", e.publish("", q, p), confirmed)
				e.expect(in, "1")
			}
		}},
		{"a queue with time 0 is a pass-through", func(e *env) {
			for _, k := range kinds {
				dead := e.queue("dead-"+k.name, nil)
				q := e.queue("q-"+k.name, to(dead, with(k.args, amqp.Table{"x-message-ttl": 0})))
				e.send(q, "1", "2", "3")
				for _, body := range []string{"1", "2", "3"} {
					want(e, "body", string(e.get(dead).Body), body)
				}
			}
		}},
		{"too many: from the head", func(e *env) {
			for _, k := range kinds {
				dead := e.queue("dead-"+k.name, nil)
				q := e.queue("q-"+k.name, to(dead, with(k.args, amqp.Table{"x-max-length": 2})))
				e.send(q, "1", "2", "3", "4")
				e.depth(q, 2)
				want(e, "body", string(e.get(dead).Body), "1")
				d := e.get(dead)
				want(e, "body", string(d.Body), "2")
				checkDeath(e, deaths(e, d)[0], q, "maxlen", "", 1, q)
				want(e, "left", string(e.get(q).Body), "3")
			}
		}},
		{"too many octets: from the head", func(e *env) {
			for _, k := range kinds {
				q := e.queue("q-"+k.name, with(k.args, amqp.Table{"x-max-length-bytes": 10000}))
				a, b, c := strings.Repeat("a", 4000), strings.Repeat("b", 4000), strings.Repeat("c", 4000)
				e.send(q, a, b)
				e.depth(q, 2)
				e.send(q, c)
				e.depth(q, 2)
				want(e, "left", string(e.get(q).Body), b)
			}
		}},
		{"what a consumer has does not count as too many", func(e *env) {
			for _, k := range kinds {
				q := e.queue("q-"+k.name, with(k.args, amqp.Table{"x-max-length": 1}))
				_, in := e.consume(q, 1)
				e.send(q, "1")
				e.expect(in, "1")
				e.send(q, "2")
				e.depth(q, 1)
				e.send(q, "3")
				e.depth(q, 1)
				want(e, "left", string(e.get(q).Body), "3")
			}
		}},
		{"what is given back to a full classic queue is dropped", func(e *env) {
			q := e.queue("q", amqp.Table{"x-max-length": 1})
			_, in := e.consume(q, 1)
			e.send(q, "1")
			d := e.expect(in, "1")[0]
			e.send(q, "2")
			e.ok(d.Nack(false, true))
			e.expect(in, "2")
			e.depth(q, 0)
		}},
		{"a length of 0 still serves a waiting consumer", func(e *env) {
			q := e.queue("q", amqp.Table{"x-max-length": 0})
			e.send(q, "1")
			e.depth(q, 0)
			_, in := e.consume(q, 0)
			e.send(q, "2")
			e.expect(in, "2")
		}},
		{"a full classic queue rejects", func(e *env) {
			dead := e.queue("dead", nil)
			for _, mode := range []string{"reject-publish", "reject-publish-dlx"} {
				q := e.queue("q-"+mode, to(dead, amqp.Table{"x-max-length": 1, "x-overflow": mode}))
				want(e, "first", e.publish("", q, text("1")), confirmed)
				want(e, "second", e.publish("", q, text("2")), nacked)
				e.depth(q, 1)
				if mode == "reject-publish" {
					e.depth(dead, 0)
					continue
				}
				checkDeath(e, deaths(e, e.get(dead))[0], q, "maxlen", "", 1, q)
				e.get(q)
				want(e, "with room again", e.publish("", q, text("3")), confirmed)
			}
		}},
		{"one rejecting queue of two makes a nack", func(e *env) {
			x, full, free := e.exchange("x", "fanout", nil), e.queue("full", amqp.Table{"x-max-length": 0, "x-overflow": "reject-publish"}), e.queue("free", nil)
			e.bind(full, "", x)
			e.bind(free, "", x)
			want(e, "publish", e.publish(x, "", text("1")), nacked)
			e.depth(free, 1)
		}},
		{"a full quorum queue rejects in the end", func(e *env) {
			q := e.queue("q", with(quorum, amqp.Table{"x-max-length": 5, "x-overflow": "reject-publish"}))
			ch := e.confirming()
			for range 50 { // it takes a few too many until its publishers know
				c, err := ch.PublishWithDeferredConfirm("", q, false, false, text("1"))
				e.ok(err)
				if !c.Wait() {
					return
				}
			}
			e.Fatal("50 messages accepted by a queue for 5")
		}},
		{"deaths in two queues", func(e *env) {
			last := e.queue("last", nil)
			second := e.queue("second", to(last, amqp.Table{"x-message-ttl": 30}))
			first := e.queue("first", to(second, nil))
			e.send(first, "1")
			_, in := e.consume(first, 0)
			e.ok(e.next(in).Nack(false, false))
			d := e.get(last)
			ds := deaths(e, d)
			want(e, "deaths", len(ds), 2)
			checkDeath(e, ds[0], second, "expired", "", 1, second)
			checkDeath(e, ds[1], first, "rejected", "", 1, first)
			want(e, "first queue", d.Headers["x-first-death-queue"], any(first))
			want(e, "first reason", d.Headers["x-first-death-reason"], any("rejected"))
		}},
		{"going round counts, the latest death first", func(e *env) {
			for _, k := range kinds {
				wait := e.n("wait-" + k.name)
				q := e.queue("q-"+k.name, to(wait, k.args))
				e.queue("wait-"+k.name, to(q, with(k.args, amqp.Table{"x-message-ttl": 20})))
				e.send(q, "1")
				_, in := e.consume(q, 0)
				for n := range int64(4) {
					d := e.next(in)
					if n > 0 {
						ds := deaths(e, d)
						want(e, "deaths", len(ds), 2)
						checkDeath(e, ds[0], wait, "expired", "", n, wait)
						checkDeath(e, ds[1], q, "rejected", "", n, q)
					}
					e.ok(d.Nack(false, false))
				}
			}
		}},
		{"a circle nobody rejects in is dropped", func(e *env) {
			a, b := e.n("a"), e.n("b")
			e.queue("a", to(b, amqp.Table{"x-message-ttl": 20}))
			e.queue("b", to(a, amqp.Table{"x-message-ttl": 20}))
			e.send(a, "1")
			<-time.After(quiet)
			e.depth(a, 0)
			e.depth(b, 0)
		}},
		{"a queue that dead-letters to itself", func(e *env) {
			q := e.n("q")
			e.queue("q", to(q, nil))
			e.send(q, "1")
			_, in := e.consume(q, 1)
			e.ok(e.next(in).Nack(false, false))
			d := e.next(in)
			checkDeath(e, deaths(e, d)[0], q, "rejected", "", 1, q)
			e.ok(d.Nack(false, false))
			checkDeath(e, deaths(e, e.next(in))[0], q, "rejected", "", 2, q)
		}},
		{"no dead-letter exchange, or a missing one, drops", func(e *env) {
			for _, args := range []amqp.Table{nil, {"x-dead-letter-exchange": e.n("none")}} {
				q := e.queue(fmt.Sprint("q", len(args)), args)
				e.send(q, "1")
				_, in := e.consume(q, 0)
				e.ok(e.next(in).Nack(false, false))
				e.depth(q, 0)
			}
		}},
		{"a delivery limit", func(e *env) {
			dead := e.queue("dead", nil)
			q := e.queue("q", to(dead, with(quorum, amqp.Table{"x-delivery-limit": 2})))
			e.send(q, "1")
			_, in := e.consume(q, 0)
			for range 3 {
				e.ok(e.next(in).Reject(true))
			}
			d := e.get(dead)
			checkDeath(e, deaths(e, d)[0], q, "delivery_limit", "", 1, q)
			_, has := d.Headers["x-delivery-count"]
			want(e, "delivery count there", has, false)
		}},
		{"a delivery limit counts lost channels", func(e *env) {
			if e.broker.atLeast(4, 3) {
				return // not any more
			}
			dead := e.queue("dead", nil)
			q := e.queue("q", to(dead, with(quorum, amqp.Table{"x-delivery-limit": 1})))
			e.send(q, "1")
			for range 2 {
				ch, in := e.consume(q, 0)
				e.next(in)
				e.ok(ch.Close())
			}
			checkDeath(e, deaths(e, e.get(dead))[0], q, "delivery_limit", "", 1, q)
		}},
		{"at least once", func(e *env) {
			dead := e.queue("dead", nil)
			q := e.queue("q", to(dead, with(quorum, amqp.Table{"x-dead-letter-strategy": "at-least-once", "x-overflow": "reject-publish"})))
			e.send(q, "1", "2")
			ch, in := e.consume(q, 0)
			e.ok(e.next(in).Nack(false, false))
			d := e.get(dead)
			want(e, "body", string(d.Body), "1")
			checkDeath(e, deaths(e, d)[0], q, "rejected", "", 1, q)
			_, err := e.ch.QueueDelete(dead, false, false, false) // nobody takes the next one
			e.ok(err)
			e.ok(e.next(in).Nack(false, false))
			e.ok(ch.Close())
			e.depth(q, 0) // it is kept, but not for consumers
		}},
		{"through an exchange whose alternate takes what no binding takes away", func(e *env) {
			exits := e.exchange("exits", "direct", nil)
			gate := e.exchange("gate", "direct", amqp.Table{"alternate-exchange": exits})
			in, out := e.exchange("in", "direct", nil), e.exchange("out", "direct", nil)
			e.ok(e.ch.ExchangeBind(gate, "gate", out, false, nil))
			waits := e.queue("waits", with(quorum, amqp.Table{
				"x-message-ttl": 20, "x-dead-letter-exchange": out, "x-dead-letter-strategy": "at-least-once", "x-overflow": "reject-publish",
			}))
			exit, caught := e.queue("exit", nil), e.queue("caught", quorum)
			e.bind(waits, "in", in)
			e.bind(exit, "due", exits)
			e.bind(caught, "id 2", gate)
			for _, id := range []string{"id 1", "id 2"} {
				p := text(id)
				p.Headers = amqp.Table{"CC": []any{"in", "due", id}}
				want(e, "publish", e.publish(in, "gate", p), confirmed)
			}
			want(e, "what nobody takes away", string(e.get(exit).Body), "id 1")
			want(e, "what is taken away", string(e.get(caught).Body), "id 2")
			e.ok(e.ch.QueueUnbind(caught, "id 2", gate, nil))
			e.ok(e.ch.QueueUnbind(caught, "id 2", gate, nil)) // again
			p := text("id 2")
			p.Headers = amqp.Table{"CC": []any{"in", "due", "id 2"}}
			want(e, "publish", e.publish(in, "gate", p), confirmed)
			want(e, "after the binding", string(e.get(exit).Body), "id 2")
			e.depth(caught, 0)
		}},
		{"a forged x-death is reset", func(e *env) {
			dead := e.queue("dead", nil)
			q := e.queue("q", to(dead, nil))
			p := text("1")
			p.Headers = amqp.Table{"x-death": "forged"}
			want(e, "publish", e.publish("", q, p), confirmed)
			_, in := e.consume(q, 0)
			e.ok(e.next(in).Nack(false, false))
			if e.broker.atLeast(4, 0) {
				e.get(dead)
				return
			}
			checkDeath(e, deaths(e, e.get(dead))[0], q, "rejected", "", 1, q)
		}},
		{"priorities", func(e *env) {
			q := e.queue("q", amqp.Table{"x-max-priority": 5})
			for _, m := range []struct {
				body     string
				priority uint8
			}{{"a1", 1}, {"b0", 0}, {"c5", 5}, {"d9", 9}, {"e1", 1}} {
				p := text(m.body)
				p.Priority = m.priority
				want(e, "publish", e.publish("", q, p), confirmed)
			}
			_, in := e.consume(q, 1)
			for _, body := range []string{"c5", "d9", "a1", "e1", "b0"} {
				d := e.expect(in, body)[0]
				e.ok(d.Nack(false, true))
				e.ok(e.expect(in, body)[0].Ack(false))
			}
		}},
	})
}
