package cloudevents_test

import (
	"bytes"
	"encoding/json"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/harebus/harebus/brokertest"
	"github.com/harebus/harebus/dialect"
	"github.com/harebus/harebus/dialect/cloudevents"
	"github.com/harebus/harebus/internal/dialecttest"
)

var types = dialect.Types{"OrderPlaced": "OrderPlaced", "PlaceOrder": "Acme.Orders.PlaceOrder", "Text": "Text", "Blob": "Blob"}

func peer() *cloudevents.Dialect { return cloudevents.New(cloudevents.Config{Types: types}) }

func with(change func(*cloudevents.Config)) *cloudevents.Dialect {
	cfg := cloudevents.Config{Types: types}
	change(&cfg)
	return cloudevents.New(cfg)
}

func at(t *testing.T, text string) time.Time {
	t.Helper()
	when, err := time.Parse(time.RFC3339, text)
	if err != nil {
		t.Fatal(err)
	}
	return when
}

const parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

// TestGoldens: events as the binding, the SDKs and Wolverine write them are read, and written again.
func TestGoldens(t *testing.T) {
	t.Parallel()
	when := at(t, "2026-11-21T08:44:41.901107Z")
	order := dialect.Envelope{ID: "01a3", Type: "OrderPlaced", From: "orders", ContentType: "application/json", TimeSent: when}
	binary := order
	binary.Headers = map[string]any{"traceparent": parent}
	event := &dialect.Destination{Kind: dialect.Publish}
	dialecttest.Goldens(t, peer(), []dialecttest.Case{{
		Golden: "cloudevents-binary", Want: binary, To: event, Differs: []string{"properties.DeliveryMode", "mandatory"},
		Written: func(e *dialect.Envelope) { e.Headers["cloudEvents_subject"] = "7" }, // Read leaves it among the headers
	}, {
		Golden: "cloudevents-knative", Want: order, // written with Prefix ce-, which is what its specification says
	}, {
		Golden: "cloudevents-request", Differs: []string{"properties.DeliveryMode", "mandatory"}, To: &dialect.Destination{Kind: dialect.Request},
		Want:    dialect.Envelope{ID: "01a3", CorrelationID: "01a3", Type: "OrderPlaced", From: "orders", ReplyTo: "shop", ContentType: "application/json"},
		Written: func(e *dialect.Envelope) { e.RequestID, e.CorrelationID = "01a3", "" }, // another id would be an attribute
	}})
	plain, rich := order, order
	plain.Headers = map[string]any{"cloudEvents_source": "/orders"}
	rich.Headers = map[string]any{"cloudEvents_source": "/orders", "cloudEvents_subject": "7", "traceparent": parent}
	rich.CorrelationID = "shop-correlation"
	ours := []string{"properties.DeliveryMode", "properties.MessageID", "mandatory"} // the documents have no more than a content type
	dialecttest.Goldens(t, with(func(c *cloudevents.Config) { c.Structured = true }), []dialecttest.Case{
		{Golden: "cloudevents-structured", Want: plain, Body: `{"id":7}`, To: event, Differs: ours},
		{Golden: "cloudevents-dotnet-structured", Want: rich, Body: `{"id":7}`, To: event, Differs: append([]string{"properties.CorrelationID"}, ours...)},
		{
			Golden: "cloudevents-by-wolverine", Body: `{"id":7,"customer":"Grüße & <Co>","total":19.90,"at":"2026-11-21T08:44:41.901107Z"}`,
			To: &dialect.Destination{Name: "orders"},
			Want: dialect.Envelope{
				ID: "08df4d3d-da7c-371b-0200-000000000000", CorrelationID: "32f148dc-ecf0-48ac-ab4c-9019b2da8212", Type: "PlaceOrder", From: "shop",
				ContentType: "application/json; charset=utf-8", TimeSent: at(t, "2026-11-28T10:53:36.3817292Z"),
				Headers: map[string]any{
					"cloudEvents_source": "shop", "cloudEvents_tenantid": "acme", "cloudEvents_traceid": "32f148dc-ecf0-48ac-ab4c-9019b2da8212", "cloudEvents_region": "eu",
				},
			},
			Differs: []string{
				"properties.ContentType", "properties.DeliveryMode", "properties.Type", "mandatory", "headers.", // Wolverine writes its own beside the event
				"body.correlationid", "body.source", "body.time", // the same time, in another zone
				"body.topic", "body.traceparent", "body.tracestate", // null
			},
		},
	})
}

