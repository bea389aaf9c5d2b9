package redrive_test

import (
	"context"
	"encoding/json"
	"maps"
	"os"
	"reflect"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/harebus/harebus/brokertest"
	"github.com/harebus/harebus/internal/access"
	"github.com/harebus/harebus/internal/redrive"
)

// bench is a broker with an error queue and a source queue.
type bench struct {
	broker *brokertest.Broker
	ch     *amqp.Channel
}

func newBench(t *testing.T) *bench {
	t.Helper()
	b := brokertest.New(brokertest.WithLog(t.Logf), brokertest.WithUser("operator", "pw"))
	t.Cleanup(b.Close)
	conn, err := amqp.DialConfig(b.URL(), amqp.Config{Dial: b.Dial})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	ch, err := conn.Channel()
	if err != nil {
		t.Fatal(err)
	}
	x := &bench{b, ch}
	x.declare(t, "error", nil)
	x.declare(t, "orders", nil)
	return x
}

func (x *bench) declare(t *testing.T, queue string, args amqp.Table) {
	t.Helper()
	if _, err := x.ch.QueueDeclare(queue, true, false, false, false, args); err != nil {
		t.Fatal(err)
	}
}

// park puts a message into the error queue.
func (x *bench) park(t *testing.T, queue string, msg amqp.Publishing) {
	t.Helper()
	if err := x.ch.PublishWithContext(t.Context(), "", queue, false, false, msg); err != nil {
		t.Fatal(err)
	}
	if _, err := x.ch.QueueDeclarePassive(queue, true, false, false, false, nil); err != nil {
		t.Fatal(err) // the answer says that the message is there
	}
}

func parked(id, kind string, headers amqp.Table) amqp.Publishing {
	all := amqp.Table{"PikaBus.SourceQueue": "orders", "PikaBus.ErrorRetries": int8(6), "PikaBus.ErrorDetails": "boom"}
	maps.Copy(all, headers)
	return amqp.Publishing{MessageId: id, Type: kind, Headers: all, Body: []byte(id), DeliveryMode: amqp.Persistent}
}

func (x *bench) address() access.Broker {
	return access.Broker{URLs: []string{x.broker.URL()}, Dial: x.broker.Dial}
}

// parkedByBroker is a message that a broker has moved, after it had waited in a delay
// queue before it came to the queue it died in.
func parkedByBroker(queue string) amqp.Publishing {
	return amqp.Publishing{MessageId: "x", Body: []byte("x"), Headers: amqp.Table{
		"x-death": []any{
			amqp.Table{"queue": queue, "reason": "delivery_limit", "count": int64(1)},
			amqp.Table{"queue": "harebus.delay.q.5", "reason": "expired", "count": int64(1)},
		},
		"x-first-death-queue": "harebus.delay.q.5", "x-first-death-reason": "expired",
	}}
}

func (x *bench) run(t *testing.T, change func(*redrive.Options)) (redrive.Report, []redrive.Item, error) {
	t.Helper()
	o := redrive.Options{Broker: x.address(), Queue: "error", HeaderPrefix: "PikaBus.", Timeout: 5 * time.Second}
	if change != nil {
		change(&o)
	}
	var items []redrive.Item
	report, err := redrive.Run(t.Context(), o, func(i redrive.Item) { items = append(items, i) })
	x.settled(t, o.Queue)
	return report, items, err
}

// settled waits until the broker has taken back what the run held.
func (x *bench) settled(t *testing.T, queue string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := x.broker.WaitQueue(ctx, queue, func(q brokertest.Queue) bool { return q.Unacked == 0 }); err != nil {
		t.Fatal(err)
	}
}

// bodies are the ids in a queue, in order.
func (x *bench) bodies(queue string) string {
	var ids []string
	for _, m := range x.broker.Messages(queue) {
		ids = append(ids, string(m.Body))
	}
	return strings.Join(ids, " ")
}

func (x *bench) expect(t *testing.T, queue, want string) {
	t.Helper()
	if got := x.bodies(queue); got != want {
		t.Errorf("queue %q has [%s], want [%s]", queue, got, want)
	}
}

