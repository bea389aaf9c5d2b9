package harebus

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/harebus/harebus/internal/buffer"
	"github.com/harebus/harebus/internal/foreign"
	"github.com/harebus/harebus/internal/publish"
	"github.com/harebus/harebus/internal/refusal"
	"github.com/harebus/harebus/internal/replies"
	"github.com/harebus/harebus/internal/session"
)

// Errors for [errors.Is]. The first four come as a [PublishError] or a
// [TransactionError], which have more data.
var (
	// ErrUnroutable: the broker found no queue for a mandatory message, also after
	// several attempts. No queue has it.
	ErrUnroutable = errors.New("no queue takes the message")
	// ErrNacked: a queue did not take the message, because it is full and has reject-publish or because it has no
	// leader. A command was sent again for five seconds. A message that several queues can get was sent three times
	// in three seconds, so the other queues may have up to three copies.
	ErrNacked = errors.New("the broker refused the message")
	// ErrUnknownOutcome: the message was sent, but ctx ended before the broker confirmed it. It may or may not
	// arrive. Send it again with the same message id, so that receivers can recognise a duplicate.
	ErrUnknownOutcome = errors.New("not known whether the broker has the message")
	// ErrNotSent: the message was not sent, because there was no usable connection
	// before ctx ended.
	ErrNotSent = errors.New("the message was not sent")

	// ErrTooLate: the message that was to be cancelled is due. It was delivered or will be,
	// unless an earlier cancellation has caught it.
	ErrTooLate = publish.ErrTooLate

	// ErrRefused: harebus refused the message before it was sent, or the broker refused it and closed the channel. No
	// queue has it; the text says what to change. Together with ErrUnknownOutcome it means that the connection ended
	// each time the message was sent alone. Then some of several queues may have it. In both cases do not send it
	// again unchanged.
	ErrRefused = session.ErrRefused
	// ErrReplyOutsideHandler: Reply was called outside a handler.
	ErrReplyOutsideHandler = errors.New("reply outside a handler")
	// ErrNoReplyAddress: the message that is handled has no address for a reply.
	ErrNoReplyAddress = errors.New("the message has no reply address")
	// ErrHandlerReturned: a transaction, or the bus or the context of a handler,
	// was used after its end.
	ErrHandlerReturned = buffer.ErrEnded

	// ErrNoReply: a request was sent, and no reply came in time. It may have been handled,
	// or may still be. It comes as a [RequestError].
	ErrNoReply = errors.New("no reply came in time")
	// ErrReplyLost: a request was sent, and its reply queue is gone: somebody deleted it, its node is down, or the
	// broker was away for more than five minutes. The request may have been handled. It comes as a [RequestError].
	ErrReplyLost = replies.ErrLost
	// ErrUnexpectedReply: the reply to a request has another type than the one that was
	// asked for. It comes as a [RequestError], which has the reply.
	ErrUnexpectedReply = errors.New("the reply has another type")
	// ErrRequestInHandler: Request was called in a handler, where messages wait until it has
	// returned, without the option [Immediately].
	ErrRequestInHandler = errors.New("request inside a handler")

	// ErrStarted: Start or Run was called on a setup that is running.
	ErrStarted = errors.New("already started")
	// ErrNotStarted: the call needs a setup that consumes, and Start was not called.
	ErrNotStarted = errors.New("not started")
	// ErrStopped: the setup was stopped and has not been started again.
	ErrStopped = session.ErrStopped
	// ErrGoexit: a handler, or other code of yours, ended its goroutine with runtime.Goexit, as t.FailNow and the
	// functions of testify's require do. The bus treats it as a failure, as it does a panic.
	ErrGoexit = foreign.ErrGoexit
	// ErrInHandler: Stop or Close was called inside a handler. It would wait for this handler, so it stopped nothing.
	// Stop the setup from outside instead: for example, cancel the context of Run.
	ErrInHandler = errors.New("called inside a handler, which it would wait for; return first and stop from elsewhere")
	// ErrNoQueue: the call needs a listener queue and Config.Queue is empty.
	ErrNoQueue = errors.New("no listener queue is configured")
)

// Outcome is what became of one published message.
type Outcome int8

// The outcomes. Only after Confirmed is the message sure not to be lost.
const (
	// NotSent: it was not sent.
	NotSent Outcome = iota
	// Confirmed: the broker has stored it.
	Confirmed
	// Returned: no queue was bound for it, so the broker returned it.
	Returned
	// Nacked: the broker refused it.
	Nacked
	// Unknown: the connection or the wait for the confirm ended first.
	Unknown
	// Refused: the broker closed the channel because of it, or it cannot be
	// encoded. No queue has it. Do not send it again unchanged.
	Refused
)

