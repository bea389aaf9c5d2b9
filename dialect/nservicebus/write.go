package nservicebus

import (
	"cmp"
	"errors"
	"maps"
	"strings"

	"github.com/harebus/harebus/dialect"
	"github.com/harebus/harebus/internal/field"
	"github.com/harebus/harebus/internal/media"
)

// Write makes a message that NServiceBus handles. An event without an exchange goes where the routing topology of the peers
// has it.
func (d *Dialect) Write(e *dialect.Envelope, to dialect.Destination) (dialect.Wire, error) {
	w := to.Wire()
	maps.Copy(w.Headers, e.Headers)
	enclosed, err := d.written.Foreign(e.Type)
	if strings.TrimSpace(e.ID) == "" {
		err = errors.Join(err, errors.New("NServiceBus handles no message without an id"))
	}
	if e.Fault != nil {
		err = errors.Join(err, errors.New("NServiceBus has no answer that says that a request was given up"))
	}
	if err != nil {
		return w, err
	}
	p := &w.Properties
	p.MessageID, p.ContentType, p.ContentEncoding, w.Body = e.ID, e.ContentType, e.ContentEncoding, e.Body
	p.CorrelationID, p.ReplyTo, p.Type = correlation(e, to), e.ReplyTo, d.types[e.Type][0]
	// By its content type, without parameters, it finds the serializer.
	for name, value := range map[string]string{
		messageID: e.ID, conversationID: cmp.Or(e.ConversationID, e.ID), correlationID: p.CorrelationID, relatedTo: e.CausationID, replyToAddress: e.ReplyTo,
		endpoint: e.From, machine: d.machine, contentType: media.Type(e.ContentType), enclosedTypes: enclosed, intent: intentOf(to.Kind), timeSent: writeTime(e.TimeSent),
	} {
		delete(w.Headers, name)
		if value != "" {
			w.Headers[name] = value
		}
	}
	saga(w.Headers, to)
	if to.Kind == dialect.Publish {
		w.Mandatory = false
		if to.Exchange == "" {
			d.route(e.Type, &w)
		}
	}
	return w, nil
}

// route has an event go where peers subscribe to it.
func (d *Dialect) route(name string, w *dialect.Wire) {
	if d.direct {
		w.Exchange, w.RoutingKey = topicExchange, d.key(name)
		return
	}
	w.Exchange, w.RoutingKey, w.Fanout = exchangeOf(d.types[name][0]), "", true
}

func correlation(e *dialect.Envelope, to dialect.Destination) string {
	switch {
	case to.Kind == dialect.Request:
		return e.RequestID
	case to.Answers != nil:
		return cmp.Or(to.Answers.CorrelationID, to.Answers.ID)
	}
	return cmp.Or(e.CorrelationID, e.ID)
}

func intentOf(kind dialect.Kind) string {
	switch kind {
	case dialect.Publish:
		return "Publish"
	case dialect.Reply:
		return "Reply"
	case dialect.Send, dialect.Request:
	}
	return "Send"
}

// saga names the saga that waits for an answer.
func saga(headers map[string]any, to dialect.Destination) {
	if to.Answers == nil {
		return
	}
	id, of := field.Printed(to.Answers.Headers[originatingSagaID]), field.Printed(to.Answers.Headers[originatingSagaType])
	if id != "" && of != "" {
		headers[sagaID], headers[sagaType] = id, of
	}
}

// Sample is a message as NServiceBus writes it.
func (*Dialect) Sample() dialect.Wire {
	const id = "0f0e6b7c-5a37-4c53-9a3c-b0f400a1c001"
	return dialect.Wire{
		RoutingKey: "orders",
		Properties: dialect.Properties{ContentType: "application/json", MessageID: id, CorrelationID: id, ReplyTo: "shop", Type: "Acme.Orders.PlaceOrder"},
		Headers: map[string]any{
			messageID: id, intent: "Send", conversationID: id, correlationID: id, enclosedTypes: "Acme.Orders.PlaceOrder, Acme.Orders", timeSent: "2026-11-21 08:44:41:901107 Z",
		},
		Body: []byte(`{"Id":7}`),
	}
}
