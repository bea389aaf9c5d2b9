package harebus

import (
	"context"

	"go.uber.org/zap"

	"github.com/harebus/harebus/internal/guard"
)

// Operation is a step that a [Tracer] sees.
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
	// OpHandle is one attempt to handle a message: decode, handler and commit.
	OpHandle
	// OpRetry is the sending of a failed message to be handled later, and
	// OpPark its sending to the error queue.
	OpRetry
	OpPark
	// OpConnect is one attempt to connect.
	OpConnect
	// OpForward is the publishing of envelopes.
	OpForward
)

var operationNames = [...]string{"", "send", "publish", "defer", "reply", "commit", "handle", "retry", "park", "connect", "forward"}

// String returns the operation in lower case: "send".
func (o Operation) String() string {
	if o < 0 || int(o) >= len(operationNames) {
		return ""
	}
	return operationNames[o]
}

// TraceEvent describes the operation that starts or has ended. Fields that do not
// apply to it are zero.
type TraceEvent struct {
	Operation Operation
	// Exchange and RoutingKey of an outgoing message.
	Exchange, RoutingKey string
	// Headers of an outgoing message may be added to at the start, to carry a
	// trace context.
	Headers map[string]any
	// Incoming is the message that is handled, retried or parked.
	Incoming *Message
	// Messages is the number of messages of a commit, or of a Forward.
	Messages int
	// Connection is "publish" or "consume".
	Connection string
	// Err is why a message is retried or parked. For a [RejectError] it has the
	// reason only, because the rest can quote the message.
	Err error
}

// Tracer observes operations from start to end, for tracing and metrics. Calls
// come from many goroutines, inside the operations: they must be quick.
type Tracer interface {
	// TraceStart is called first; the context it returns is the operation's own
	// and reaches handlers and TraceEnd.
	TraceStart(ctx context.Context, event TraceEvent) context.Context
	// TraceEnd is called with the operation's error, or nil; a RejectError has the
	// reason only, as in TraceEvent.Err.
	TraceEnd(ctx context.Context, event TraceEvent, err error)
}

// tracer calls a Tracer if there is one. If the Tracer panics, that is logged and
// the operation continues.
type tracer struct {
	Tracer
	log *zap.Logger
}

func noEnd(error) {}

func (t tracer) start(ctx context.Context, e TraceEvent) (context.Context, func(error)) {
	if t.Tracer == nil {
		return ctx, noEnd
	}
	e.Err = withoutQuotes(e.Err)
	traced := ctx
	err := guard.Call(func() error { traced = t.TraceStart(ctx, e); return nil }) //nolint:fatcontext // called once
	if err != nil {
		t.log.Error("Tracer.TraceStart failed", zap.Stringer("operation", e.Operation), zap.Error(err))
		return ctx, noEnd
	}
	if traced == nil {
		traced = ctx
	}
	return traced, func(err error) {
		err = guard.Call(func() error { t.TraceEnd(traced, e, withoutQuotes(err)); return nil })
		if err != nil {
			t.log.Error("Tracer.TraceEnd failed", zap.Stringer("operation", e.Operation), zap.Error(err))
		}
	}
}

// startApart is start in a goroutine of its own, so that the Tracer cannot end the
// caller's.
func (t tracer) startApart(ctx context.Context, e TraceEvent) (context.Context, func(error)) {
	type started struct {
		ctx context.Context
		end func(error)
	}
	if t.Tracer == nil {
		return ctx, noEnd
	}
	s, err := guard.Apart(context.Background(), func() (started, error) {
		ctx, end := t.start(ctx, e)
		return started{ctx, end}, nil
	})
	if err != nil {
		t.log.Error("Tracer.TraceStart failed", zap.Stringer("operation", e.Operation), zap.Error(err))
		return ctx, noEnd
	}
	return s.ctx, func(err error) {
		_, err = guard.Apart(context.Background(), func() (struct{}, error) { s.end(err); return struct{}{}, nil })
		if err != nil {
			t.log.Error("Tracer.TraceEnd failed", zap.Stringer("operation", e.Operation), zap.Error(err))
		}
	}
}
