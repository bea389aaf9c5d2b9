package harebus

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"time"
	"unicode/utf8"

	"go.uber.org/zap"

	"github.com/harebus/harebus/dialect"
	"github.com/harebus/harebus/internal/field"
	"github.com/harebus/harebus/internal/header"
	"github.com/harebus/harebus/internal/peer"
	"github.com/harebus/harebus/internal/wire"
)

// Message is one received message with its headers and properties. Handlers and middleware may keep it and change it,
// because retries and parked copies are made from what came from the broker. The retry policy, the ErrorHandler, logs
// and observers see ID, Type, CorrelationID, ReplyTo, Attempt, the times and the queues as they came, too. Only the
// bytes of Body are not copied: set Body to another slice instead of writing into it.
type Message struct {
	// ID is the MessageId header, else the message_id property. A message that has neither is given a new id, which its
	// retries keep.
	ID string
	// CorrelationID is common to the messages of one conversation. Messages that the handler sends get the same one.
	CorrelationID string
	// CausationID is the id of the message whose handler sent this one; empty if no handler did.
	CausationID string
	// Type is the wire name of the message's type; empty if it has none.
	Type string
	// Intent is the value of the header if it is known, else it is derived from the exchange.
	Intent Intent
	// ReplyTo is the address for the reply; empty if there is none. It comes from the network: [Bus.Reply] passes it
	// through the reply policy.
	ReplyTo string
	// OriginatingAddress is the listener queue of the sender, as the sender says.
	OriginatingAddress string
	// ContentType and ContentEncoding describe Body: headers first, then properties.
	ContentType, ContentEncoding string
	// TimeSent is when the sender says it sent the message; zero if unknown.
	TimeSent time.Time
	// DeferredUntil is the time before which the message must not be handled; zero if it was not deferred. Retries are
	// deferred messages too.
	DeferredUntil time.Time
	// Attempt is 1 the first time the message is handled, 2 for its first retry, and so on. Redeliveries after a crash
	// do not count.
	Attempt int
	// LastAttempt is true if MaxRetries or GiveUpAfter of the retry policy allow no further retry. Rules, a BackOff
	// that stops, an ErrorHandler, the returned error and the patience of a [Request] can still change the decision.
	LastAttempt bool
	// FirstFailed is when the message failed or was postponed for the first time; zero if it never was.
	FirstFailed time.Time
	// SourceQueue is the queue whose consumer failed to handle the message; set on retries and on messages in the error
	// queue.
	SourceQueue string
	// ErrorDetails is the text of the last failure; set where SourceQueue is.
	ErrorDetails string

	// Queue is the queue it was consumed from.
	Queue string
	// Exchange and RoutingKey are those of the last exchange that the message passed.
	Exchange, RoutingKey string
	// Redelivered says that the broker may have delivered it before. Copies, for example those of retries and of
	// postponed messages, are not marked, so false does not mean that no handler has seen the message.
	Redelivered bool
	// Headers is the whole table, standard headers included.
	Headers map[string]any
	// Properties are the AMQP properties as received.
	Properties Properties
	// Body is the payload, as received.
	Body []byte

	peer   *peer.Foreign // of another bus
	hops   int
	packed []byte  // properties and body as they came; nil if no broker has delivered it
	codecs *codecs // of the setup
	// carried are the values of Config.Payload.Context that it came with.
	carried []string
	prefix  string // of the standard headers
}

// Properties are the AMQP basic properties of a received message without the headers table.
type Properties = dialect.Properties

// CustomHeaders returns a copy of the headers that a handler may pass on with [WithHeaders]. It omits the standard
// headers, those of the broker (also of federation, shovels and streams), and those that WithHeaders would refuse, such
// as one with an empty name or a decimal.
func (m *Message) CustomHeaders() map[string]any {
	custom := make(map[string]any, len(m.Headers))
	for key, value := range m.Headers {
		if !header.OfBroker(key) && key != header.ClientCount && !strings.HasPrefix(key, m.prefix) && field.Check(key, value) == nil {
			custom[key] = value
		}
	}
	return custom
}

// Decode decodes the body into what target points to, with the codec that a typed handler of the setup would use, and
// calls its Validate method if there is one. An error is a [*RejectError]: a handler that returns it has the message
// parked.
func (m *Message) Decode(target any) error {
	if v := reflect.ValueOf(target); v.Kind() != reflect.Pointer || v.IsNil() {
		return fmt.Errorf("harebus: decode message: the target is a %T; pass a pointer that is not nil", target)
	}
	c := m.codecs
	if c == nil { // a message that no setup has received
		c = newCodecs(nil, nil)
	}
	return decodeInto(c, m, target)
}