func TestMovesBackAsItWas(t *testing.T) {
	t.Parallel()
	x := newBench(t)
	stamp := time.Unix(1_795_250_857, 0)
	msg := amqp.Publishing{
		Headers: amqp.Table{
			"PikaBus.SourceQueue": "orders", "PikaBus.ErrorRetries": int8(6), "PikaBus.ErrorDetails": "boom",
			"PikaBus.DeferredTime": "2026-11-21T08:47:40.185032+00:00", "PikaBus.MessageId": "m1",
			"x-death":             []any{amqp.Table{"queue": "orders", "count": int64(1)}},
			"x-first-death-queue": "orders", "x-last-death-reason": "rejected", "x-tenant": "acme",
			"CC": []any{"stolen"}, "i8": int8(-3), "i64": int64(1) << 40, "raw": []byte{0, 255}, "time": stamp,
			"list": []any{true, nil, 1.5}, "price": amqp.Decimal{Scale: 2, Value: 150},
		},
		ContentType: "application/json", ContentEncoding: "utf-8", DeliveryMode: amqp.Persistent, Priority: 3,
		CorrelationId: "c", ReplyTo: "r", Expiration: "600000", MessageId: "m1", Timestamp: stamp, Type: "T",
		UserId: "guest", AppId: "app", Body: []byte("{\"a\" : \xff}"),
	}
	x.declare(t, "stolen", nil)
	// CC works where the test publishes, too: that copy is not what is looked for.
	x.park(t, "error", msg)
	if _, err := x.ch.QueuePurge("stolen", false); err != nil {
		t.Fatal(err)
	}
	report, items, err := x.run(t, nil)
	if err != nil || report != (redrive.Report{Moved: 1}) {
		t.Fatalf("report %+v, items %+v, error %v", report, items, err)
	}
	x.expect(t, "error", "")
	x.expect(t, "stolen", "")
	moved := x.broker.Messages("orders")
	if len(moved) != 1 {
		t.Fatalf("%d messages in the source queue", len(moved))
	}
	want := msg
	want.Expiration = "" // what is moved must not vanish for being late
	want.Headers = maps.Clone(msg.Headers)
	for _, gone := range []string{
		"PikaBus.SourceQueue", "PikaBus.ErrorRetries", "PikaBus.ErrorDetails", "PikaBus.DeferredTime",
		"x-death", "x-first-death-queue", "x-last-death-reason", "CC",
	} {
		delete(want.Headers, gone)
	}
	got := moved[0].Publishing
	if !got.Timestamp.Equal(want.Timestamp) {
		t.Errorf("timestamp %v, want %v", got.Timestamp, want.Timestamp)
	}
	if at, ok := got.Headers["time"].(time.Time); !ok || !at.Equal(stamp) {
		t.Errorf("header time is %v", got.Headers["time"])
	}
	got.Timestamp, want.Timestamp = time.Time{}, time.Time{}
	delete(got.Headers, "time")
	delete(want.Headers, "time")
	if !reflect.DeepEqual(got, want) {
		t.Errorf("moved  %#v\nwanted %#v", got, want)
	}
}

// TestPikaBus moves what services of both PikaBus generations have parked.
func TestPikaBus(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"v1_error", "v2_error"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			x := newBench(t)
			x.declare(t, "goldenServer", nil)
			x.declare(t, "goldenError", nil)
			msg := capture(t, "testdata/"+name+".json")
			x.park(t, "goldenError", msg)
			report, items, err := x.run(t, func(o *redrive.Options) { o.Queue, o.Match = "goldenError", "Golden.Fail" })
			if err != nil || report.Moved != 1 || items[0].ID != msg.MessageId || items[0].To != "goldenServer" {
				t.Fatalf("report %+v, items %+v, error %v", report, items, err)
			}
			x.expect(t, "goldenError", "")
			got := x.broker.Messages("goldenServer")[0]
			if string(got.Body) != string(msg.Body) {
				t.Errorf("body %q, want %q", got.Body, msg.Body)
			}
			for _, gone := range []string{"ErrorRetries", "ErrorDetails", "SourceQueue", "DeferredTime"} {
				if v, ok := got.Headers["PikaBus."+gone]; ok {
					t.Errorf("header %s is still there: %v", gone, v)
				}
				delete(msg.Headers, "PikaBus."+gone)
			}
			if !reflect.DeepEqual(got.Headers, msg.Headers) {
				t.Errorf("headers %v, want %v", got.Headers, msg.Headers)
			}
		})
	}
}

