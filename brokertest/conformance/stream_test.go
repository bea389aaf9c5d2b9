package conformance

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

var stream = amqp.Table{"x-queue-type": "stream"}

// attach reads a stream from an offset with a prefetch, on a channel of its own.
func (e *env) attach(q string, prefetch int, offset any) (*amqp.Channel, <-chan amqp.Delivery) {
	e.Helper()
	ch := e.channel(e.conn)
	e.ok(ch.Qos(prefetch, 0, false))
	in, err := ch.Consume(q, "reader", false, false, false, false, amqp.Table{"x-stream-offset": offset})
	e.ok(err)
	return ch, in
}

// offsets checks that deliveries have consecutive offsets, from the first one.
func (e *env) offsets(ds []amqp.Delivery, first int64) {
	e.Helper()
	for i, d := range ds {
		want(e, "offset", d.Headers["x-stream-offset"], any(first+int64(i)))
		want(e, "redelivered", d.Redelivered, false)
	}
}

func TestStreams(t *testing.T) {
	runAll(t, []behaviour{
		{"declare arguments", func(e *env) {
			for _, args := range []amqp.Table{
				{}, {"x-max-age": "7D"}, {"x-max-age": "1h"}, {"x-max-length-bytes": 1000}, {"x-stream-max-segment-size-bytes": 1000},
				{"x-initial-cluster-size": 1}, {"x-queue-leader-locator": "client-local"}, {"x-max-age": "1Y", "x-max-length-bytes": int64(20 << 30)},
			} {
				e.queue(fmt.Sprint("ok", args), with(stream, args))
			}
			for _, args := range []amqp.Table{
				{"x-max-age": "90"}, {"x-max-age": 90}, {"x-single-active-consumer": true}, {"x-max-length": 5}, {"x-message-ttl": 5}, {"x-expires": 5000},
				{"x-overflow": "drop-head"}, {"x-delivery-limit": 5}, {"x-dead-letter-exchange": ""}, {"x-max-length-bytes": -1},
				{"x-stream-max-segment-size-bytes": int64(3_000_000_001)}, {"x-max-priority": 3}, {"x-initial-cluster-size": 0}, {"x-queue-mode": "lazy"},
			} {
				if e.broker.atLeast(4, 0) && args["x-queue-mode"] != nil {
					continue // lazy mode went with 4.0
				}
				ch := e.channel(e.conn)
				if _, err := ch.QueueDeclare(e.n("bad"), true, false, false, false, with(stream, args)); err == nil {
					e.Fatalf("%v accepted", args)
				} else {
					e.code(err, amqp.PreconditionFailed)
				}
			}
		}},
		{"an age that is none ends the connection", func(e *env) {
			declare := func(ch *amqp.Channel) error {
				_, err := ch.QueueDeclare(e.n("bad"), true, false, false, false, with(stream, amqp.Table{"x-max-age": "abc"}))
				return err
			}
			if e.broker.atLeast(4, 3) {
				e.fails(amqp.PreconditionFailed, declare)
				return
			}
			e.kills(amqp.InternalError, declare)
		}},
		{"durable, shared and named", func(e *env) {
			declare := func(name string, durable, autoDelete, exclusive bool) {
				e.Helper()
				e.fails(amqp.PreconditionFailed, func(ch *amqp.Channel) error {
					_, err := ch.QueueDeclare(name, durable, autoDelete, exclusive, false, stream)
					return err
				})
			}
			declare(e.n("q1"), false, false, false)
			declare(e.n("q2"), true, true, false)
			declare(e.n("q3"), true, false, true)
			declare("", true, false, false)
		}},
		{"declare again must be the same", func(e *env) {
			args := with(stream, amqp.Table{"x-max-age": "1h", "x-max-length-bytes": 1000, "x-stream-max-segment-size-bytes": 500})
			q := e.queue("q", args)
			_, err := e.ch.QueueDeclare(q, true, false, false, false, args)
			e.ok(err)
			for _, other := range []amqp.Table{
				stream, with(args, amqp.Table{"x-max-age": "2h"}), with(args, amqp.Table{"x-max-length-bytes": 1001}),
				with(args, amqp.Table{"x-stream-max-segment-size-bytes": 501}), quorum, nil,
			} {
				e.fails(amqp.PreconditionFailed, func(ch *amqp.Channel) error {
					_, err := ch.QueueDeclare(q, true, false, false, false, other)
					return err
				})
			}
		}},
		{"neither purge nor get", func(e *env) {
			q := e.queue("q", stream)
			e.send(q, "1")
			e.kills(amqp.NotImplemented, func(ch *amqp.Channel) error { _, err := ch.QueuePurge(q, false); return err })
			e.kills(amqp.NotImplemented, func(ch *amqp.Channel) error { _, _, err := ch.Get(q, false); return err })
		}},
		{"what a consumer needs", func(e *env) {
			q := e.queue("q", stream)
			e.fails(amqp.PreconditionFailed, func(ch *amqp.Channel) error {
				_, err := ch.Consume(q, "", false, false, false, false, nil)
				return err
			})
			e.kills(amqp.NotImplemented, func(ch *amqp.Channel) error {
				e.ok(ch.Qos(5, 0, false))
				_, err := ch.Consume(q, "", true, false, false, false, nil)
				return err
			})
			e.fails(amqp.PreconditionFailed, func(ch *amqp.Channel) error {
				e.ok(ch.Qos(5, 0, false))
				_, err := ch.Consume(q, "", false, false, false, false, amqp.Table{"x-priority": 1})
				return err
			})
			if !e.broker.atLeast(4, 3) {
				e.fails(amqp.PreconditionFailed, func(ch *amqp.Channel) error {
					e.ok(ch.Qos(5, 0, true))
					_, err := ch.Consume(q, "", false, false, false, false, nil)
					return err
				})
			}
			for _, k := range kinds { // the argument is for streams alone
				other := e.queue("q-"+k.name, k.args)
				e.fails(amqp.PreconditionFailed, func(ch *amqp.Channel) error {
					e.ok(ch.Qos(5, 0, false))
					_, err := ch.Consume(other, "", false, false, false, false, amqp.Table{"x-stream-offset": "first"})
					return err
				})
			}
		}},
		{"offsets that are none", func(e *env) {
			q := e.queue("q", stream)
			for _, offset := range []any{"nonsense", 1.5, true} {
				consume := func(ch *amqp.Channel) error {
					e.ok(ch.Qos(5, 0, false))
					_, err := ch.Consume(q, "", false, false, false, false, amqp.Table{"x-stream-offset": offset})
					return err
				}
				if e.broker.atLeast(4, 3) && offset == "nonsense" {
					e.fails(amqp.PreconditionFailed, consume)
				} else {
					e.kills(amqp.InternalError, consume)
				}
			}
		}},
		{"where a consumer begins", func(e *env) {
			q := e.queue("q", stream)
			e.send(q, "0", "1", "2", "3")
			for _, c := range []struct {
				offset any
				bodies []string
			}{
				{"first", []string{"0", "1", "2", "3"}}, {"last", []string{"3"}}, {"next", nil}, {nil, nil}, {"1h", []string{"0", "1", "2", "3"}},
				{0, []string{"0", "1", "2", "3"}}, {int64(2), []string{"2", "3"}}, {int32(1), []string{"1", "2", "3"}}, {int16(3), []string{"3"}},
				{int64(-5), []string{"0", "1", "2", "3"}}, {time.Now().Add(-time.Hour), []string{"0", "1", "2", "3"}}, {time.Now().Add(time.Hour), nil},
			} {
				var args amqp.Table
				if c.offset != nil {
					args = amqp.Table{"x-stream-offset": c.offset}
				}
				ch := e.channel(e.conn)
				e.ok(ch.Qos(10, 0, false))
				in, err := ch.Consume(q, "", false, false, false, false, args)
				e.ok(err)
				if c.bodies == nil {
					e.none(in)
				} else {
					e.offsets(e.expect(in, c.bodies...), 4-int64(len(c.bodies)))
				}
				e.ok(ch.Close())
			}
		}},
		{"next is what comes", func(e *env) {
			q := e.queue("q", stream)
			e.send(q, "0")
			_, in := e.attach(q, 10, "next")
			e.send(q, "1", "2")
			e.offsets(e.expect(in, "1", "2"), 1)
		}},
		{"beyond the end it waits in silence", func(e *env) {
			q := e.queue("q", stream)
			e.send(q, "0", "1")
			_, in := e.attach(q, 10, 4)
			e.send(q, "2", "3")
			e.none(in)
			e.send(q, "4", "5")
			e.offsets(e.expect(in, "4", "5"), 4)
		}},
		{"every reader reads everything, again and again", func(e *env) {
			q := e.queue("q", stream)
			e.send(q, "0", "1", "2")
			ch, in := e.attach(q, 10, "first")
			ds := e.expect(in, "0", "1", "2")
			e.ok(ds[2].Ack(true))
			_, other := e.attach(q, 10, "first")
			e.offsets(e.expect(other, "0", "1", "2"), 0)
			e.ok(ch.Close())
			_, in = e.attach(q, 10, 1)
			e.offsets(e.expect(in, "1", "2"), 1)
		}},
		{"exclusive consumers are not enforced", func(e *env) {
			q := e.queue("q", stream)
			e.send(q, "0")
			for range 2 {
				ch := e.channel(e.conn)
				e.ok(ch.Qos(5, 0, false))
				in, err := ch.Consume(q, "", false, true, false, false, amqp.Table{"x-stream-offset": "first"})
				e.ok(err)
				e.expect(in, "0")
			}
		}},
		{"acks of all kinds give credit", func(e *env) {
			q := e.queue("q", stream)
			e.send(q, "0", "1", "2", "3", "4", "5", "6")
			_, in := e.attach(q, 2, "first")
			ds := e.expect(in, "0", "1")
			e.none(in)
			e.ok(ds[1].Ack(false)) // out of order
			ds = append(ds, e.expect(in, "2")...)
			e.none(in)
			e.ok(ds[2].Ack(true))
			ds = e.expect(in, "3", "4")
			e.none(in)
			e.ok(ds[0].Ack(false))
			e.expect(in, "5")
			e.none(in)
		}},
		{"a message that is refused", func(e *env) {
			q := e.queue("q", stream)
			e.send(q, "0", "1", "2")
			for _, settle := range []func(amqp.Delivery) error{
				func(d amqp.Delivery) error { return d.Nack(false, true) },
				func(d amqp.Delivery) error { return d.Nack(false, false) },
				func(d amqp.Delivery) error { return d.Reject(true) },
			} {
				refuse := func(ch *amqp.Channel) <-chan amqp.Delivery {
					e.ok(ch.Qos(1, 0, false))
					in, err := ch.Consume(q, "", false, false, false, false, amqp.Table{"x-stream-offset": "first"})
					e.ok(err)
					e.ok(settle(e.expect(in, "0")[0]))
					return in
				}
				if e.broker.atLeast(4, 0) {
					e.expect(refuse(e.channel(e.conn)), "1") // it does not come back
				} else {
					e.kills(amqp.NotImplemented, func(ch *amqp.Channel) error { refuse(ch); return nil })
				}
			}
		}},
		{"what it does to headers and properties", func(e *env) {
			q := e.queue("q", stream)
			sent := amqp.Publishing{
				Headers: amqp.Table{
					"s": "text", "i": int32(7), "l": int64(8), "b": true, "f": 1.5, "t": time.Unix(1e9, 0), "n": nil,
					"array": []any{"a"}, "table": amqp.Table{"k": "v"},
				},
				ContentType: "text/plain", ContentEncoding: "gzip", DeliveryMode: 2, Priority: 3, CorrelationId: "c", ReplyTo: "r",
				Expiration: "60000", MessageId: "m", Timestamp: time.Unix(1e9, 0), Type: "T", AppId: "app", Body: []byte("body"),
			}
			want(e, "publish", e.publish("amq.topic", e.n("none"), sent), returned)
			e.bind(q, e.n("a.*"), "amq.topic")
			want(e, "publish", e.publish("amq.topic", e.n("a.b"), sent), confirmed)
			_, in := e.attach(q, 5, "first")
			d := e.expect(in, "body")[0]
			for key, value := range sent.Headers {
				if key == "array" || key == "table" {
					value = nil
				}
				want(e, "header "+key, fmt.Sprint(d.Headers[key]), fmt.Sprint(value))
			}
			want(e, "exchange", d.Exchange, "amq.topic")
			want(e, "routing key", d.RoutingKey, e.n("a.b"))
			d.Headers, d.Timestamp = nil, d.Timestamp.UTC()
			want(e, "properties", fmt.Sprint(d.ContentType, d.ContentEncoding, d.DeliveryMode, d.Priority, d.CorrelationId, d.ReplyTo, d.Expiration,
				d.MessageId, d.Timestamp.Unix(), d.Type, d.AppId), fmt.Sprint("text/plain", "gzip", 2, 3, "c", "r", "60000", "m", int64(1e9), "T", "app"))
		}},
		{"copies and transient messages", func(e *env) {
			q := e.queue("q", stream)
			for mode := range uint8(2) {
				want(e, "publish", e.publish("", q, amqp.Publishing{
					Headers: amqp.Table{"CC": []any{"x"}, "BCC": []any{"y"}, "x-list": []any{"z"}}, DeliveryMode: mode,
				}), confirmed)
			}
			_, in := e.attach(q, 5, "first")
			for mode := range uint8(2) {
				d := e.next(in)
				if e.broker.atLeast(4, 0) {
					want(e, "CC", fmt.Sprint(d.Headers["CC"], d.Headers["x-list"]), "[x] [z]")
					want(e, "delivery mode", d.DeliveryMode, 1)
				} else {
					want(e, "CC", fmt.Sprint(d.Headers["CC"], d.Headers["x-list"]), "<nil> <nil>")
					want(e, "delivery mode", d.DeliveryMode, mode)
				}
				want(e, "BCC", d.Headers["BCC"], nil)
			}
		}},
		{"a decimal ends the connection, and the others have the message", func(e *env) {
			q, other := e.queue("q", stream), e.queue("other", nil)
			x := e.exchange("x", "fanout", nil)
			e.bind(q, "", x)
			e.bind(other, "", x)
			e.kills(amqp.InternalError, func(ch *amqp.Channel) error {
				return ch.Publish(x, "", false, false, amqp.Publishing{Headers: amqp.Table{"d": amqp.Decimal{Scale: 1, Value: 5}}, Body: []byte("1")})
			})
			want(e, "body", string(e.get(other).Body), "1")
			e.send(q, "2")
			_, in := e.attach(q, 5, "first")
			e.offsets(e.expect(in, "2"), 0)
		}},
		{"passive declare counts messages in the end, and no consumer", func(e *env) {
			q := e.queue("q", stream)
			e.send(q, "0", "1", "2")
			_, in := e.attach(q, 5, "first")
			e.expect(in, "0", "1", "2")
			e.depth(q, 3)
			got, err := e.ch.QueueDeclarePassive(q, true, false, false, false, nil)
			e.ok(err)
			want(e, "consumers", got.Consumers, 0)
		}},
		{"deleted under its readers", func(e *env) {
			q := e.queue("q", stream)
			e.send(q, "0")
			ch, in := e.attach(q, 5, "first")
			e.expect(in, "0")
			cancels := ch.NotifyCancel(make(chan string, 1))
			n, err := e.ch.QueueDelete(q, false, false, false)
			e.ok(err)
			want(e, "messages", n, 0)
			select {
			case tag := <-cancels:
				want(e, "tag", tag, "reader")
			case <-time.After(patience):
				e.Fatal("not cancelled")
			}
			_, err = e.ch.QueueDeclare(q, true, false, false, false, stream)
			e.ok(err)
			e.send(q, "new")
			_, in = e.attach(q, 5, "first")
			e.offsets(e.expect(in, "new"), 0)
		}},
		{"delete knows no conditions", func(e *env) {
			for i, conditions := range [][2]bool{{true, false}, {false, true}} {
				q := e.queue(fmt.Sprint("q", i), stream)
				e.send(q, "0")
				_, in := e.attach(q, 5, "first")
				e.expect(in, "0")
				n, err := e.channel(e.conn).QueueDelete(q, conditions[0], conditions[1], false)
				e.ok(err)
				want(e, "messages", n, 0)
				e.fails(amqp.NotFound, func(ch *amqp.Channel) error {
					_, err := ch.QueueDeclarePassive(q, true, false, false, false, nil)
					return err
				})
			}
		}},
		{"retention takes whole segments, and leaves gaps in the offsets at most", func(e *env) {
			q := e.queue("q", with(stream, amqp.Table{"x-max-length-bytes": 300_000, "x-stream-max-segment-size-bytes": 100_000}))
			for i := range 60 {
				e.send(q, fmt.Sprint(i, strings.Repeat("x", 20_000)))
			}
			_, in := e.attach(q, 100, 0)
			first := e.next(in)
			offset := first.Headers["x-stream-offset"].(int64)
			if offset == 0 || string(first.Body) == "0" {
				e.Fatalf("offset %d is still there", offset)
			}
			gaps := 0
			for last := offset; ; {
				d := e.next(in)
				next := d.Headers["x-stream-offset"].(int64)
				if next < last+1 || next > last+2 {
					e.Fatalf("from %d to %d", last, next)
				}
				if next == last+2 {
					gaps++
				}
				if last = next; strings.HasPrefix(string(d.Body), "59x") {
					e.Logf("from %d to %d with %d gaps", offset, last, gaps)
					break
				}
			}
		}},
	})
}

