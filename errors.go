package harebus

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/harebus/harebus/internal/guard"
	"github.com/harebus/harebus/internal/session"
	amqp "github.com/rabbitmq/amqp091-go"
)

// Errors to decide on with [errors.Is]. What carries data is a [PublishError]
// or a [TransactionError], which match the first four.
var (
	// ErrUnroutable: the broker found no queue for a mandatory message, also
	// after a few more tries. The message is nowhere.
	ErrUnroutable = errors.New("no queue takes the message")
	// ErrNacked: a queue did not take the message, because it is full and has
	// reject-publish or because it has no leader. A command was tried for five
	// seconds, what can reach several queues three times in three seconds: the
	// others may have up to three copies.
	ErrNacked = errors.New("the broker refused the message")
	// ErrUnknownOutcome: the message was sent, but ctx ended before the broker
	// confirmed it. It may or may not arrive. Sending again with the same
	// message id makes a duplicate recognisable.
	ErrUnknownOutcome = errors.New("not known whether the broker has the message")
	// ErrNotSent: the message never left, because there was no usable
	// connection before ctx ended.
	ErrNotSent = errors.New("the message was not sent")

	// ErrRefused: the message is refused as it is, by harebus before anything was
	// sent or by the broker, which closed the channel over it. No queue has it; the text
	// says what to change. Together with ErrUnknownOutcome: the message ended the
	// connection whenever it was sent alone. It is not tried again, some of several queues
	// may have it, and sending it again unchanged cannot help.
	ErrRefused = session.ErrRefused
	// ErrReplyOutsideHandler: Reply was called on a bus that no handler was given.
	ErrReplyOutsideHandler = errors.New("reply outside a handler")
	// ErrNoReplyAddress: the message that is handled names no address for a reply.
	ErrNoReplyAddress = errors.New("the message has no reply address")
	// ErrHandlerReturned: the bus of a handler, a context of one, or a transaction
	// was used after it had ended.
	ErrHandlerReturned = errors.New("the handler or transaction has ended")

	// ErrStarted: Start or Run was called on a setup that is running.
	ErrStarted = errors.New("already started")
	// ErrStopped: the setup was stopped and has not been started again.
	ErrStopped = session.ErrStopped
	// ErrGoexit: a handler, or other code of yours, ended its goroutine with
	// runtime.Goexit, as t.FailNow and the functions of testify's require do. The
	// bus treats it as a failure, as it does a panic.
	ErrGoexit = guard.ErrGoexit
	// ErrInHandler: Stop or Close was called inside a handler, which it would have
	// waited for. Nothing has been stopped. Have whoever started the setup stop it
	// when the handler has returned: cancel the context of Run, for instance.
	ErrInHandler = errors.New("called inside a handler, which it would wait for; return first and stop from elsewhere")
	// ErrNoQueue: the call needs a listener queue and Config.Queue is empty.
	ErrNoQueue = errors.New("no listener queue is configured")
)

// Outcome is what became of one published message.
type Outcome int8

// The outcomes. Only Confirmed promises anything.
const (
	// NotSent: it never left this process.
	NotSent Outcome = iota
	// Confirmed: the broker has taken responsibility for it.
	Confirmed
	// Returned: no queue was bound for it, so the broker gave it back.
	Returned
	// Nacked: the broker refused it.
	Nacked
	// Unknown: the connection or the wait for the confirm ended first.
	Unknown
	// Refused: the broker closed the channel over it, or it cannot be encoded. No
	// queue has it, and sending it again unchanged cannot help.
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
	// Err is the reason behind the outcome, if there is more to say.
	Err error
}

// Error names the message, where it was to go and what became of it.
func (e *PublishError) Error() string {
	text := fmt.Sprintf("harebus: publish message %q to exchange %q with key %q: %v",
		e.MessageID, e.Exchange, e.RoutingKey, e.Outcome.sentinel())
	if e.Outcome == Returned {
		text += "; start the service that owns the queue, correct the name, or send it non-mandatory"
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

// TransactionError says that a commit did not get every message confirmed.
// There is no rollback for what was: retry only the others, or let receivers
// recognise duplicates by their ids.
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

// NoRetry marks err as one that trying again cannot cure: a handler that
// returns it has its message parked in the error queue at once. NoRetry(nil) is
// nil.
func NoRetry(err error) error {
	if err == nil {
		return nil
	}
	return &noRetryError{err}
}

type noRetryError struct{ err error }

func (e *noRetryError) Error() string { return e.err.Error() }
func (e *noRetryError) Unwrap() error { return e.err }

// RetryAfter asks for the next attempt in d, instead of the pause that the
// retry policy would choose; negative is 0, and more than [topology.MaxDelay] is
// that. It counts as a retry: after the last one the message is parked as usual.
// RetryAfter(d, nil) is nil. [Postpone] does not count.
func RetryAfter(d time.Duration, err error) error {
	if err == nil {
		return nil
	}
	return &askedError{after: d, err: err}
}

// Postpone asks for the next attempt in d, and that this one does not count: the
// message has not failed, its time has not come. A rate limit that was reached is
// one reason. The message waits in the broker, [Message.Attempt] stays as it is,
// and it can be postponed without end unless [RetryConfig].GiveUpAfter is set. d is
// limited as for [RetryAfter]; Postpone(d, nil) is nil.
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

// PanicError is a panic of a handler, or of other code of yours. Value is what was
// passed to panic; Unwrap returns it if it is an error. Stack is the stack of the
// goroutine that panicked.
type PanicError = guard.PanicError

// RejectError is why no handler has seen a message. It is parked at once, but for
// "no-type" and "unknown-type", which Config.Unhandled is about.
type RejectError struct {
	// Reason is a short code: "bad-header", "bad-time", "bad-retry-count",
	// "no-type", "unknown-type", "unsupported-content", "bad-payload",
	// "too-large", "loop".
	Reason string
	// Err says more.
	Err error

	curable bool // another instance of the service may know better
}

// Error is the code and what is behind it.
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
	var broker *amqp.Error
	return errors.Is(err, ErrRefused) && errors.Is(err, ErrUnknownOutcome) && errors.As(err, &broker) && broker.Server
}