// capture reads a message captured from a PikaBus service.
func capture(t *testing.T, path string) amqp.Publishing {
	t.Helper()
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var c struct {
		Properties struct {
			ContentType     string         `json:"content_type"`
			ContentEncoding string         `json:"content_encoding"`
			CorrelationID   string         `json:"correlation_id"`
			ReplyTo         string         `json:"reply_to"`
			MessageID       string         `json:"message_id"`
			Timestamp       int64          `json:"timestamp"`
			Type            string         `json:"type"`
			Headers         map[string]any `json:"headers"`
		} `json:"properties"`
		Body string `json:"body"`
	}
	if err := json.Unmarshal(raw, &c); err != nil {
		t.Fatal(err)
	}
	p := c.Properties
	headers := amqp.Table(p.Headers)
	headers["PikaBus.ErrorRetries"] = int32(3) // 1.x writes 32 bits, 2.x 8
	return amqp.Publishing{
		Headers: headers, ContentType: p.ContentType, ContentEncoding: p.ContentEncoding, DeliveryMode: amqp.Persistent,
		CorrelationId: p.CorrelationID, ReplyTo: p.ReplyTo, MessageId: p.MessageID, Type: p.Type,
		Timestamp: time.Unix(p.Timestamp, 0), Body: []byte(c.Body),
	}
}

func TestChoosesWhatToMove(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name   string
		change func(*redrive.Options)
		report redrive.Report
		error  string // what stays in the error queue, in order
		orders string
		other  string
	}{
		{"all", nil, redrive.Report{Moved: 3, Left: 1}, "c", "a b d", ""},
		{"count", func(o *redrive.Options) { o.Count = 2 }, redrive.Report{Moved: 2}, "c d", "a b", ""},
		{"match", func(o *redrive.Options) { o.Match = "B" }, redrive.Report{Moved: 1, Unmatched: 3}, "a c d", "b", ""},
		{"match-count", func(o *redrive.Options) { o.Match, o.Count = "A", 1 }, redrive.Report{Moved: 1}, "b c d", "a", ""},
		{"to", func(o *redrive.Options) { o.To = "other" }, redrive.Report{Moved: 4}, "", "", "a b c d"},
		{"dry-run", func(o *redrive.Options) { o.DryRun = true }, redrive.Report{Moved: 3, Left: 1}, "a b c d", "", ""},
		{"dry-run-count", func(o *redrive.Options) { o.DryRun, o.Count = true, 1 }, redrive.Report{Moved: 1}, "a b c d", "", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			x := newBench(t)
			x.declare(t, "other", nil)
			x.park(t, "error", parked("a", "A", nil))
			x.park(t, "error", parked("b", "ignored", amqp.Table{"PikaBus.MessageType": "B"}))
			x.park(t, "error", amqp.Publishing{Body: []byte("c"), MessageId: "c", Type: "A"})
			x.park(t, "error", parked("d", "A", amqp.Table{"PikaBus.SourceQueue": []byte("orders")}))
			report, items, err := x.run(t, test.change)
			if err != nil || report != test.report {
				t.Errorf("report %+v, want %+v (items %+v, error %v)", report, test.report, items, err)
			}
			x.expect(t, "error", test.error)
			x.expect(t, "orders", test.orders)
			x.expect(t, "other", test.other)
		})
	}
}

// TestLeaves has one message that cannot be moved between two that can.
func TestLeaves(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name   string
		msg    amqp.Publishing
		reason string
	}{
		{"no-source", amqp.Publishing{MessageId: "x", Body: []byte("x")}, "does not say where it came from"},
		{"deferred-here", parkedByBroker("harebus.delay.q"), "is a delay queue"},
		{"died-here", parkedByBroker("error"), "error queue itself"},
		{"source-gone", parked("x", "", amqp.Table{"PikaBus.SourceQueue": "gone"}), `there is no queue "gone"`},
		{"source-is-a-number", parked("x", "", amqp.Table{"PikaBus.SourceQueue": int32(7)}), "not text"},
		{"source-of-the-broker", parked("x", "", amqp.Table{"PikaBus.SourceQueue": "amq.gen-x"}), "belong to the broker"},
		{"source-too-long", parked("x", "", amqp.Table{"PikaBus.SourceQueue": strings.Repeat("q", 256)}), "more than 255"},
		{"circle", parked("x", "", amqp.Table{"PikaBus.SourceQueue": "error"}), "error queue itself"},
		{"of-a-stream", parked("x", "", amqp.Table{"PikaBus.SourceQueue": "events", "PikaBus.StreamOffset": int64(7)}), "every reader would get it"},
		{"full", parked("x", "", amqp.Table{"PikaBus.SourceQueue": "full"}), "is that full?"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			x := newBench(t)
			x.declare(t, "full", amqp.Table{"x-max-length": int32(1), "x-overflow": "reject-publish"})
			x.park(t, "full", amqp.Publishing{})
			x.park(t, "error", parked("a", "", nil))
			x.park(t, "error", test.msg)
			x.park(t, "error", parked("z", "", nil))
			report, items, err := x.run(t, nil)
			if err != nil || report != (redrive.Report{Moved: 2, Left: 1}) {
				t.Fatalf("report %+v, items %+v, error %v", report, items, err)
			}
			if !strings.Contains(items[1].Reason, test.reason) {
				t.Errorf("reason %q, want %q in it", items[1].Reason, test.reason)
			}
			x.expect(t, "error", "x")
			x.expect(t, "orders", "a z")
		})
	}
}

