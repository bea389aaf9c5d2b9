package harebus

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"time"

	"go.uber.org/zap"

	"github.com/harebus/harebus/internal/header"
	"github.com/harebus/harebus/internal/observe"
	"github.com/harebus/harebus/internal/publish"
	"github.com/harebus/harebus/internal/session"
)

// Operation is something that takes time and that an [Observer] is told of. The number of an operation never changes,
// because stored envelopes have it.
type Operation int8

// The operations.
const (
	// OpSend, OpPublish, OpDefer and OpReply are calls on a bus. They end when the message is confirmed, or buffered
	// inside a transaction.
	OpSend Operation = iota + 1
	OpPublish
	OpDefer
	OpReply
	// OpCommit is the publishing of a transaction's messages.
	OpCommit
	// OpHandle is one attempt to handle a message: decode, handler, commit, and what follows from its failure, such as
	// OpRetry.
	OpHandle
	// OpRetry is the sending of a failed message to be handled later, and OpPark its sending to the error queue.
	OpRetry
	OpPark
	// OpConnect is one attempt to connect.
	OpConnect
	// OpForward is the publishing of envelopes.
	OpForward
	// OpPostpone is the sending of a message to be handled later that has not failed: it came before its time, its
	// handler returned [Postpone], or the error queue takes no messages now.
	OpPostpone
	// OpConnection lasts as long as a connection. It ends with an error if the connection was lost.
	OpConnection
	// OpBlocked lasts as long as the broker blocks the publishers of a connection.
	OpBlocked
	// OpConsume lasts as long as a consumer consumes on one connection. It ends with an error if the broker cancelled
	// the consumer, or the channel or the connection was lost.
	OpConsume
	// OpRequest is a call of [Request]: it ends when the reply has come and is decoded.
	OpRequest
	// OpBacklog is a look at what is stored and not published, by package outbox. It ends at once, with an error if too
	// much waits, or for too long.
	OpBacklog
	// OpCancel is a call of Cancel. It ends when the broker has the cancellation, or when it is buffered inside a
	// transaction.
	OpCancel
	// OpDue is a due time that package schedule has fired or left out. It ends at once, with an error if something was
	// left out.
	OpDue
	// OpLead is a takeover: from now on this instance leads the schedules of Queue.
	OpLead
)

var operationNames = [...]string{
	"", "send", "publish", "defer", "reply", "commit", "handle", "retry", "park", "connect", "forward", "postpone",
	"connection", "blocked", "consume", "request", "backlog", "cancel", "due", "lead",
}

// String returns the operation in lower case: "send".
func (o Operation) String() string {
	if o < 0 || int(o) >= len(operationNames) {
		return ""
	}
	return operationNames[o]
}

// Observation describes the operation that starts or has ended. Fields that do not apply to it are zero.
type Observation struct {
	Operation Operation
	// Exchange and RoutingKey of an outgoing message: one that is sent, published, deferred, replied, retried,
	// postponed or parked.
	Exchange, RoutingKey string
	// Headers is an empty map at the start of an operation with an outgoing message. Headers that the observer puts
	// there go with the message, to carry a trace context. They replace headers of the same name. The bus leaves out
	// those that [WithHeaders] would refuse, and all of them if the message has no room for them.
	Headers map[string]any
	// MessageID, CorrelationID and Type are those of an outgoing message, at the end, if it could be composed. Size is
	// the length of its body, or of that of Incoming.
	MessageID, CorrelationID, Type string
	Size                           int
	// Buffered says, at the end, that an outgoing message waits for a commit.
	Buffered bool
	// Incoming is the message that is handled, retried, postponed or parked.
	Incoming *Message
	// Outcome is what has become of the message of an OpHandle, at the end.
	Outcome AttemptOutcome
	// HandlingTime of an OpHandle is from the delivery until the handler has returned and what it sent is confirmed; 0
	// if no handler was called. CriticalTime is from Incoming.TimeSent until then, if the attempt was a success; 0 if
	// that time is unknown, or later by this machine's clock. Both are set at the end.
	HandlingTime, CriticalTime time.Duration
	// Messages is the number of messages of a commit, or of a Forward.
	Messages int
	// Backlog is what an OpBacklog has found; nil if it could not look.
	Backlog *Backlog
	// Due is that of an OpDue.
	Due *DueTime
	// Connection is "publish", "consume" or "init", of OpConnect, OpConnection, OpBlocked and OpConsume. A message that
	// is suspected of ending connections has one of its own, with a longer name.
	Connection string
	// Address is the host and port of the broker. That of outgoing messages is known at the end, and empty if they were
	// not sent; of several it is the one that the last was sent to.
	Address string
	// Queue is that of OpConsume, OpDue and OpLead.
	Queue string
	// Err is why a message is retried or parked, or the broker blocks publishers. For a [RejectError] it has the reason
	// only, because the rest can quote the message.
	Err error
}

