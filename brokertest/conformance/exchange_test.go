package conformance

import (
	"testing"

	amqp "github.com/rabbitmq/amqp091-go"
)

func TestExchanges(t *testing.T) {
	runAll(t, []behaviour{
		{"direct routes by key", func(e *env) {
			x, q := e.exchange("x", "direct", nil), e.queue("q", nil)
			e.bind(q, "a", x)
			e.bind(q, "b", x)
			want(e, "key a", e.publish(x, "a", text("1")), confirmed)
			want(e, "key b", e.publish(x, "b", text("2")), confirmed)
			want(e, "key c", e.publish(x, "c", text("3")), returned)
			want(e, "key A", e.publish(x, "A", text("3")), returned)
			e.depth(q, 2)
		}},
		{"fanout ignores the key", func(e *env) {
			x, q1, q2 := e.exchange("x", "fanout", nil), e.queue("q1", nil), e.queue("q2", nil)
			e.bind(q1, "", x)
			e.bind(q2, "other", x)
			want(e, "publish", e.publish(x, "whatever", text("1")), confirmed)
			e.depth(q1, 1)
			e.depth(q2, 1)
		}},
		{"one copy for two matching bindings", func(e *env) {
			x, q := e.exchange("x", "topic", nil), e.queue("q", nil)
			e.bind(q, "a.#", x)
			e.bind(q, "#.b", x)
			want(e, "publish", e.publish(x, "a.b", text("1")), confirmed)
			e.depth(q, 1)
		}},
		{"default exchange reaches every queue by name", func(e *env) {
			q := e.queue("q", nil)
			want(e, "publish", e.publish("", q, text("1")), confirmed)
			want(e, "no such queue", e.publish("", e.n("none"), text("1")), returned)
		}},
		{"exchange to exchange, also in a circle", func(e *env) {
			a, b, q := e.exchange("a", "fanout", nil), e.exchange("b", "topic", nil), e.queue("q", nil)
			e.ok(e.ch.ExchangeBind(b, "", a, false, nil))
			e.ok(e.ch.ExchangeBind(a, "#", b, false, nil))
			e.bind(q, "k.*", b)
			want(e, "k.1", e.publish(a, "k.1", text("1")), confirmed)
			want(e, "other", e.publish(a, "other", text("1")), returned)
			e.depth(q, 1)
			e.ok(e.ch.ExchangeUnbind(b, "", a, false, nil))
			want(e, "after unbind", e.publish(a, "k.1", text("1")), returned)
		}},
		{"alternate exchange takes what is unroutable", func(e *env) {
			ae, q := e.exchange("ae", "fanout", nil), e.queue("q", nil)
			e.bind(q, "", ae)
			x := e.exchange("x", "direct", amqp.Table{"alternate-exchange": ae})
			want(e, "publish", e.publish(x, "nobody", text("1")), confirmed)
			d := e.get(q)
			want(e, "exchange", d.Exchange, x)
			want(e, "key", d.RoutingKey, "nobody")
		}},
		{"alternate exchange behind an alternate exchange, and a missing one", func(e *env) {
			q := e.queue("q", nil)
			last := e.exchange("last", "fanout", amqp.Table{"alternate-exchange": e.n("missing")})
			middle := e.exchange("middle", "direct", amqp.Table{"alternate-exchange": last})
			x := e.exchange("x", "direct", amqp.Table{"alternate-exchange": middle})
			want(e, "unbound", e.publish(x, "k", text("1")), returned)
			e.bind(q, "", last)
			want(e, "bound", e.publish(x, "k", text("1")), confirmed)
		}},
		{"CC and BCC add keys, BCC is removed", func(e *env) {
			x, q1, q2, q3 := e.exchange("x", "direct", nil), e.queue("q1", nil), e.queue("q2", nil), e.queue("q3", nil)
			e.bind(q1, "to", x)
			e.bind(q2, "cc", x)
			e.bind(q3, "bcc", x)
			p := text("1")
			p.Headers = amqp.Table{"CC": []any{"cc"}, "BCC": []any{"bcc"}}
			want(e, "publish", e.publish(x, "to", p), confirmed)
			for _, q := range []string{q1, q2, q3} {
				d := e.get(q)
				want(e, "key", d.RoutingKey, "to")
				_, bcc := d.Headers["BCC"]
				want(e, "BCC header there", bcc, false)
				_, cc := d.Headers["CC"]
				want(e, "CC header there", cc, true)
			}
		}},
		{"CC alone makes a message routable", func(e *env) {
			q := e.queue("q", nil)
			p := text("1")
			p.Headers = amqp.Table{"CC": []any{q}}
			want(e, "publish", e.publish("", e.n("none"), p), confirmed)
			want(e, "key", e.get(q).RoutingKey, e.n("none"))
		}},
		{"CC of a wrong type is refused", func(e *env) {
			q := e.queue("q", nil)
			e.fails(amqp.PreconditionFailed, func(ch *amqp.Channel) error {
				return ch.Publish("", q, false, false, amqp.Publishing{Headers: amqp.Table{"CC": "cc"}})
			})
		}},
		{"predeclared exchanges", func(e *env) {
			for name, kind := range map[string]string{
				"amq.direct": "direct", "amq.fanout": "fanout", "amq.topic": "topic",
				"amq.headers": "headers", "amq.match": "headers",
			} {
				e.ok(e.ch.ExchangeDeclarePassive(name, kind, true, false, false, false, nil))
				e.ok(e.ch.ExchangeDeclare(name, kind, true, false, false, false, nil))
			}
			e.fails(amqp.AccessRefused, func(ch *amqp.Channel) error { return ch.ExchangeDelete("amq.direct", false, false) })
			e.fails(amqp.AccessRefused, func(ch *amqp.Channel) error {
				return ch.ExchangeDeclare("amq.mine", "direct", true, false, false, false, nil)
			})
		}},
		{"default exchange is off limits", func(e *env) {
			q, x := e.queue("q", nil), e.exchange("x", "fanout", nil)
			e.fails(amqp.AccessRefused, func(ch *amqp.Channel) error { return ch.QueueBind(q, "k", "", false, nil) })
			e.fails(amqp.AccessRefused, func(ch *amqp.Channel) error { return ch.QueueUnbind(q, "k", "", nil) })
			e.fails(amqp.AccessRefused, func(ch *amqp.Channel) error { return ch.ExchangeDelete("", false, false) })
			e.fails(amqp.AccessRefused, func(ch *amqp.Channel) error {
				return ch.ExchangeDeclare("", "direct", true, false, false, false, nil)
			})
			e.fails(amqp.AccessRefused, func(ch *amqp.Channel) error { return ch.ExchangeBind(x, "", "", false, nil) })
		}},
		{"declare again must be the same", func(e *env) {
			x := e.exchange("x", "direct", nil)
			e.ok(e.ch.ExchangeDeclare(x, "direct", true, false, false, false, nil))
			e.fails(amqp.PreconditionFailed, func(ch *amqp.Channel) error {
				return ch.ExchangeDeclare(x, "topic", true, false, false, false, nil)
			})
			e.fails(amqp.PreconditionFailed, func(ch *amqp.Channel) error {
				return ch.ExchangeDeclare(x, "direct", false, false, false, false, nil)
			})
			e.fails(amqp.PreconditionFailed, func(ch *amqp.Channel) error {
				return ch.ExchangeDeclare(x, "direct", true, true, false, false, nil)
			})
			e.fails(amqp.PreconditionFailed, func(ch *amqp.Channel) error {
				return ch.ExchangeDeclare(x, "direct", true, false, true, false, nil)
			})
			e.fails(amqp.PreconditionFailed, func(ch *amqp.Channel) error {
				return ch.ExchangeDeclare(x, "direct", true, false, false, false, amqp.Table{"alternate-exchange": "other"})
			})
		}},
		{"alternate exchange of a wrong type", func(e *env) {
			e.fails(amqp.PreconditionFailed, func(ch *amqp.Channel) error {
				return ch.ExchangeDeclare(e.n("x"), "direct", true, false, false, false, amqp.Table{"alternate-exchange": 7})
			})
		}},
		{"passive declare of a missing one", func(e *env) {
			e.fails(amqp.NotFound, func(ch *amqp.Channel) error {
				return ch.ExchangeDeclarePassive(e.n("none"), "direct", true, false, false, false, nil)
			})
		}},
		{"passive declare does not compare", func(e *env) {
			x := e.exchange("x", "direct", nil)
			e.ok(e.ch.ExchangeDeclarePassive(x, "topic", false, true, true, false, nil))
		}},
		{"unknown type ends the connection", func(e *env) {
			if e.broker.atLeast(4, 0) { // only the channel since
				e.fails(amqp.PreconditionFailed, func(ch *amqp.Channel) error {
					return ch.ExchangeDeclare(e.n("x"), "no-such-type", true, false, false, false, nil)
				})
				return
			}
			e.kills(amqp.CommandInvalid, func(ch *amqp.Channel) error {
				return ch.ExchangeDeclare(e.n("x"), "no-such-type", true, false, false, false, nil)
			})
		}},
		{"internal exchange refuses publishes but routes", func(e *env) {
			e.ok(e.ch.ExchangeDeclare(e.n("i"), "fanout", true, false, true, false, nil))
			e.dropExchange(e.n("i"))
			x, q := e.exchange("x", "fanout", nil), e.queue("q", nil)
			e.ok(e.ch.ExchangeBind(e.n("i"), "", x, false, nil))
			e.bind(q, "", e.n("i"))
			want(e, "publish", e.publish(x, "", text("1")), confirmed)
			e.depth(q, 1)
			e.fails(amqp.AccessRefused, func(ch *amqp.Channel) error { return ch.Publish(e.n("i"), "", false, false, text("1")) })
		}},
		{"delete", func(e *env) {
			x, q := e.exchange("x", "fanout", nil), e.queue("q", nil)
			e.bind(q, "", x)
			e.fails(amqp.PreconditionFailed, func(ch *amqp.Channel) error { return ch.ExchangeDelete(x, true, false) })
			e.ok(e.ch.QueueUnbind(q, "", x, nil))
			e.ok(e.ch.ExchangeDelete(x, true, false))
			e.ok(e.ch.ExchangeDelete(x, false, false)) // gone already
			e.fails(amqp.NotFound, func(ch *amqp.Channel) error { return ch.Publish(x, "", false, false, text("1")) })
		}},
		{"bindings go with either end", func(e *env) {
			x, q := e.exchange("x", "fanout", nil), e.queue("q", nil)
			e.bind(q, "", x)
			_, err := e.ch.QueueDelete(q, false, false, false)
			e.ok(err)
			want(e, "queue deleted", e.publish(x, "", text("1")), returned)
			e.ok(e.ch.ExchangeDelete(x, true, false))
		}},
		{"auto-delete with the last binding", func(e *env) {
			q := e.queue("q", nil)
			e.ok(e.ch.ExchangeDeclare(e.n("x"), "fanout", true, true, false, false, nil))
			e.bind(q, "1", e.n("x"))
			e.bind(q, "2", e.n("x"))
			e.ok(e.ch.QueueUnbind(q, "1", e.n("x"), nil))
			e.ok(e.ch.ExchangeDeclarePassive(e.n("x"), "fanout", true, true, false, false, nil))
			e.ok(e.ch.QueueUnbind(q, "2", e.n("x"), nil))
			e.fails(amqp.NotFound, func(ch *amqp.Channel) error {
				return ch.ExchangeDeclarePassive(e.n("x"), "fanout", true, true, false, false, nil)
			})
		}},
		{"unbinding what is not bound is fine", func(e *env) {
			x, q := e.exchange("x", "direct", nil), e.queue("q", nil)
			e.ok(e.ch.QueueUnbind(q, "never", x, nil))
			e.ok(e.ch.QueueUnbind(e.n("none"), "k", x, nil))
			e.ok(e.ch.QueueUnbind(q, "k", e.n("none"), nil))
			e.ok(e.ch.ExchangeUnbind(x, "k", e.n("none"), false, nil))
		}},
		{"binding what does not exist", func(e *env) {
			x, q := e.exchange("x", "direct", nil), e.queue("q", nil)
			e.fails(amqp.NotFound, func(ch *amqp.Channel) error { return ch.QueueBind(e.n("none"), "k", x, false, nil) })
			e.fails(amqp.NotFound, func(ch *amqp.Channel) error { return ch.QueueBind(q, "k", e.n("none"), false, nil) })
			e.fails(amqp.NotFound, func(ch *amqp.Channel) error { return ch.ExchangeBind(x, "k", e.n("none"), false, nil) })
			e.fails(amqp.NotFound, func(ch *amqp.Channel) error { return ch.ExchangeBind(e.n("none"), "k", x, false, nil) })
		}},
		{"bindings differ by their arguments", func(e *env) {
			x, q := e.exchange("x", "direct", nil), e.queue("q", nil)
			e.ok(e.ch.QueueBind(q, "k", x, false, amqp.Table{"n": 1}))
			e.ok(e.ch.QueueBind(q, "k", x, false, amqp.Table{"n": 2}))
			e.ok(e.ch.QueueUnbind(q, "k", x, amqp.Table{"n": 1}))
			want(e, "one binding left", e.publish(x, "k", text("1")), confirmed)
			e.depth(q, 1)
			e.ok(e.ch.QueueUnbind(q, "k", x, nil))
			want(e, "still left", e.publish(x, "k", text("1")), confirmed)
			e.ok(e.ch.QueueUnbind(q, "k", x, amqp.Table{"n": 2}))
			want(e, "none left", e.publish(x, "k", text("1")), returned)
		}},
	})
}

