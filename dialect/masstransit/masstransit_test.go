package masstransit_test

import (
	"context"
	"errors"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/brokertest"
	"github.com/harebus/harebus/dialect"
	"github.com/harebus/harebus/dialect/masstransit"
	"github.com/harebus/harebus/internal/dialecttest"
	"github.com/harebus/harebus/topology"
	amqp "github.com/rabbitmq/amqp091-go"
)

var types = dialect.Types{
	"PlaceOrder": "Acme.Orders:PlaceOrder", "OrderPlaced": "Acme.Orders:OrderPlaced", "CheckOrder": "Acme.Orders:CheckOrder",
	"OrderStatus": "Acme.Orders:OrderStatus", "GetOrder": "Acme.Orders:GetOrder",
}

func peer() *masstransit.Dialect {
	return masstransit.New(masstransit.Config{Types: types, Interfaces: map[string][]string{"OrderPlaced": {"Acme.Orders:IOrderEvent"}}, Hosts: []string{"127.0.0.1"}})
}

// at is a time of 28 November 2026.
func at(t *testing.T, clock string) time.Time {
	t.Helper()
	when, err := time.Parse("2006-01-02 15:04:05.9999999", "2026-11-28 "+clock)
	if err != nil {
		t.Fatal(err)
	}
	return when
}

const (
	json = "application/json"
	// What is written differently, and why.
	count  = "headers.x-dotnet-pub-seq-no" // RabbitMQ.Client counts for itself
	host   = "body.host."                  // harebus does not tell about its machine
	must   = "mandatory"                   // harebus hears of a message that no queue takes
	source = "body.sourceAddress"          // the short form of the same address
	target = "body.destinationAddress"     // likewise
	where  = "exchange"                    // the queue of an endpoint is reached by the default exchange,
	key    = "routing_key"                 // with its name
	expire = "properties.Expiration"       // the bus writes it
)

