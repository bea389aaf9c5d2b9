package masstransit_test

import (
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
