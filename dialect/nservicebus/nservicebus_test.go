package nservicebus_test

import (
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/harebus/harebus/brokertest"
	"github.com/harebus/harebus/dialect"
	"github.com/harebus/harebus/dialect/nservicebus"
	"github.com/harebus/harebus/internal/dialecttest"
	"github.com/harebus/harebus/topology"
)

var types = dialect.Types{
	"PlaceOrder":  "Acme.Orders.PlaceOrder, Acme.Orders, Version=1.0.0.0, Culture=neutral, PublicKeyToken=null",
	"OrderPlaced": "Acme.Orders.Events+OrderPlaced, Acme.Orders; Acme.IOrderEvent, Acme",
	"Wrapped":     "Acme.Wrapped`2[[Acme.A, Acme],[Acme.B, Acme]], Acme",
}

func peer() *nservicebus.Dialect { return nservicebus.New(nservicebus.Config{Types: types}) }

const parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

// TestGoldens: what NServiceBus writes is read, and written again as it was; so is what Wolverine writes for it.
func TestGoldens(t *testing.T) {
	t.Parallel()
	order := dialect.Envelope{
		ID: "0f0e6b7c-5a37-4c53-9a3c-b0f400a1c001", CorrelationID: "0f0e6b7c-5a37-4c53-9a3c-b0f400a1c002", ConversationID: "0f0e6b7c-5a37-4c53-9a3c-b0f400a1c003",
		CausationID: "0f0e6b7c-5a37-4c53-9a3c-b0f400a1c004", Type: "PlaceOrder", Intent: "command", ReplyTo: "shop", From: "shop", ContentType: "application/json",
		TimeSent: time.Date(2026, 11, 21, 8, 44, 41, 901107000, time.UTC),
	}
	answer := order
	answer.Intent, answer.ReplyTo, answer.RequestID = "", "", order.CorrelationID
	trace := func(e *dialect.Envelope) { e.Headers = map[string]any{"traceparent": parent} }
	host := []string{"headers.$.diagnostics.originating.hostid", "headers.NServiceBus.OriginatingMachine", "headers.NServiceBus.Version"} // what it is of NServiceBus itself
	dialecttest.Goldens(t, peer(), []dialecttest.Case{
		{Golden: "nservicebus-send", Want: order, To: &dialect.Destination{Name: "orders"}, Written: trace, Differs: host},
		{
			Golden: "nservicebus-reply", Want: answer, Written: trace,
			To:      &dialect.Destination{Kind: dialect.Reply, Name: "orders", Answers: &dialect.Envelope{ID: "1", CorrelationID: order.CorrelationID}},
			Differs: append([]string{"properties.ReplyTo", "headers.NServiceBus.ReplyToAddress"}, host...), // nobody is to answer an answer
		},
		{Golden: "nservicebus-error", Want: order},
		// What NServiceBus takes; harebus writes more.
		{Golden: "nservicebus-minimal-in", Want: dialect.Envelope{ID: "01a3b2c4-0000-7000-8000-000000000001", Type: "PlaceOrder", ContentType: "application/json"}},
		{
			Golden: "nservicebus-by-wolverine", To: &dialect.Destination{Exchange: "orders.events", Kind: dialect.Publish},
			Want: dialect.Envelope{
				ID: "08df4d3d-dc07-f141-0200-000000000000", CorrelationID: "a9331d0f-07d9-44fa-b120-5eee38b3d9c1", ConversationID: "08df4d3d-dc07-f141-0200-000000000000",
				Type: "PlaceOrder", ReplyTo: "wolverine.response.0c617782-3813-439e-8b52-89d3bd2d3768", ContentType: "application/json",
				TimeSent: time.Date(2026, 11, 28, 10, 53, 38, 975162000, time.UTC),
			},
			Differs: []string{
				"properties.DeliveryMode", "properties.ReplyTo", // Wolverine's are transient, and have the address in the header only
				"headers.NServiceBus.MessageId", "headers.NServiceBus.MessageIntent", "headers.NServiceBus.CorrelationId", "headers.NServiceBus.EnclosedMessageTypes", // which it leaves out
				"headers.NServiceBus.OriginatingMachine", "headers.region", "headers.source", "headers.accepted-content-types", "headers.tenant-id", "headers.wolverine-protocol-version",
			},
		},
	})
}