// TestGoldens: what MassTransit writes is read, and written again as it was.
func TestGoldens(t *testing.T) {
	t.Parallel()
	const (
		customer = `{"id":7,"customer":"Ada Müller","total":"12.50","at":"2026-11-21T08:44:41.901107Z"}`
		bus      = "HOST_shop_bus_arryyyfh1caayenpbdxw4q48db"
	)
	always := []string{count, host, must, source, target, where, key}
	dialecttest.Goldens(t, peer(), []dialecttest.Case{
		{
			Golden: "masstransit-send", To: &dialect.Destination{Name: "orders"}, Differs: always, Body: customer,
			Want: dialect.Envelope{
				ID: "7f0c0000-bc93-3180-a135-08df4d3b8647", ConversationID: "7f0c0000-bc93-3180-4004-08df4d3b864e", Type: "PlaceOrder",
				Types: []string{"Acme.Orders:PlaceOrder"}, From: "HOST_shop_bus_xhgyyyfh1caabfhkbdxw4qhfbo", ContentType: json, TimeSent: at(t, "10:36:56.1150261"),
			},
		},
		{
			Golden: "masstransit-publish", To: &dialect.Destination{Kind: dialect.Publish, Name: "order.placed", Topic: "PikaBusTopic"}, Body: customer,
			Differs: []string{count, host, source, target},
			Want: dialect.Envelope{
				ID: "c1080000-bc93-3180-f48c-08df4d3b4753", ConversationID: "c1080000-bc93-3180-fa33-08df4d3b4756", Type: "OrderPlaced",
				Types: []string{"Acme.Orders:OrderPlaced", "Acme.Orders:IOrderEvent"}, From: "HOST_shop_bus_arryyyfh1caabrzybdxw4q48nf", ContentType: json,
				TimeSent: at(t, "10:35:10.499342"),
			},
		},
		{
			Golden: "masstransit-request", To: &dialect.Destination{Kind: dialect.Request, Name: "orders"}, Body: `{"id":7}`,
			Differs: append([]string{expire, "properties.ReplyTo", "body.responseAddress"}, always...), // an answer to a queue with other arguments than MassTransit's would stop the peer
			Want: dialect.Envelope{
				ID: "c1080000-bc93-3180-f8b4-08df4d3b477c", RequestID: "c1080000-bc93-3180-bf26-08df4d3b477c", ConversationID: "c1080000-bc93-3180-07e2-08df4d3b477d",
				Type: "CheckOrder", Types: []string{"Acme.Orders:CheckOrder"}, Accepts: []string{"OrderStatus"}, From: bus, ReplyTo: bus, ContentType: json,
				TimeSent: at(t, "10:35:10.768146"), Expires: at(t, "10:35:30.7686236"),
			},
		},
		{
			Golden: "masstransit-request-replyto", To: &dialect.Destination{Kind: dialect.Request, Name: "orders"}, Body: `{"id":7}`,
			Differs: append([]string{expire, "body.responseAddress"}, always...),
			Want: dialect.Envelope{
				ID: "c1080000-bc93-3180-0792-08df4d3b47ac", RequestID: "c1080000-bc93-3180-c7cf-08df4d3b47aa", ConversationID: "c1080000-bc93-3180-1ab9-08df4d3b47ac",
				Type: "CheckOrder", Types: []string{"Acme.Orders:CheckOrder"}, Accepts: []string{"OrderStatus"}, ContentType: json,
				From:     "amq.rabbitmq.reply-to",
				ReplyTo:  "amq.rabbitmq.reply-to.g1h2AA1yZXBseUA5NTAyNjUzAAAQTwAAAARrCqES.DjZmsvakc1bm4+7rPxZLGA==",
				TimeSent: at(t, "10:35:11.0765458"), Expires: at(t, "10:35:16.0783887"),
			},
		},
		{
			Golden: "masstransit-response", To: &dialect.Destination{Kind: dialect.Reply, Name: bus, Answers: &dialect.Envelope{RequestID: "c1080000-bc93-3180-bf26-08df4d3b477c"}},
			Body: `{"id":7,"status":"placed"}`, Differs: append([]string{expire}, always...),
			Want: dialect.Envelope{
				ID: "c1080000-bc93-3180-62db-08df4d3b477d", RequestID: "c1080000-bc93-3180-bf26-08df4d3b477c", ConversationID: "c1080000-bc93-3180-07e2-08df4d3b477d",
				CausationID: "c1080000-bc93-3180-bf26-08df4d3b477c", Type: "OrderStatus", Types: []string{"Acme.Orders:OrderStatus"}, From: "orders", ContentType: json,
				TimeSent: at(t, "10:35:10.7708635"), Expires: at(t, "10:35:30.7686846"),
			},
		},
		{
			Golden: "masstransit-activity", To: &dialect.Destination{Name: "orders"}, Body: customer,
			Differs: append([]string{"headers.traceparent", "headers.baggage", "body.headers.traceparent", "body.headers.baggage", "headers.MT-Activity-Correlation-Context"}, always...),
			Want: dialect.Envelope{
				ID: "c1080000-bc93-3180-d9df-08df4d3b4864", ConversationID: "c1080000-bc93-3180-de8d-08df4d3b4864", Type: "PlaceOrder",
				Types: []string{"Acme.Orders:PlaceOrder"}, From: "HOST_shop_bus_arryyyfh1caayg8hbdxw4q4edb", ContentType: json, TimeSent: at(t, "10:35:12.2877919"),
				Headers: map[string]any{
					"traceparent": "00-f283a74645927e0e689ad9766b7cd3d4-ae34df6713f1fd9d-01", "baggage": "tenant=acme",
					"MT-Activity-Correlation-Context": []any{map[string]any{"key": "tenant", "value": "acme"}},
				},
			},
		},
		{
			Golden: "masstransit-headers", Body: customer,
			Want: dialect.Envelope{
				ID: "c1080000-bc93-3180-605b-08df4d3b483c", CorrelationID: "0f0e6b7c-0000-4000-8000-000000000003", ConversationID: "c1080000-bc93-3180-aaab-08df4d3b483c",
				CausationID: "0f0e6b7c-0000-4000-8000-000000000006", Type: "PlaceOrder", Types: []string{"Acme.Orders:PlaceOrder"},
				From: "HOST_shop_bus_arryyyfh1caay1oybdxw4q4ebt", ContentType: json, TimeSent: at(t, "10:35:12.0225371"), Expires: at(t, "10:36:42.0264899"),
				Headers: map[string]any{"h-decimal": "1.50", "h-false": false, "h-object": map[string]any{"a": int64(1)}, "h-array": []any{"a", "b"}}, // the others are headers of AMQP; a decimal is in no copy
			},
		},
		{
			Golden: "masstransit-raw",
			Want: dialect.Envelope{
				ID: "c1080000-bc93-3180-ecc0-08df4d3b482a", RequestID: "0f0e6b7c-0000-4000-8000-000000000004", CorrelationID: "0f0e6b7c-0000-4000-8000-000000000003",
				ConversationID: "c1080000-bc93-3180-14e0-08df4d3b482b", Type: "PlaceOrder", Types: []string{"Acme.Orders:PlaceOrder"},
				From: "HOST_shop_bus_arryyyfh1caay473bdxw4q4ebr", ReplyTo: "shop", FaultTo: "shop-faults", ContentType: json,
			},
		},
		{
			Golden: "masstransit-fault-reply",
			Want: dialect.Envelope{
				ID: "c1080000-bc93-3180-4236-08df4d3b4789", RequestID: "c1080000-bc93-3180-f306-08df4d3b477e", ConversationID: "c1080000-bc93-3180-043e-08df4d3b477f",
				CausationID: "c1080000-bc93-3180-f306-08df4d3b477e", Type: "MassTransit:Fault[[Acme.Orders:CheckOrder]]",
				Types: []string{"MassTransit:Fault[[Acme.Orders:CheckOrder]]", "MassTransit:Fault"}, From: "orders", ContentType: json,
				TimeSent: at(t, "10:35:10.848671"), Expires: at(t, "10:35:30.788925"),
				Fault: &dialect.Fault{Reason: "System.InvalidOperationException", Text: "no such order"},
			},
		},
		{Golden: "masstransit-minimal-in", Body: `{"id":7}`, Want: dialect.Envelope{Type: "PlaceOrder", Types: []string{"Acme.Orders:PlaceOrder"}, ContentType: json}},
		{
			Golden: "masstransit-by-wolverine", Body: `{"id":7,"customer":"Grüße & <Co>","total":19.90,"at":"2026-11-21T08:44:41.901107Z"}`,
			Want: dialect.Envelope{
				ID: "08df4d3e-1fc0-ebb7-0200-000000000000", CorrelationID: "312f6dd3-de89-41fb-a1a4-c9d0a65f3267", ConversationID: "08df4d3e-1fc0-ebb7-0200-000000000000",
				Type: "PlaceOrder", Types: []string{"Acme.Orders:PlaceOrder"}, ContentType: json, TimeSent: at(t, "10:55:32.6320355"),
				NoReply: errors.New(`the address "rabbitmq://127.0.0.1/wolv2/wolverine.response.bb46a9ed-7314-4afd-aca2-2c12bfdc223a": the address is in the virtual host "wolv2", and this is another one`),
			},
		},
		{
			Golden: "masstransit-request-by-wolverine", Body: `{"id":7}`,
			Want: dialect.Envelope{
				ID: "08df4d3e-2006-5824-0200-000000000000", CorrelationID: "6fa4f5a4-36ee-46eb-aa63-0bcde3919d79", ConversationID: "08df4d3e-2006-5824-0200-000000000000",
				Type: "GetOrder", Types: []string{"Acme.Orders:GetOrder"}, ContentType: json, TimeSent: at(t, "10:55:33.0632063"), Expires: at(t, "10:55:34.0528836"),
				NoReply: errors.New(`the address "rabbitmq://127.0.0.1/wolv2/wolverine.response.e2c2436a-0589-47d8-854d-9086b8d294af": the address is in the virtual host "wolv2", and this is another one`),
			},
		},
	})
}

