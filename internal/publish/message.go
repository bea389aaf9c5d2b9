// Package publish sends messages to the broker and reports the outcome of each. It
// publishes on channels with confirms, routes messages that are not due through the
// delay queues, repeats attempts without a clear outcome, and sends a message alone if
// it may end the connection. It knows no handler, no codec and no meaning of a header.
package publish

import (
	"context"
	"sync/atomic"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/harebus/harebus/internal/session"
	"github.com/harebus/harebus/topology"
)

// Message is one message ready for the wire, and where it goes.
type Message struct {
	Op            int8 // the caller's: nothing here depends on it
	Exchange, Key string
	Mandatory     bool
	ViaDefault    bool      // a command: try the default exchange when the first one has no route
	Single        bool      // a queue of its name may have refused it: go to that one only
	Several       bool      // the exchange may lead to several queues
	Foreign       bool      // the caller named the exchange: check that it exists
	Fanout        bool      // Exchange is declared before: a durable fanout exchange, as other buses have for a type
	Copied        bool      // of a delivery: headers that do not fit are left out
	Rough         bool      // a delay need not be exact
	Handled       bool      // it was delivered when it was due, so it cannot be cancelled any more
	Once          bool      // do not try again what no queue takes
	Ticket        bool      // somebody can cancel it, so it passes its gate however late it is published
	Cancels       bool      // no message, but the cancellation of a deferred one: see Cancellation
	Due           time.Time // deliver not before; zero is at once
	Publishing    amqp.Publishing

	// Broker is the host and port of the node that the last attempt was made at; empty if
	// there was none.
	Broker string
}

// AsDelivered is the message as its receiver gets it.
func (m *Message) AsDelivered() *amqp.Delivery {
	p := &m.Publishing
	return &amqp.Delivery{
		Headers: p.Headers, ContentType: p.ContentType, ContentEncoding: p.ContentEncoding, DeliveryMode: p.DeliveryMode,
		Priority: p.Priority, CorrelationId: p.CorrelationId, ReplyTo: p.ReplyTo, Expiration: p.Expiration,
		MessageId: p.MessageId, Timestamp: p.Timestamp, Type: p.Type, UserId: p.UserId, AppId: p.AppId, Body: p.Body,
		Exchange: m.Exchange, RoutingKey: m.Key,
	}
}

// Config is what a [Publisher] needs, and whom it tells.
type Config struct {
	Link     *session.Link
	Dialer   *session.Dialer
	Channels int
	Confirms session.ConfirmConfig
	// Expires says whether a queue is one of the service's own that goes, with its exit,
	// when nobody uses it.
	Expires func(queue string) bool
	// CheckOnly says that nothing may be declared.
	CheckOnly bool

	// Declare sees to it, once for each session, that the exchanges exist.
	Declare func(context.Context, *session.Session) error
	// Establish declares a topology, or checks it.
	Establish func(context.Context, *session.Session, topology.Topology) error
	// Exit is where what was delayed leaves the delay queues for its destination.
	Exit func(exchange, key string) topology.Topology
	// DueHeader says until when a receiver must wait. It is left out of a message that is
	// due when it is sent.
	DueHeader string
	// Fit makes a copied message fit into a frame of frameMax bytes, with room for the
	// broker.
	Fit func(msg *amqp.Publishing, frameMax, room int)
	// Failed makes the error of a message that was not confirmed.
	Failed func(m *Message, verdict session.Verdict, reason error) error
	Counts *Counts
}

// Counts are of messages: confirmed, not confirmed in the end, and attempts repeated.
type Counts struct{ Published, Unpublished, Republished atomic.Uint64 }

// finalError ends the attempts to publish a message.
type finalError struct {
	verdict session.Verdict
	err     error
}

func (e *finalError) Error() string { return e.err.Error() }
func (e *finalError) Unwrap() error { return e.err }
