package harebus

import (
	"context"
	"maps"

	"go.uber.org/zap"

	"github.com/harebus/harebus/internal/observe"
	"github.com/harebus/harebus/internal/publish"
)

// Operation is something that takes time and that an [Observer] is told of. The number of
// an operation never changes, because stored envelopes have it.
type Operation int8

// The operations.
const (
	// OpSend, OpPublish, OpDefer and OpReply are calls on a bus. They end when the
	// message is confirmed, or buffered inside a transaction.
	OpSend Operation = iota + 1
	OpPublish
	OpDefer
	OpReply
	// OpCommit is the publishing of a transaction's messages.
	OpCommit
	// OpHandle is one attempt to handle a message: decode, handler, commit, and what
	// follows from its failure, such as OpRetry.
	OpHandle
	// OpRetry is the sending of a failed message to be handled later, and OpPark its
	// sending to the error queue.
	OpRetry
	OpPark
	// OpConnect is one attempt to connect.
	OpConnect
	// OpForward is the publishing of envelopes.
	OpForward
	// OpPostpone is the sending of a message to be handled later that has not failed: it
	// came before its time, its handler returned [Postpone], or the error queue takes no
	// messages now.
	OpPostpone
)

var operationNames = [...]string{
	"", "send", "publish", "defer", "reply", "commit", "handle", "retry", "park", "connect", "forward", "postpone",
}

// String returns the operation in lower case: "send".
func (o Operation) String() string {
	if o < 0 || int(o) >= len(operationNames) {
		return ""
	}
	return operationNames[o]
}

// Observation describes the operation that starts or has ended. Fields that do not
// apply to it are zero.
type Observation struct {
	Operation Operation
	// Exchange and RoutingKey of an outgoing message: one that is sent, published,
	// deferred, replied, retried, postponed or parked.
	Exchange, RoutingKey string
	// Headers is an empty map at the start of an operation with an outgoing message.
	// Headers that the observer puts there go with the message, to carry a trace
	// context. They replace headers of the same name. The bus leaves out those that
	// [WithHeaders] would refuse, and all of them if the message has no room for them.
	Headers map[string]any
	// Incoming is the message that is handled, retried, postponed or parked.
	Incoming *Message
	// Messages is the number of messages of a commit, or of a Forward.
	Messages int
	// Connection is "publish", "consume" or "init".
	Connection string
	// Err is why a message is retried or parked. For a [RejectError] it has the
	// reason only, because the rest can quote the message.
	Err error
}

// String names the operation.
func (o Observation) String() string { return o.Operation.String() }

// Observer is told of the start and the end of every operation, for traces and metrics.
// Its methods are called from many goroutines, and the operation waits for them: they
// must be quick. They run in goroutines of their own, so neither a panic nor
// [runtime.Goexit] harms the operation. If a call does not return within 5 seconds, the
// operation goes on, and the observer is told nothing more until that call has returned.
type Observer interface {
	// ObserveStart is called first. Handlers and ObserveEnd get the values of the
	// context that it returns; nil stands for ctx. Its end and its deadline do not count.
	ObserveStart(ctx context.Context, o Observation) context.Context
	// ObserveEnd is called with the error of the operation, or nil. A RejectError has
	// the reason only, as in Observation.Err. It is not called if ObserveStart failed.
	ObserveEnd(ctx context.Context, o Observation, err error)
}

type operation = observe.Operation[Observation]

func (s *Setup) newObservers() *observe.Group[Observation] {
	return observe.New(s.cfg.Observers, observe.Config[Observation]{Log: s.log, Carrier: carrier, Headers: s.sendable, Shown: withoutQuotes})
}

// carrier gives an observer a map for headers, if the operation has a message for them.
func carrier(o *Observation) map[string]any {
	switch o.Operation {
	case OpSend, OpPublish, OpDefer, OpReply, OpRetry, OpPark, OpPostpone:
		o.Headers = map[string]any{}
	default: // no message
	}
	return o.Headers
}

// sendable are the headers of an observer that the bus can send.
func (s *Setup) sendable(left map[string]any) map[string]any {
	headers := make(map[string]any, len(left))
	for key, value := range left {
		one, err := (&sender{setup: s}).customHeaders(map[string]any{key: value})
		if err != nil {
			s.log.Warn("a header of an observer is left out", zap.Error(err))
			continue
		}
		maps.Copy(headers, one)
	}
	return headers
}

// observe starts an operation. Without observers the operation is nil.
func (s *Setup) observe(ctx context.Context, o Observation) (context.Context, *operation) {
	if o.Err != nil && s.observers.Any() {
		o.Err = withoutQuotes(o.Err)
	}
	return s.observers.Start(ctx, o)
}

// carry adds the headers of the observers to an outgoing message, if there is room. A
// quarter of the frame is left for the way through the delay queues.
func (s *Setup) carry(op *operation, out *publish.Message) {
	if op == nil || len(op.Headers) == 0 {
		return
	}
	msg := &out.Publishing
	before := msg.Headers
	msg.Headers = maps.Clone(before)
	maps.Copy(msg.Headers, op.Headers)
	room := s.frameMax() / 4
	if publish.HeaderFrame(msg)+room > publish.HeaderLimit(s.frameMax(), out.Exchange, out.Key) || len(msg.Headers) > maxEntries {
		s.log.Warn("the headers of observers are left out: the message has no room for them", zap.Stringer("operation", op.Event))
		msg.Headers = before
	}
}
