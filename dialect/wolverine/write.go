package wolverine

import (
	"cmp"
	"encoding/json"
	"errors"
	"maps"
	"net/url"

	"github.com/harebus/harebus/dialect"
	"github.com/harebus/harebus/internal/field"
)

// Write makes a message that Wolverine handles. An event without an exchange goes to the one that Wolverine's conventional
// routing has for its type.
func (d *Dialect) Write(e *dialect.Envelope, to dialect.Destination) (dialect.Wire, error) {
	w := to.Wire()
	maps.Copy(w.Headers, e.Headers)
	err := errors.Join(dialect.CheckGUID("message id", e.ID), d.content(e, to, &w), d.head(e, to, w.Headers))
	w.Properties.MessageID, w.Properties.CorrelationID = e.ID, e.CorrelationID
	if to.Kind == dialect.Publish {
		w.Mandatory = false
		if to.Exchange == "" {
			w.Exchange, w.RoutingKey, w.Fanout = w.Properties.Type, "", true
		}
	}
	return w, err
}

// content writes type and body.
func (d *Dialect) content(e *dialect.Envelope, to dialect.Destination, w *dialect.Wire) (err error) {
	p := &w.Properties
	p.ContentType, p.ContentEncoding, w.Body = e.ContentType, e.ContentEncoding, e.Body
	if e.Type == ackType {
		a := Acknowledgement{RequestID: e.RequestID, Timestamp: e.TimeSent}
		if to.Answers != nil {
			a.RequestID = cmp.Or(to.Answers.ID, e.RequestID)
		}
		p.Type, p.ContentType = ackType, binary
		w.Body, err = a.written()
		return err
	}
	if e.Fault == nil {
		p.Type, err = d.types.Foreign(e.Type)
		return err
	}
	failure := struct {
		RequestID string `json:"requestId"`
		Message   string `json:"message"`
	}{e.RequestID, e.Fault.Text}
	if to.Answers != nil {
		failure.RequestID = cmp.Or(to.Answers.ID, e.RequestID)
	}
	p.Type, p.ContentType = failureType, "application/json"
	w.Body, err = json.Marshal(failure)
	return err
}

// head writes the headers.
func (d *Dialect) head(e *dialect.Envelope, to dialect.Destination, headers map[string]any) (err error) {
	headers[version], headers[accepted], headers[sentAt] = "1.0", "application/json", writeTime(e.TimeSent)
	conversation := e.ConversationID
	if to.Kind == dialect.Request || to.Kind == dialect.Reply {
		conversation = e.RequestID
	}
	switch {
	case to.Kind == dialect.Request:
		err = dialect.CheckGUID("correlation id of a request", conversation)
	case to.Kind != dialect.Reply && !dialect.IsGUID(conversation):
		conversation = e.ID // what is no GUID would be replaced, and the correlation id says the same
	}
	for name, value := range map[string]string{conversationID: conversation, source: e.From} {
		if value != "" {
			headers[name] = value
		}
	}
	if a := to.Answers; a != nil { // a saga finds its answers by the former, and Wolverine the database by the latter
		for _, name := range [...]string{sagaID, tenantID} {
			if asked := field.Printed(a.Headers[name]); asked != "" && headers[name] == nil {
				headers[name] = asked
			}
		}
	}
	if dialect.IsGUID(e.CausationID) {
		headers[causationID] = e.CausationID
	}
	if trace, ok := headers[traceParent]; ok {
		headers[parentID] = trace
	}
	if e.ReplyTo != "" && to.Kind != dialect.Reply {
		headers[replyURI] = address + url.PathEscape(e.ReplyTo)
	}
	switch {
	case to.Kind == dialect.Reply && e.Fault == nil && e.Type != ackType:
		headers[isResponse] = "true"
	case to.Kind == dialect.Request && len(e.Accepts) == 0:
		return errors.Join(err, errors.New("a peer with Wolverine answers a request with the type that it asks for: give the type of the answer a method MessageType, and do not use *Message"))
	case to.Kind == dialect.Request && e.Accepts[0] == ackType:
		headers[ackRequested] = "true"
	case to.Kind == dialect.Request:
		asked, unknown := d.types.Foreign(e.Accepts[0])
		headers[replyRequested] = asked
		return errors.Join(err, unknown)
	}
	return err
}

// Sample is a message as Wolverine writes it.
func (*Dialect) Sample() dialect.Wire {
	return dialect.Wire{
		RoutingKey: "orders",
		Properties: dialect.Properties{ContentType: "application/json", MessageID: "08df4d3d-be75-889d-0200-000000000000", Type: "Acme.Orders.PlaceOrder"},
		Headers: map[string]any{
			version: "1.0", accepted: "application/json", conversationID: "08df4d3d-be75-889d-0200-000000000000", sentAt: "2026-11-28 10:52:49:361793 Z",
		},
		Body: []byte(`{"id":7}`),
	}
}