// TestRefusedByTheBroker: a message that closes the channel stays, and the next
// one is moved on a new channel.
func TestRefusedByTheBroker(t *testing.T) {
	t.Parallel()
	x := newBench(t)
	x.broker.Inject(brokertest.Fault{On: "basic.publish", Do: brokertest.Raise, Code: 406, Text: "PRECONDITION_FAILED - user_id", Match: byRedrive})
	x.park(t, "error", parked("a", "", nil))
	x.park(t, "error", parked("b", "", nil))
	report, items, err := x.run(t, nil)
	if err != nil || report != (redrive.Report{Moved: 1, Left: 1}) || !strings.Contains(items[0].Reason, "user_id") {
		t.Fatalf("report %+v, items %+v, error %v", report, items, err)
	}
	x.expect(t, "error", "a")
	x.expect(t, "orders", "b")
}

func byRedrive(f brokertest.Frame) bool { return f.Connection == "harebus redrive" }

// TestNothingIsLost ends the connection, or swallows an answer, at each step of
// a move. The message is then in the error queue, in its source queue, or in
// both, and the others are untouched.
func TestNothingIsLost(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name  string
		fault brokertest.Fault
		error string
		order string
	}{
		{"before-publish", brokertest.Fault{On: "basic.publish", Do: brokertest.CutBefore}, "a b", ""},
		{"after-publish", brokertest.Fault{On: "basic.publish", Do: brokertest.CutAfter}, "a b", "a"},
		{"publish-swallowed", brokertest.Fault{On: "basic.publish", Do: brokertest.Drop}, "a b", ""},
		{"confirm-lost", brokertest.Fault{On: "basic.ack", From: brokertest.FromBroker, Do: brokertest.CutBefore}, "a b", "a"},
		{"confirm-swallowed", brokertest.Fault{On: "basic.ack", From: brokertest.FromBroker, Do: brokertest.Drop}, "a b", "a"},
		{"before-ack", brokertest.Fault{On: "basic.ack", Do: brokertest.CutBefore}, "a b", "a"},
		{"after-ack", brokertest.Fault{On: "basic.ack", Do: brokertest.CutAfter}, "b", "a"},
		{"second-delivery", brokertest.Fault{On: "basic.deliver", From: brokertest.FromBroker, Do: brokertest.CutBefore, Nth: 2}, "a b", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) { // the limit is virtual: a slow machine does not reach it
				x := newBench(t)
				x.park(t, "error", parked("a", "", nil))
				x.park(t, "error", parked("b", "", nil))
				test.fault.Match = byRedrive
				x.broker.Inject(test.fault)
				report, items, err := x.run(t, nil)
				if err == nil {
					t.Errorf("no error; report %+v, items %+v", report, items)
				}
				x.expect(t, "error", test.error)
				x.expect(t, "orders", test.order)
			})
		})
	}
}

// TestLastAcknowledgementIsLost: the message is in both queues, and redrive does not end as if all were well.
func TestLastAcknowledgementIsLost(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		x := newBench(t)
		x.park(t, "error", parked("a", "", nil))
		x.broker.Inject(brokertest.Fault{On: "basic.ack", Do: brokertest.CutBefore, Match: byRedrive})
		if report, _, err := x.run(t, nil); err == nil {
			t.Errorf("no error; report %+v", report)
		}
		x.expect(t, "error", "a")
		x.expect(t, "orders", "a")
	})
}

