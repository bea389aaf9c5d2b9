package topology

import (
	"errors"
	"fmt"
	"regexp"
	"strings"

	amqp "github.com/rabbitmq/amqp091-go"
)

// Error says which object could not be declared, bound or found, with which
// properties, and what to do.
type Error struct {
	// Op is "declare" or "check".
	Op string
	// Object names the object: `queue "orders"`.
	Object string
	// Asked has the requested properties: `durable quorum x-delivery-limit=20`.
	Asked string
	// Err is the broker's answer, usually an [*amqp.Error].
	Err error
}

// failed wraps err, or returns nil when there is none.
func failed(op, object, asked string, err error) error {
	if err == nil {
		return nil
	}
	return &Error{Op: op, Object: object, Asked: asked, Err: err}
}

// Unwrap returns the broker's answer.
func (e *Error) Unwrap() error { return e.Err }

// Error names the object, what was asked for, the broker's answer and, where
// the answer allows it, what to do.
func (e *Error) Error() string {
	text := fmt.Sprintf("topology: %s %s", e.Op, e.Object)
	if e.Asked != "" {
		text += fmt.Sprintf(" (asked for: %s)", e.Asked)
	}
	text += fmt.Sprintf(": %v", e.Err)
	if advice := e.advice(); advice != "" {
		text += "; " + advice
	}
	return text
}

func (e *Error) advice() string {
	var answer *amqp.Error
	if !errors.As(e.Err, &answer) {
		return ""
	}
	switch answer.Code {
	case amqp.PreconditionFailed:
		return e.differs(answer.Reason)
	case amqp.NotFound:
		return e.missing(answer.Reason)
	case amqp.AccessRefused:
		return e.refused(answer.Reason)
	case amqp.ResourceLocked:
		return "the queue is exclusive to another connection: choose another name, or end the program that holds it"
	default:
		return ""
	}
}

var inequivalent = regexp.MustCompile(`inequivalent arg '([^']+)'`)

const otherType = "choose the other queue type (classic without arguments is what a PikaBus service declares)"

// differs explains a 406: the object exists with other properties.
func (e *Error) differs(reason string) string {
	match := inequivalent.FindStringSubmatch(reason)
	if match == nil {
		return "the broker does not take these properties: change them"
	}
	remedy := "change Arguments"
	switch match[1] {
	case "x-queue-type":
		remedy = otherType
	case "type":
		remedy = "choose the other kind"
	case "durable", "auto_delete", "exclusive", "internal":
		remedy = "change Transient, AutoDelete, Exclusive or Internal"
	}
	if strings.HasPrefix(e.Object, "queue") {
		// The broker names one difference of several, and not always the type.
		if strings.HasPrefix(match[1], "x-dead-letter") || match[1] == "x-overflow" || match[1] == "x-delivery-limit" {
			remedy = otherType + " or change Arguments"
		}
		return fmt.Sprintf("it exists with another %s. There are three ways out: %s to ask for the queue as it is; replace it while services run, with harebus topology migrate;"+
			" or use it as found, without declaring it (QueueOptions.AsFound for a listener queue). harebus topology plan shows all that differs", match[1], remedy)
	}
	return fmt.Sprintf("it exists with another %s. There are two ways out: %s to ask for the exchange as it is; or replace it, with harebus topology apply -replace-exchanges,"+
		" which makes its bindings again", match[1], remedy)
}

// missing explains a 404.
func (e *Error) missing(reason string) string {
	if strings.Contains(reason, "is down or inaccessible") {
		return "start that node; a quorum queue would not depend on a single one"
	}
	if e.Op == "check" {
		return "it does not exist, or its node is down: declare it, start the service that owns it, or correct the name"
	}
	return "an end of the binding does not exist: declare it first or correct the name"
}

// refused explains a 403 by the permission patterns the operation needs.
func (e *Error) refused(reason string) string {
	switch {
	case strings.Contains(reason, "reserved prefix") || strings.Contains(reason, "default exchange"):
		return "this name belongs to the broker: choose another one"
	case strings.HasPrefix(e.Object, "binding of queue"):
		return "the user's write pattern must match the queue and its read pattern the exchange"
	case strings.HasPrefix(e.Object, "binding"):
		return "the user's write pattern must match the destination exchange and its read pattern the source"
	case strings.HasPrefix(e.Object, "queue"):
		return "the user's configure pattern must match the queue; with x-dead-letter-exchange also its read pattern the queue and its write pattern that exchange"
	default:
		return "the user's configure pattern must match the exchange; with alternate-exchange also its read pattern the exchange and its write pattern the alternate one"
	}
}