func TestTopicPatterns(t *testing.T) {
	runAll(t, []behaviour{{"table", func(e *env) {
		x := e.exchange("x", "topic", nil)
		for i, c := range []struct {
			pattern string
			yes, no []string
		}{
			{"a.b", []string{"a.b"}, []string{"a", "a.b.c", "A.b", ""}},
			{"*", []string{"a", "ab"}, []string{"a.b", ""}},
			{"#", []string{"", "a", "a.b", "a..b", "."}, nil},
			{"a.*", []string{"a.b", "a."}, []string{"a", "a.b.c"}},
			{"*.b", []string{"a.b", ".b"}, []string{"b", "a.a.b"}},
			{"a.#", []string{"a", "a.b", "a.b.c"}, []string{"b.a", "ab"}},
			{"#.b", []string{"b", "a.b", "a.a.b"}, []string{"b.a"}},
			{"a.#.b", []string{"a.b", "a.x.b", "a.x.y.b"}, []string{"a", "b", "a.b.x"}},
			{"#.a.#", []string{"a", "x.a", "a.x", "x.a.y"}, []string{"x", "xa"}},
			{"*.#", []string{"a", "a.b"}, []string{""}},
			{"#.*", []string{"a", "a.b"}, []string{""}},
			{"#.#", []string{"", "a", "a.b"}, nil},
			{"*.*", []string{"a.b", "."}, []string{"a", "a.b.c"}},
			{"", []string{""}, []string{"a"}},
			{"a#", []string{"a#"}, []string{"a", "ab"}},
			{"#.a.*.b.#", []string{"a.x.b", "a.a.a.b.c", "x.a.y.b.z"}, []string{"a.b", "a.x.y.b"}},
		} {
			q := e.queue("q"+string(rune('a'+i)), nil)
			e.bind(q, c.pattern, x)
			for _, key := range c.yes {
				want(e, c.pattern+" and "+key, e.publish(x, key, text("1")), confirmed)
			}
			for _, key := range c.no {
				want(e, c.pattern+" and "+key, e.publish(x, key, text("1")), returned)
			}
			e.ok(e.ch.QueueUnbind(q, c.pattern, x, nil))
		}
	}}})
}

