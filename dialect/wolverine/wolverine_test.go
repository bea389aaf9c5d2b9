package wolverine_test

import (
	"strings"
	"testing"
	"time"

	"github.com/harebus/harebus/brokertest"
	"github.com/harebus/harebus/dialect"
	"github.com/harebus/harebus/dialect/wolverine"
	"github.com/harebus/harebus/internal/dialecttest"
)

var types = dialect.Types{
	"PlaceOrder": "Acme.Orders.PlaceOrder", "OrderPlaced": "Acme.Orders.OrderPlaced", "GetOrder": "Acme.Orders.GetOrder",
	"OrderStatus": "Acme.Orders.OrderStatus", "OrderMoved": "order-moved.V2",
}

func peer() *wolverine.Dialect { return wolverine.New(wolverine.Config{Types: types}) }

// at is a time of 28 November 2026.
func at(t *testing.T, clock string) time.Time {
	t.Helper()
	when, err := time.Parse("2006-01-02 15:04:05.999999", "2026-11-28 "+clock)
	if err != nil {
		t.Fatal(err)
	}
	return when
}

// TestGoldens: what Wolverine writes is read, and written again as it was.
func TestGoldens(t *testing.T) {
	t.Parallel()
	var (
		send    = &dialect.Destination{Name: "orders"}
		json    = "application/json"
		transit = "properties.DeliveryMode" // Wolverine writes 1 without a durable outbox; harebus does not lose messages when the broker restarts
		must    = "mandatory"               // harebus hears of a message that no queue takes
		replies = "headers.reply-uri"       // only of what can be answered
		tenant  = "headers.tenant-id"
	)
	failure := dialecttest.Load(t, "wolverine-failure-ack")
	dialecttest.Goldens(t, peer(), []dialecttest.Case{
		{Golden: "wolverine-minimal-in", Want: dialect.Envelope{Type: "PlaceOrder", ContentType: json}}, // what Wolverine takes; harebus writes more
		{
			Golden: "wolverine-failure-ack",
			To:     &dialect.Destination{Kind: dialect.Reply, Name: "wolverine.response.1febda91-1a9b-42f6-a9a7-ae66bf00e3c9", Answers: &dialect.Envelope{ID: "08df4d3e-fa9f-0ebb-0200-000000000000"}},
			Want: dialect.Envelope{
				ID: "08df4d3e-faac-8345-0200-000000000000", CorrelationID: "061b1dc2-dade-4d26-a289-a605abd48dee", ConversationID: "08df4d3e-fa9f-0ebb-0200-000000000000",
				RequestID: "08df4d3e-fa9f-0ebb-0200-000000000000", Type: "Wolverine.Runtime.RemoteInvocation.FailureAcknowledgement", From: "orders", ContentType: "binary/wolverine",
				TimeSent: at(t, "11:01:39.882068"), Fault: &dialect.Fault{Reason: "failed", Text: string(failure.Body[16:])},
			},
			Differs: []string{transit, must, replies, tenant, "properties.ContentType", "body", "body."}, // written in JSON, which Wolverine reads, too
		},
		{
			Golden: "wolverine-send", To: send, Differs: []string{transit, must},
			Want: dialect.Envelope{
				ID: "08df4d3d-be75-889d-0200-000000000000", CorrelationID: "994a59e2-c312-42d0-90b5-fc37967ea83f",
				ConversationID: "08df4d3d-be75-889d-0200-000000000000", Type: "PlaceOrder", From: "shop", ContentType: json,
				ReplyTo: "wolverine.response.09a82d74-d06b-47c7-a47d-62551dac97b9", TimeSent: at(t, "10:52:49.361793"),
			},
		},
		{
			Golden: "wolverine-publish", To: &dialect.Destination{Kind: dialect.Publish, Exchange: "orders.events"}, Differs: []string{transit},
			Want: dialect.Envelope{
				ID: "08df4d3d-bed9-9e30-0200-000000000000", CorrelationID: "60b6e274-1c5c-438c-b178-45f2fbc2c8a5",
				ConversationID: "08df4d3d-bed9-9e30-0200-000000000000", Type: "OrderPlaced", From: "shop", ContentType: json,
				ReplyTo: "wolverine.response.2edb4256-fa4d-43b1-ab01-032294ea21fc", TimeSent: at(t, "10:52:50.017643"),
			},
		},
		{
			Golden: "wolverine-request", To: &dialect.Destination{Kind: dialect.Request, Name: "orders"},
			Differs: []string{transit, must, "properties.Expiration"}, // the bus writes it
			Want: dialect.Envelope{
				ID: "08df4d3e-f5b2-6611-0200-000000000000", CorrelationID: "b4870504-86f2-4009-81c1-ecd5ae6b5718",
				ConversationID: "08df4d3e-f5b2-6611-0200-000000000000", RequestID: "08df4d3e-f5b2-6611-0200-000000000000",
				Type: "GetOrder", Accepts: []string{"OrderStatus"}, From: "shop", ContentType: json,
				ReplyTo:  "wolverine.response.1febda91-1a9b-42f6-a9a7-ae66bf00e3c9",
				TimeSent: at(t, "11:01:31.525672"), Expires: at(t, "11:01:36.495672"),
			},
		},
		{
			Golden: "wolverine-request-ack", To: &dialect.Destination{Kind: dialect.Request, Name: "orders"}, Differs: []string{transit, must, "properties.Expiration"},
			Want: dialect.Envelope{
				ID: "08df4d3e-fab7-ae43-0200-000000000000", CorrelationID: "e90ac722-7fe2-419a-8247-c42543182fac",
				ConversationID: "08df4d3e-fab7-ae43-0200-000000000000", RequestID: "08df4d3e-fab7-ae43-0200-000000000000",
				Type: "GetOrder", Accepts: []string{"Wolverine.Runtime.RemoteInvocation.Acknowledgement"}, From: "shop", ContentType: json,
				ReplyTo: "wolverine.response.1febda91-1a9b-42f6-a9a7-ae66bf00e3c9", TimeSent: at(t, "11:01:39.955253"), Expires: at(t, "11:01:44.955253"),
			},
		},
		{
			Golden: "wolverine-ack", To: &dialect.Destination{Kind: dialect.Reply, Name: "wolverine.response.1febda91-1a9b-42f6-a9a7-ae66bf00e3c9"},
			Differs: []string{transit, must, replies, tenant, "headers.sent-at"}, // it was sent a little later than its time says
			Body:    `{"requestId":"08df4d3e-fab7-ae43-0200-000000000000","timestamp":"2026-11-28T11:01:39.9580991Z"}`,
			Want: dialect.Envelope{
				ID: "08df4d3e-fab8-4144-0200-000000000000", CorrelationID: "e90ac722-7fe2-419a-8247-c42543182fac",
				ConversationID: "08df4d3e-fab7-ae43-0200-000000000000", RequestID: "08df4d3e-fab7-ae43-0200-000000000000",
				Type: "Wolverine.Runtime.RemoteInvocation.Acknowledgement", From: "orders", ContentType: json, TimeSent: at(t, "11:01:39.959025"),
			},
			Written: func(e *dialect.Envelope) { e.TimeSent = at(t, "11:01:39.9580991") }, // which is the time in its body, too
		},
		{
			Golden: "wolverine-response", To: &dialect.Destination{Kind: dialect.Reply, Name: "wolverine.response.1febda91-1a9b-42f6-a9a7-ae66bf00e3c9"},
			Differs: []string{transit, must, replies, tenant},
			Want: dialect.Envelope{
				ID: "08df4d3e-f76f-afcc-0200-000000000000", CorrelationID: "b4870504-86f2-4009-81c1-ecd5ae6b5718",
				ConversationID: "08df4d3e-f5b2-6611-0200-000000000000", RequestID: "08df4d3e-f5b2-6611-0200-000000000000",
				Type: "OrderStatus", From: "orders", ContentType: json, TimeSent: at(t, "11:01:34.450267"),
			},
		},
	})
}

