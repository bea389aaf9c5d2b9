package harebus

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/harebus/harebus/internal/field"
	"github.com/harebus/harebus/internal/foreign"
	"github.com/harebus/harebus/internal/replies"
	"github.com/harebus/harebus/internal/safelog"
	"github.com/harebus/harebus/internal/wirename"
)

// requestPatience is how long a request waits whose context has no deadline.
const requestPatience = 30 * time.Second

var errPatience = fmt.Errorf("%v have passed, and the context of the call has no deadline: %w", requestPatience, context.DeadlineExceeded)

// Request sends a command to a queue and waits for the reply, which it decodes into a T. If
// T has a method MessageType, a reply of another type is refused; a *[Message] takes any
// reply, for callers who expect several types. It waits until ctx ends, or for 30 seconds if
// ctx has no deadline; after that time the broker no longer delivers the request either.
//
// A harebus service replies with [Bus.Reply]. If it gives the request up, because its
// handler failed for good, or because it does not know the type or cannot decode the body,
// the error is a [*FaultError]. If no queue takes the request, it is a [*PublishError] that
// matches [ErrUnroutable], at once. An error after the request was sent is a
// [*RequestError]: [ErrNoReply], [ErrReplyLost], [ErrUnexpectedReply], or a [*RejectError]
// if the reply cannot be decoded. Then the request may have been handled, and may still be.
// It may also be handled twice, as any message may. If ctx ends before the broker has
// confirmed the request, the error is that of Send: [ErrNotSent] or [ErrUnknownOutcome].
//
// Every setup has one reply queue, which it declares at its first request and deletes when
// it is stopped. A lost connection ends no request: the reply waits in the queue for the
// next one. Start is not needed. In a handler, where messages wait until the handler has
// returned, a request needs the option [Immediately]. [WithReplyTo], [WithExpiration] and
// [NonMandatory] are refused.
func Request[T any](ctx context.Context, bus *Bus, queue string, message any, opts ...SendOption) (T, error) {
	var reply, none T
	o := newSendOptions(opts)
	if name, err := wirename.Handled(wirename.Target[T]()); err == nil {
		o.accepts = []string{name}
	}
	err := bus.request(ctx, queue, message, o, func(m *Message) (err error) {
		reply, err = replyAs[T](m)
		return err
	})
	if err != nil {
		return none, err
	}
	return reply, nil
}

// replyAs reads a reply.
func replyAs[T any](m *Message) (T, error) {
	var reply T
	if whole, ok := any(&reply).(**Message); ok {
		*whole = m
		return reply, nil
	}
	err := foreign.Call(func() (err error) { // foreign code
		switch want, err := wirename.Handled(wirename.Target[T]()); {
		case errors.Is(err, wirename.ErrNone) || m.Type == NoType:
		case err != nil:
			return err
		case want != m.Type:
			return fmt.Errorf("%w: %s instead of %s", ErrUnexpectedReply, field.Quote(m.Type), field.Quote(want))
		}
		reply, err = decode[T](m.codecs, m)
		return err
	})
	return reply, err
}

// RequestError says why a request that was sent has no usable reply. The request may have
// been handled, or may still be.
type RequestError struct {
	// Queue is where the request was sent, and MessageID the id that it carried.
	Queue, MessageID string
	// Reply is the reply that came, if one has come that cannot be used.
	Reply *Message
	// Err is the reason: it matches ErrNoReply, ErrReplyLost, ErrUnexpectedReply or
	// ErrStopped, or is a *FaultError or a *RejectError.
	Err error
}

// Error names the request and the reason.
func (e *RequestError) Error() string {
	return fmt.Sprintf("harebus: request %q to queue %q: %v", e.MessageID, e.Queue, e.Err)
}

// Unwrap returns the reason.
func (e *RequestError) Unwrap() error { return e.Err }

// FaultError is the answer of a harebus service that has given a request up. The request is
// in the error queue of the service, unless its ErrorHandler discarded it.
type FaultError struct {
	// Reason is "failed" if the handler failed, else the reason of the service's
	// [RejectError]: "unknown-type", "bad-payload" and so on.
	Reason string
	// Details is the text of the service's error, without the stack of a panic.
	Details string
}

// Error has the reason and the details.
func (e *FaultError) Error() string {
	details := e.Details
	if e.Reason != "" && !strings.HasPrefix(details, e.Reason+": ") {
		details = e.Reason + ": " + details
	}
	return "the service has given the request up: " + safelog.Printable(details)
}

