package errorqueue_test

import (
	"fmt"
	"maps"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
	"go.uber.org/goleak"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/brokertest"
	"github.com/harebus/harebus/errorqueue"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// bench is a broker with an error queue and the queues that its messages came from.
type bench struct {
	*testing.T

	broker *brokertest.Broker
	ch     *amqp.Channel
}

// bubble runs a test in virtual time.
func bubble(t *testing.T, test func(x *bench)) {
	t.Helper()
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := brokertest.New(brokertest.WithUser("ann", "pw"))
		defer b.Close()
		conn, err := amqp.DialConfig(b.URL(), amqp.Config{Dial: b.Dial})
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = conn.Close() }()
		ch, err := conn.Channel()
		if err != nil {
			t.Fatal(err)
		}
		x := &bench{t, b, ch}
		x.declare("error", nil)
		x.declare("orders", nil)
		test(x)
	})
}

func (x *bench) try(err error) {
	x.Helper()
	if err != nil {
		x.Fatal(err)
	}
}

func (x *bench) declare(queue string, args amqp.Table) {
	x.Helper()
	_, err := x.ch.QueueDeclare(queue, true, false, false, false, args)
	x.try(err)
}

// put publishes messages to a queue and returns when they are there.
func (x *bench) put(queue string, ms ...amqp.Publishing) {
	x.Helper()
	for _, m := range ms {
		x.try(x.ch.PublishWithContext(x.Context(), "", queue, false, false, m))
	}
	_, err := x.ch.QueueDeclarePassive(queue, true, false, false, false, nil)
	x.try(err)
}

// parked is a message as a service parks it.
func parked(id, kind, failure string, more amqp.Table) amqp.Publishing {
	headers := amqp.Table{
		"PikaBus.MessageId": id, "PikaBus.MessageType": kind, "PikaBus.SourceQueue": "orders", "PikaBus.ErrorRetries": int8(6),
		"PikaBus.ErrorDetails": failure, "PikaBus.ErrorId": harebus.NewMessageID(), "tenant": "north",
	}
	maps.Copy(headers, more)
	return amqp.Publishing{
		MessageId: id, Type: kind, ContentType: "application/json", DeliveryMode: amqp.Persistent, Headers: headers, Body: []byte(`{"ID":"` + id + `"}`),
	}
}

// park puts n messages into the error queue, whose ids are numbers from first on.
func (x *bench) park(first, n int) {
	x.Helper()
	for i := first; i < first+n; i++ {
		x.put("error", parked(fmt.Sprint(i), "Place", fmt.Sprintf("order %d: out of stock", i), nil))
	}
}

func (x *bench) config() errorqueue.Config {
	return errorqueue.Config{
		Connect: harebus.ConnectConfig{URLs: []string{x.broker.URL()}}, Dial: x.broker.Dial, Timeout: 5 * time.Second, Operator: "ann@ops1",
	}
}

// open opens the error queue; the test closes it.
func (x *bench) open(change ...func(*errorqueue.Config)) *errorqueue.Queue {
	x.Helper()
	cfg := x.config()
	for _, c := range change {
		c(&cfg)
	}
	q, err := errorqueue.Open(x.Context(), cfg)
	x.try(err)
	return q
}

func (x *bench) look(q *errorqueue.Queue, f errorqueue.Filter) *errorqueue.Index {
	x.Helper()
	found, err := q.Look(x.Context(), f)
	x.try(err)
	return found
}

// with opens the error queue for a function.
func (x *bench) with(fn func(q *errorqueue.Queue), change ...func(*errorqueue.Config)) {
	x.Helper()
	q := x.open(change...)
	fn(q)
	x.try(q.Close())
}

// ids are the message ids in a queue, in their order.
func (x *bench) ids(queue string) string {
	var ids []string
	for _, m := range x.broker.Messages(queue) {
		ids = append(ids, m.MessageId)
	}
	return strings.Join(ids, " ")
}

func (x *bench) expect(queue, want string) {
	x.Helper()
	if got := x.ids(queue); got != want {
		x.Errorf("queue %q has %q, want %q", queue, got, want)
	}
}

// summary is a report in short.
func summary(r errorqueue.Report) string {
	return fmt.Sprintf("done %d, left %d, gone %d, remaining %d, twice %d", r.Done, len(r.Left), r.Gone, r.Remaining, len(r.Twice))
}

func (x *bench) reports(r errorqueue.Report, err error, want string) {
	x.Helper()
	if err != nil || summary(r) != want {
		x.Errorf("report: %s, %v; want %s", summary(r), err, want)
	}
}
