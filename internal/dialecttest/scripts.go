package dialecttest

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"strings"
	"testing"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/harebus/harebus/dialect"
	"github.com/harebus/harebus/dialect/masstransit"
	"github.com/harebus/harebus/dialect/wolverine"
	"github.com/harebus/harebus/topology"
)

// fanouts makes exchanges as the peers make them.
func fanouts(peer *amqp.Channel, names ...string) error {
	for _, name := range names {
		if err := peer.ExchangeDeclare(name, "fanout", true, false, false, false, nil); err != nil {
			return err
		}
	}
	return nil
}

// MassTransit is a conversation with MassTransit.
func MassTransit() Script {
	d := masstransit.New(masstransit.Config{
		Types:      dialect.Types{"CheckOrder": "Acme.Orders:CheckOrder", "OrderStatus": "Acme.Orders:OrderStatus", "OrderPlaced": "Acme.Orders:OrderPlaced"},
		Interfaces: map[string][]string{"OrderPlaced": {"Acme.Orders:IOrderEvent"}}, Hosts: []string{"localhost"},
	})
	expect := func(t *testing.T, w *dialect.Wire, want map[string]string) {
		t.Helper()
		got := flat(w)
		for path, value := range want {
			if got[path] != value {
				t.Errorf("%s is %s, want %s", path, got[path], value)
			}
		}
	}
	of := func(asked *dialect.Wire, path string) string { return flat(asked)[path] }
	return Script{
		Dialect: d, Topology: topology.Join(d.Topology("orders", "OrderPlaced"), d.Publishes("OrderPlaced")), Via: "orders",
		Declare: func(peer *amqp.Channel) error { // as masstransit-topology says
			return errors.Join(fanouts(peer, "Acme.Orders:OrderPlaced", "Acme.Orders:IOrderEvent", "orders"), // orders is that of a sender
				peer.ExchangeBind("Acme.Orders:IOrderEvent", "", "Acme.Orders:OrderPlaced", false, nil))
		},
		Ask: "masstransit-request", Asks: "CheckOrder", Waits: "HOST_shop_bus_arryyyfh1caayenpbdxw4q48db",
		Answered: func(t *testing.T, asked, answer *dialect.Wire) {
			t.Helper()
			expect(t, answer, map[string]string{
				"properties.ContentType": "application/vnd.masstransit+json", "body.requestId": of(asked, "body.requestId"), "body.conversationId": of(asked, "body.conversationId"),
				"body.initiatorId": of(asked, "body.requestId"), "body.correlationId": of(asked, "body.correlationId"), "body.expirationTime": of(asked, "body.expirationTime"),
				"body.messageType.0": `"urn:message:Acme.Orders:OrderStatus"<nil>`, "body.message.id": "7<nil>", "body.message.status": `"placed"<nil>`,
			})
		},
		Failed: func(t *testing.T, asked, answer *dialect.Wire) {
			t.Helper()
			expect(t, answer, map[string]string{
				"body.requestId": of(asked, "body.requestId"), "body.messageType.0": `"urn:message:MassTransit:Fault[[Acme.Orders:CheckOrder]]"<nil>`,
				"body.messageType.1": `"urn:message:MassTransit:Fault"<nil>`, "body.message.exceptions.0.message": `"no such order"<nil>`,
				"body.message.faultedMessageId": of(asked, "body.messageId"), "body.message.faultMessageTypes.0": of(asked, "body.messageType.0"), "body.message.message.id": "-7<nil>",
			})
		},
		Answer: "masstransit-response", Fault: "masstransit-fault-reply", Said: "no such order",
		Adapt: func(t *testing.T, answer, asked *dialect.Wire) {
			t.Helper()
			expect(t, asked, map[string]string{
				"body.responseAddress": `"exchange:amq.rabbitmq.reply-to"<nil>`, "body.headers.MT-Request-AcceptType.0": `"urn:message:Acme.Orders:OrderStatus"<nil>`,
				"body.messageType.0": `"urn:message:Acme.Orders:CheckOrder"<nil>`,
			})
			var request struct {
				RequestID string `json:"requestId"`
			}
			if err := json.Unmarshal(asked.Body, &request); err != nil || asked.Properties.Expiration == "" {
				t.Errorf("the request is %s, %v; it expires after %s", asked.Body, err, asked.Properties.Expiration)
			}
			for _, theirs := range []string{"c1080000-bc93-3180-bf26-08df4d3b477c", "c1080000-bc93-3180-f306-08df4d3b477e"} {
				answer.Body = []byte(strings.ReplaceAll(string(answer.Body), theirs, request.RequestID))
			}
			answer.Exchange, answer.RoutingKey = "", asked.Properties.ReplyTo // as MassTransit answers direct reply-to
		},
		Event: "masstransit-publish", EventType: "OrderPlaced", Listens: "Acme.Orders:IOrderEvent",
		Heard: func(t *testing.T, w *dialect.Wire) {
			t.Helper()
			expect(t, w, map[string]string{
				"exchange": "Acme.Orders:OrderPlaced", "body.messageType.0": `"urn:message:Acme.Orders:OrderPlaced"<nil>`, "body.messageType.1": `"urn:message:Acme.Orders:IOrderEvent"<nil>`,
			})
		},
	}
}