// request sends a request and passes the reply to read.
func (s *sender) request(ctx context.Context, queue string, message any, o sendOptions, read func(*Message) error) (err error) {
	setup := s.endpoint.setup
	to := address{op: OpRequest, exchange: s.exchange(OpRequest, queue, &o), key: queue}
	ctx, cancel := withPatience(ctx)
	defer cancel()
	ctx, o.observed = setup.observers.start(ctx, Observation{Operation: OpRequest, Exchange: to.exchange, RoutingKey: queue})
	defer func() { o.observed.End(err) }()
	within := s.within(ctx)
	if err := within.mayRequest(ctx, &o); err != nil {
		return err
	}
	fill(&o.messageID, NewMessageID())
	fill(&o.correlationID, NewMessageID())
	eng, err := setup.engine()
	if err != nil {
		return fmt.Errorf("harebus: request: %w", err)
	}
	call, err := eng.Replies.Expect(ctx, o.correlationID)
	if err != nil {
		return fmt.Errorf("harebus: request: %w: %w", ErrNotSent, err)
	}
	defer call.End()
	o.replyTo, o.expiration = call.Address(), timeLeft(ctx)
	o.replyBy, _ = ctx.Deadline()
	sent := within.dispatch(ctx, to, message, &o)
	select {
	case <-call.Done(): // the reply is here, so the result of the sending does not matter
	default:
		if sent != nil {
			return sent
		}
	}
	reply, err := call.Wait(ctx)
	failed := &RequestError{Queue: queue, MessageID: o.messageID}
	switch {
	case err == nil:
		failed.Reply, failed.Err = s.readReply(ctx, reply)
		if failed.Err == nil {
			failed.Err = read(failed.Reply)
		}
		if failed.Err == nil {
			return nil
		}
	case ctx.Err() != nil && !errors.Is(err, ErrReplyLost):
		failed.Err = fmt.Errorf("%w: %w", ErrNoReply, err)
	default:
		failed.Err = err
	}
	return failed
}

// withPatience bounds a request whose context has no deadline.
func withPatience(ctx context.Context) (context.Context, context.CancelFunc) {
	if _, bounded := ctx.Deadline(); bounded {
		return context.WithCancel(ctx)
	}
	return context.WithTimeoutCause(ctx, requestPatience, errPatience)
}

// timeLeft is until the deadline of ctx, within what an expiration can be.
func timeLeft(ctx context.Context) time.Duration {
	deadline, _ := ctx.Deadline()
	return min(max(time.Until(deadline), time.Millisecond), math.MaxUint32*time.Millisecond)
}

// mayRequest refuses a request that could have no reply.
func (s *sender) mayRequest(ctx context.Context, o *sendOptions) error {
	switch {
	case ctx.Err() != nil:
		return fmt.Errorf("harebus: request: %w: %w", ErrNotSent, context.Cause(ctx))
	case o.replyTo != "" || o.expiration != 0 || o.optional:
		return refuse("request", "the options WithReplyTo, WithExpiration and NonMandatory exclude a reply here")
	case s.endpoint.setup.cfg.Declare.Mode == CheckOnly:
		return refuse("request", "this setup declares nothing (Config.Declare.Mode is CheckOnly), and a request needs a reply queue")
	case s.scope == nil:
		return nil
	case !o.now:
		return refuse("request", "%w: the message would wait until the handler has returned; pass Immediately to send it at once", ErrRequestInHandler)
	case s.scope.Outermost().Rehearsal:
		return refuse("request", "Setup.Invoke has no broker that could reply")
	}
	return nil
}

// readReply makes a message of a reply. A fault is an error.
func (s *sender) readReply(ctx context.Context, r *replies.Reply) (*Message, error) {
	setup := s.endpoint.setup
	m, err := readMessage(setup.peers.ForReplies(), setup.routing.Topic, r.Raw.RoutingKey, &r.Raw)
	m.codecs, m.packed = setup.codecs, r.Packed
	switch {
	case r.Unreadable != nil:
		return m, reject("bad-header", "the headers cannot be read: %w", r.Unreadable)
	case err != nil:
		return m, err
	case len(m.Body) > setup.cfg.Payload.mostOnTheWire():
		return m, reject("too-large", "the body has %d bytes, more than %d", len(m.Body), setup.cfg.Payload.MaxBody)
	}
	if _, err := s.endpoint.open(ctx, m, &r.Raw, r.Raw.RoutingKey); err != nil {
		return m, err
	}
	if m.peer != nil && m.peer.Fault != nil {
		return m, &FaultError{Reason: m.peer.Fault.Reason, Details: m.peer.Fault.Text}
	}
	// The type is one of the things that a guard binds, and the header is not.
	if fault, ok := field.Text(m.Headers[setup.dialect.Names.Fault]); ok && m.Type == faultType {
		return m, &FaultError{Reason: fault, Details: m.ErrorDetails}
	}
	return m, nil
}