// TestSpellings: an event is the same in every spelling, as what Knative, Dapr and AMQP 1.0 make of it.
func TestSpellings(t *testing.T) {
	t.Parallel()
	attributes := map[string]any{"specversion": "1.0", "id": "01a3", "source": "/orders", "type": "OrderPlaced", "time": "2026-11-21T08:44:41Z", "subject": "7", "priority": int32(3), "traceparent": parent}
	for _, prefix := range []string{"cloudEvents_", "cloudEvents:", "ce-", "ce_", ""} {
		w := dialect.Wire{Headers: map[string]any{"tenant": "acme"}, Body: []byte(`{"id":7}`), Properties: dialect.Properties{ContentType: "application/json"}, Broker: &dialecttest.Broker}
		for name, value := range attributes {
			w.Headers[prefix+name] = value
		}
		if prefix == "" { // Knative
			w.Headers["content-type"], w.Properties.ContentType = []byte("application/vnd.acme+json"), ""
		}
		if prefix == "ce_" {
			w.Headers[prefix+"type"], w.Headers[prefix+"source"] = []byte("OrderPlaced"), []byte("/orders")
		}
		if prefix == "cloudEvents:" { // AMQP 1.0 has times
			w.Headers[prefix+"time"] = at(t, "2026-11-21T08:44:41Z")
		}
		f, h, faults := dialecttest.Read(peer(), &w)
		if f == nil || len(faults) > 0 {
			t.Errorf("%q: %v", prefix, faults)
			continue
		}
		if contentType := map[bool]string{true: "application/vnd.acme+json", false: "application/json"}[prefix == ""]; h.ContentType != contentType {
			t.Errorf("%q: the content type is %s", prefix, h.ContentType)
		}
		if h.ID != "01a3" || h.Type != "OrderPlaced" || h.OriginatingAddress != "orders" || !h.TimeSent.Equal(at(t, "2026-11-21T08:44:41Z")) {
			t.Errorf("%q: %+v", prefix, h)
		}
		for name, want := range map[string]any{"traceparent": parent, "cloudEvents_subject": "7", "cloudEvents_priority": int32(3), "tenant": "acme"} {
			if prefix == "" && strings.HasPrefix(name, "cloudEvents_") { // nothing tells these from other headers
				name = strings.TrimPrefix(name, "cloudEvents_")
			}
			if f.Headers[name] != want {
				t.Errorf("%q: the header %s is %v", prefix, name, f.Headers[name])
			}
		}
		delete(w.Headers, prefix+"source")
		if f, _, faults := dialecttest.Read(peer(), &w); prefix != "" && (len(faults) == 0 || !strings.Contains(faults[0].Err.Error(), "no source")) || prefix == "" && f != nil {
			t.Errorf("%q without source: %v, %v", prefix, f, faults)
		}
	}
}

