package spring_test

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/brokertest"
	"github.com/harebus/harebus/dialect"
	"github.com/harebus/harebus/dialect/spring"
	"github.com/harebus/harebus/internal/dialecttest"
)

// TestContentTypes: JSON is read under all its names and spellings, and what no handler could take is refused, however it is written.
func TestContentTypes(t *testing.T) {
	t.Parallel()
	for _, contentType := range []string{
		"", "application/json ;charset=UTF-8", "application/json;charset=utf-8", "Application/JSON", " application/json", "text/json", "application/x-json", "application/vnd.acme+json; v=1", "application/json; x",
	} {
		w := peer().Sample()
		w.Properties.ContentType, w.Broker = contentType, &dialecttest.Broker
		if f, h, faults := dialecttest.Read(peer(), &w); f == nil || len(faults) > 0 || h.Type != "PlaceOrder" {
			t.Errorf("%q: %v", contentType, faults)
		}
		w.Body = []byte(strings.Repeat(" ", 64) + `{"id":7}`) // as somebody who pads
		if f, _, faults := dialecttest.Read(peer(), &w); f == nil || len(faults) > 0 {
			t.Errorf("%q, padded: %v", contentType, faults)
		}
		for _, body := range []string{"", strings.Repeat(" ", 64), strings.Repeat("\n", 1<<20), strings.Repeat(" ", 64) + "null", "null" + strings.Repeat("\t", 100), "\uFEFF null"} {
			w.Body = []byte(body)
			if _, _, faults := dialecttest.Read(peer(), &w); len(faults) != 1 || !strings.Contains(faults[0].Err.Error(), "is empty") {
				t.Errorf("%q, %d bytes: %v", contentType, len(body), faults)
			}
		}
	}
	for _, contentType := range []string{"application/x-java-serialized-object", "text/plain; charset=application/json", "application/jsonp", "json/application", "text/xml;+json"} {
		w := peer().Sample()
		w.Properties.ContentType = contentType
		if _, _, faults := dialecttest.Read(peer(), &w); len(faults) != 1 || !strings.Contains(faults[0].Err.Error(), "Jackson") {
			t.Errorf("%q: %v", contentType, faults)
		}
	}
}

// TestVersions: what the versions of Spring, and other clients with its headers, write differently does not matter to a handler.
func TestVersions(t *testing.T) {
	t.Parallel()
	d := spring.New(spring.Config{Types: dialect.Types{"PlaceOrder": "com.acme.orders.PlaceOrder", "Inner": "com.acme.Orders$PlaceOrder", "List": "java.util.ArrayList", "Items": "java.util.ArrayList<com.acme.Item>"}})
	for name, c := range map[string]struct {
		change func(w *dialect.Wire)
		want   string
	}{
		"an inner class":         {func(w *dialect.Wire) { w.Headers["__TypeId__"] = "com.acme.Orders$PlaceOrder" }, "Inner"},
		"as bytes":               {func(w *dialect.Wire) { w.Headers["__TypeId__"] = []byte("com.acme.orders.PlaceOrder") }, "PlaceOrder"},
		"the default of clients": {func(w *dialect.Wire) { w.Properties.ContentType = "application/octet-stream" }, "PlaceOrder"},
		"elements of no class": {func(w *dialect.Wire) {
			w.Headers["__TypeId__"], w.Headers["__ContentTypeId__"] = "java.util.ArrayList", "java.lang.Object"
		}, "List"},
		"elements of a class": {func(w *dialect.Wire) {
			w.Headers["__TypeId__"], w.Headers["__ContentTypeId__"] = "java.util.ArrayList", "com.acme.Item"
		}, "Items"},
		"another list": {func(w *dialect.Wire) {
			w.Headers["__TypeId__"], w.Headers["__ContentTypeId__"] = "java.util.LinkedList", "com.acme.Item"
		}, "java.util.LinkedList<com.acme.Item>"},
		"Unicode of 16 bits": {func(w *dialect.Wire) { w.Properties.ContentEncoding = "UTF-16" }, "PlaceOrder"}, // the codec refuses it
		"Latin":              {func(w *dialect.Wire) { w.Properties.ContentEncoding = "ISO-8859-1" }, "PlaceOrder"},
		"of 1.1": {func(w *dialect.Wire) {
			w.Headers["spring_reply_correlation"], w.Headers["spring_listener_return_correlation"] = "1", "2"
		}, "PlaceOrder"},
	} {
		w := d.Sample()
		c.change(&w)
		if f, h, faults := dialecttest.Read(d, &w); f == nil || len(faults) > 0 || h.Type != c.want || string(f.Body) != `{"id":7}` {
			t.Errorf("%s: %+v, %v", name, h, faults)
		}
	}
}

