package dialecttest

import (
	"errors"
	"strings"
	"testing"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/harebus/harebus/dialect"
	"github.com/harebus/harebus/dialect/cloudevents"
	"github.com/harebus/harebus/dialect/nservicebus"
	"github.com/harebus/harebus/dialect/spring"
	"github.com/harebus/harebus/topology"
)

// Scripts are all conversations, by the names of the dialects.
func Scripts() map[string]Script {
	return map[string]Script{"masstransit": MassTransit(), "wolverine": Wolverine(), "nservicebus": NServiceBus(), "spring": Spring(), "cloudevents": CloudEvents()}
}

// compare fails the test for each field that differs.
func compare(t *testing.T, w *dialect.Wire, want map[string]string) {
	t.Helper()
	got := flat(w)
	for path, value := range want {
		if got[path] != value {
			t.Errorf("%s is %s, want %s", path, got[path], value)
		}
	}
}

// NServiceBus is a conversation with an endpoint of NServiceBus called shop, in the conventional routing topology: everything goes by exchanges.
func NServiceBus() Script {
	d := nservicebus.New(nservicebus.Config{Types: dialect.Types{
		"PlaceOrder": "Acme.Orders.PlaceOrder, Acme.Orders", "OrderStatus": "Acme.Orders.OrderStatus, Acme.Orders", "OrderPlaced": "Acme.Orders.OrderPlaced, Acme.Orders; Acme.IOrderEvent, Acme",
	}})
	typed := func(w *dialect.Wire, name string) {
		w.Properties.Type, w.Headers["NServiceBus.EnclosedMessageTypes"] = name, name+", Acme.Orders"
	}
	return Script{
		Dialect: d, Topology: d.Topology("orders", "OrderPlaced"), Via: "orders",
		Declare: func(peer *amqp.Channel) error { // its own queue, and the exchanges to which it sends
			_, err := peer.QueueDeclare("shop", true, false, false, false, amqp.Table{"x-queue-type": "quorum"})
			return errors.Join(err, fanouts(peer, "shop", "orders", "Acme.Orders:OrderPlaced", "Acme:IOrderEvent"), peer.QueueBind("shop", "", "shop", false, nil),
				peer.ExchangeBind("Acme:IOrderEvent", "", "Acme.Orders:OrderPlaced", false, nil))
		},
		Ask: "nservicebus-send", Asks: "PlaceOrder", Waits: "replies",
		Change: func(w *dialect.Wire, request bool) {
			if request {
				w.Properties.ReplyTo, w.Headers["NServiceBus.ReplyToAddress"] = "replies", "replies"
				return
			}
			typed(w, "Acme.Orders.OrderPlaced")
			w.Exchange, w.RoutingKey, w.Headers["NServiceBus.MessageIntent"] = "Acme.Orders:OrderPlaced", "", "Publish"
		},
		Answered: func(t *testing.T, asked, answer *dialect.Wire) {
			t.Helper()
			compare(t, answer, map[string]string{
				"properties.CorrelationID": asked.Properties.CorrelationID, "properties.Type": "Acme.Orders.OrderStatus", "headers.NServiceBus.MessageIntent": "string(Reply)",
				"headers.NServiceBus.CorrelationId": "string(" + asked.Properties.CorrelationID + ")", "headers.NServiceBus.RelatedTo": "string(" + asked.Properties.MessageID + ")",
				"body.status": `"placed"<nil>`,
			})
		},
		Parked: func(t *testing.T, parked *dialect.Wire) { // as ServiceControl wants it
			t.Helper()
			compare(t, parked, map[string]string{
				"headers.NServiceBus.FailedQ": "string(orders)", "headers.NServiceBus.ExceptionInfo.Message": "string(no such order)", "headers.NServiceBus.ExceptionInfo.ExceptionType": "string(error)",
				"headers.NServiceBus.ProcessingEndpoint": "string(orders)", "headers.NServiceBus.MessageIntent": "string(Send)",
			})
			if at := flat(parked)["headers.NServiceBus.TimeOfFailure"]; !strings.HasSuffix(at, " Z)") {
				t.Errorf("it failed at %s", at)
			}
		},
		Answer: "nservicebus-reply",
		Adapt: func(t *testing.T, answer, asked *dialect.Wire) {
			t.Helper()
			compare(t, asked, map[string]string{"headers.NServiceBus.MessageIntent": "string(Send)", "headers.NServiceBus.ReplyToAddress": "string(" + asked.Properties.ReplyTo + ")"})
			typed(answer, "Acme.Orders.OrderStatus")
			answer.Properties.CorrelationID, answer.Headers["NServiceBus.CorrelationId"] = asked.Properties.CorrelationID, asked.Properties.CorrelationID
			answer.Exchange, answer.RoutingKey = "", asked.Properties.ReplyTo
		},
		Event: "nservicebus-send", EventType: "OrderPlaced", Listens: "Acme:IOrderEvent",
		Heard: func(t *testing.T, w *dialect.Wire) {
			t.Helper()
			compare(t, w, map[string]string{"exchange": "Acme.Orders:OrderPlaced", "properties.Type": "Acme.Orders.OrderPlaced", "headers.NServiceBus.MessageIntent": "string(Publish)"})
		},
	}
}