// TestMinimal: what is written has all that a receiver needs, whatever headers the caller sets.
func TestMinimal(t *testing.T) {
	t.Parallel()
	e := &dialect.Envelope{
		ID: "order-7", Type: "OrderPlaced", ContentType: "application/json; charset=utf-8", Body: []byte(`{"Id":7}`), TimeSent: time.Unix(0, 0),
		Headers: map[string]any{"NServiceBus.MessageId": "other", "NServiceBus.RelatedTo": "other", "NServiceBus.MessageIntent": "Reply", "tenant": "acme"},
	}
	w, err := peer().Write(e, dialect.Destination{Kind: dialect.Publish, Name: "order.placed", Topic: "topics"})
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]any{
		"NServiceBus.MessageId": "order-7", "NServiceBus.ConversationId": "order-7", "NServiceBus.CorrelationId": "order-7", "NServiceBus.MessageIntent": "Publish", "NServiceBus.RelatedTo": nil,
		"NServiceBus.ContentType": "application/json", "NServiceBus.EnclosedMessageTypes": types["OrderPlaced"], "NServiceBus.TimeSent": "1970-01-01 00:00:00:000000 Z", "tenant": "acme",
	} {
		if w.Headers[name] != want {
			t.Errorf("the header %s is %v", name, w.Headers[name])
		}
	}
	if w.Exchange != "Acme.Orders:OrderPlaced" || w.RoutingKey != "" || !w.Fanout || w.Mandatory || w.Properties.Type != "Acme.Orders.Events+OrderPlaced" || w.Properties.MessageID != "order-7" {
		t.Errorf("%+v", w)
	}
	direct := nservicebus.New(nservicebus.Config{Types: types, Direct: true})
	if w, err := direct.Write(e, dialect.Destination{Kind: dialect.Publish}); err != nil || w.Exchange != "amq.topic" || w.RoutingKey != "Acme-IOrderEvent.Acme-Orders-Events+OrderPlaced" || w.Fanout {
		t.Errorf("%+v, %v", w, err)
	}
}

// TestAnswer: an answer has the correlation id of the request, or its id, and names the saga that waits for it.
func TestAnswer(t *testing.T) {
	t.Parallel()
	e := &dialect.Envelope{ID: "2", CorrelationID: "other", RequestID: "r", Type: "PlaceOrder", Body: []byte("{}")}
	w, err := peer().Write(e, dialect.Destination{Kind: dialect.Reply, Name: "shop", Answers: &dialect.Envelope{
		ID: "1", Headers: map[string]any{"NServiceBus.OriginatingSagaId": []byte("s"), "NServiceBus.OriginatingSagaType": "Acme.Saga"},
	}})
	if err != nil || w.Properties.CorrelationID != "1" || w.Headers["NServiceBus.CorrelationId"] != "1" || w.Headers["NServiceBus.SagaId"] != "s" || w.Headers["NServiceBus.SagaType"] != "Acme.Saga" {
		t.Errorf("%+v, %v", w, err)
	}
	if w, err := peer().Write(e, dialect.Destination{Kind: dialect.Request, Name: "orders"}); err != nil || w.Properties.CorrelationID != "r" || w.Headers["NServiceBus.MessageIntent"] != "Send" {
		t.Errorf("%+v, %v", w, err)
	}
}