// TestLookingIsFree: a quorum queue drops what was delivered more often than its
// limit, and every look is a delivery.
func TestLookingIsFree(t *testing.T) {
	t.Parallel()
	x := newBench(t)
	x.declare(t, "parked", amqp.Table{"x-queue-type": "quorum", "x-delivery-limit": int32(20)})
	x.park(t, "parked", parked("a", "", nil))
	for range 30 {
		report, _, err := x.run(t, func(o *redrive.Options) { o.Queue, o.DryRun = "parked", true })
		if err != nil || report.Moved != 1 {
			t.Fatalf("report %+v, error %v", report, err)
		}
	}
	x.expect(t, "parked", "a")
	if got := x.broker.Messages("parked")[0].Headers["PikaBus.ErrorDetails"]; got != "boom" {
		t.Errorf("the message is not what it was: %v", got)
	}
}

// TestLeavesNewcomers: a message that fails again at once must not go round.
func TestLeavesNewcomers(t *testing.T) {
	t.Parallel()
	x := newBench(t)
	x.park(t, "error", parked("a", "", nil))
	var added bool
	o := redrive.Options{Broker: x.address(), Queue: "error", HeaderPrefix: "PikaBus.", Timeout: 5 * time.Second}
	report, err := redrive.Run(t.Context(), o, func(redrive.Item) {
		if !added {
			added = true
			x.park(t, "error", parked("again", "", nil))
		}
	})
	if err != nil || report.Moved != 1 {
		t.Fatalf("report %+v, error %v", report, err)
	}
	x.expect(t, "error", "again")
}

func TestCannotBegin(t *testing.T) {
	t.Parallel()
	x := newBench(t)
	for _, test := range []struct {
		name   string
		change func(*redrive.Options)
		want   string
	}{
		{"address", func(o *redrive.Options) { o.Broker.URLs[0] = "amqp://u:secret@[::1/" }, "not of the form"},
		{"password", func(o *redrive.Options) {
			o.Broker.URLs[0] = strings.Replace(o.Broker.URLs[0], ":guest@", ":secret@", 1)
		}, "403"},
		{"queue", func(o *redrive.Options) { o.Queue = "none" }, "404"},
		{"nobody-there", func(o *redrive.Options) {
			o.Broker, o.Timeout = access.Broker{URLs: []string{"amqp://127.0.0.1:1/"}}, 300*time.Millisecond
		}, "not connected: gave up after 300ms: connect to 127.0.0.1:1: dial tcp 127.0.0.1:1: connect: connection refused"},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, _, err := x.run(t, test.change)
			if err == nil || !strings.Contains(err.Error(), test.want) || strings.Contains(err.Error(), "secret") {
				t.Errorf("error %v, want %q in it and no password", err, test.want)
			}
		})
	}
}

// TestUserID: the broker refuses a user id that is not the login's. It is left out.
func TestUserID(t *testing.T) {
	t.Parallel()
	x := newBench(t)
	msg := parked("a", "", nil)
	msg.UserId = "guest" // as whoever parks it here
	x.park(t, "error", msg)
	x.park(t, "error", msg)
	_, items, err := x.run(t, func(o *redrive.Options) { o.Count = 1 })
	if err != nil || x.broker.Messages("orders")[0].UserId != "guest" {
		t.Errorf("own user id: items %+v, error %v", items, err)
	}
	report, items, err := x.run(t, func(o *redrive.Options) {
		o.Broker.URLs[0] = strings.Replace(o.Broker.URLs[0], "guest:guest", "operator:pw", 1)
	})
	if err != nil || report.Moved != 1 {
		t.Fatalf("foreign user id: report %+v, items %+v, error %v", report, items, err)
	}
	if id := x.broker.Messages("orders")[1].UserId; id != "" {
		t.Errorf("the user id is %q", id)
	}
}

// TestParkedByTheBroker: a message without a SourceQueue goes back to where it died last,
// not to a queue that it waited in before.
func TestParkedByTheBroker(t *testing.T) {
	t.Parallel()
	x := newBench(t)
	x.park(t, "error", parkedByBroker("orders"))
	x.park(t, "error", amqp.Publishing{
		MessageId: "y", Body: []byte("y"), Headers: amqp.Table{"x-first-death-queue": "orders", "x-first-death-reason": "rejected"},
	})
	report, items, err := x.run(t, nil)
	if err != nil || report != (redrive.Report{Moved: 2}) || items[0].To != "orders" || items[0].Source != "orders" {
		t.Fatalf("report %+v, items %+v, error %v", report, items, err)
	}
	if items[0].Failure != "the broker moved it here: delivery_limit" || items[1].Failure != "the broker moved it here: rejected" {
		t.Errorf("failures %q and %q", items[0].Failure, items[1].Failure)
	}
	x.expect(t, "orders", "x y")
	if h := x.broker.Messages("orders")[0].Headers; len(h) > 0 {
		t.Errorf("headers %v", h)
	}
}

