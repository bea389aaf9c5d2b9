package masstransit_test

import (
	encoding "encoding/json"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/harebus/harebus/dialect"
	"github.com/harebus/harebus/dialect/masstransit"
	"github.com/harebus/harebus/internal/dialecttest"
)

// TestFormats: what MassTransit writes with another serializer, or encrypted, is parked with a reason that says what to do; it is not taken for harebus' own.
func TestFormats(t *testing.T) {
	t.Parallel()
	for _, format := range []string{"+bson", "+xml", "+aes", ".v2+aes", "+JWT; charset=utf-8"} {
		w := dialecttest.Load(t, "masstransit-send")
		w.Properties.ContentType, w.Body = "application/vnd.MassTransit"+format, []byte("\x01\x02")
		f, _, faults := dialecttest.Read(peer(), &w)
		if f == nil || len(faults) != 1 || faults[0].Reason != "bad-envelope" || !strings.Contains(faults[0].Err.Error(), "JSON serializer") {
			t.Errorf("%s: %v, %v", format, f, faults)
		}
	}
	w := dialecttest.Load(t, "masstransit-send")
	w.Properties.ContentEncoding, w.Body = "gzip", []byte("\x1f\x8b\b")
	if _, _, faults := dialecttest.Read(peer(), &w); len(faults) != 1 || !strings.Contains(faults[0].Err.Error(), `content encoding is "gzip"`) {
		t.Errorf("a compressed envelope: %v", faults)
	}
}

// TestRawFault: a fault that is written by the raw serializer is one, too, and no answer of the type that was asked for.
func TestRawFault(t *testing.T) {
	t.Parallel()
	w := dialecttest.Load(t, "masstransit-raw")
	w.Headers["MT-MessageType"] = "urn:message:MassTransit:Fault[[Acme.Orders:CheckOrder]];urn:message:MassTransit:Fault[[Acme.Orders:ICheck]];urn:message:MassTransit:Fault"
	w.Body = []byte(`{"exceptions":[{"exceptionType":"System.Exception","message":"no such order"}],"faultMessageTypes":["urn:message:Acme.Orders:CheckOrder"],"message":{"id":-7}}`)
	f, _, faults := dialecttest.Read(peer(), &w)
	if len(faults) > 0 || !reflect.DeepEqual(f.Fault, &dialect.Fault{Reason: "System.Exception", Text: "no such order"}) || f.Awaits() {
		t.Errorf("read as %+v, %v", f.Envelope, faults)
	}
	w.Body = []byte(`[]`)
	if _, _, faults := dialecttest.Read(peer(), &w); len(faults) != 1 {
		t.Errorf("a fault that is none: %v", faults)
	}
}

// TestRawTypes: the header that marks a raw message may be bytes; one that is neither is no way around the dialect.
func TestRawTypes(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		header any
		fault  string
	}{{[]byte("urn:message:Acme.Orders:PlaceOrder"), ""}, {int32(7), "names no type"}, {nil, "names no type"}, {"", "names no type"}, {[]any{"urn:message:Acme.Orders:PlaceOrder"}, "names no type"}} {
		w := dialecttest.Load(t, "masstransit-raw")
		w.Headers["MT-MessageType"] = c.header
		f, h, faults := dialecttest.Read(peer(), &w)
		switch {
		case f == nil:
			t.Errorf("%v: it is not read", c.header)
		case c.fault == "" && (len(faults) > 0 || h.Type != "PlaceOrder"):
			t.Errorf("%v: %+v, %v", c.header, h, faults)
		case c.fault != "" && (len(faults) != 1 || !strings.Contains(faults[0].Err.Error(), c.fault)):
			t.Errorf("%v: %v", c.header, faults)
		}
	}
}