// TestBatch: a batch is parked with that reason, also if it says nothing of its class.
func TestBatch(t *testing.T) {
	t.Parallel()
	for _, class := range []any{"com.acme.orders.PlaceOrder", nil} {
		w := peer().Sample()
		w.Headers["springBatchFormat"], w.Headers["amqp_batchSize"] = "lengthHeader4", int32(2)
		w.Body = []byte("\x00\x00\x00\x08{\"id\":7}\x00\x00\x00\x08{\"id\":8}")
		if w.Headers["__TypeId__"] = class; class == nil {
			delete(w.Headers, "__TypeId__")
		}
		if _, _, faults := dialecttest.Read(peer(), &w); len(faults) != 1 || faults[0].Reason != "bad-envelope" || !strings.Contains(faults[0].Err.Error(), "a batch of messages") {
			t.Errorf("%v: %v", class, faults)
		}
	}
}

// TestCorrelationKey: an answer has the headers by which a caller with a correlation key finds it.
func TestCorrelationKey(t *testing.T) {
	t.Parallel()
	w := dialecttest.Load(t, "spring-request")
	w.Headers["spring_reply_correlation"] = "tag"
	f, _, faults := dialecttest.Read(peer(), &w)
	if len(faults) > 0 {
		t.Fatal(faults)
	}
	out, err := peer().Write(&dialect.Envelope{ID: "1", Type: "PlaceOrder", ContentType: json, Body: []byte("{}")}, dialect.Destination{Kind: dialect.Reply, Name: f.ReplyTo, Answers: f.Envelope})
	if _, other := out.Headers["spring_reply_to"]; err != nil || out.Headers["spring_reply_correlation"] != "tag" || other {
		t.Errorf("the answer has %v, %v", out.Headers, err)
	}
}

// TestExceptionOfAPeer: a listener that returns its exceptions answers with a Java object. The request ends with an error that says so.
func TestExceptionOfAPeer(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		broker := brokertest.New()
		defer broker.Close()
		s, err := harebus.New(harebus.Config{Dial: broker.Dial, Publish: harebus.PublishConfig{Peers: map[string]dialect.Dialect{"theirs": peer()}}})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		conn, err := amqp.DialConfig(broker.URL(), amqp.Config{Dial: broker.Dial})
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		ch, err := conn.Channel()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := ch.QueueDeclare("theirs", true, false, false, false, nil); err != nil {
			t.Fatal(err)
		}
		asked, err := ch.Consume("theirs", "", true, false, false, false, nil)
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			d := <-asked
			_ = ch.PublishWithContext(t.Context(), "", d.ReplyTo, false, false, amqp.Publishing{CorrelationId: d.CorrelationId, ContentType: "application/x-java-serialized-object", Body: []byte("\xac\xed\x00\x05")})
		}()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		began := time.Now()
		_, err = harebus.Request[struct{ ID int }](ctx, s.Bus(), "theirs", struct{ ID int }{7}, harebus.WithType("PlaceOrder"))
		if err == nil || !strings.Contains(err.Error(), "x-java-serialized-object") || time.Since(began) > time.Second {
			t.Errorf("after %v: %v", time.Since(began), err)
		}
	})
}

// TestWrapped: a message in the envelope of another bus is left to the dialect of that, and parked without it.
func TestWrapped(t *testing.T) {
	t.Parallel()
	for _, contentType := range []string{"application/cloudevents+json", "application/vnd.masstransit+json"} {
		w := peer().Sample()
		w.Properties.ContentType = contentType
		if f, _, faults := dialecttest.Read(peer(), &w); f != nil || len(faults) != 1 || !strings.Contains(faults[0].Err.Error(), "add that dialect") {
			t.Errorf("%s: %+v, %v", contentType, f, faults)
		}
	}
}

// TestCharsets: what is not UTF-8 is handled if it is ASCII, and else parked.
func TestCharsets(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ encoding, body, want string }{
		"ASCII":       {"ISO-8859-1", `{"id":7,"name":"Ada"}`, ""},
		"Latin":       {"ISO-8859-1", "{\"id\":7,\"name\":\"\xfc\"}", "unsupported-content"},
		"of 16 bits":  {"UTF-16", "\xfe\xff\x00{\x00}", "unsupported-content"},
		"not as said": {"UTF-8", "{\"id\":7,\"name\":\"\xfc\"}", "bad-payload"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				broker := brokertest.New()
				defer broker.Close()
				s, err := harebus.New(harebus.Config{Queue: "orders", Dial: broker.Dial, Payload: harebus.PayloadConfig{Dialects: []dialect.Dialect{peer()}}})
				if err != nil {
					t.Fatal(err)
				}
				defer s.Close()
				handled := 0
				harebus.Handle(s, func(_ context.Context, _ *harebus.Bus, o struct{ ID int }) error {
					handled += o.ID
					return nil
				}, harebus.WithType("PlaceOrder"))
				if err := s.Start(t.Context()); err != nil {
					t.Fatal(err)
				}
				w := peer().Sample()
				w.Properties.ContentEncoding, w.Body = c.encoding, []byte(c.body)
				dialecttest.Put(t, broker, "orders", &w)
				if err := broker.WaitQuiet(t.Context(), "error"); err != nil {
					t.Fatal(err)
				}
				var reason any = ""
				for _, m := range broker.Messages("error") {
					reason = m.Headers["PikaBus.ErrorKind"]
				}
				if reason != c.want || (handled == 7) != (c.want == "") {
					t.Errorf("handled %d, parked for %v", handled, reason)
				}
			})
		})
	}
}
