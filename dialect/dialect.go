// Package dialect says how messages of other buses are read and written, so that a harebus service
// takes part in a system of MassTransit, Wolverine and others. The packages below this one each
// have one of them.
//
// harebus.Config.Payload.Dialects are asked, in order, about every received message that is not
// harebus' own; harebus.Config.Publish.Peers has the dialects of queues and exchanges to send to, and the
// option harebus.As that of one call. A reply is written in the dialect of the message that it
// answers.
//
// # How to write a dialect
//
// A [Dialect] has three methods and keeps no state. Read gets a message as it is on the wire and
// says whether it is one of its peer's; Write makes one. Both must be safe for concurrent use.
//
//   - Read decides by marks that no other message has: a content type, a header. It returns false for
//     everything else, and an error for a message that has the marks and cannot be read. The error parks the
//     message, so it says what is wrong. With false, an error counts if no other dialect reads the message.
//   - Read changes nothing of the [Wire], and depends on nothing else. A copy of a message (a retry, one in the error
//     queue) has the same body, properties and headers, and further headers whose names begin with
//     harebus.Config.Payload.HeaderPrefix: it must be read as the message was.
//   - An address in a message comes from a stranger. Read turns it into the name of a queue by parsing: [ParseQueue]
//     helps, and [ParseReplyTo] with the property. If that fails, Envelope.ReplyTo stays empty and Envelope.NoReply says why.
//   - Type names are looked up in [Types], in both directions. Write refuses a type that is not there.
//   - Write refuses what the peer could not read, such as an id that is not a GUID, and says the rule. It begins with
//     [Destination.Wire], which is where harebus would send the message.
//   - [Envelope.Fault] tells that a request was given up, in both directions.
//
// Three more methods are optional: see [Validator], [Sampler] and [Parker]. What the peer needs on the broker is returned by a method
// Topology(queue string, types ...string) topology.Topology, for harebus.Config.Declare.Topology.
package dialect

import (
	"time"
)

// Dialect is how another bus writes messages. Its methods are called from many goroutines.
type Dialect interface {
	// Name is short and the same in every version: "masstransit". Copies of a message carry it, so that they are
	// read again by the same dialect. It has 1 to 32 small letters, digits and - characters.
	Name() string
	// Write makes the message of an envelope. Its error is returned by the call that sends, and matches
	// harebus.ErrRefused.
	Write(e *Envelope, to Destination) (Wire, error)
	// Read makes the envelope of a message. It returns false if the message is not written in this dialect. With an error, unless another dialect reads it,
	// the message is parked as "bad-envelope"; an envelope beside the error tells what could be read. The caller may change the envelope.
	Read(w *Wire) (*Envelope, bool, error)
}

// Validator is a [Dialect] that can be configured wrongly. harebus.New reports its error.
type Validator interface{ Validate() error }

// Sampler is a [Dialect] that can show a message as its peer writes it. Start shows it to the other dialects, and
// logs which of them would read it as well: then the order in Config.Payload.Dialects decides.
type Sampler interface{ Sample() Wire }

// Parker is a [Dialect] whose peer has tools for error queues. A message that it has read from a queue and that is parked gets the headers of Parked, too. They replace
// headers of the same names; those of harebus and of the broker are left out, and so are all if the message has no room for them, or if Parked panics. When an operator
// moves the message back, it loses those of package dialect/nservicebus; the tools of harebus do not know those of other dialects, which stay.
type Parker interface {
	Parked(f Failure) map[string]any
}

// Failure is why a message is parked.
type Failure struct {
	// Queue is where it failed.
	Queue string
	// Kind is the reason code of a message that was rejected, or "panic", "timeout" or "error".
	Kind string
	// Text is the error's, and Stack where a panic was; it is empty otherwise.
	Text, Stack string
	// At is when it failed for the last time.
	At time.Time
}