// String returns the outcome in lower case.
func (o Outcome) String() string { return session.Verdict(o).String() }

func (o Outcome) sentinel() error {
	switch o {
	case Returned:
		return ErrUnroutable
	case Nacked:
		return ErrNacked
	case Unknown:
		return ErrUnknownOutcome
	case Refused:
		return ErrRefused
	default:
		return ErrNotSent
	}
}

// PublishError says that one message was not confirmed. It matches the sentinel
// of its Outcome, and what Err holds.
type PublishError struct {
	// MessageID is the id the message carried; use it to send again.
	MessageID string
	// Exchange and RoutingKey are where the message was to go.
	Exchange, RoutingKey string
	// Outcome is never Confirmed.
	Outcome Outcome
	// Err is the reason for the outcome, or nil if the outcome says everything.
	Err error

	cancels bool // it was a cancellation
}

// Error names the message, where it was to go and what became of it.
func (e *PublishError) Error() string {
	if e.cancels {
		return fmt.Sprintf("harebus: cancel message %q: %v", e.MessageID, e.Err)
	}
	text := fmt.Sprintf("harebus: publish message %q to exchange %q with key %q: %v",
		e.MessageID, e.Exchange, e.RoutingKey, e.Outcome.sentinel())
	if e.Outcome == Returned {
		text += "; start the service that owns the queue or correct the name; NonMandatory is for messages that may be dropped, so not for requests"
	}
	if e.Err != nil {
		text += ": " + e.Err.Error()
	}
	return text
}

// Unwrap returns the sentinel of the outcome and Err.
func (e *PublishError) Unwrap() []error {
	if e.Err == nil {
		return []error{e.Outcome.sentinel()}
	}
	return []error{e.Outcome.sentinel(), e.Err}
}

// TransactionError says that a commit did not get every message confirmed. The confirmed messages cannot be taken
// back: send only the others again, or let receivers recognise duplicates by their ids.
type TransactionError struct {
	// Messages holds every message of the transaction in the order of the calls.
	Messages []MessageOutcome
}

// MessageOutcome is what became of one message of a transaction.
type MessageOutcome struct {
	MessageID, Exchange, RoutingKey string
	Outcome                         Outcome
	// Err is a *PublishError, or nil when the message was confirmed.
	Err error
}

// With returns the messages that ended in outcome, in order.
func (e *TransactionError) With(outcome Outcome) []MessageOutcome {
	var with []MessageOutcome
	for _, m := range e.Messages {
		if m.Outcome == outcome {
			with = append(with, m)
		}
	}
	return with
}

// Error counts the outcomes and quotes the first failure.
func (e *TransactionError) Error() string {
	var counts []string
	for _, o := range []Outcome{Confirmed, Returned, Nacked, Refused, Unknown, NotSent} {
		if n := len(e.With(o)); n > 0 {
			counts = append(counts, fmt.Sprintf("%d %s", n, o))
		}
	}
	text := fmt.Sprintf("harebus: commit transaction of %d messages: %s", len(e.Messages), strings.Join(counts, ", "))
	for _, m := range e.Messages {
		if m.Err != nil {
			return text + ": " + m.Err.Error()
		}
	}
	return text
}

// Unwrap returns the errors of the messages that were not confirmed.
func (e *TransactionError) Unwrap() []error {
	var errs []error
	for _, m := range e.Messages {
		if m.Err != nil {
			errs = append(errs, m.Err)
		}
	}
	return errs
}

// refuse makes the error of a call that sends nothing.
func refuse(verb, format string, args ...any) error {
	return fmt.Errorf("harebus: %s: %w: %w", verb, ErrRefused, fmt.Errorf(format, args...))
}

// NoRetry marks err as an error that a retry cannot cure. If a handler returns it,
// the message is parked in the error queue at once. NoRetry(nil) is nil.
func NoRetry(err error) error {
	if err == nil {
		return nil
	}
	return &noRetryError{err}
}

type noRetryError struct{ err error }

func (e *noRetryError) Error() string { return e.err.Error() }
func (e *noRetryError) Unwrap() error { return e.err }
func (e *noRetryError) NoRetry()      {} // tells middleware what it is

// RetryAfter asks for the next attempt in d, instead of after the pause of the retry policy. A negative d is taken as
// 0, one above [topology.MaxDelay] as topology.MaxDelay. It counts as a retry: after the last one the message is
// parked as usual. RetryAfter(d, nil) is nil. [Postpone] does not count.
func RetryAfter(d time.Duration, err error) error {
	if err == nil {
		return nil
	}
	return &askedError{after: d, err: err}
}