// TestDocuments: a document is an event whatever its content type says, if it has the four attributes; and its data is what the
// content type of the data says.
func TestDocuments(t *testing.T) {
	t.Parallel()
	const head = `{"specversion":"1.0","id":"1","source":"/orders","type":"Text",`
	for _, c := range []struct{ contentType, doc, body, dataType, fault string }{
		{"text/plain", head + `"data":{"id":7}}`, `{"id":7}`, "application/json", ""}, // Dapr
		{"", head + `"data":[null]}`, `[null]`, "application/json", ""},
		{"application/json", ` ` + head + `"datacontenttype":"application/vnd.acme+json; v=1","data":"x"}`, `"x"`, "application/vnd.acme+json; v=1", ""},
		{"APPLICATION/CLOUDEVENTS+JSON", head + `"datacontenttype":"text/plain","data":"\u00FC"}`, "ü", "text/plain", ""},
		{"application/cloudevents+json", head + `"datacontenttype":"application/octet-stream","data_base64":"AQL/"}`, "\x01\x02\xff", "application/octet-stream", ""},
		{"application/cloudevents+json", head + `"datacontenttype":"text/plain","data":{"id":7}}`, "", "", "is not text"},
		{"application/cloudevents+json", head + `"datacontenttype":"text/plain","data":null}`, "", "", "has no data"},
		{"application/cloudevents+json", head + `"data":1,"data_base64":"AQL/"}`, "", "", "data and data_base64"},
		{"application/cloudevents+json", head + `"data_base64":"AQ="}`, "", "", "base64"},
		{"application/cloudevents+json", head + `"data":null}`, "", "", "no data"},
		{"application/cloudevents+json", "\uFEFF" + head + `"data":{"id":7}}`, `{"id":7}`, "application/json", ""},
		{"application/cloudevents+json", head + `"data":1,"data":2}`, "", "", "data twice"},
		{"application/cloudevents+json", head + `"data_base64":"AQL/","data_base64":null}`, "", "", "data_base64 twice"},
		{"application/cloudevents+json", head + `"data":1,"id":"2"}`, "", "", "id twice"},
		{"application/cloudevents+json", head + `"data":1,"n":9223372036854775808,"n":{"a":[1]}}`, "1", "application/json", ""},
		{"application/cloudevents+json", head + `"datacontenttype":7,"data":1}`, "", "", "datacontenttype"},
		{"application/cloudevents+json", `{"specversion":"1.0","id":"1","source":"/orders","data":1}`, "", "", "no type"},
		{"application/cloudevents+json", `{"specversion":"0.2","id":"1","source":"/orders","type":"Text","data":1}`, "", "", `"0.2"`},
		{"application/cloudevents+json", `{"specversion":"0.3","id":"1","source":"/orders","type":"Text","schemaurl":"x","data":{"id":7}}`, `{"id":7}`, "application/json", ""},
		{"application/cloudevents+json", `{"data":"AQL/","specversion":"0.3","id":"1","source":"/orders","type":"Text","datacontenttype":"x/y","datacontentencoding":"Base64"}`, "\x01\x02\xff", "x/y", ""},
		{"application/cloudevents+json", `{"specversion":"0.3","id":"1","source":"/orders","type":"Text","data":"eyJpZCI6N30=","datacontentencoding":"base64"}`, `{"id":7}`, "application/json", ""},
		{"application/cloudevents+json", `{"specversion":"0.3","id":"1","source":"/orders","type":"Text","data":"x","datacontentencoding":"base64"}`, "", "", "not in base64"},
		{"application/cloudevents+json", `{"specversion":"0.3","id":"1","source":"/orders","type":"Text","data":"x","datacontentencoding":"gzip"}`, "", "", "base64 only"},
		{"application/cloudevents+json", head + `"datacontentencoding":"base64","data":{"id":7}}`, `{"id":7}`, "application/json", ""},
		{" application/cloudevents+json ;charset", head + `"datacontenttype":"Application/JSON ;charset","data":{"id":7}}`, `{"id":7}`, "Application/JSON ;charset", ""},
		{"application/cloudevents+json", head + `"datacontenttype":"application/json; charset=utf-16","data":{"t":"ü"}}`, `{"t":"ü"}`, "application/json", ""},
		{"application/cloudevents+json", head + `"datacontenttype":"text/xml; v=1; Charset=ISO-8859-1","data":"<ü/>"}`, "<ü/>", "text/xml; v=1", ""},
		{"application/cloudevents+json", head + `"datacontenttype":"text/xml; charset=ISO-8859-1","data_base64":"/A=="}`, "\xfc", "text/xml; charset=ISO-8859-1", ""},
		{"application/cloudevents", head + `"data":1}`, "1", "application/json", ""},
		{"application/cloudevents-batch+json", `[]`, "", "", "one by one"},
		{"Application/CloudEvents-Batch+JSON ; charset=utf-8", `[` + head + `"data":1}]`, "", "", "one by one"},
		{"application/cloudevents+json", `[` + head + `"data":1}]`, "", "", "no JSON object"},
		{"application/cloudevents-batch+json", `[` + head + `"data":1}]`, "", "", "one by one"},
		{"application/cloudevents+avro", "\x01", "", "", "cloudevents+avro"},
	} {
		w := dialect.Wire{Properties: dialect.Properties{ContentType: c.contentType}, Body: []byte(c.doc), Broker: &dialecttest.Broker}
		f, h, faults := dialecttest.Read(peer(), &w)
		switch {
		case c.fault != "":
			if len(faults) != 1 || !strings.Contains(faults[0].Err.Error(), c.fault) {
				t.Errorf("%s: %v does not say %q", c.doc, faults, c.fault)
			}
		case f == nil || len(faults) > 0 || string(f.Body) != c.body || h.ContentType != c.dataType || h.Type != "Text":
			t.Errorf("%s: %+v, %v", c.doc, f, faults)
		}
	}
	for contentType, want := range map[string]string{"application/cloudevents+json": `content encoding is "gzip"`, "application/cloudevents+avro": "cloudevents+avro", "application/cloudevents-batch+json": "one by one"} {
		w := dialect.Wire{Properties: dialect.Properties{ContentType: contentType, ContentEncoding: "gzip"}, Body: []byte("\x1f\x8b\b"), Broker: &dialecttest.Broker}
		if _, _, faults := dialecttest.Read(peer(), &w); len(faults) != 1 || !strings.Contains(faults[0].Err.Error(), want) {
			t.Errorf("%s, compressed: %v", contentType, faults)
		}
	}
	for _, doc := range []string{`{"specversion":"1.0","id":"1","source":"/orders"}`, `{"a":{"specversion":"1.0","id":"1","source":"/o","type":"T","data":1}}`, `{"specversion"`, `"\"specversion\""`} {
		if f, _, faults := dialecttest.Read(peer(), &dialect.Wire{Properties: dialect.Properties{ContentType: "application/json"}, Body: []byte(doc), Broker: &dialecttest.Broker}); f != nil || len(faults) > 0 {
			t.Errorf("%s is read as an event: %v", doc, faults)
		}
	}
}

