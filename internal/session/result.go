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

// What the end of a connection says about the messages that were under way. When
// there is enough of it they are suspicious: each is tried on a connection of its own, and
// refused when there is enough from there too. An exception of the broker counts as much
// as one and a half mere ends, which are nearly always the network's fault.
const (
	mereEnd    = 2
	exception  = 3
	Suspicious = 6
)

// suspicion is what err, with which a connection ended, says about the messages that were
// under way on it.
func suspicion(err error) int {
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
