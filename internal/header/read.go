package header

import (
	"fmt"
	"strings"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/harebus/harebus/internal/field"
)

// Read reads the head of a delivery: headers first, then properties. Intent is empty if the
// message names none that is known. The faults are those of the headers that decide how the
// message is treated; an invalid value of any other one is ignored.
func (d *Dialect) Read(in *amqp.Delivery) (h Head, faults []Fault) {
	r := reader{headers: in.Headers}
	n := &d.Names
	h.ID = strings.Clone(r.strict(n.MessageID, in.MessageId)) // a program that remembers ids must not keep all headers in memory
	h.Type = r.strict(n.MessageType, in.Type)
	h.ContentType = r.strict(n.ContentType, in.ContentType)
	h.ContentEncoding = r.strict(n.ContentEncoding, in.ContentEncoding)
	h.CorrelationID = r.lenient(n.CorrelationID, in.CorrelationId)
	h.ReplyTo = r.lenient(n.ReplyTo, in.ReplyTo)
	h.OriginatingAddress = r.lenient(n.OriginatingAddress, "")
	h.CausationID = r.lenient(n.CausationID, "")
	h.SourceQueue = r.lenient(n.SourceQueue, "")
	if intent, _ := field.Text(in.Headers[n.Intent]); intent == Command || intent == Event {
		h.Intent = intent
	}
	if details, ok := field.Text(in.Headers[n.ErrorDetails]); ok {
		h.ErrorDetails = details
	}
	if value, ok := in.Headers[n.Hops]; ok {
		h.Hops, _ = field.ParseCount(value)
	}
	h.TimeSent = r.time(n.TimeSent)
	if h.TimeSent.IsZero() {
		h.TimeSent = in.Timestamp
	}
	h.FirstFailed = r.time(n.FirstFailed)
	if value, ok := in.Headers[n.DeferredTime]; ok {
		var err error
		if h.DeferredUntil, err = field.ParseTime(value); err != nil {
			r.fault("bad-time", fmt.Errorf("header %s: %w", n.DeferredTime, err))
			h.DeferredUntil = time.Time{}
		}
	}
	if other, _ := field.Text(in.Headers[n.Environment]); other != "" && d.Environment != "" && other != d.Environment {
		r.fault("other-environment", fmt.Errorf("it was sent in the environment %s, and this is %s", field.Quote(other), field.Quote(d.Environment)))
	}
	return h, r.faults
}

// CorrelationIDOf is the correlation id of a delivery, without the rest of its head.
func (d *Dialect) CorrelationIDOf(in *amqp.Delivery) string {
	r := reader{headers: in.Headers}
	return r.lenient(d.Names.CorrelationID, in.CorrelationId)
}

// ReplyBy is until when the sender of a message waits for a reply; zero if it does not.
func (d *Dialect) ReplyBy(headers amqp.Table) time.Time {
	r := reader{headers: headers}
	return r.time(d.Names.ReplyBy)
}

// reader reads header values and collects the faults.
type reader struct {
	headers amqp.Table
	faults  []Fault
}

func (r *reader) fault(reason string, err error) {
	r.faults = append(r.faults, Fault{Reason: reason, Err: err})
}

// strict reads a header that decides how the message is treated, or the property that
// stands in for it.
func (r *reader) strict(name, property string) string {
	value, ok := r.headers[name]
	if !ok {
		return property
	}
	s, ok := field.Text(value)
	switch {
	case !ok:
		r.fault("bad-header", fmt.Errorf("%s is not text but a %T", name, value))
		return ""
	case len(s) > field.MaxShortString:
		r.fault("bad-header", fmt.Errorf("%s has %d bytes, more than %d", name, len(s), field.MaxShortString))
		return ""
	case s == "":
		return property
	}
	return s
}

// lenient reads a header that is not necessary.
func (r *reader) lenient(name, property string) string {
	s, ok := field.Text(r.headers[name])
	if !ok || s == "" || len(s) > field.MaxShortString {
		return property
	}
	return s
}

// time reads a time that is not necessary.
func (r *reader) time(name string) time.Time {
	value, ok := r.headers[name]
	if !ok {
		return time.Time{}
	}
	t, err := field.ParseTime(value)
	if err != nil {
		return time.Time{}
	}
	return t
}

// Differences lists where a property says something else than the header that
// counts. Such a difference is usually a mistake of the sender.
func (d *Dialect) Differences(h *Head, in *amqp.Delivery) []string {
	var found []string
	for _, pair := range []struct{ header, read, property string }{
		{d.Names.MessageID, h.ID, in.MessageId},
		{d.Names.CorrelationID, h.CorrelationID, in.CorrelationId},
		{d.Names.MessageType, h.Type, in.Type},
		{d.Names.ReplyTo, h.ReplyTo, in.ReplyTo},
		{d.Names.ContentType, h.ContentType, in.ContentType},
		{d.Names.ContentEncoding, h.ContentEncoding, in.ContentEncoding},
	} {
		if pair.property != "" && pair.read != pair.property {
			found = append(found, fmt.Sprintf("%s is %s, the property %s", pair.header, field.Quote(pair.read), field.Quote(pair.property)))
		}
	}
	return found
}