// TestSections: a client of AMQP 1.0 may send its body as text or bytes, which RabbitMQ hands on encoded: these are as RabbitMQ 4.0.5 made them of messages of rhea 3.
func TestSections(t *testing.T) {
	t.Parallel()
	const doc = `{"specversion":"1.0","id":"a-5","source":"/gateway","type":"Text","data":{"id":7}}`
	const amount = 300
	long := `"` + strings.Repeat("x", amount-2) + `"`
	for body, want := range map[string]string{
		"\x00Sw\xa1\b{\"id\":7}": `{"id":7}`, "\x00Sw\xa0\b{\"id\":7}": `{"id":7}`, "\x00Sw\xb1\x00\x00\x01\x2c" + long: long, "\x00Sw\xb0\x00\x00\x01\x2c" + long: long,
		`{"id":7}`: `{"id":7}`, // a type of somebody's own
		"\x00Sw\xd1\x00\x00\x00\n\x00\x00\x00\x02\xa1\x02idR\a": "", "\x00Sv\xd0": "", "\x00Sw": "", "\x00Sw\xa1": "", "\x00Sw\xa1\x09{\"id\":7}": "", "\x00Sw\xb1\x00\x00": "", "\x00Sw\xb1\xff\xff\xff\xff": "",
	} {
		w := peer().Sample()
		w.Headers["cloudEvents_type"], w.Properties.Type, w.Body = "Text", "amqp-1.0", []byte(body)
		f, h, faults := dialecttest.Read(peer(), &w)
		switch {
		case want != "" && (f == nil || len(faults) > 0 || h.Type != "Text" || string(f.Body) != want):
			t.Errorf("%.20q: %+v, %v", body, h, faults)
		case want == "" && (len(faults) != 1 || !strings.Contains(faults[0].Err.Error(), "use a data section")):
			t.Errorf("%.20q: %v", body, faults)
		}
	}
	other := peer().Sample()
	other.Headers["cloudEvents_type"], other.Properties.ContentType, other.Properties.Type, other.Body = "Blob", "application/octet-stream", "mine", []byte("\x00Sw\xa1\x01x")
	if f, _, faults := dialecttest.Read(peer(), &other); len(faults) > 0 || string(f.Body) != string(other.Body) {
		t.Errorf("bytes that only look encoded are %q, %v", f.Body, faults)
	}
	for _, contentType := range []string{"application/cloudevents+json", "application/json", ""} {
		w := dialect.Wire{Properties: dialect.Properties{ContentType: contentType, Type: "amqp-1.0"}, Body: []byte("\x00Sw\xa1" + string(rune(len(doc))) + doc), Broker: &dialecttest.Broker}
		if f, h, faults := dialecttest.Read(peer(), &w); f == nil || len(faults) > 0 || h.ID != "a-5" || string(f.Body) != `{"id":7}` {
			t.Errorf("%q: %+v, %v", contentType, h, faults)
		}
	}
}