// TestTypes: the first known name of a list is the type; assemblies and their versions do not matter.
func TestTypes(t *testing.T) {
	t.Parallel()
	for list, want := range map[string][]string{
		"Acme.Orders.PlaceOrder":                                   {"PlaceOrder"},
		"Acme.Orders.PlaceOrder, Other, Version=9.0.0.0":           {"PlaceOrder"},
		"Acme.Rush, Acme;Acme.Orders.PlaceOrder, Acme; Acme.I, A":  {"PlaceOrder", "Acme.Rush", "Acme.I"},
		"Acme.Unknown, Acme;Acme.I":                                {"Acme.Unknown", "Acme.I"},
		"Acme.Wrapped`2[[Acme.A, Acme],[Acme.B, Acme]], Acme, V=1": {"Wrapped"},
		"PlaceOrder":                {"PlaceOrder"}, // their own name for something else, which has no handler unless it is registered
		"acme.orders.placeorder":    {"acme.orders.placeorder"},
		";;Acme.Orders.PlaceOrder;": {"PlaceOrder"},
		"Acme.Orders.PlaceOrder;Acme.Orders.Events+OrderPlaced": {"PlaceOrder", "Acme.Orders.Events+OrderPlaced"},
	} {
		w := dialecttest.Load(t, "nservicebus-send")
		w.Headers["NServiceBus.EnclosedMessageTypes"] = list
		f, h, faults := dialecttest.Read(peer(), &w)
		if len(faults) > 0 || !reflect.DeepEqual(append([]string{h.Type}, f.Types...), want) {
			t.Errorf("%s: %s %v, %v", list, h.Type, f.Types, faults)
		}
	}
}

// TestLenient: times of every kind, a body with a byte order mark, and control messages.
func TestLenient(t *testing.T) {
	t.Parallel()
	for sent, want := range map[string]string{
		"2026-11-21 08:44:41:901107 Z": "08:44:41.901107", "2026-11-21 08:44:41:9 Z": "08:44:41.9", "2026-11-21T08:44:41Z": "08:44:41", "2026-11-21 00:44:41:901107 Z": "00:44:41.901107",
		"2026-11-21 12:44:41:901107 Z": "12:44:41.901107", "2026-11-21 8:44": "", "": "", "2026-11-21 25:44:41:901107 Z": "", "9999-99-99": "",
	} {
		w := dialecttest.Load(t, "nservicebus-send")
		w.Headers["NServiceBus.TimeSent"] = sent
		e, _, err := peer().Read(&w)
		if got := e.TimeSent.Format("15:04:05.999999"); err != nil || want != got && (want != "" || !e.TimeSent.IsZero()) {
			t.Errorf("%q: %s, %v", sent, got, err)
		}
	}
	w := dialecttest.Load(t, "nservicebus-send")
	w.Body = []byte("\uFEFF{\"Id\":7}")
	w.Properties.Expiration = "60000"
	if f, _, faults := dialecttest.Read(peer(), &w); len(faults) > 0 || string(f.Body) != `{"Id":7}` || f.Expires.Format("15:04:05") != "08:45:41" {
		t.Errorf("%+v, %v", f, faults)
	}
	for _, control := range []any{"True", true, []byte("true")} {
		w.Headers["NServiceBus.ControlMessage"] = control
		if _, _, faults := dialecttest.Read(peer(), &w); len(faults) != 1 || !strings.Contains(faults[0].Err.Error(), "control message") {
			t.Errorf("%v: %v", control, faults)
		}
	}
	w.Headers, w.Properties.Type = map[string]any{"tenant": "acme"}, "Acme.Other"
	if f, _, faults := dialecttest.Read(peer(), &w); f != nil || len(faults) > 0 {
		t.Errorf("a message of nobody is read: %+v, %v", f, faults)
	}
}

// TestTopology: the exchanges are those of the routing topology.
func TestTopology(t *testing.T) {
	t.Parallel()
	d := peer()
	if got, want := d.Topology("billing", "OrderPlaced"), (topology.Topology{
		Exchanges: []topology.Exchange{{Name: "billing", Kind: topology.Fanout}, {Name: "Acme.Orders:OrderPlaced", Kind: topology.Fanout}, {Name: "Acme:IOrderEvent", Kind: topology.Fanout}},
		Bindings: []topology.Binding{
			{Exchange: "billing", Queue: "billing"}, {Exchange: "Acme.Orders:OrderPlaced", ToExchange: "billing"}, {Exchange: "Acme.Orders:OrderPlaced", ToExchange: "Acme:IOrderEvent"},
		},
	}); !reflect.DeepEqual(got, want) || got.Validate() != nil {
		t.Errorf("%+v, %v", got, got.Validate())
	}
	if got := fmt.Sprint(d.Topology("billing", "Wrapped").Exchanges[1].Name); got != "Acme:Wrapped`2" {
		t.Error(got)
	}
	direct := nservicebus.New(nservicebus.Config{Types: types, Direct: true})
	if got, want := direct.Topology("billing", "PlaceOrder"), (topology.Topology{Bindings: []topology.Binding{{Exchange: "amq.topic", Key: "Acme-Orders-PlaceOrder.#", Queue: "billing"}}}); !reflect.DeepEqual(got, want) {
		t.Errorf("%+v", got)
	}
	d.Topology("billing", "Unknown")
	says(t, d.Validate(), `topology of "billing"`, "Unknown")
}