// Envelope is what a message says of itself, whoever wrote it. Its texts are valid UTF-8 of at most 255 bytes.
type Envelope struct {
	// ID is the id of the message. A message that is read without one is given one.
	ID string
	// CorrelationID is what the peer calls so; if a message that is read has none, ConversationID takes its place.
	CorrelationID string
	// CausationID is the id of the message whose handler sent this one.
	CausationID string
	// ConversationID is common to all messages that follow from one.
	ConversationID string
	// RequestID is not empty in a request and in its answer, which has the same. A message that is read with a RequestID
	// and an address to answer to is given up with an answer ([Fault]).
	RequestID string
	// Type is the wire name of the type, and Types are those that the message also is, as the peer names them. The
	// name of a type that is not known is that of the peer.
	Type  string
	Types []string
	// Accepts are the wire names of the answers that a request can take.
	Accepts []string
	// Intent is "command", "event", or empty if the message does not say.
	Intent string
	// ReplyTo is the queue for an answer, FaultTo the one for a [Fault] if that is another one, and From the queue of the sender.
	ReplyTo, FaultTo, From string
	// NoReply says why the message cannot be answered, although it has an address for that. ReplyTo is then empty.
	NoReply error
	// ContentType and ContentEncoding describe Body.
	ContentType, ContentEncoding string
	// TimeSent is when the message was sent, NotBefore when it is due, and Expires when nobody waits for it any more.
	TimeSent, NotBefore, Expires time.Time
	// ExpiresHere says that a receiver of the peer looks at Expires by its own clock: a message that comes too late for the first time is not
	// handled, but parked. Otherwise only the broker does, by the AMQP expiration.
	ExpiresHere bool
	// Headers are those of the message beside the standard ones. To Write they are what the caller and the observers have
	// set, such as traceparent. Read returns what is not among the headers of the [Wire]; the handler gets both.
	Headers map[string]any
	// Body is the payload alone.
	Body []byte
	// Fault says that a request was given up, and makes the message its answer.
	Fault *Fault
}

// Fault is why a request was given up.
type Fault struct {
	// Reason is a short code, such as "failed"; or what kind of error the peer had.
	Reason string
	// Text is the error's.
	Text string
}

// Kind is what is done with a message.
type Kind int8

// The kinds.
const (
	Send Kind = iota
	Publish
	Request
	Reply
)

// Destination is where a message is to go.
type Destination struct {
	Kind Kind
	// Name is the queue, or the topic of an event.
	Name string
	// Exchange is the one that the call names; empty if it names none.
	Exchange string
	// Topic is the exchange of the bus for events.
	Topic string
	// Broker is where the message is sent. It is not changed.
	Broker *Broker
	// Answers is the request to which the message is the reply; nil for other messages.
	Answers *Envelope
}

// Wire is a message to the destination as harebus sends one: persistent, some queue must take it, and it has no headers yet.
// Without an exchange it goes to the queue directly, by the default exchange.
func (d Destination) Wire() Wire {
	w := Wire{Exchange: d.Exchange, RoutingKey: d.Name, Mandatory: true, Headers: map[string]any{}, Properties: Properties{DeliveryMode: 2}}
	if d.Kind == Publish && d.Exchange == "" {
		w.Exchange = d.Topic
	}
	return w
}

// Wire is a message as it goes over the network. Values of Headers have the Go types of package amqp091-go, which stand for AMQP's:
// int32 for I, int64 for l, string for S, and so on.
type Wire struct {
	Exchange, RoutingKey string
	// Mandatory makes sending fail if no queue takes the message.
	Mandatory bool
	// Fanout has Exchange declared, as a durable fanout exchange, before the first message of a connection.
	Fanout     bool
	Headers    map[string]any
	Properties Properties
	Body       []byte
	// Broker is where a message was received. It is not changed.
	Broker *Broker
}

// Properties are the AMQP basic properties of a message without the headers table.
// Absent ones are zero.
type Properties struct {
	ContentType, ContentEncoding string
	DeliveryMode, Priority       uint8
	CorrelationID, ReplyTo       string
	Expiration, MessageID        string
	Timestamp                    time.Time
	Type, UserID, AppID          string
}