// TestEncodedProperties: RabbitMQ 3 hands the attributes of a client of AMQP 1.0 on in one header. The first is as 3.10.8 made it of a message of rhea 3.
func TestEncodedProperties(t *testing.T) {
	t.Parallel()
	const name = "x-amqp-1.0-app-properties"
	live := "\x00St\xd1\x00\x00\x00\xe4\x00\x00\x00\x10\xa1\x0ecloudEvents_id\xa1\x04data\xa1\x12cloudEvents_source\xa1\b/gateway\xa1\x10cloudEvents_type\xa1\x15com.acme.order.placed\xa1\x17cloudEvents_specversion\xa1\x031.0" +
		"\xa1\x10cloudEvents_time\x83\x00\x00\x01\xa1\xfdGt\xa8\xa1\x13cloudEvents_subject\xa1\borders/7\xa1\x11cloudEvents_levelT\x03\xa1\x13cloudEvents_sampledA"
	d := cloudevents.New(cloudevents.Config{Types: dialect.Types{"OrderPlaced": "com.acme.order.placed"}})
	read := func(section any) (*dialect.Envelope, bool, error) {
		return d.Read(&dialect.Wire{Headers: map[string]any{name: section, "tenant": "acme"}, Body: []byte(`{"id":7}`), Properties: dialect.Properties{ContentType: "application/json", Type: "binary"}, Broker: &dialecttest.Broker})
	}
	for _, section := range []any{live, []byte(live)} {
		e, is, err := read(section)
		if err != nil || !is || e.ID != "data" || e.Type != "OrderPlaced" || e.From != "gateway" || string(e.Body) != `{"id":7}` || !e.TimeSent.Equal(at(t, "2026-11-21T08:44:41Z")) {
			t.Fatalf("%+v, %v, %v", e, is, err)
		}
		for header, want := range map[string]any{"cloudEvents_subject": "orders/7", "cloudEvents_level": int64(3), "cloudEvents_sampled": true} {
			if e.Headers[header] != want {
				t.Errorf("%s is %v", header, e.Headers[header])
			}
		}
	}
	// section has the four attributes and one more pair.
	section := func(pair string) string {
		body := "\xa1\x05ce-id\xa3\x011\xa1\x09ce-source\xa1\x01s\xa1\x07ce-type\xa1\x01T\xa1\x0ece-specversion\xa1\x031.0" + pair
		return "\x00St\xc1" + string([]byte{byte(len(body) + 1), 10}) + body
	}
	for value, want := range map[string]any{
		"\x40": nil, "\x41": true, "\x42": false, "\x56\x01": true, "\x43": int64(0), "\x44": int64(0), "\x50\xff": int64(255), "\x51\xff": int64(-1), "\x52\xff": int64(255), "\x53\x07": int64(7), "\x54\xfe": int64(-2),
		"\x55\xfe": int64(-2), "\x60\xff\xff": int64(65535), "\x61\xff\xff": int64(-1), "\x70\xff\xff\xff\xff": int64(1<<32 - 1), "\x71\xff\xff\xff\xff": int64(-1),
		"\x80\xff\xff\xff\xff\xff\xff\xff\xff": "18446744073709551615", "\x80\x00\x00\x00\x00\x00\x00\x00\x07": int64(7), "\x81\xff\xff\xff\xff\xff\xff\xff\xff": int64(-1), "\x72\x3f\x80\x00\x00": 1.0,
		"\x82\x3f\xf0\x00\x00\x00\x00\x00\x00": 1.0, "\x73\x00\x00\x00a": nil, "\x84\x00\x00\x00\x00\x00\x00\x00\x00": nil, "\xb1\x00\x00\x00\x01x": "x", "\xb3\x00\x00\x00\x01x": "x",
		"\x98\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01": "01010101-0101-0101-0101-010101010101",
	} {
		e, is, err := read(section("\xa1\x04ce-x" + value))
		if err != nil || !is || e.ID != "1" || e.Headers["cloudEvents_x"] != want {
			t.Errorf("%q is %v of %+v, %v", value, e.Headers["cloudEvents_x"], e, err)
		}
		if e, _, _ := read(section("\xa1\x05other" + value)); e.Headers["other"] != want {
			t.Errorf("%q is passed on as %v", value, e.Headers["other"])
		}
	}
	if e, _, err := read(section("\xa1\x07ce-time\x83\x00\x00\x01\xa1\xfdGt\xa9")); err != nil || !e.TimeSent.Equal(at(t, "2026-11-21T08:44:41.001Z")) {
		t.Errorf("a time with milliseconds is %v, %v", e.TimeSent, err)
	}
	for _, contentType := range []string{"application/cloudevents+json", "text/plain"} {
		w := dialect.Wire{
			Headers: map[string]any{name: "\x00St\xc1\x17\x04\xa1\x06region\xa1\x02eu\xa1\x07nothing\x40"}, Body: []byte(`{"specversion":"1.0","id":"1","source":"/orders","type":"T","data":{}}`),
			Properties: dialect.Properties{ContentType: contentType}, Broker: &dialecttest.Broker,
		}
		if e, _, err := d.Read(&w); err != nil || e.Headers["region"] != "eu" || e.Headers["cloudEvents_source"] != "/orders" {
			t.Errorf("%s: %+v, %v", contentType, e, err)
		}
	}
	for _, bad := range []any{
		nil, "", int32(7), "\x00St", "\x00St\xc1", "\x00St\xc1\x01", "\x00St\xd1\xff\xff\xff\xff\xff\xff\xff\xff", "\x00St\x45", "\x00Ss\xc1\x01\x00", live[:len(live)-1], live + "\x40", strings.Replace(live, "\xe4", "\xe5", 1), strings.Replace(live, "\x10\xa1\x0e", "\x11\xa1\x0e", 1), section("\xa1\x04ce-x"), section("\xa1\x04ce-x\xb1\xff\xff\xff\xff"),
		section("\x54\x01\x40"), section("\xa1\x04ce-x\x45"), section("\xa1\x04ce-x\xc0\x01\x00"), section("\xa1\x04ce-x\x00"), section("\xa1\x04ce-x\xff"), section("\xa1\x04ce-x\x98\x01"), section("\xa1\x04ce-x\x81\x01"),
	} {
		if e, is, err := read(bad); is || err != nil {
			t.Errorf("%.80q is read: %+v, %v", bad, e, err)
		}
	}
}