func TestHeadersExchange(t *testing.T) {
	type headers = amqp.Table
	runAll(t, []behaviour{
		{"table", func(e *env) {
			x := e.exchange("x", "headers", nil)
			for i, c := range []struct {
				args    headers
				yes, no []headers
			}{
				{headers{"x-match": "all", "a": 1, "b": "x"}, []headers{{"a": 1, "b": "x"}, {"a": int64(1), "b": "x", "c": 2}}, []headers{{"a": 1}, {"a": 2, "b": "x"}, {}, nil}},
				{headers{"a": 1}, []headers{{"a": 1, "z": 1}}, []headers{{"a": "1"}, {"z": 1}}},
				{headers{"x-match": "any", "a": 1, "b": "x"}, []headers{{"a": 1}, {"b": "x"}, {"a": 2, "b": "x"}}, []headers{{"a": 2}, {}, {"c": 1}}},
				{headers{"x-match": "all", "a": nil}, []headers{{"a": 1}, {"a": "text"}}, []headers{{"b": 1}}},
				{headers{"x-match": "any", "a": nil}, []headers{{"a": 1}}, []headers{{"b": 1}}},
				{headers{"x-match": "all", "x-a": 1}, []headers{{"x-a": 2}, {}}, nil},
				{headers{"x-match": "all-with-x", "x-a": 1}, []headers{{"x-a": 1}}, []headers{{"x-a": 2}, {}}},
				{headers{"x-match": "any-with-x", "x-a": 1, "b": 1}, []headers{{"x-a": 1}, {"b": 1}}, []headers{{"x-a": 2}}},
				{headers{"x-match": "any"}, nil, []headers{{"a": 1}, {}}},
				{headers{"x-match": "all"}, []headers{{"a": 1}, {}, nil}, nil},
				{headers{"a": true}, []headers{{"a": true}}, []headers{{"a": false}, {"a": 1}}},
			} {
				q := e.queue("q"+string(rune('a'+i)), nil)
				e.ok(e.ch.QueueBind(q, "", x, false, c.args))
				for _, h := range c.yes {
					if got := e.publish(x, "", amqp.Publishing{Headers: h}); got != confirmed {
						e.Errorf("%v and %v: %s", c.args, h, got)
					}
				}
				for _, h := range c.no {
					if got := e.publish(x, "", amqp.Publishing{Headers: h}); got != returned {
						e.Errorf("%v and %v: %s", c.args, h, got)
					}
				}
				e.ok(e.ch.QueueUnbind(q, "", x, c.args))
			}
		}},
		{"x-match must be known", func(e *env) {
			x, q := e.exchange("x", "headers", nil), e.queue("q", nil)
			for _, v := range []any{"some", 1} {
				e.fails(amqp.PreconditionFailed, func(ch *amqp.Channel) error {
					return ch.QueueBind(q, "", x, false, headers{"x-match": v})
				})
			}
		}},
	})
}
