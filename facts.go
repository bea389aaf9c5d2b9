package harebus

import (
	"time"
	"unicode/utf8"

	"go.uber.org/zap"
)

// facts are the fields of a message that decide what becomes of it, and those that
// identify it. Handlers and middleware may change their Message; the policy, the copies,
// the logs and the observers go by the facts.
type facts struct {
	id, correlationID, messageType, replyTo string
	queue, sourceQueue, errorDetails        string
	attempt                                 int
	lastAttempt                             bool
	firstFailed, deferredUntil, timeSent    time.Time
}

func factsOf(m *Message) facts {
	return facts{
		id: m.ID, correlationID: m.CorrelationID, messageType: m.Type, replyTo: m.ReplyTo,
		queue: m.Queue, sourceQueue: m.SourceQueue, errorDetails: m.ErrorDetails,
		attempt: m.Attempt, lastAttempt: m.LastAttempt,
		firstFailed: m.FirstFailed, deferredUntil: m.DeferredUntil, timeSent: m.TimeSent,
	}
}

// restore writes the facts into a message.
func (f *facts) restore(m *Message) {
	m.ID, m.CorrelationID, m.Type, m.ReplyTo = f.id, f.correlationID, f.messageType, f.replyTo
	m.Queue, m.SourceQueue, m.ErrorDetails = f.queue, f.sourceQueue, f.errorDetails
	m.Attempt, m.LastAttempt = f.attempt, f.lastAttempt
	m.FirstFailed, m.DeferredUntil, m.TimeSent = f.firstFailed, f.deferredUntil, f.timeSent
}

// translate takes over what a ReceiveFunc may set, and restores the rest of m. An id that
// cannot be sent is not taken over, because the copies need one.
func (f *facts) translate(m *Message) {
	if m.ID != "" && len(m.ID) <= maxShortString && utf8.ValidString(m.ID) {
		f.id = m.ID
	}
	f.correlationID, f.messageType, f.replyTo, f.timeSent = m.CorrelationID, m.Type, m.ReplyTo, m.TimeSent
	f.restore(m)
}

// fields identify the message in a log. They hold nothing of the body.
func (f *facts) fields() []zap.Field {
	return []zap.Field{zap.String("message_id", f.id), zap.String("message_type", f.messageType), zap.Int("attempt", f.attempt)}
}

// seen is the message for everyone but its handler: with the facts, whatever the handler
// has made of them. The rest is as the handler left it.
func (d *delivery) seen() *Message {
	if factsOf(d.message) == d.came {
		return d.message
	}
	m := *d.message
	d.came.restore(&m)
	return &m
}