// TestHostile: what strangers may write is read as something whole, or refused; an address that is no endpoint is not answered.
func TestHostile(t *testing.T) {
	t.Parallel()
	dialecttest.Mutations{
		Goldens: []string{
			"masstransit-send", "masstransit-request", "masstransit-request-replyto", "masstransit-response", "masstransit-fault-reply", "masstransit-headers", "masstransit-raw",
			"masstransit-activity", "masstransit-publish", "masstransit-request-by-wolverine", "masstransit-minimal-in",
		},
		Own:       slices.Collect(maps.Keys(types)),
		Addresses: []string{"body.responseAddress", "body.faultAddress", "headers.MT-Response-Address", "headers.MT-Fault-Address"},
		Hostile: []string{
			"exchange:%s", "queue:%s", "rabbitmq://localhost/shop/%s", "rabbitmq://other/shop/orders", "rabbitmq://localhost/other/orders", "rabbitmq://localhost/orders",
			"exchange:orders?type=topic", "exchange:orders?type=direct", "topic:orders", "http://localhost/shop/orders", "orders", "rabbitmq://localhost", "rabbitmq:orders",
			"rabbitmq://guest:guest@localhost/shop/orders", "rabbitmq:///shop/orders", "rabbitmq://localhost//orders", "rabbitmq://localhost/shop/a/b", "loopback://localhost/orders",
			"exchange:orders?type=%zz",
		},
	}.Run(t, peer())
}