// Wolverine is a conversation with Wolverine.
func Wolverine() Script {
	d := wolverine.New(wolverine.Config{Types: dialect.Types{"GetOrder": "Acme.Orders.GetOrder", "OrderStatus": "Acme.Orders.OrderStatus", "PlaceOrder": "Acme.Orders.PlaceOrder"}})
	expect := func(t *testing.T, w *dialect.Wire, messageType string, headers map[string]string) {
		t.Helper()
		if w.Properties.Type != messageType {
			t.Errorf("the type is %s", w.Properties.Type)
		}
		for name, want := range headers {
			if got := w.Headers[name]; got != want {
				t.Errorf("the header %s is %v, want %s", name, got, want)
			}
		}
	}
	return Script{
		Dialect: d, Topology: d.Topology("orders", "PlaceOrder"),
		Declare: func(peer *amqp.Channel) error { return fanouts(peer, "Acme.Orders.PlaceOrder") }, // conventional routing
		Ask:     "wolverine-request", Asks: "GetOrder", Waits: "wolverine.response.1febda91-1a9b-42f6-a9a7-ae66bf00e3c9",
		Answered: func(t *testing.T, asked, answer *dialect.Wire) {
			t.Helper()
			expect(t, answer, "Acme.Orders.OrderStatus", map[string]string{"conversation-id": asked.Properties.MessageID, "is-response": "true"})
			if string(answer.Body) != `{"id":7,"status":"placed"}` || answer.Properties.CorrelationID != asked.Properties.CorrelationID {
				t.Errorf("the answer is %s of %+v", answer.Body, answer.Properties)
			}
		},
		Failed: func(t *testing.T, asked, answer *dialect.Wire) {
			t.Helper()
			expect(t, answer, "Wolverine.Runtime.RemoteInvocation.FailureAcknowledgement", map[string]string{"conversation-id": asked.Properties.MessageID})
			if want := `{"requestId":"` + asked.Properties.MessageID + `","message":"no such order"}`; string(answer.Body) != want || answer.Properties.ContentType != "application/json" {
				t.Errorf("the failure is %s of %+v", answer.Body, answer.Properties)
			}
		},
		Answer: "wolverine-response", Fault: "wolverine-failure-ack", Said: "InvalidOperationException: no such order",
		Adapt: func(t *testing.T, answer, asked *dialect.Wire) {
			t.Helper()
			expect(t, asked, "Acme.Orders.GetOrder", map[string]string{"reply-requested": "Acme.Orders.OrderStatus"})
			id, _ := asked.Headers["conversation-id"].(string)
			answer.Headers["conversation-id"], answer.Properties.CorrelationID = id, asked.Properties.CorrelationID
			uri, _ := asked.Headers["reply-uri"].(string)
			answer.Exchange, answer.RoutingKey = "", strings.TrimPrefix(uri, "rabbitmq://queue/")
			if strings.HasPrefix(answer.Properties.Type, "Wolverine.") && len(answer.Body) < 16 {
				t.Errorf("the failure is %s", base64.StdEncoding.EncodeToString(answer.Body))
			}
		},
		Event: "wolverine-conventional", EventType: "PlaceOrder", Listens: "Acme.Orders.PlaceOrder",
		Heard: func(t *testing.T, w *dialect.Wire) {
			t.Helper()
			expect(t, w, "Acme.Orders.PlaceOrder", map[string]string{"wolverine-protocol-version": "1.0"})
		},
	}
}