// TestHostile: what strangers may write is read as something whole, or refused; an address that is no queue is not answered.
func TestHostile(t *testing.T) {
	t.Parallel()
	dialecttest.Mutations{
		Goldens: []string{"nservicebus-send", "nservicebus-reply", "nservicebus-error", "nservicebus-by-wolverine"}, Own: []string{"PlaceOrder", "OrderPlaced", "Wrapped"},
		Addresses: []string{"properties.ReplyTo"}, Hostile: []string{"../%s", "%s%2F", "..", "rabbitmq://queue/error", "amqp://other/x", "sh%6Fp"},
	}.Run(t, peer())
	dialecttest.Mutations{
		Goldens: []string{"nservicebus-by-wolverine"}, Addresses: []string{"headers.NServiceBus.ReplyToAddress"}, Hostile: []string{"%s", "rabbitmq://queue/error", "sh%6Fp"},
	}.Run(t, peer())
}

// TestCopies: a message that is retried, parked, stored and moved stays NServiceBus'.
func TestCopies(t *testing.T) {
	t.Parallel()
	dialecttest.Copies(t, peer(), "nservicebus-send", "nservicebus-reply", "nservicebus-error", "nservicebus-by-wolverine")
}

// FuzzRead reads what nobody would write.
func FuzzRead(f *testing.F) {
	dialecttest.Fuzz(f, peer(), []string{"nservicebus-send", "nservicebus-reply", "nservicebus-by-wolverine"}, []string{
		"NServiceBus.EnclosedMessageTypes", "NServiceBus.TimeSent", "NServiceBus.ReplyToAddress", "NServiceBus.MessageIntent", "NServiceBus.CorrelationId", "NServiceBus.ControlMessage",
	})
}

// TestRefused: what the peer could not handle is not sent.
func TestRefused(t *testing.T) {
	t.Parallel()
	says(t, nservicebus.New(nservicebus.Config{Types: dialect.Types{"A": "X, One", "B": "X, Two"}}).Validate(), "twice")
	_, err := peer().Write(&dialect.Envelope{ID: " ", Type: "Unknown", Fault: &dialect.Fault{}}, dialect.Destination{})
	says(t, err, "Unknown", "without an id", "given up")
}

func says(t *testing.T, err error, parts ...string) {
	t.Helper()
	for _, part := range parts {
		if err == nil || !strings.Contains(err.Error(), part) {
			t.Errorf("%v does not say %q", err, part)
		}
	}
}

// TestReadCosts: reading NServiceBus' messages costs little more than reading those of harebus.
func TestReadCosts(t *testing.T) { //nolint:paralleltest // it counts allocations
	dialecttest.Costs(t, peer(), "nservicebus-by-wolverine")
	dialecttest.Costs(t, peer(), "nservicebus-send", passedOn...)
}

// BenchmarkRead compares with reading a message of harebus.
func BenchmarkRead(b *testing.B) {
	b.Run("by-wolverine", func(b *testing.B) { dialecttest.Times(b, peer(), "nservicebus-by-wolverine") })
	b.Run("send", func(b *testing.B) { dialecttest.Times(b, peer(), "nservicebus-send", passedOn...) })
}

// TestTalk: a service and a client that plays the peer ask and answer, fail and publish in both directions.
func TestTalk(t *testing.T) {
	t.Parallel()
	broker := brokertest.New()
	defer broker.Close()
	dialecttest.Talk(t, dialecttest.Place{URL: broker.URL(), Dial: broker.Dial}, dialecttest.NServiceBus())
}

// passedOn are the headers of NServiceBus that the dialect does not read, and that are not another time what a property says.
var passedOn = []string{"NServiceBus.OriginatingMachine", "NServiceBus.Version", "$.diagnostics.originating.hostid", "traceparent"}
