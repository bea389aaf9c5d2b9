package peer

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/harebus/harebus/dialect"
	"github.com/harebus/harebus/internal/field"
	"github.com/harebus/harebus/internal/foreign"
	"github.com/harebus/harebus/internal/header"
	"github.com/harebus/harebus/internal/publish"
)

// Letter is a message that is to be translated.
type Letter struct {
	*publish.Message
	Kind dialect.Kind
	// Named is the exchange that the call named; empty if it did not.
	Named string
	// Handled is the message of another bus whose handler sends this one; nil if there is none.
	Handled *Foreign
	// Accepts are the wire names of the answers that a request can take.
	Accepts []string
}

// Write translates a message with the headers of harebus into one of another bus.
func (p *Peers) Write(d dialect.Dialect, l Letter) error {
	e := p.envelope(l)
	to := dialect.Destination{Kind: l.Kind, Name: l.Key, Exchange: l.Named, Broker: &p.broker}
	if l.Kind == dialect.Publish && l.Named == "" {
		to.Topic = l.Exchange
	}
	if l.Kind == dialect.Reply && l.Handled != nil {
		to.Answers = l.Handled.Envelope
	}
	var w dialect.Wire
	err := foreign.Call(func() (err error) {
		w, err = d.Write(e, to)
		return err
	})
	if err != nil {
		return fmt.Errorf("write a message of %s: %w", d.Name(), err)
	}
	if l.Ticket && w.Properties.MessageID != l.Publishing.MessageId {
		return fmt.Errorf("a message of %s does not carry its id where the broker sees it, so it cannot have a ticket", d.Name())
	}
	headers, err := field.Table(w.Headers)
	if err != nil {
		return fmt.Errorf("write a message of %s: header %w", d.Name(), err)
	}
	if key, keyed := l.Publishing.Headers[p.own.Names.Key]; keyed { // a peer ignores it; an ordered queue needs it
		if w.Properties.Priority > 0 {
			return fmt.Errorf("a message of %s has a priority, and one with a key cannot: it would overtake others of its key", d.Name())
		}
		headers[p.own.Names.Key] = key
	}
	l.take(&w)
	l.Publishing.Headers = headers
	return nil
}

// envelope is what the message says of itself.
func (p *Peers) envelope(l Letter) *dialect.Envelope {
	in := l.AsDelivered()
	h, _ := p.own.Read(in) // it was written here
	e := &dialect.Envelope{
		ID: h.ID, CorrelationID: h.CorrelationID, CausationID: h.CausationID, ConversationID: h.CorrelationID,
		Type: h.Type, Intent: h.Intent, ReplyTo: h.ReplyTo, From: h.OriginatingAddress, Accepts: l.Accepts,
		ContentType: h.ContentType, ContentEncoding: h.ContentEncoding, TimeSent: h.TimeSent, NotBefore: l.Due, Body: in.Body,
	}
	if ms, err := strconv.ParseInt(in.Expiration, 10, 64); err == nil {
		e.Expires = h.TimeSent.Add(time.Duration(ms) * time.Millisecond)
	}
	if f := l.Handled; f != nil && (f.CorrelationID == h.CorrelationID || f.ConversationID == h.CorrelationID) {
		e.CorrelationID, e.ConversationID = f.CorrelationID, f.ConversationID
	}
	switch {
	case l.Kind == dialect.Request:
		e.RequestID = h.CorrelationID
	case l.Kind == dialect.Reply && l.Handled != nil:
		e.RequestID, e.Expires = l.Handled.RequestID, l.Handled.Expires
	}
	if reason, ok := field.Text(in.Headers[p.own.Names.Fault]); ok {
		e.Fault = &dialect.Fault{Reason: reason, Text: h.ErrorDetails}
	}
	e.Headers = make(map[string]any, len(in.Headers))
	for key, value := range in.Headers {
		if !strings.HasPrefix(key, p.own.Prefix) && key != header.ClientCount {
			e.Headers[key] = value
		}
	}
	return e
}

// take replaces where the message goes, and its properties. Those that the call has set stay.
func (l Letter) take(w *dialect.Wire) {
	m, p := l.Message, &w.Properties
	m.Exchange, m.Key, m.Mandatory, m.Fanout = w.Exchange, w.RoutingKey, m.Mandatory && w.Mandatory, w.Fanout
	m.Foreign, m.ViaDefault = w.Exchange != "", false
	m.Several = m.Several || m.Foreign
	out := &m.Publishing
	out.ContentType, out.ContentEncoding, out.CorrelationId, out.ReplyTo = p.ContentType, p.ContentEncoding, p.CorrelationID, p.ReplyTo
	out.MessageId, out.Timestamp, out.Type, out.Body = p.MessageID, p.Timestamp, p.Type, w.Body
	if p.DeliveryMode != 0 {
		out.DeliveryMode = p.DeliveryMode
	}
	if p.Priority != 0 {
		out.Priority = p.Priority
	}
	if p.Expiration != "" {
		out.Expiration = p.Expiration
	}
	if p.AppID != "" {
		out.AppId = p.AppID
	}
}

// Speak says why a message cannot be written in a dialect. Without one it can.
func (p *Peers) Speak(d dialect.Dialect, kind dialect.Kind, compressed, guarded bool) error {
	switch {
	case d == nil:
		return nil
	case kind == dialect.Request && named(p.replies, d.Name()) == nil:
		return fmt.Errorf("the reply could not be read: add the dialect %s to Config.Payload.Dialects", d.Name())
	case compressed:
		return fmt.Errorf("WithCompression: a peer of %s could not read the body", d.Name())
	case guarded:
		return errors.New("a setup with Config.Payload.Guards protects what it sends, and a peer could not read that; use another setup for the peer")
	}
	return nil
}
