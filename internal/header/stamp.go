package header

import (
	"maps"
	"strings"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/harebus/harebus/internal/field"
)

// Stamp writes a head into headers and mirrors it into properties, as the peers do.
func (d *Dialect) Stamp(h *Head, headers amqp.Table) amqp.Publishing {
	n := &d.Names
	headers[n.MessageID] = h.ID
	headers[n.CorrelationID] = h.CorrelationID
	headers[n.TimeSent] = d.Time(h.TimeSent)
	headers[n.Intent] = boxed(h.Intent)
	headers[n.ContentType] = boxed(h.ContentType)
	if h.ContentEncoding != "" {
		headers[n.ContentEncoding] = boxed(h.ContentEncoding)
	}
	if h.Type != "" {
		headers[n.MessageType] = h.Type
	}
	if h.OriginatingAddress != "" {
		headers[n.OriginatingAddress] = h.OriginatingAddress
	}
	if h.ReplyTo != "" {
		headers[n.ReplyTo] = h.ReplyTo
	}
	if !h.DeferredUntil.IsZero() {
		headers[n.DeferredTime] = d.Time(h.DeferredUntil)
	}
	if h.CausationID != "" {
		headers[n.CausationID] = h.CausationID
	}
	maps.Copy(headers, d.Always)
	if h.Hops > 0 {
		headers[n.Hops] = field.SmallestInt(h.Hops)
	}
	if !h.ReplyBy.IsZero() {
		headers[n.ReplyBy] = ISOTime(h.ReplyBy) // only harebus reads it
	}
	if h.GivenUp != "" {
		headers[n.Fault], headers[n.ErrorDetails] = h.GivenUp, h.ErrorDetails
	}
	return amqp.Publishing{
		Headers: headers, ContentType: h.ContentType, ContentEncoding: h.ContentEncoding, DeliveryMode: amqp.Persistent,
		CorrelationId: h.CorrelationID, ReplyTo: h.ReplyTo, MessageId: h.ID, Timestamp: h.TimeSent, Type: h.Type,
	}
}

// Describe writes what the body of a stamped message is, and the proof that travels with it.
func (d *Dialect) Describe(msg *amqp.Publishing, contentType, contentEncoding, signature string) {
	msg.ContentType, msg.ContentEncoding = contentType, contentEncoding
	for name, value := range map[string]string{d.Names.ContentType: contentType, d.Names.ContentEncoding: contentEncoding, d.Names.Signature: signature} {
		if value == "" {
			delete(msg.Headers, name)
		} else {
			msg.Headers[name] = value
		}
	}
}

// boxed is s as a header value, without an allocation for the usual ones.
func boxed(s string) any {
	switch s {
	case "application/json":
		return "application/json"
	case "utf-8":
		return "utf-8"
	case "gzip":
		return "gzip"
	case Command:
		return Command
	case Event:
		return Event
	}
	return s
}

// Custom copies a caller's headers, and leaves room for the standard ones of a sender that
// has a queue or not.
func (d *Dialect) Custom(in map[string]any, queue bool) (amqp.Table, error) {
	if len(in) > 0 {
		return d.Sendable(in)
	}
	// Up to eight entries a map is one block. A sender without a queue writes seven, and an
	// eighth when it defers or replies.
	if !queue {
		return make(amqp.Table, 8), nil
	}
	return make(amqp.Table, 12), nil
}

// Charset is what the peers call the content encoding: binary formats have none.
func Charset(contentType string) string {
	if contentType == "application/json" || strings.HasPrefix(contentType, "text/") || strings.HasSuffix(contentType, "+json") {
		return "utf-8"
	}
	return ""
}