// Incoming returns the message that is being handled in ctx, or nil outside a handler.
func Incoming(ctx context.Context) *Message {
	bus, ok := ctx.Value(handlingKey{}).(*Bus)
	if !ok {
		return nil
	}
	return bus.scope.Message()
}

// readMessage makes a Message of a delivery. It always returns one; the error, a [*RejectError], says that no handler
// must see it. A message of the exchange events is an event, if it does not say what it is.
func readMessage(peers *peer.Peers, events, queue string, in *wire.Delivery) (*Message, error) {
	h, other, faults := peers.Read(in)
	m := &Message{
		ID:                 h.ID,
		CorrelationID:      h.CorrelationID,
		CausationID:        h.CausationID,
		Type:               h.Type,
		Intent:             Intent(h.Intent),
		ReplyTo:            h.ReplyTo,
		OriginatingAddress: h.OriginatingAddress,
		ContentType:        h.ContentType,
		ContentEncoding:    h.ContentEncoding,
		TimeSent:           h.TimeSent,
		DeferredUntil:      h.DeferredUntil,
		Attempt:            1,
		FirstFailed:        h.FirstFailed,
		SourceQueue:        h.SourceQueue,
		ErrorDetails:       h.ErrorDetails,
		Queue:              queue,
		Exchange:           in.Exchange,
		RoutingKey:         in.RoutingKey,
		Redelivered:        in.Redelivered,
		Headers:            in.Headers,
		Body:               in.Body,
		Properties:         peer.Properties(in),
		hops:               h.Hops,
		peer:               other,
		prefix:             peers.Prefix(),
	}
	if other != nil {
		m.Headers, m.Body = other.Headers, other.Body
	}
	if m.ID == "" {
		m.ID = NewMessageID()
	}
	if m.Intent == "" {
		m.Intent = IntentCommand
		if m.Exchange == events {
			m.Intent = IntentEvent
		}
	}
	return m, rejected(faults)
}

// rejected is the error about a message that no handler must see.
func rejected(faults []header.Fault) error {
	var errs []error
	for _, f := range faults {
		errs = append(errs, &RejectError{Reason: f.Reason, Err: f.Err, curable: f.Curable})
	}
	return errors.Join(errs...)
}

// facts are the fields of a message that decide what becomes of it, and those that identify it. Handlers and middleware
// may change their Message; the policy, the copies, the logs and the observers go by the facts.
type facts struct {
	id, correlationID, causationID, messageType, replyTo string
	queue, sourceQueue, errorDetails                     string
	attempt                                              int
	lastAttempt                                          bool
	firstFailed, deferredUntil, timeSent                 time.Time
}

func factsOf(m *Message) facts {
	return facts{
		id: m.ID, correlationID: m.CorrelationID, causationID: m.CausationID, messageType: m.Type, replyTo: m.ReplyTo,
		queue: m.Queue, sourceQueue: m.SourceQueue, errorDetails: m.ErrorDetails,
		attempt: m.Attempt, lastAttempt: m.LastAttempt,
		firstFailed: m.FirstFailed, deferredUntil: m.DeferredUntil, timeSent: m.TimeSent,
	}
}

// restore writes the facts into a message.
func (f *facts) restore(m *Message) {
	m.ID, m.CorrelationID, m.CausationID, m.Type, m.ReplyTo = f.id, f.correlationID, f.causationID, f.messageType, f.replyTo
	m.Queue, m.SourceQueue, m.ErrorDetails = f.queue, f.sourceQueue, f.errorDetails
	m.Attempt, m.LastAttempt = f.attempt, f.lastAttempt
	m.FirstFailed, m.DeferredUntil, m.TimeSent = f.firstFailed, f.deferredUntil, f.timeSent
}

// translate takes over what a ReceiveFunc may set, and restores the rest of m. An id that cannot be sent is not taken
// over, because the copies need one.
func (f *facts) translate(m *Message) {
	if m.ID != "" && len(m.ID) <= maxShortString && utf8.ValidString(m.ID) {
		f.id = m.ID
	}
	f.correlationID, f.messageType, f.replyTo, f.timeSent = m.CorrelationID, m.Type, m.ReplyTo, m.TimeSent
	f.restore(m)
}

// fields identify the message in a log. They hold nothing of the body.
func (f *facts) fields() []zap.Field {
	fields := []zap.Field{
		zap.String("message_id", f.id), zap.String("message_type", f.messageType), zap.Int("attempt", f.attempt),
		zap.String("correlation_id", f.correlationID),
	}
	if f.causationID != "" {
		fields = append(fields, zap.String("causation_id", f.causationID))
	}
	return fields
}

// seen is the message for everyone but its handler: with the facts, whatever the handler has made of them. The rest is
// as the handler left it.
func (d *delivery) seen() *Message {
	if factsOf(d.message) == d.came {
		return d.message
	}
	m := *d.message
	d.came.restore(&m)
	return &m
}