// TestHostile: what strangers may write is read as something whole, or refused; an address that is no queue is not answered.
func TestHostile(t *testing.T) {
	t.Parallel()
	own := []string{"PlaceOrder", "OrderPlaced", "GetOrder", "OrderStatus", "OrderMoved"}
	dialecttest.Mutations{
		Goldens: []string{"wolverine-send", "wolverine-request", "wolverine-response", "wolverine-failure-ack", "wolverine-activity", "wolverine-publish"}, Own: own,
		Addresses: []string{"headers.reply-uri"},
		Hostile: []string{
			"rabbitmq://queue/%s", "rabbitmq://exchange/orders", "rabbitmq://topic/orders/x", "rabbitmq://other/orders", "rabbitmq://queue/shop/orders",
			"tcp://localhost:5580", "local://durable", "error", "rabbitmq:queue/error", "rabbitmq-2://queue/error", "rabbitmq://queue/orders?to=error", "rabbitmq://queue/orders#x",
		},
	}.Run(t, peer())
}

// TestCopies: a message that is retried, parked, stored and moved stays Wolverine's.
func TestCopies(t *testing.T) {
	t.Parallel()
	dialecttest.Copies(t, peer(), "wolverine-send", "wolverine-request", "wolverine-activity", "wolverine-dead-letter-native", "wolverine-dead-letter-enhanced", "wolverine-send-confirmed")
}