// Postpone asks for the next attempt in d, without counting this one as a failure. For example, return it when a rate
// limit was reached. The message waits in the broker, [Message.Attempt] stays as it is, and it can be postponed
// without end unless [RetryConfig].GiveUpAfter is set. d is limited as for [RetryAfter], and 100 ms is the least,
// also for a time that has passed; Postpone(d, nil) is nil.
func Postpone(d time.Duration, err error) error {
	if err == nil {
		return nil
	}
	return &askedError{after: d, uncounted: true, err: err}
}

// askedError asks for a pause.
type askedError struct {
	after     time.Duration
	uncounted bool
	err       error
}

func (e *askedError) Error() string { return e.err.Error() }
func (e *askedError) Unwrap() error { return e.err }

// Pause tells middleware what is asked for.
func (e *askedError) Pause() (d time.Duration, counted bool) { return e.after, !e.uncounted }

// ErrMoved is the result of a [Gate] that has stored a message elsewhere: it is acknowledged, and counts as postponed.
var ErrMoved = errors.New("harebus: the message was moved")

// Hold is an error with which a handler keeps its message: unacknowledged, in this process, and without a worker.
// When [Hold.Release] is called, the handler is called again with the same message. Each Hold is for one message and
// one time. It is for a message that stands for something that this instance holds, and that must pass to another one
// if this one dies; a message that only has to wait is better off with [Postpone].
//
// What the handler has sent is discarded, as after a failure; [Message.Attempt] stays as it is. A held message takes
// a place in Consume.Prefetch, and the broker takes it back after its consumer timeout, 30 minutes by default. It
// also goes back to the queue when the connection is lost, and when the setup stops or pauses: Release then does
// nothing. A Hold needs a queue whose order is kept, which is one with a single active consumer, or a quorum queue
// with Concurrency 1 and one consumer. Elsewhere it is a failure like any other.
type Hold struct { //nolint:errname // an instruction to the bus, not a failure
	mu       sync.Mutex // guards what follows
	released bool
	again    func()      // nil until the handler has returned
	lives    func() bool // likewise
}

// Error says what a Hold needs, for a queue that does not have it.
func (*Hold) Error() string {
	return "the message is to be held, which needs a single active consumer, or a quorum queue with Concurrency 1"
}

// Release has the handler called again with the message. It returns at once, may be called
// before the handler has returned the Hold, and has an effect once.
func (h *Hold) Release() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.released && h.again != nil {
		h.again()
	}
	h.released = true
}

// Holds says whether the message is held now. It is false before the handler has returned, after
// Release, and when the message has gone back to its queue.
func (h *Hold) Holds() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return !h.released && h.lives != nil && h.lives()
}

// keep begins to hold the message.
func (h *Hold) keep(again func(), lives func() bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.again, h.lives = again, lives
	if h.released {
		again()
	}
}

// PanicError is a panic of a handler, or of other code of yours. Value is what was passed to panic; Unwrap returns it
// if it is an error. Stack is the stack of the goroutine that panicked.
type PanicError = foreign.PanicError

// RejectError says why no handler has seen a message. The message is parked at once, except for "no-type" and
// "unknown-type", for which Config.Handling.Unhandled decides, and "unknown-dialect": Config.Retry decides about that one.
type RejectError struct {
	// Reason is a short code: "bad-header", "bad-time", "bad-retry-count", "no-type", "unknown-type",
	// "unsupported-content", "bad-payload", "too-large", "loop", "missing-context", "bad-context",
	// "other-environment", "bad-envelope", "unknown-dialect", "expired".
	Reason string
	// Err says more.
	Err error

	curable bool // another instance of the service may know better
}

// Error is the code and the text of Err.
func (e *RejectError) Error() string {
	if e.Err == nil {
		return e.Reason
	}
	return e.Reason + ": " + e.Err.Error()
}

// Unwrap returns Err.
func (e *RejectError) Unwrap() error { return e.Err }

func reject(reason, format string, args ...any) error {
	return &RejectError{Reason: reason, Err: fmt.Errorf(format, args...)}
}

// endsConnections says whether err is about a message that was given up because the
// broker answered it with an exception that ended the connection, each time.
func endsConnections(err error) bool {
	return errors.Is(err, ErrRefused) && errors.Is(err, ErrUnknownOutcome) && refusal.ByBroker(err)
}