// TestWritten: what is written is read back as it was, in every form.
func TestWritten(t *testing.T) {
	t.Parallel()
	for form, d := range map[string]*cloudevents.Dialect{
		"binary": peer(), "ce-": with(func(c *cloudevents.Config) { c.Prefix = "ce-" }), "structured": with(func(c *cloudevents.Config) { c.Structured = true }),
	} {
		for contentType, body := range map[string]string{"application/json": `{"id":7,"t":"<&>"}`, "text/plain": "ü", "application/octet-stream": "\x00\xff", "text/csv": "\xff"} {
			e := dialect.Envelope{
				ID: "1", CorrelationID: "c", CausationID: "0", Type: "Blob", From: "shop", ContentType: contentType, TimeSent: at(t, "2026-11-21T08:44:41.901107Z"), Body: []byte(body),
				Headers: map[string]any{
					"cloudEvents_subject": "7", "ce-partitionkey": "p", "cloudEvents_sampled": true, "cloudEvents_level": int32(3), "tenant": "acme", "traceparent": parent,
					"cloudEvents_id": "other", "ce-source": "/other", "specversion": "1.0", "cloudEvents:time": "other", "cloudEvents_correlationid": "other", // of a message that is passed on
				},
			}
			w, err := d.Write(&e, dialect.Destination{Kind: dialect.Publish, Name: "blob", Topic: "topics"})
			if err != nil {
				t.Errorf("%s %s: %v", form, contentType, err)
				continue
			}
			if w.Exchange != "topics" || w.RoutingKey != "blob" || w.Properties.MessageID != "1" || w.Headers["tenant"] != "acme" || w.Headers["specversion"] != nil {
				t.Errorf("%s %s: %+v", form, contentType, w)
			}
			w.Broker = &dialecttest.Broker
			f, h, faults := dialecttest.Read(peer(), &w)
			if f == nil || len(faults) > 0 {
				t.Errorf("%s %s: %v", form, contentType, faults)
				continue
			}
			if h.ID != "1" || h.CorrelationID != "c" || h.CausationID != "0" || h.Type != "Blob" || h.OriginatingAddress != "shop" || h.ContentType != contentType || !h.TimeSent.Equal(e.TimeSent) || string(f.Body) != body {
				t.Errorf("%s %s: %+v %q", form, contentType, h, f.Body)
			}
			for name, want := range map[string]any{"cloudEvents_subject": "7", "cloudEvents_partitionkey": "p", "cloudEvents_sampled": true, "traceparent": parent, "tenant": "acme"} {
				if f.Headers[name] != want {
					t.Errorf("%s %s: the header %s is %v", form, contentType, name, f.Headers[name])
				}
			}
		}
	}
}