// FuzzRead reads what nobody would write.
func FuzzRead(f *testing.F) {
	dialecttest.Fuzz(f, peer(), []string{"wolverine-send", "wolverine-request", "wolverine-response", "wolverine-failure-ack"},
		[]string{"reply-uri", "reply-requested", "conversation-id", "sent-at", "is-response", "parent-id", "source"})
}

// TestRefused: what the peer could not read is not sent.
func TestRefused(t *testing.T) {
	t.Parallel()
	err := wolverine.New(wolverine.Config{Types: dialect.Types{"A": "X", "B": "X"}}).Validate()
	says(t, err, "twice")
	_, err = peer().Write(&dialect.Envelope{ID: "order-7", Type: "Unknown"}, dialect.Destination{})
	says(t, err, "order-7", "not a GUID", "Unknown")
	guid := "08df4d3e-f5b2-6611-0200-000000000000"
	_, err = peer().Write(&dialect.Envelope{ID: guid, Type: "GetOrder"}, dialect.Destination{Kind: dialect.Request, Name: "orders"})
	says(t, err, "type of the answer")
	_, err = peer().Write(&dialect.Envelope{ID: guid, RequestID: "seven", Type: "GetOrder", Accepts: []string{"OrderStatus"}}, dialect.Destination{Kind: dialect.Request, Name: "orders"})
	says(t, err, "correlation id of a request", "seven")
}

func says(t *testing.T, err error, parts ...string) {
	t.Helper()
	for _, part := range parts {
		if err == nil || !strings.Contains(err.Error(), part) {
			t.Errorf("%v does not say %q", err, part)
		}
	}
}

// TestReadCosts: reading Wolverine's messages costs little more than reading those of harebus.
func TestReadCosts(t *testing.T) { //nolint:paralleltest // it counts allocations
	dialecttest.Costs(t, peer(), "wolverine-send")
}

// BenchmarkRead compares with reading a message of harebus.
func BenchmarkRead(b *testing.B) {
	dialecttest.Times(b, peer(), "wolverine-send")
}

// TestTalk: a service and a client that plays the peer ask and answer, fail and publish in both directions.
func TestTalk(t *testing.T) {
	t.Parallel()
	broker := brokertest.New(brokertest.WithVHost("shop"))
	defer broker.Close()
	dialecttest.Talk(t, dialecttest.Place{URL: "amqp://guest:guest@localhost:5672/shop", Dial: broker.Dial}, dialecttest.Wolverine())
}

// TestWrapped: what Wolverine has written in the envelope of another bus is left to the dialect of that one.
func TestWrapped(t *testing.T) {
	t.Parallel()
	d := peer()
	send := dialecttest.Load(t, "wolverine-send")
	for name, body := range map[string]string{
		"CloudEvents": `{"specversion":"1.0","source":"x","id":"7","type":"t","data":{"id":7}}`,
		"MassTransit": `{"messageType":["urn:message:Acme.Orders:PlaceOrder"],"message":{"id":7}}`,
	} {
		w := send
		w.Body = []byte(body)
		for _, label := range []string{"application/json", "application/json; charset=utf-8", ""} {
			w.Properties.ContentType = label
			if e, is, err := d.Read(&w); is || err == nil {
				t.Errorf("%s: read as %+v, %v", name, e, err)
			}
		}
		// Without the dialect of the envelope it is parked: harebus would take the property type for that of the body.
		f, _, faults := dialecttest.Read(d, &w)
		if f != nil || len(faults) != 1 || faults[0].Reason != "bad-envelope" || faults[0].Curable || !strings.Contains(faults[0].Err.Error(), "add that dialect") {
			t.Errorf("%s: %v, %v", name, f, faults)
		}
	}
	w := send
	w.Properties.ContentType = "application/vnd.masstransit+json"
	if _, is, _ := d.Read(&w); is {
		t.Error("an envelope of MassTransit is read")
	}
	w = send
	w.Body = []byte(`{"note":"\"specversion\" and \"urn:message:","id":7}`)
	if _, is, err := d.Read(&w); !is || err != nil {
		t.Errorf("a message that quotes: %v, %v", is, err)
	}
}