// TestCopies: a message that is retried, parked, stored and moved stays MassTransit's.
func TestCopies(t *testing.T) {
	t.Parallel()
	dialecttest.Copies(t, peer(), "masstransit-send", "masstransit-request", "masstransit-headers", "masstransit-raw", "masstransit-activity", "masstransit-error", "masstransit-skipped",
		"masstransit-publish", "masstransit-by-wolverine", "masstransit-minimal-in", "masstransit-types", "masstransit-schedule")
}

// FuzzRead reads what nobody would write.
func FuzzRead(f *testing.F) {
	dialecttest.Fuzz(f, peer(), []string{"masstransit-send", "masstransit-request", "masstransit-fault-reply", "masstransit-headers", "masstransit-raw", "masstransit-activity"},
		[]string{"MT-MessageType", "MT-Response-Address", "MT-Fault-Address", "MT-Source-Address", "MT-Activity-Id", "MessageId", "RequestId"})
}

// TestReadCosts: reading MassTransit's messages costs little more than reading those of harebus.
func TestReadCosts(t *testing.T) { //nolint:paralleltest // it counts allocations
	dialecttest.Costs(t, peer(), "masstransit-send")
}

// BenchmarkRead compares with reading a message of harebus.
func BenchmarkRead(b *testing.B) {
	dialecttest.Times(b, peer(), "masstransit-send")
}

// TestRefused: what the peer could not read is not sent.
func TestRefused(t *testing.T) {
	t.Parallel()
	wrong := masstransit.New(masstransit.Config{
		Types: dialect.Types{"A": "X", "B": "X", "C": "urn:message:Acme:C"}, Interfaces: map[string][]string{"Z": nil},
	})
	wrong.Topology("q", "Y")
	says(t, wrong.Validate(), "twice", "leave urn:message: out", `"Z" has Interfaces`, `topology of "q"`)
	guid := "08df4d3e-f5b2-6611-0200-000000000000"
	for want, e := range map[string]dialect.Envelope{
		"message id \"order-7\" is not a GUID":     {ID: "order-7", Type: "PlaceOrder", Body: []byte("{}")},
		"correlation id \"order-7\" is not a GUID": {ID: guid, CorrelationID: "order-7", Type: "PlaceOrder", Body: []byte("{}")},
		"not in the Types":                         {ID: guid, Type: "Strange", Body: []byte("{}")},
		"is JSON":                                  {ID: guid, Type: "PlaceOrder", ContentType: "text/plain", Body: []byte("seven")},
		"is JSON and not null":                     {ID: guid, Type: "PlaceOrder", Body: []byte("null")},
	} {
		_, err := peer().Write(&e, dialect.Destination{Name: "orders"})
		says(t, err, want)
	}
	_, err := peer().Write(&dialect.Envelope{ID: guid, RequestID: "seven", Type: "CheckOrder", Accepts: []string{"Strange"}, Body: []byte("{}")}, dialect.Destination{Kind: dialect.Request})
	says(t, err, "correlation id of a request", "Strange")
}

func says(t *testing.T, err error, parts ...string) {
	t.Helper()
	for _, part := range parts {
		if err == nil || !strings.Contains(err.Error(), part) {
			t.Errorf("%v does not say %q", err, part)
		}
	}
}

// TestTalk: a service and a client that plays the peer ask and answer, fail and publish in both directions.
func TestTalk(t *testing.T) {
	t.Parallel()
	broker := brokertest.New(brokertest.WithVHost("shop"))
	defer broker.Close()
	dialecttest.Talk(t, dialecttest.Place{URL: "amqp://guest:guest@localhost:5672/shop", Dial: broker.Dial}, dialecttest.MassTransit())
}

