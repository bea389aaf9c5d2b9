package spring_test

import (
	"bytes"
	"compress/gzip"
	"strings"
	"testing"

	"github.com/harebus/harebus/brokertest"
	"github.com/harebus/harebus/dialect"
	"github.com/harebus/harebus/dialect/spring"
	"github.com/harebus/harebus/internal/dialecttest"
)

var types = dialect.Types{
	"PlaceOrder": "com.acme.orders.PlaceOrder", "Items": "java.util.ArrayList<com.acme.orders.Item>",
	"Stock": "java.util.HashMap<java.lang.String,com.acme.orders.Item>",
}

func peer() *spring.Dialect { return spring.New(spring.Config{Types: types}) }

const json, replyTo = "application/json", "amq.rabbitmq.reply-to.g1h2AA/+x.k=="

// TestGoldens: what Spring writes is read, and written again as it was.
func TestGoldens(t *testing.T) {
	t.Parallel()
	to := &dialect.Destination{Name: "orders"}
	dialecttest.Goldens(t, peer(), []dialecttest.Case{
		{Golden: "spring-send", To: to, Want: dialect.Envelope{Type: "PlaceOrder", ContentType: json, ContentEncoding: "UTF-8"}, Differs: []string{"mandatory"}},
		{Golden: "spring-list", To: to, Want: dialect.Envelope{Type: "Items", ContentType: json, ContentEncoding: "UTF-8"}, Differs: []string{"mandatory"}},
		{Golden: "spring-map", To: to, Want: dialect.Envelope{Type: "Stock", ContentType: json, ContentEncoding: "UTF-8"}, Differs: []string{"mandatory"}},
		{
			Golden: "spring-gzip", To: to, Want: dialect.Envelope{Type: "PlaceOrder", ContentType: json, ContentEncoding: "UTF-8"}, Body: `{"id":7}`,
			Differs: []string{"mandatory", "properties.ContentEncoding", "headers.springAutoDecompress", "body", "body."}, // harebus compresses nothing for a peer
		},
		{
			Golden: "spring-request", To: &dialect.Destination{Kind: dialect.Request, Name: "orders"}, Differs: []string{"mandatory"},
			Want:    dialect.Envelope{Type: "PlaceOrder", CorrelationID: "1", ReplyTo: replyTo, ContentType: json, ContentEncoding: "UTF-8"},
			Written: func(e *dialect.Envelope) { e.RequestID, e.CorrelationID = "1", "another" },
		},
	})
	dialecttest.RoundTrip(t, peer(), "spring-parked", "PlaceOrder", dialect.Send, "mandatory")
}

// TestReply: a reply has the correlation id of what it answers, or its id, as a listener of Spring writes it.
func TestReply(t *testing.T) {
	t.Parallel()
	for want, asked := range map[string]*dialect.Envelope{"1": {ID: "a", CorrelationID: "1"}, "a": {ID: "a"}} {
		to := dialect.Destination{Kind: dialect.Reply, Name: replyTo, Answers: asked}
		out, err := peer().Write(&dialect.Envelope{ID: "b", CorrelationID: "c", Type: "PlaceOrder", ContentType: json, Body: []byte("{}")}, to)
		if err != nil || out.Properties.CorrelationID != want || out.RoutingKey != replyTo || out.Properties.ReplyTo != "" {
			t.Errorf("%+v, %v", out, err)
		}
	}
}

// TestHostile: what strangers may write is read as something whole, or refused; an address that is no queue is not answered.
func TestHostile(t *testing.T) {
	t.Parallel()
	dialecttest.Mutations{
		Goldens: []string{"spring-send", "spring-request", "spring-list", "spring-map", "spring-gzip", "spring-parked"}, Own: []string{"PlaceOrder", "Items", "Stock"},
		Addresses: []string{"properties.ReplyTo"}, Hostile: []string{"%s", "orders.exchange/key", "/error", "amqp://other/%s", "err%6Fr"},
	}.Run(t, peer())
}

// TestCopies: a message that is retried, parked, stored and moved stays Spring's.
func TestCopies(t *testing.T) {
	t.Parallel()
	dialecttest.Copies(t, peer(), "spring-send", "spring-request", "spring-map", "spring-gzip", "spring-parked")
}

// FuzzRead reads what nobody would write.
func FuzzRead(f *testing.F) {
	dialecttest.Fuzz(f, peer(), []string{"spring-send", "spring-request", "spring-map", "spring-gzip"}, []string{"__TypeId__", "__ContentTypeId__", "__KeyTypeId__"})
}

// TestRefused: what the peer could not read is not sent, and what cannot be read is refused.
func TestRefused(t *testing.T) {
	t.Parallel()
	says(t, spring.New(spring.Config{Types: dialect.Types{"A": "X", "B": "X"}}).Validate(), "twice")
	for want, e := range map[string]dialect.Envelope{
		"not in the Types": {Type: "Unknown", ContentType: json},
		"reads JSON only":  {Type: "PlaceOrder", ContentType: "text/plain"},
		"has no message":   {Fault: &dialect.Fault{Reason: "failed"}},
	} {
		_, err := peer().Write(&e, dialect.Destination{Name: "q"})
		says(t, err, want)
	}
	var bomb bytes.Buffer
	zip := gzip.NewWriter(&bomb)
	if _, err := zip.Write(make([]byte, 17<<20)); err != nil || zip.Close() != nil {
		t.Fatal(err)
	}
	for want, change := range map[string]func(*dialect.Wire){
		"use a Jackson":          func(w *dialect.Wire) { w.Properties.ContentType = "application/x-java-serialized-object" },
		"gzip only":              func(w *dialect.Wire) { w.Properties.ContentEncoding = "deflate:UTF-8" },
		"cannot be decompressed": func(w *dialect.Wire) { w.Properties.ContentEncoding = "gzip:UTF-8" },
		"more than 16777216":     func(w *dialect.Wire) { w.Properties.ContentEncoding, w.Body = "gzip", bomb.Bytes() },
		"its body is empty":      func(w *dialect.Wire) { w.Body = []byte(" null ") },
		"is empty, or no text":   func(w *dialect.Wire) { w.Headers["__TypeId__"] = int32(7) },
	} {
		w := peer().Sample()
		change(&w)
		_, is, err := peer().Read(&w)
		if !is {
			t.Errorf("%s: it is not read", want)
		}
		says(t, err, want)
	}
}

func says(t *testing.T, err error, part string) {
	t.Helper()
	if err == nil || !strings.Contains(err.Error(), part) {
		t.Errorf("%v does not say %q", err, part)
	}
}

// TestReadCosts: reading Spring's messages costs little more than reading those of harebus.
func TestReadCosts(t *testing.T) { //nolint:paralleltest // it counts allocations
	dialecttest.Costs(t, peer(), "spring-map")
}

// BenchmarkRead compares with reading a message of harebus.
func BenchmarkRead(b *testing.B) {
	dialecttest.Times(b, peer(), "spring-map")
}

// TestTalk: a service and a client that plays the peer ask and answer, fail and publish in both directions.
func TestTalk(t *testing.T) {
	t.Parallel()
	broker := brokertest.New()
	defer broker.Close()
	dialecttest.Talk(t, dialecttest.Place{URL: broker.URL(), Dial: broker.Dial}, dialecttest.Spring())
}