// events is the topic exchange of peers that have no convention for events. Our queue is bound to it.
const events = "orders.events"

func bound() topology.Topology {
	return topology.Topology{
		Exchanges: []topology.Exchange{{Name: events, Kind: topology.Topic}},
		Bindings:  []topology.Binding{{Exchange: events, Key: "order.*", Queue: "orders"}},
	}
}

// declareEvents makes that exchange as a RabbitAdmin of Spring, or a program with an SDK, does.
func declareEvents(peer *amqp.Channel) error {
	return peer.ExchangeDeclare(events, "topic", true, false, false, false, nil)
}

// Spring is a conversation with Spring AMQP.
func Spring() Script {
	d := spring.New(spring.Config{Types: dialect.Types{"PlaceOrder": "com.acme.orders.PlaceOrder", "OrderStatus": "com.acme.orders.OrderStatus", "OrderPlaced": "com.acme.orders.OrderPlaced"}})
	return Script{
		Dialect: d, Topology: bound(), Declare: declareEvents,
		Ask: "spring-request", Asks: "PlaceOrder", Waits: "replies",
		Change: func(w *dialect.Wire, request bool) {
			if request {
				w.Properties.ReplyTo = "replies" // a reply queue that is set, because direct reply-to is one of the connection
				return
			}
			w.Exchange, w.RoutingKey, w.Headers["__TypeId__"] = events, "order.placed", "com.acme.orders.OrderPlaced"
		},
		Answered: func(t *testing.T, asked, answer *dialect.Wire) {
			t.Helper()
			compare(t, answer, map[string]string{"properties.CorrelationID": asked.Properties.CorrelationID, "headers.__TypeId__": "string(com.acme.orders.OrderStatus)", "body.status": `"placed"<nil>`})
		},
		Answer: "spring-send",
		Adapt: func(t *testing.T, answer, asked *dialect.Wire) {
			t.Helper()
			compare(t, asked, map[string]string{"headers.__TypeId__": "string(com.acme.orders.PlaceOrder)", "body.id": "7<nil>"})
			answer.Properties.CorrelationID, answer.Headers["__TypeId__"] = asked.Properties.CorrelationID, "com.acme.orders.OrderStatus"
			answer.RoutingKey = asked.Properties.ReplyTo
		},
		Event: "spring-send", EventType: "OrderPlaced", Listens: events, Named: true,
		Heard: func(t *testing.T, w *dialect.Wire) {
			t.Helper()
			compare(t, w, map[string]string{"exchange": events, "routing_key": "order.placed", "headers.__TypeId__": "string(com.acme.orders.OrderPlaced)", "properties.ContentType": "application/json"})
		},
	}
}

// CloudEvents is a conversation with a program that writes CloudEvents: requests in binary form, events in structured form.
func CloudEvents() Script {
	d := cloudevents.New(cloudevents.Config{Types: dialect.Types{"CheckOrder": "CheckOrder", "OrderStatus": "OrderStatus", "OrderPlaced": "OrderPlaced"}})
	return Script{
		Dialect: d, Topology: bound(), Declare: declareEvents,
		Ask: "cloudevents-request", Asks: "CheckOrder", Waits: "shop",
		Change: func(w *dialect.Wire, request bool) {
			if request {
				w.Headers["cloudEvents_type"] = "CheckOrder"
				return
			}
			w.Exchange, w.RoutingKey = events, "order.placed"
		},
		Answered: func(t *testing.T, _, answer *dialect.Wire) {
			t.Helper()
			compare(t, answer, map[string]string{
				"properties.CorrelationID": "01a3", "headers.cloudEvents_type": "string(OrderStatus)", "headers.cloudEvents_source": "string(/orders)", "headers.cloudEvents_specversion": "string(1.0)",
				"body.status": `"placed"<nil>`,
			})
		},
		Answer: "cloudevents-binary",
		Adapt: func(t *testing.T, answer, asked *dialect.Wire) {
			t.Helper()
			compare(t, asked, map[string]string{"headers.cloudEvents_type": "string(CheckOrder)", "body.id": "7<nil>"})
			answer.Properties.CorrelationID, answer.Headers["cloudEvents_type"] = asked.Properties.CorrelationID, "OrderStatus"
			answer.RoutingKey = asked.Properties.ReplyTo
		},
		Event: "cloudevents-structured", EventType: "OrderPlaced", Listens: events, Named: true,
		Heard: func(t *testing.T, w *dialect.Wire) {
			t.Helper()
			compare(t, w, map[string]string{"exchange": events, "routing_key": "order.placed", "headers.cloudEvents_type": "string(OrderPlaced)", "headers.cloudEvents_id": "string(" + w.Properties.MessageID + ")"})
		},
	}
}