// Backlog is what one process has stored and not published.
type Backlog struct {
	// Name is that of the outbox.
	Name string
	// Waiting are the messages that wait, and Oldest is the age of the oldest.
	Waiting int
	Oldest  time.Duration
	// Lag is the longest time from the storing of a message until its confirm, of those published since the last look.
	Lag time.Duration
	// Refused are the messages that the broker refused. One process counts those of all.
	Refused int
}

// DueTime is what has become of a due time of a schedule.
type DueTime struct {
	Schedule string
	At       time.Time
	// Late is how long after At, and the jitter, it was fired; negative if it was left out.
	Late time.Duration
	// Skipped says that it was left out because the run before had not ended.
	Skipped bool
	// Missed is how many were left out, this one with them, because they passed while no instance ran.
	Missed int
}

// String names the operation.
func (o Observation) String() string { return o.Operation.String() }

// Observer is told of the start and the end of every operation, for traces and metrics. Its methods are called from
// many goroutines, and the operation waits for them: they must be quick. They run in goroutines of their own, so
// neither a panic nor [runtime.Goexit] harms the operation. If a call does not return within 5 seconds, the operation
// goes on, and the observer is told nothing more until that call has returned.
type Observer interface {
	// ObserveStart is called first. Handlers and ObserveEnd get the values of the context that it returns; nil stands
	// for ctx. Its end and its deadline do not count.
	ObserveStart(ctx context.Context, o Observation) context.Context
	// ObserveEnd is called with the error of the operation, or nil. A RejectError has the reason only, as in
	// Observation.Err. It is not called if ObserveStart failed.
	ObserveEnd(ctx context.Context, o Observation, err error)
}

// AttemptOutcome is what has become of a message by an attempt to handle it.
type AttemptOutcome int8

// The outcomes.
const (
	// AttemptHandled: the handler has succeeded, and what it sent is confirmed.
	AttemptHandled AttemptOutcome = iota + 1
	// AttemptIgnored: the message has no handler and was dropped (UnhandledIgnore).
	AttemptIgnored
	// AttemptRetried: it will be handled again, and the attempt counts as a failure.
	AttemptRetried
	// AttemptPostponed: it will be handled again, and the attempt does not count.
	AttemptPostponed
	// AttemptParked: it is in the error queue. While that takes nothing, it is in the delay queues, and an OpPark
	// without an OpHandle follows.
	AttemptParked
	// AttemptDiscarded: an error handler has dropped it.
	AttemptDiscarded
	// AttemptLost: it goes back to its queue, and the broker delivers it again: the connection was lost, the setup was
	// stopped, or the message could not be sent on.
	AttemptLost
	// AttemptHeld: it stays here, unacknowledged, until its [Hold] is released.
	AttemptHeld
)

var attemptOutcomeNames = [...]string{"", "handled", "ignored", "retried", "postponed", "parked", "discarded", "lost", "held"}

// String returns the outcome in lower case: "handled".
func (o AttemptOutcome) String() string {
	if o < 0 || int(o) >= len(attemptOutcomeNames) {
		return ""
	}
	return attemptOutcomeNames[o]
}

type operation = observe.Operation[Observation]

// observers are those of a setup.
type observers struct {
	group    *observe.Group[Observation]
	dialect  *header.Dialect
	frameMax func() int
	log      *zap.Logger
}

func newObservers(list []Observer, d *header.Dialect, frameMax func() int, log *zap.Logger) *observers {
	o := &observers{dialect: d, frameMax: frameMax, log: log}
	o.group = observe.New(list, observe.Config[Observation]{Log: log, Carrier: carrier, Headers: o.sendable, Shown: withoutQuotes})
	return o
}

// carrier gives an observer a map for headers, if the operation has a message for them.
func carrier(o *Observation) map[string]any {
	switch o.Operation {
	case OpSend, OpPublish, OpDefer, OpReply, OpRequest, OpRetry, OpPark, OpPostpone:
		o.Headers = map[string]any{}
	default: // no message
	}
	return o.Headers
}

