package otelbus

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"

	"go.opentelemetry.io/otel/attribute"

	"github.com/harebus/harebus"
)

// The names of the messaging conventions of OpenTelemetry, and those of harebus.
const (
	keySystem        = attribute.Key("messaging.system")
	keyOperation     = attribute.Key("messaging.operation.name")
	keyOperationType = attribute.Key("messaging.operation.type")
	keyDestination   = attribute.Key("messaging.destination.name")
	keyRoutingKey    = attribute.Key("messaging.rabbitmq.destination.routing_key")
	keyMessage       = attribute.Key("messaging.message.id")
	keyConversation  = attribute.Key("messaging.message.conversation_id")
	keyBatch         = attribute.Key("messaging.batch.message_count")
	keyError         = attribute.Key("error.type")
	keyExceptionType = attribute.Key("exception.type")
	keyExceptionText = attribute.Key("exception.message")
	keyServer        = attribute.Key("server.address")
	keyPort          = attribute.Key("server.port")

	keyType        = attribute.Key("harebus.message.type")
	keyAttempt     = attribute.Key("harebus.attempt")
	keyOutcome     = attribute.Key("harebus.outcome")
	keyRedelivered = attribute.Key("harebus.redelivered")
	keyOutbox      = attribute.Key("harebus.outbox")
	keyConnection  = attribute.Key("harebus.connection")
	keySchedule    = attribute.Key("harebus.schedule")
)

// process is the operation that handles a message.
const process = "process"

var (
	system           = keySystem.String("rabbitmq")
	operationSend    = keyOperationType.String("send")
	operationCreate  = keyOperationType.String("create")
	operationProcess = keyOperationType.String(process)
)

// server is the address of a broker: host and port.
type server [2]attribute.KeyValue

func newServer(address string) server {
	host, port, _ := net.SplitHostPort(address)
	number, _ := strconv.Atoi(port) // 0 is none
	return server{keyServer.String(strings.Clone(host)), keyPort.Int(number)}
}

// errorType is one of a few words for an error, or "".
func errorType(err error) string {
	if err == nil {
		return ""
	}
	var rejected *harebus.RejectError
	var unpublished *harebus.PublishError
	var panicked *harebus.PanicError
	var fault *harebus.FaultError
	switch {
	case errors.As(err, &rejected):
		return rejected.Reason
	case errors.As(err, &panicked):
		return "panic"
	case errors.Is(err, harebus.ErrNoReply):
		return "no reply"
	case errors.As(err, &fault):
		return "fault"
	case errors.As(err, &unpublished):
		return unpublished.Outcome.String()
	case errors.Is(err, context.DeadlineExceeded):
		return "timeout"
	case errors.Is(err, context.Canceled):
		return "canceled"
	case errors.Is(err, harebus.ErrRefused):
		return harebus.Refused.String()
	default:
		return "_OTHER" // as the conventions call it
	}
}

func typeName(err error) string { return fmt.Sprintf("%T", err) }

// shortText is the beginning of the text of an error.
func shortText(err error) string {
	const most = 1024
	text := err.Error()
	if len(text) > most {
		text = text[:most]
	}
	return strings.ToValidUTF8(text, "\uFFFD")
}