// TestFaultAddress: the sender of a command that names an address for faults is told when the command is given up.
func TestFaultAddress(t *testing.T) {
	t.Parallel()
	for address, told := range map[string]bool{"exchange:faults": true, "exchange:faults?type=topic": false} {
		broker := brokertest.New()
		defer broker.Close()
		setup, err := harebus.New(harebus.Config{
			Queue: "orders", Dial: broker.Dial, Payload: harebus.PayloadConfig{Dialects: []dialect.Dialect{peer()}},
			Declare: harebus.DeclareConfig{Topology: topology.Topology{Queues: []topology.Queue{{Name: "faults", Type: topology.Classic}}}},
		})
		if err != nil {
			t.Fatal(err)
		}
		setup.HandleMessage("PlaceOrder", func(context.Context, *harebus.Bus, *harebus.Message) error { return harebus.NoRetry(errors.New("no")) })
		if err := setup.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		conn, err := amqp.DialConfig(broker.URL(), amqp.Config{Dial: broker.Dial})
		if err != nil {
			t.Fatal(err)
		}
		ch, err := conn.Channel()
		if err != nil {
			t.Fatal(err)
		}
		body := `{"messageId":"7f0c0000-bc93-3180-a135-08df4d3b8647","messageType":["urn:message:Acme.Orders:PlaceOrder"],"message":{"id":7},"faultAddress":"` + address + `"}`
		if err := ch.PublishWithContext(t.Context(), "", "orders", true, false, amqp.Publishing{ContentType: "application/vnd.masstransit+json", Body: []byte(body)}); err != nil {
			t.Fatal(err)
		}
		if err := broker.WaitQueue(t.Context(), "error", func(q brokertest.Queue) bool { return q.Ready == 1 }); err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(broker.WaitQuiet(t.Context(), "error", "faults"), setup.Close(), conn.Close()); err != nil {
			t.Fatal(err)
		}
		if got := broker.Messages("faults"); (len(got) == 1) != told || told && !strings.Contains(string(got[0].Body), `"message":"no"`) {
			t.Errorf("%s: told by %v", address, got)
		}
	}
}

// TestExchanges: the exchanges of types are those that MassTransit has for them.
func TestExchanges(t *testing.T) {
	t.Parallel()
	for foreign, want := range map[string]string{
		"Acme.Orders:OrderPlaced": "Acme.Orders:OrderPlaced", "Acme.Orders:Outer+Inner": "Acme.Orders:Outer-Inner",
		"Acme.Orders:Wrapped[[Acme.Orders:PlaceOrder]]": "Acme.Orders:Wrapped--PlaceOrder--", "Acme.Orders:Pair[[Acme.Orders:PlaceOrder],[System:Uri]]": "Acme.Orders:Pair--PlaceOrder::System:Uri--",
		"MassTransit:Fault[[Acme.Orders:PlaceOrder]]": "MassTransit:Fault--Acme.Orders:PlaceOrder--",
	} {
		d := masstransit.New(masstransit.Config{Types: dialect.Types{"T": foreign}})
		got := d.Topology("orders", "T")
		wanted := topology.Topology{
			Exchanges: []topology.Exchange{{Name: "orders", Kind: topology.Fanout}, {Name: want, Kind: topology.Fanout}},
			Bindings:  []topology.Binding{{Exchange: "orders", Queue: "orders"}, {Exchange: want, ToExchange: "orders"}},
		}
		if !reflect.DeepEqual(got, wanted) || d.Validate() != nil {
			t.Errorf("%s has %+v, %v", foreign, got, d.Validate())
		}
	}
}

// TestLabelled: an envelope is read as one, whatever its content type says; what only looks like one is not.
func TestLabelled(t *testing.T) {
	t.Parallel()
	for _, label := range []string{"", "application/json", "text/plain", "application/vnd.masstransit+json; charset=utf-8", "Application/Vnd.MassTransit+JSON"} {
		w := dialecttest.Load(t, "masstransit-send")
		w.Properties.ContentType = label
		f, h, faults := dialecttest.Read(peer(), &w)
		if f == nil || len(faults) > 0 || h.Type != "PlaceOrder" || h.ContentType != json || !strings.Contains(string(f.Body), "Ada") || strings.Contains(string(f.Body), "messageType") {
			t.Errorf("%q: read as %+v, %v", label, h, faults)
		}
	}
	w := dialecttest.Load(t, "masstransit-send")
	w.Properties.ContentType, w.Headers["MT-MessageType"] = json, "urn:message:Acme.Orders:PlaceOrder"
	if f, _, faults := dialecttest.Read(peer(), &w); f == nil || len(faults) > 0 || strings.Contains(string(f.Body), "messageType") {
		t.Errorf("with the header of a raw message it is read as %+v, %v", f, faults)
	}
	delete(w.Headers, "MT-MessageType")
	w.Properties.ContentType, w.Body = json, []byte(`{"text":"\"messageType\": urn:message:","message":1}`)
	if f, _, _ := dialecttest.Read(peer(), &w); f != nil {
		t.Errorf("a message that quotes is read as %+v", f.Envelope)
	}
}

