package brokertest

import "fmt"

// amqpError is an error the protocol has a number for. hard ones close the
// connection, the others the channel.
type amqpError struct {
	code   uint16
	text   string
	hard   bool
	method methodID
}

func (e *amqpError) Error() string { return fmt.Sprintf("%d %s", e.code, e.text) }

// at names the method that failed.
func (e *amqpError) at(id methodID) *amqpError {
	e.method = id
	return e
}

// amqpErr builds an error whose text is cut the way RabbitMQ cuts it.
func amqpErr(code uint16, hard bool, name, format string, args ...any) *amqpError {
	s := name + " - " + fmt.Sprintf(format, args...)
	if len(s) > 255 {
		s = s[:252] + "..."
	}
	return &amqpError{code: code, text: s, hard: hard}
}

func errConnectionForced(format string, args ...any) *amqpError {
	return amqpErr(320, true, "CONNECTION_FORCED", format, args...)
}

func errAccessRefused(format string, args ...any) *amqpError {
	return amqpErr(403, false, "ACCESS_REFUSED", format, args...)
}

func errNotFound(format string, args ...any) *amqpError {
	return amqpErr(404, false, "NOT_FOUND", format, args...)
}

func errLocked(format string, args ...any) *amqpError {
	return amqpErr(405, false, "RESOURCE_LOCKED", format, args...)
}

func errPrecondition(format string, args ...any) *amqpError {
	return amqpErr(406, false, "PRECONDITION_FAILED", format, args...)
}

func errFrame(format string, args ...any) *amqpError {
	return amqpErr(501, true, "FRAME_ERROR", format, args...)
}

func errSyntax(format string, args ...any) *amqpError {
	return amqpErr(502, true, "SYNTAX_ERROR", format, args...)
}

func errCommandInvalid(format string, args ...any) *amqpError {
	return amqpErr(503, true, "COMMAND_INVALID", format, args...)
}

func errChannel(format string, args ...any) *amqpError {
	return amqpErr(504, true, "CHANNEL_ERROR", format, args...)
}

func errUnexpectedFrame(format string, args ...any) *amqpError {
	return amqpErr(505, true, "UNEXPECTED_FRAME", format, args...)
}

func errNotAllowed(format string, args ...any) *amqpError {
	return amqpErr(530, true, "NOT_ALLOWED", format, args...)
}

func errInternal(format string, args ...any) *amqpError {
	return amqpErr(541, true, "INTERNAL_ERROR", format, args...)
}

func errNotImplemented(format string, args ...any) *amqpError {
	return amqpErr(540, true, "NOT_IMPLEMENTED", format, args...)
}