// TestStreamDifferential does the same random operations on a stream of the broker in process and of every real one,
// and compares what the readers get after each.
func TestStreamDifferential(t *testing.T) {
	first, last := uint64(1), max(*seedsFlag/5, 1)
	if *seedFlag != 0 {
		first, last = *seedFlag, *seedFlag
	}
	brokers := targets(t)
	for seed := first; seed <= last; seed++ {
		wanted := readAtRandom(t, brokers[0], seed)
		for _, b := range brokers[1:] {
			got := readAtRandom(t, b, seed)
			for i := range wanted {
				if wanted[i] != got[i] {
					t.Fatalf("seed %d differs at step %d (replay with -seed=%d)\n%s\nbrokertest: %s\n%s: %s",
						seed, i, seed, strings.Join(wanted[:i], "\n"), wanted[i], b.name, got[i])
				}
			}
		}
	}
}

// streamReader is a consumer of readAtRandom.
type streamReader struct {
	ch       *amqp.Channel
	in       <-chan amqp.Delivery
	unacked  []uint64
	offset   int64 // of what comes next
	prefetch int
}

// readAtRandom does the operations of a seed and returns what was done and seen.
func readAtRandom(t *testing.T, b *target, seed uint64) []string {
	e := newEnv(t, b)
	r := rand.New(rand.NewPCG(seed, 11))
	q := e.queue("q", stream)
	var published int64
	var readers []*streamReader
	var steps []string
	for range *stepsFlag / 2 {
		var step string
		switch n := r.IntN(10); {
		case n < 4:
			e.send(q, fmt.Sprint("m", published))
			published++
			step = "publish"
		case n < 6 && len(readers) < 4:
			k := &streamReader{prefetch: 1 + r.IntN(4)}
			offset := any(r.Int64N(published + 3))
			k.offset = offset.(int64)
			switch r.IntN(4) {
			case 0:
				offset, k.offset = "first", 0
			case 1:
				offset, k.offset = "next", published
			case 2:
				offset, k.offset = "last", max(published-1, 0)
			}
			k.ch, k.in = e.attach(q, k.prefetch, offset)
			readers = append(readers, k)
			step = fmt.Sprint("attach at ", offset)
		case len(readers) == 0:
			continue
		default:
			i := r.IntN(len(readers))
			k, which := readers[i], r.IntN(8)
			switch {
			case which == 0:
				e.ok(k.ch.Close())
				readers = slices.Delete(readers, i, i+1)
				step = fmt.Sprint("close ", i)
			case len(k.unacked) == 0:
				continue
			default:
				at, multiple := r.IntN(len(k.unacked)), which < 3
				e.ok(k.ch.Ack(k.unacked[at], multiple))
				from := at
				if multiple {
					from = 0
				}
				step = fmt.Sprint("ack ", i, " ", k.unacked[at], " ", multiple)
				k.unacked = slices.Delete(slices.Clone(k.unacked), from, at+1)
			}
		}
		steps = append(steps, step+":"+takeFromStream(e, readers, published))
	}
	return steps
}

// takeFromStream takes what the readers must get by their credit, and nothing more.
func takeFromStream(e *env, readers []*streamReader, published int64) string {
	var seen strings.Builder
	for i, k := range readers {
		for len(k.unacked) < k.prefetch && k.offset < published {
			d := e.next(k.in)
			want(e, "offset", d.Headers["x-stream-offset"], any(k.offset))
			k.unacked = append(k.unacked, d.DeliveryTag)
			k.offset++
			fmt.Fprintf(&seen, " %d:%s#%d", i, d.Body, d.DeliveryTag)
		}
	}
	pause()
	for i, k := range readers {
		select {
		case d := <-k.in:
			fmt.Fprintf(&seen, " %d: beyond its prefetch: %s", i, d.Body)
		default:
		}
	}
	return seen.String()
}