// TestSpellings: MassTransit reads names in any case, and so does this; a name that is there twice is refused, because readers disagree about which counts.
func TestSpellings(t *testing.T) {
	t.Parallel()
	for body, want := range map[string]string{
		`{"MessageId":"7","MESSAGETYPE":["urn:message:Acme.Orders:PlaceOrder"],"Message":{"id":7}}`:                              "",
		`{"messageType":["urn:message:Acme.Orders:PlaceOrder"],"message":{"id":7},"message":{"id":8}}`:                           "twice",
		`{"messageType":["urn:message:Acme.Orders:PlaceOrder"],"message":{"id":7},"Message":{"id":8}}`:                           "twice",
		`{"messageType":["urn:message:Other:Thing","urn:message:Acme.Orders:PlaceOrder"],"message":{"id":7},"messageId":null}`:   "",
		`{"messageType":["Acme.Orders:PlaceOrder"],"message":{"id":7}}`:                                                          "names no type",
		`{"messageType":"urn:message:Acme.Orders:PlaceOrder","message":{"id":7}}`:                                                "no JSON array",
		`{"messageType":["urn:message:Acme.Orders:PlaceOrder"],"message":{"id":7},"messageId":7}`:                                "messageId",
		`{"messageType":["urn:message:Acme.Orders:PlaceOrder"],"message":{"id":7},"headers":7}`:                                  "headers",
		`{"messageType":["urn:message:Acme.Orders:PlaceOrder"],"message":{"id":7},"sentTime":"yesterday","expirationTime":true}`: "",
		"\uFEFF" + `{"messageType":["urn:message:Acme.Orders:PlaceOrder"],"message":{"id":7}}`:                                   "no JSON object",
	} {
		w := dialecttest.Load(t, "masstransit-send")
		w.Body = []byte(body)
		f, h, faults := dialecttest.Read(peer(), &w)
		switch {
		case f == nil:
			t.Errorf("%s: it is not read", body)
		case want == "" && (len(faults) > 0 || h.Type != "PlaceOrder" || string(f.Body) != `{"id":7}`):
			t.Errorf("%s: %+v, %v", body, h, faults)
		case want != "" && (len(faults) != 1 || faults[0].Reason != "bad-envelope" || !strings.Contains(faults[0].Err.Error(), want)):
			t.Errorf("%s: %v, want %s", body, faults, want)
		}
	}
}

// TestRoundTrips: nothing of what else MassTransit writes is lost.
func TestRoundTrips(t *testing.T) {
	t.Parallel()
	d := masstransit.New(masstransit.Config{Types: dialect.Types{
		"PlaceOrder": "Acme.Orders:PlaceOrder", "Kinds": "Acme.Orders:Kinds", "Failed": "MassTransit:Fault[[Acme.Orders:PlaceOrder]]", "Unread": "MassTransit:ReceiveFault",
		"Schedule": "MassTransit.Scheduling:ScheduleMessage",
	}, Interfaces: map[string][]string{"Failed": {"MassTransit:Fault"}, "Unread": {"MassTransit:Fault"}}})
	for golden, messageType := range map[string]string{
		"masstransit-types": "Kinds", "masstransit-fault": "Failed", "masstransit-receive-fault": "Unread", "masstransit-schedule": "Schedule", "masstransit-error": "PlaceOrder",
		"masstransit-skipped": "PlaceOrder",
	} {
		// Headers of AMQP are also put into the envelope.
		dialecttest.RoundTrip(t, d, golden, messageType, dialect.Send, "?"+must, source, host, "?"+expire, "?"+target, "?body.headers.", "?body.headers")
	}
}
