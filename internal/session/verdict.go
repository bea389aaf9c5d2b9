package session

import (
	"errors"

	amqp "github.com/rabbitmq/amqp091-go"
)

// Verdict is what became of one attempt to publish.
type Verdict int8

// The verdicts.
const (
	NotSent Verdict = iota
	Confirmed
	Returned
	Nacked
	Unknown
	Refused
)

// String returns the verdict in lower case.
func (v Verdict) String() string {
	switch v {
	case Confirmed:
		return "confirmed"
	case Returned:
		return "returned"
	case Nacked:
		return "nacked"
	case Unknown:
		return "unknown"
	case Refused:
		return "refused"
	default:
		return "not sent"
	}
}

// Result is a verdict with what else is known of the attempt.
type Result struct {
	Verdict Verdict
	Err     error
	// Raised says that the broker closed the channel with an exception while the
	// message was on it: this message may be the reason, or any other that was
	// there. Lone says that there was no other.
	Raised, Lone bool
	// Ended is the suspicion that the message ends connections.
	Ended int
	// Final says that no other attempt can end differently.
	Final bool
}

// The suspicion that a message ends connections. It grows each time a connection ends
// while the message is unconfirmed. When it is large enough, the message is tried on a
// connection of its own; when it is large enough there too, the message is refused. An
// exception of the broker counts one and a half times as much as an end without one, which
// is nearly always a fault of the network.
const (
	mereEnd    = 2
	exception  = 3
	Suspicious = 6
)

// Suspicion is what the end of a connection with err adds to the suspicion of the
// messages that were unconfirmed on it.
func Suspicion(err error) int {
	var broker *amqp.Error
	switch {
	case !errors.As(err, &broker) || !broker.Server:
		return mereEnd
	case broker.Code == amqp.ConnectionForced: // it is being shut down, or an operator wants it so
		return 0
	default:
		return exception
	}
}
