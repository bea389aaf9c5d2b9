package header

import (
	"time"
)

// The intents of a message.
const (
	Command = "command"
	Event   = "event"
)

// Head is what a message says of itself.
type Head struct {
	ID, CorrelationID, Type, Intent string
	ReplyTo, OriginatingAddress     string
	ContentType, ContentEncoding    string
	// CausationID is the id of the message whose handler sent this one.
	CausationID string
	TimeSent    time.Time
	// DeferredUntil is the time before which it must not be handled; zero if it was not
	// deferred.
	DeferredUntil time.Time
	// FirstFailed, SourceQueue and ErrorDetails are those of a message that has failed.
	FirstFailed               time.Time
	SourceQueue, ErrorDetails string
	// Hops is how many replies in a row have answered a reply.
	Hops int
	// ReplyBy is until when the sender waits for a reply, GivenUp the reason code in a reply
	// that says that a request was given up. Read leaves them out: few messages have them.
	ReplyBy time.Time
	GivenUp string
}

// Fault is a header with which a message must not be handled.
type Fault struct {
	Reason  string // the code of a RejectError
	Err     error
	Curable bool // another instance of the service may know better
}