// TestRequest: an answer names its request where AMQP has a place for it.
func TestRequest(t *testing.T) {
	t.Parallel()
	e := dialect.Envelope{ID: "1", CorrelationID: "c", RequestID: "r", Type: "Text", From: "shop", ReplyTo: "shop", Body: []byte("1")}
	w, err := peer().Write(&e, dialect.Destination{Kind: dialect.Request, Name: "orders"})
	if err != nil || w.Properties.ReplyTo != "shop" || w.Properties.CorrelationID != "r" {
		t.Fatalf("%+v, %v", w, err)
	}
	w.Broker = &dialecttest.Broker
	request, _, faults := dialecttest.Read(peer(), &w)
	if len(faults) > 0 || request.ReplyTo != "shop" || request.Awaits() {
		t.Fatalf("%+v, %v", request, faults)
	}
	reply, err := peer().Write(&dialect.Envelope{ID: "2", CorrelationID: "c", Type: "Text", From: "orders", Body: []byte("2")}, dialect.Destination{Kind: dialect.Reply, Name: "shop", Answers: request.Envelope})
	if err != nil || reply.Properties.CorrelationID != "r" {
		t.Fatalf("%+v, %v", reply, err)
	}
	reply.Broker = &dialecttest.Broker
	if f, h, faults := dialecttest.Read(peer(), &reply); len(faults) > 0 || h.CorrelationID != "r" {
		t.Errorf("%+v, %v", f, faults)
	}
}

// TestAddresses: a source is that of a queue or stays a header, and a name to answer to is taken as it is or not at all.
func TestAddresses(t *testing.T) {
	t.Parallel()
	for source, want := range map[string]string{
		"/orders": "orders", "shop": "shop", "/my%20queue": "my queue", "https://acme.example": "", "urn:acme:orders": "", "/shop/orders": "", "/orders?x=1": "", "/orders#1": "",
		"/": "", "/..": "", strings.Repeat("x", 300): "",
	} {
		w := dialecttest.Load(t, "cloudevents-binary")
		w.Headers["cloudEvents_source"] = source
		if f, h, faults := dialecttest.Read(peer(), &w); len(faults) > 0 || h.OriginatingAddress != want || f.Headers["cloudEvents_source"] != source {
			t.Errorf("%s: %q, %v", source, h.OriginatingAddress, faults)
		}
	}
	w := dialecttest.Load(t, "cloudevents-request")
	w.Properties.ReplyTo = "sh%6Fp"
	f, h, faults := dialecttest.Read(peer(), &w)
	if len(faults) > 0 || h.ReplyTo != "" {
		t.Fatalf("it would be answered to %q, %v", h.ReplyTo, faults)
	}
	says(t, f.NoReply, "sh%6Fp", "percent-encoding")
}

// TestIDs: ids of two sources may be the same.
func TestIDs(t *testing.T) {
	t.Parallel()
	w := dialecttest.Load(t, "cloudevents-structured")
	if _, h, faults := dialecttest.Read(with(func(c *cloudevents.Config) { c.SourceInID = true }), &w); h.ID != "/orders 01a3" || len(faults) > 0 {
		t.Errorf("the id is %s, %v", h.ID, faults)
	}
}

// TestHostile: what strangers may write is read as something whole, or refused.
func TestHostile(t *testing.T) {
	t.Parallel()
	dialecttest.Mutations{
		Goldens: []string{"cloudevents-binary", "cloudevents-structured", "cloudevents-dotnet-structured", "cloudevents-by-wolverine", "cloudevents-request"},
		Own:     []string{"OrderPlaced", "PlaceOrder"}, Addresses: []string{"properties.ReplyTo"}, Hostile: []string{"%s", "rabbitmq://queue/error", "amqp://other/x"},
	}.Run(t, peer())
}

// TestCopies: an event that is retried, parked, stored and moved stays as it was.
func TestCopies(t *testing.T) {
	t.Parallel()
	dialecttest.Copies(t, peer(), "cloudevents-binary", "cloudevents-structured", "cloudevents-dotnet-structured", "cloudevents-by-wolverine", "cloudevents-knative")
}