// sendable are the headers of an observer that the bus can send.
func (o *observers) sendable(left map[string]any) map[string]any {
	headers := make(map[string]any, len(left))
	for key, value := range left {
		one, err := o.dialect.Sendable(map[string]any{key: value})
		if err != nil {
			o.log.Warn("a header of an observer is left out", zap.Error(err))
			continue
		}
		maps.Copy(headers, one)
	}
	return headers
}

// start tells the observers of the start of an operation. Without observers the operation is nil.
func (o *observers) start(ctx context.Context, seen Observation) (context.Context, *operation) {
	if seen.Err != nil && o.group.Any() {
		seen.Err = withoutQuotes(seen.Err)
	}
	return o.group.Start(ctx, seen)
}

// carry notes what an outgoing message is, and adds the headers of the observers to it if there is room.
func (o *observers) carry(op *operation, out *publish.Message) {
	if op == nil {
		return
	}
	msg := &out.Publishing
	op.Event.MessageID, op.Event.Size = msg.MessageId, len(msg.Body)
	if op.Event.Incoming == nil {
		op.Event.CorrelationID, op.Event.Type = msg.CorrelationId, msg.Type
	}
	if len(op.Headers) == 0 {
		return
	}
	before := msg.Headers
	msg.Headers = maps.Clone(before)
	maps.Copy(msg.Headers, op.Headers)
	if !o.roomy(out) {
		o.log.Warn("the headers of observers are left out: the message has no room for them", zap.Stringer("operation", op.Event))
		msg.Headers = before
	}
}

// roomy says whether the headers of a message leave a quarter of the frame for the way through the delay queues.
func (o *observers) roomy(out *publish.Message) bool {
	frameMax := o.frameMax()
	limit := publish.HeaderLimit(frameMax, out.Exchange, out.Key) - frameMax/4
	return publish.HeaderFrame(&out.Publishing) <= limit && len(out.Publishing.Headers) <= header.MaxEntries
}

// Observe tells the observers of the setup of an operation that has ended, with its error. It is for packages on top of
// this one, such as outbox.
func (b *Bus) Observe(ctx context.Context, o Observation, err error) {
	_, op := b.endpoint.setup.observers.start(ctx, o)
	op.End(err)
}

// connecting tells the observers of an attempt to connect.
func (o *observers) connecting(ctx context.Context, name, address string) (context.Context, func(error)) {
	ctx, op := o.start(ctx, Observation{Operation: OpConnect, Connection: name, Address: address})
	return ctx, op.End
}

// consuming returns what tells the observers that a consumer of the queue consumes.
func (o *observers) consuming(queue string) func(*session.Session) func(error) {
	return func(on *session.Session) func(error) {
		_, op := o.start(context.Background(), Observation{Operation: OpConsume, Queue: queue, Connection: on.Name(), Address: on.HostPort()})
		return op.End
	}
}

// follow tells the observers of a connection for as long as it lasts.
func (o *observers) follow(on *session.Session) {
	if !o.group.Any() {
		return
	}
	on.Spawn(func() {
		about := Observation{Operation: OpConnection, Connection: on.Name(), Address: on.HostPort()}
		ctx, connection := o.start(context.Background(), about)
		var blocked *operation
		for {
			select {
			case <-on.Blocks():
				blocked = o.block(ctx, on, about, blocked)
			case <-on.Done():
				blocked.End(nil)
				connection.End(on.Lost())
				return
			}
		}
	})
}

// block starts or ends the operation of a connection on which publishers are blocked.
func (o *observers) block(ctx context.Context, on *session.Session, about Observation, blocked *operation) *operation {
	switch reason, now := on.Blocked(); {
	case now && blocked == nil:
		about.Operation, about.Err = OpBlocked, errors.New(reason)
		_, blocked = o.start(ctx, about)
	case !now:
		blocked.End(nil)
		blocked = nil
	}
	return blocked
}

// reached notes which broker outgoing messages were sent to.
func reached(op *operation, outs ...*publish.Message) {
	if op == nil {
		return
	}
	for _, out := range outs {
		op.Event.Address = cmp.Or(out.Broker, op.Event.Address)
	}
}

// buffered notes that an outgoing message waits for a commit.
func buffered(op *operation) {
	if op != nil {
		op.Event.Buffered = true
	}
}

// conclude tells the observers what has become of an attempt. Only the first call of it has an effect.
func (d *delivery) conclude() {
	op := d.observed
	if op == nil {
		return
	}
	d.observed = nil
	op.Event.Incoming = d.seen()
	op.Event.Outcome = cmp.Or(d.outcome, AttemptLost)
	op.Event.HandlingTime, op.Event.CriticalTime = d.handling, d.critical
	op.End(d.failure)
}
