package masstransit

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"time"

	"github.com/harebus/harebus/dialect"
	"github.com/harebus/harebus/internal/jsontext"
)

// envelope is what MassTransit wraps a message in. It writes absent values as null, and so does this.
type envelope struct {
	MessageID          *string         `json:"messageId"`
	RequestID          *string         `json:"requestId"`
	CorrelationID      *string         `json:"correlationId"`
	ConversationID     *string         `json:"conversationId"`
	InitiatorID        *string         `json:"initiatorId"`
	SourceAddress      *string         `json:"sourceAddress"`
	DestinationAddress *string         `json:"destinationAddress"`
	ResponseAddress    *string         `json:"responseAddress"`
	FaultAddress       *string         `json:"faultAddress"`
	MessageType        []string        `json:"messageType"`
	Message            json.RawMessage `json:"message"`
	ExpirationTime     *string         `json:"expirationTime"`
	SentTime           *string         `json:"sentTime"`
	Headers            map[string]any  `json:"headers"`
}

// Write makes an envelope. A command goes to the queue of its endpoint by the default exchange, an event to the exchange of its type.
func (d *Dialect) Write(e *dialect.Envelope, to dialect.Destination) (dialect.Wire, error) {
	w := to.Wire()
	types, err := d.urns(e, to)
	out := envelope{
		MessageID: &e.ID, RequestID: some(e.RequestID), CorrelationID: some(e.CorrelationID), ConversationID: some(e.ConversationID),
		SourceAddress: address(e.From), MessageType: types, ExpirationTime: moment(e.Expires), SentTime: moment(e.TimeSent), Headers: map[string]any{},
	}
	err = errors.Join(err, readable(e, to), d.accepted(e, to, out.Headers))
	if dialect.IsGUID(e.CausationID) {
		out.InitiatorID = &e.CausationID
	}
	if e.Fault == nil {
		out.Message = e.Body
	} else {
		out.Message = fault(e, to)
	}
	if !json.Valid(out.Message) || e.Fault == nil && jsontext.Nothing(out.Message) {
		err = errors.Join(err, fmt.Errorf("a MassTransit message is JSON and not null, and this is %.40q: use the codec JSON", e.ContentType))
	}
	maps.Copy(w.Headers, e.Headers)
	trace(w.Headers)
	maps.Copy(out.Headers, w.Headers)
	if text, ok := out.Headers["baggage"].(string); ok {
		out.Headers[baggage] = writeBaggage(text)
	}
	d.route(&w, &out, e, to)
	p := &w.Properties
	p.ContentType, p.MessageID, p.CorrelationID = contentType, e.ID, e.CorrelationID
	if err == nil {
		w.Body, err = marshal(out)
	}
	return w, err
}

// route says where the message goes, and where an answer does.
func (d *Dialect) route(w *dialect.Wire, out *envelope, e *dialect.Envelope, to dialect.Destination) {
	switch to.Kind {
	case dialect.Publish:
		w.Mandatory = false
		if to.Exchange == "" && len(out.MessageType) > 0 {
			w.Exchange, w.RoutingKey, w.Fanout = exchangeOf(out.MessageType[0][len(urn):]), "", true
		}
	case dialect.Reply:
		if to.Answers != nil {
			out.InitiatorID = some(to.Answers.RequestID)
		}
	}
	if to.Kind == dialect.Request || to.Kind == dialect.Send && e.ReplyTo != "" && e.ReplyTo != e.From {
		// An answer to this address goes to the property reply_to as it is. With the queue's own name the peer would declare it, and the broker
		// would close the channel of its consumer.
		w.Properties.ReplyTo, out.ResponseAddress = e.ReplyTo, address(direct)
	}
	out.DestinationAddress = address(w.Exchange)
	if w.Exchange == "" {
		out.DestinationAddress = address(w.RoutingKey)
	}
}