// TestActivityAsBytes: the trace of a peer goes on, also if the header is bytes.
func TestActivityAsBytes(t *testing.T) {
	t.Parallel()
	w := dialecttest.Load(t, "masstransit-raw")
	w.Headers["MT-Activity-Id"] = []byte("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
	if f, _, faults := dialecttest.Read(peer(), &w); len(faults) > 0 || f.Headers["traceparent"] != "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01" {
		t.Errorf("%+v, %v", f, faults)
	}
}

// TestValues: numbers keep all their digits, a time of no kind counts as UTC, null is as good as nothing, and a fault has its headers.
func TestValues(t *testing.T) {
	t.Parallel()
	w := dialecttest.Load(t, "masstransit-fault-reply")
	w.Body = []byte(`{"requestId":"c1080000-bc93-3180-f306-08df4d3b477e","messageType":["urn:message:MassTransit:Fault"],"message":{"exceptions":null},"sentTime":"2026-11-21T08:44:41.5",
		"headers":{"MT-Request-AcceptType":null,"big":18446744073709551615,"least":-9223372036854775808,"part":1.5,"deep":[{"n":9223372036854775808}]}}`)
	f, h, faults := dialecttest.Read(peer(), &w)
	if len(faults) > 0 || f.Fault == nil {
		t.Fatalf("read as %+v, %v", f, faults)
	}
	want := map[string]any{"big": "18446744073709551615", "least": int64(-9223372036854775808), "part": 1.5, "deep": []any{map[string]any{"n": "9223372036854775808"}}}
	for name, value := range want {
		if !reflect.DeepEqual(f.Headers[name], value) {
			t.Errorf("%s is %v", name, f.Headers[name])
		}
	}
	if at := time.Date(2026, 11, 21, 8, 44, 41, 5e8, time.UTC); !h.TimeSent.Equal(at) {
		t.Errorf("it was sent at %v", h.TimeSent)
	}
}

// TestCases: MassTransit compares the names of types and of hosts without regard to case. A name that may be either of two types is neither.
func TestCases(t *testing.T) {
	t.Parallel()
	w := dialecttest.Load(t, "masstransit-send")
	w.Body = []byte(`{"messageType":["URN:message:acme.orders:PLACEORDER"],"message":{"id":7},"responseAddress":"rabbitmq://LocalHost/shop/Orders"}`)
	f, h, faults := dialecttest.Read(peer(), &w)
	if len(faults) > 0 || h.Type != "PlaceOrder" || !reflect.DeepEqual(f.Types, []string{"Acme.Orders:PlaceOrder"}) || f.ReplyTo != "Orders" {
		t.Errorf("read as %+v, %v", f, faults)
	}
	two := masstransit.New(masstransit.Config{Types: dialect.Types{"A": "Acme:A", "B": "acme:a"}})
	for urn, want := range map[string]string{"Acme:A": "A", "acme:a": "B", "ACME:A": "ACME:A"} {
		w.Body = []byte(`{"messageType":["urn:message:` + urn + `"],"message":{"id":7}}`)
		if _, h, faults := dialecttest.Read(two, &w); len(faults) > 0 || h.Type != want {
			t.Errorf("%s: %s, %v", urn, h.Type, faults)
		}
	}
	broker := dialect.Broker{Hosts: []string{"::1"}, VirtualHost: "shop"}
	w.Body, w.Broker = []byte(`{"messageType":["urn:message:Acme:A"],"message":{},"responseAddress":"rabbitmq://[::1]/shop/orders"}`), &broker
	if e, _, err := two.Read(&w); err != nil || e.ReplyTo != "orders" {
		t.Errorf("read as %+v, %v", e, err)
	}
}

// TestLogins: the password in an address to answer to is in no error.
func TestLogins(t *testing.T) {
	t.Parallel()
	for _, address := range []string{"rabbitmq://guest:hidden@localhost/shop/orders", "sb://guest:hidden@localhost/orders", "amqp://guest:hidden@localhost/shop/orders?type=x&a=%zz"} {
		w := dialecttest.Load(t, "masstransit-send")
		w.Body = []byte(strings.Replace(string(w.Body), `"responseAddress": null`, `"responseAddress": "`+address+`"`, 1))
		f, _, faults := dialecttest.Read(peer(), &w)
		if len(faults) > 0 || f.ReplyTo != "" || f.NoReply == nil || strings.Contains(f.NoReply.Error(), "hidden") {
			t.Errorf("%s: %q, %v, %v", address, f.ReplyTo, f.NoReply, faults)
		}
	}
}

// TestNestedFaults: the text of a fault has those of the causes, and the class is that of the exception that came out.
func TestNestedFaults(t *testing.T) {
	t.Parallel()
	const inner = `,"innerException":{"exceptionType":"System.Exception","message":"`
	for exceptions, want := range map[string]dialect.Fault{
		`[{"exceptionType":"Acme.Failed","message":"outer"` + inner + `middle"` + inner + `disk full","innerException":null}}}]`:     {Reason: "Acme.Failed", Text: "outer: middle: disk full"},
		`[{"exceptionType":"System.AggregateException","message":"One or more errors occurred. (no stock)"` + inner + `no stock"}}]`: {Reason: "System.AggregateException", Text: "One or more errors occurred. (no stock)"},
		`[{"message":"a"},{"message":"a"},{"message":"b"}]`:                                                                          {Reason: "failed", Text: "a; b"},
		`[{"exceptionType":null,"message":null,"innerException":"none"}]`:                                                            {Reason: "failed"},
		`[{"message":"x"` + strings.Repeat(inner+`y"`, 2000) + strings.Repeat("}", 2000) + `}]`:                                      {Reason: "failed", Text: "x: y"},
		`[]`: {Reason: "failed"},
	} {
		w := dialecttest.Load(t, "masstransit-fault-reply")
		w.Body = []byte(`{"requestId":"c1080000-bc93-3180-f306-08df4d3b477e","messageType":["urn:message:MassTransit:Fault"],"message":{"exceptions":` + exceptions + `}}`)
		f, _, faults := dialecttest.Read(peer(), &w)
		if len(faults) > 0 || f.Fault == nil || *f.Fault != want {
			t.Errorf("%.100s: %+v, %v", exceptions, f.Fault, faults)
		}
	}
}

// TestVersions: what the versions of MassTransit, and who imitates them, leave out or add does not matter to a handler.
func TestVersions(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(w *dialect.Wire, body map[string]any){
		"no sentTime":  func(_ *dialect.Wire, b map[string]any) { delete(b, "sentTime") },
		"no host":      func(_ *dialect.Wire, b map[string]any) { delete(b, "host"); delete(b, "headers") },
		"nulls":        func(_ *dialect.Wire, b map[string]any) { b["host"], b["headers"], b["sentTime"] = nil, nil, nil },
		"seven digits": func(_ *dialect.Wire, b map[string]any) { b["sentTime"] = "2026-11-28T10:36:56.1150261+00:00" },
		"redelivered": func(w *dialect.Wire, b map[string]any) {
			w.Headers["MT-Redelivery-Count"], b["headers"] = int32(2), map[string]any{"MT-Redelivery-Count": 2}
		},
		"scheduled": func(_ *dialect.Wire, b map[string]any) {
			b["headers"] = map[string]any{"MT-Scheduling-TokenId": "c1080000-bc93-3180-f306-08df4d3b477e", "MT-Quartz-Sent": "x"}
		},
		"routing slip": func(_ *dialect.Wire, b map[string]any) {
			b["headers"] = map[string]any{"MT-Forwarder-Address": "rabbitmq://localhost/shop/x"}
		},
		"expired long ago": func(_ *dialect.Wire, b map[string]any) { b["expirationTime"] = "2001-01-01T00:00:00Z" },
		"several types": func(_ *dialect.Wire, b map[string]any) {
			b["messageType"] = []any{"urn:message:Acme.Orders:RushOrder", "urn:message:Acme.Orders:PlaceOrder", "urn:message:Acme.Orders:IOrder"}
		},
		"fields of tomorrow": func(_ *dialect.Wire, b map[string]any) {
			b["transportProperties"], b["x"] = map[string]any{"a": []any{1}}, []any{}
		},
		"white space": func(w *dialect.Wire, _ map[string]any) {
			w.Properties.ContentType = " application/vnd.masstransit+json ; charset=utf-8"
		},
		"clients of 7": func(w *dialect.Wire, _ map[string]any) {
			w.Headers["Content-Type"], w.Headers["publishId"] = "application/vnd.masstransit+json", "3"
		},
		"a temporary sender": func(_ *dialect.Wire, b map[string]any) {
			b["sourceAddress"] = "rabbitmq://localhost:5671/shop/x?temporary=true&autodelete=true&durable=false"
		},
	} {
		w := dialecttest.Load(t, "masstransit-send")
		var body map[string]any
		if err := encoding.Unmarshal(w.Body, &body); err != nil {
			t.Fatal(err)
		}
		change(&w, body)
		w.Body, _ = encoding.Marshal(body) //nolint:errchkjson // it was read from JSON
		f, h, faults := dialecttest.Read(peer(), &w)
		if f == nil || len(faults) > 0 || h.Type != "PlaceOrder" || h.ID != "7f0c0000-bc93-3180-a135-08df4d3b8647" || !strings.Contains(string(f.Body), "Ada") || f.Awaits() {
			t.Errorf("%s: %+v, %v", name, h, faults)
		}
	}
}