// FuzzRead reads what nobody would write.
func FuzzRead(f *testing.F) {
	dialecttest.Fuzz(f, peer(), []string{"cloudevents-binary", "cloudevents-structured", "cloudevents-dotnet-structured", "cloudevents-by-wolverine", "cloudevents-knative"},
		[]string{"cloudEvents_specversion", "cloudEvents_id", "cloudEvents_source", "ce-specversion", "specversion", "id", "source", "type", "cloudEvents_traceparent", "x-amqp-1.0-app-properties"})
}

// TestRefused: what is no event is not sent.
func TestRefused(t *testing.T) {
	t.Parallel()
	says(t, with(func(c *cloudevents.Config) { c.Prefix = "ce." }).Validate(), `"ce."`, `"ce-"`)
	says(t, with(func(c *cloudevents.Config) { c.Types = dialect.Types{"A": "X", "B": "X"} }).Validate(), "twice")
	one := dialect.Envelope{ID: "1", Type: "Unknown", Fault: &dialect.Fault{}, Headers: map[string]any{"cloudEvents_sub-ject": "7", "ce-rate": 1.5, "cloudEvents_data": "x", "cloudEvents_text": "\xff"}}
	_, err := peer().Write(&one, dialect.Destination{})
	says(t, err, "Unknown", "needs a source", "given up", `"sub-ject"`, "rate is a float64", `"data"`, "text is not UTF-8")
	structured := with(func(c *cloudevents.Config) { c.Structured, c.Source = true, "/x" })
	_, err = structured.Write(&dialect.Envelope{ID: "1", Type: "Text", Body: []byte("{")}, dialect.Destination{})
	says(t, err, "no JSON")
	_, err = structured.Write(&dialect.Envelope{ID: "1", Type: "Text", ContentEncoding: "br", Body: []byte("{}")}, dialect.Destination{})
	says(t, err, `"br"`)
}

func says(t *testing.T, err error, parts ...string) {
	t.Helper()
	for _, part := range parts {
		if err == nil || !strings.Contains(err.Error(), part) {
			t.Errorf("%v does not say %q", err, part)
		}
	}
}

// TestReadCosts: reading an event costs little more than reading a message of harebus.
func TestReadCosts(t *testing.T) { //nolint:paralleltest // it counts allocations
	for _, golden := range []string{"cloudevents-binary", "cloudevents-structured"} {
		dialecttest.Costs(t, peer(), golden)
	}
}

// BenchmarkRead compares with reading a message of harebus.
func BenchmarkRead(b *testing.B) {
	for _, golden := range []string{"cloudevents-binary", "cloudevents-structured"} {
		b.Run(golden, func(b *testing.B) { dialecttest.Times(b, peer(), golden) })
	}
}

// TestBatch: those of the SDK for .NET are refused.
func TestBatch(t *testing.T) {
	t.Parallel()
	raw, err := os.ReadFile("testdata/cloudevents-dotnet-structured.json")
	if err != nil {
		t.Fatal(err)
	}
	var golden struct {
		Batch struct {
			ContentType string `json:"content_type"`
			Body        string `json:"body"`
		} `json:"batch"`
		Binary string `json:"binary data"`
		Text   string `json:"text data"`
	}
	if err := json.NewDecoder(bytes.NewReader(raw)).Decode(&golden); err != nil {
		t.Fatal(err)
	}
	w := dialect.Wire{Properties: dialect.Properties{ContentType: golden.Batch.ContentType}, Body: []byte(golden.Batch.Body), Broker: &dialecttest.Broker}
	if _, _, faults := dialecttest.Read(peer(), &w); len(faults) != 1 {
		t.Errorf("%v", faults)
	} else {
		says(t, faults[0].Err, "one by one")
	}
	for doc, want := range map[string]string{golden.Binary: "\x01\x02\xff", golden.Text: "ü"} {
		w := dialect.Wire{Properties: dialect.Properties{ContentType: "application/cloudevents+json"}, Body: []byte(doc), Broker: &dialecttest.Broker}
		if f, _, faults := dialecttest.Read(peer(), &w); len(faults) > 0 || string(f.Body) != want {
			t.Errorf("%s: %v, %v", doc, f, faults)
		}
	}
}

// TestTalk: a service and a client that plays the peer ask and answer, fail and publish in both directions.
func TestTalk(t *testing.T) {
	t.Parallel()
	broker := brokertest.New()
	defer broker.Close()
	dialecttest.Talk(t, dialecttest.Place{URL: broker.URL(), Dial: broker.Dial}, dialecttest.CloudEvents())
}