// urns are what the message is: its type, and the interfaces of that.
func (d *Dialect) urns(e *dialect.Envelope, to dialect.Destination) ([]string, error) {
	if e.Fault != nil {
		if to.Answers == nil || len(to.Answers.Types) == 0 {
			return []string{urn + faults}, nil
		}
		return []string{urn + faults + "[[" + to.Answers.Types[0] + "]]", urn + faults}, nil
	}
	name, err := d.cfg.Types.Foreign(e.Type)
	if err != nil {
		return nil, err
	}
	all := []string{urn + name}
	for _, one := range d.cfg.Interfaces[e.Type] {
		all = append(all, urn+one)
	}
	return all, nil
}

// readable refuses ids that MassTransit cannot parse: its consumer would run, and the message would be parked all the same.
func readable(e *dialect.Envelope, to dialect.Destination) error {
	err := dialect.CheckGUID("message id", e.ID)
	if e.CorrelationID != "" {
		err = errors.Join(err, dialect.CheckGUID("correlation id", e.CorrelationID))
	}
	if e.ConversationID != "" && e.ConversationID != e.CorrelationID {
		err = errors.Join(err, dialect.CheckGUID("conversation id", e.ConversationID))
	}
	if to.Kind == dialect.Request && e.RequestID != e.CorrelationID {
		err = errors.Join(err, dialect.CheckGUID("correlation id of a request", e.RequestID))
	}
	return err
}

// accepted says which answers a request can take.
func (d *Dialect) accepted(e *dialect.Envelope, to dialect.Destination, headers map[string]any) error {
	if to.Kind != dialect.Request || len(e.Accepts) == 0 {
		return nil
	}
	list := make([]string, len(e.Accepts))
	for i, name := range e.Accepts {
		foreign, err := d.cfg.Types.Foreign(name)
		if err != nil {
			return err
		}
		list[i] = urn + foreign
	}
	headers[acceptType] = list
	return nil
}

// fault is the content of the answer that a request was given up.
func fault(e *dialect.Envelope, to dialect.Destination) json.RawMessage {
	said := struct {
		FaultID          string          `json:"faultId"`
		FaultedMessageID *string         `json:"faultedMessageId"`
		Timestamp        *string         `json:"timestamp"`
		Exceptions       []exception     `json:"exceptions"`
		Types            []string        `json:"faultMessageTypes"`
		Message          json.RawMessage `json:"message"`
	}{FaultID: e.ID, Timestamp: moment(e.TimeSent), Exceptions: []exception{{ExceptionType: e.Fault.Reason, Message: e.Fault.Text}}, Types: []string{}}
	if a := to.Answers; a != nil {
		said.FaultedMessageID = some(a.ID)
		for _, name := range a.Types {
			said.Types = append(said.Types, urn+name)
		}
		if json.Valid(a.Body) {
			said.Message = a.Body
		}
	}
	body, err := marshal(said)
	if err != nil {
		return nil // it is no JSON, and Write says so
	}
	return body
}

// trace writes the trace under both names: MassTransit reads only its own.
func trace(headers map[string]any) {
	if parent, ok := headers[traceParent]; ok {
		headers[activity] = parent
	}
}

// marshal writes JSON without the escaping meant for HTML.
func marshal(v any) ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return nil, fmt.Errorf("write the envelope: %w", err)
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}

// some is a text, or null.
func some(text string) *string {
	if text == "" {
		return nil
	}
	return &text
}

// address is that of a queue or an exchange; null without a name.
func address(name string) *string {
	if name == "" {
		return nil
	}
	return some("exchange:" + url.PathEscape(name))
}

// moment is a time as .NET writes it; null if there is none.
func moment(t time.Time) *string {
	if t.IsZero() {
		return nil
	}
	return some(t.UTC().Format("2006-01-02T15:04:05.9999999Z"))
}

// Sample is a message as MassTransit writes it.
func (*Dialect) Sample() dialect.Wire {
	return dialect.Wire{
		Exchange: "orders", Properties: dialect.Properties{ContentType: contentType},
		Body: []byte(`{"messageId":"7f0c0000-bc93-3180-a135-08df4d3b8647","messageType":["` + urn + `Acme.Orders:PlaceOrder"],"message":{"id":7}}`),
	}
}