// TestTrace: the trace has both names on the way out, and is found under each of them.
func TestTrace(t *testing.T) {
	t.Parallel()
	const trace = "00-69dff6240b80fe856d38e7c34ee16cdd-37b9e269c5ed9da4-01"
	w, err := peer().Write(&dialect.Envelope{ID: "08df4d3e-f5b2-6611-0200-000000000000", Type: "PlaceOrder", Headers: map[string]any{"traceparent": trace}}, dialect.Destination{Name: "orders"})
	if err != nil || w.Headers["traceparent"] != trace || w.Headers["parent-id"] != trace {
		t.Errorf("written are %v, %v", w.Headers, err)
	}
	delete(w.Headers, "traceparent")
	w.Body = []byte("{}")
	if e, _, err := peer().Read(&w); err != nil || e.Headers["traceparent"] != trace {
		t.Errorf("read are %v, %v", e, err)
	}
}

// TestRoundTrips: nothing of what else Wolverine writes is lost.
func TestRoundTrips(t *testing.T) {
	t.Parallel()
	d := wolverine.New(wolverine.Config{Types: dialect.Types{
		"PlaceOrder": "Acme.Orders.PlaceOrder", "OrderPlaced": "Acme.Orders.OrderPlaced", "OrderMoved": "order-moved.V2", "Forms": "Acme.Orders.Forms",
	}})
	const transit, must, expires = "properties.DeliveryMode", "mandatory", "?properties.Expiration"
	for golden, messageType := range map[string]string{
		"wolverine-send-confirmed": "PlaceOrder", "wolverine-conventional": "PlaceOrder", "wolverine-identity": "OrderMoved", "wolverine-requeued": "PlaceOrder",
		"wolverine-scheduled": "PlaceOrder", "wolverine-json": "Forms", "wolverine-publish-topic": "OrderPlaced", "wolverine-dead-letter-native": "PlaceOrder",
		"wolverine-dead-letter-enhanced": "PlaceOrder", "wolverine-activity": "PlaceOrder", "wolverine-dead-letter-buffered": "PlaceOrder", "wolverine-dead-letter-requeue": "PlaceOrder",
		"wolverine-dead-letter-retries": "PlaceOrder", "wolverine-dead-letter": "PlaceOrder", "wolverine-dead-letter-interop": "PlaceOrder",
	} {
		differs := []string{transit, must, expires}
		switch golden {
		case "wolverine-activity": // the trace of the message itself counts
			differs = append(differs, "headers.parent-id")
		case "wolverine-requeued": // likewise, and the parent is not known
			differs = append(differs, "headers.parent-id")
		}
		dialecttest.RoundTrip(t, d, golden, messageType, dialect.Send, differs...)
	}
	dialecttest.RoundTrip(t, d, "wolverine-durable", "PlaceOrder", dialect.Send, must)
}

// TestEncrypted: a message that Wolverine has encrypted is parked with that reason.
func TestEncrypted(t *testing.T) {
	t.Parallel()
	dialecttest.Refused(t, peer(), map[string]string{"wolverine-encrypted": "is encrypted", "wolverine-encrypted-durable": "is encrypted"})
}

// TestSaga: an answer has the saga that waits for it, and the tenant, unless the handler names another one.
func TestSaga(t *testing.T) {
	t.Parallel()
	w := dialecttest.Load(t, "wolverine-request")
	w.Headers["saga-id"], w.Headers["tenant-id"] = int32(7), []byte("acme")
	f, _, faults := dialecttest.Read(peer(), &w)
	if len(faults) > 0 {
		t.Fatal(faults)
	}
	to := dialect.Destination{Kind: dialect.Reply, Name: f.ReplyTo, Answers: f.Envelope}
	answer := &dialect.Envelope{ID: "08df4d3e-f5b2-6611-0200-000000000000", RequestID: f.RequestID, Type: "OrderStatus", Body: []byte("{}")}
	if w, err := peer().Write(answer, to); err != nil || w.Headers["saga-id"] != "7" || w.Headers["tenant-id"] != "acme" {
		t.Errorf("%v, %v", w.Headers, err)
	}
	answer.Headers = map[string]any{"tenant-id": "other"}
	if w, err := peer().Write(answer, to); err != nil || w.Headers["tenant-id"] != "other" {
		t.Errorf("%v, %v", w.Headers, err)
	}
}