// TestMoreThanOneConsumerHolds: what is kept does not hinder the rest.
func TestMoreThanOneConsumerHolds(t *testing.T) {
	t.Parallel()
	x := newBench(t)
	for _, id := range []string{"a", "b", "c", "d", "e"} {
		x.park(t, "error", parked(id, map[bool]string{true: "Move", false: "Keep"}[id == "e"], nil))
	}
	report, items, err := x.run(t, func(o *redrive.Options) { o.Match, o.Window = "Move", 2 })
	if err != nil || report != (redrive.Report{Moved: 1, Unmatched: 4}) {
		t.Fatalf("report %+v, items %+v, error %v", report, items, err)
	}
	x.expect(t, "error", "a b c d")
	x.expect(t, "orders", "e")
}

// TestSomebodyElseTakes: messages that were ready and are gone end the run without an error.
func TestSomebodyElseTakes(t *testing.T) {
	t.Parallel()
	x := newBench(t)
	x.park(t, "error", parked("a", "", nil))
	x.park(t, "error", parked("b", "", nil))
	purge := x.broker.Inject(brokertest.Fault{On: "basic.consume", Do: brokertest.Hold, Match: byRedrive})
	go func() {
		if purge.WaitFired(t.Context(), 1) == nil {
			_, _ = x.ch.QueuePurge("error", false)
			purge.Release()
		}
	}()
	report, items, err := x.run(t, nil)
	if err != nil || report != (redrive.Report{}) {
		t.Fatalf("report %+v, items %+v, error %v", report, items, err)
	}
}

// TestCutWhileItBegins: what waiting can cure is waited out.
func TestCutWhileItBegins(t *testing.T) {
	t.Parallel()
	for _, method := range []string{"connection.open", "channel.open", "queue.declare", "basic.qos", "basic.consume"} {
		t.Run(method, func(t *testing.T) {
			t.Parallel()
			x := newBench(t)
			x.park(t, "error", parked("a", "", nil))
			cuts := x.broker.Inject(brokertest.Fault{On: method, Do: brokertest.CutBefore, Times: 2, Match: byRedrive})
			core, logs := observer.New(zapcore.WarnLevel)
			report, items, err := x.run(t, func(o *redrive.Options) { o.Broker.Log = zap.New(core) })
			if err != nil || report.Moved != 1 || cuts.Fired() != 2 || logs.Len() == 0 {
				t.Fatalf("report %+v, items %+v, error %v, %d cuts, logged %v", report, items, err, cuts.Fired(), logs.All())
			}
			x.expect(t, "orders", "a")
		})
	}
}

// TestGuard: redrive does not take messages from others, and does not look at a message more often than its queue allows.
func TestGuard(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		x := newBench(t)
		x.declare(t, "few", amqp.Table{"x-queue-type": "quorum", "x-delivery-limit": int32(3)})
		x.park(t, "few", parked("1", "T", nil))
		few := func(o *redrive.Options) { o.Queue, o.DryRun = "few", true }
		for look := range 10 {
			if report, _, err := x.run(t, few); err != nil || report.Moved != 1 {
				t.Fatalf("look %d: %+v, %v", look, report, err)
			}
		}
		if _, err := x.ch.QueueDeclare("harebus.operator.few", false, false, true, false, nil); err != nil {
			t.Fatal(err)
		}
		if _, _, err := x.run(t, few); err == nil || !strings.Contains(err.Error(), "another operator") {
			t.Errorf("with another operator: %v", err)
		}
		if _, err := x.ch.Consume("few", "", false, false, false, false, nil); err != nil {
			t.Fatal(err)
		}
		o := redrive.Options{Broker: x.address(), Queue: "few", HeaderPrefix: "PikaBus.", Timeout: 5 * time.Second, NoLock: true}
		if _, err := redrive.Run(t.Context(), o, nil); err == nil || !strings.Contains(err.Error(), "1 consumers") {
			t.Errorf("with a consumer: %v", err)
		}
	})
}
