package harebus

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/harebus/harebus/internal/field"
	"github.com/harebus/harebus/internal/foreign"
	"github.com/harebus/harebus/internal/publish"
	"github.com/harebus/harebus/internal/routing"
	"github.com/harebus/harebus/topology"
)

// Bus sends messages. The one from [Setup.Bus] sends at once: each call returns when the broker has confirmed the
// message, or returns an error that says what is known. The bus that a handler is given buffers messages until the
// handler has returned nil. The bus from Setup.Bus does so too if a call has the context of a handler of the same
// setup: the call joins the handler's transaction. The option [Immediately] sends at once there, too. A Bus is safe for
// concurrent use.
//
// A call ends at the latest with its context. Without a deadline it waits for as long as the broker is away, and a
// message whose outcome is unknown is sent again under the same id until it is confirmed.
type Bus struct{ sender }

// Sender has the methods that [Bus] and [Tx] have in common. Use it for functions that send with either. Later versions
// may add methods.
type Sender interface {
	Send(ctx context.Context, queue string, message any, opts ...SendOption) error
	Publish(ctx context.Context, topic string, message any, opts ...SendOption) error
	PublishEvent(ctx context.Context, event any, opts ...SendOption) error
	Defer(ctx context.Context, queue string, delay time.Duration, message any, opts ...SendOption) error
	DeferUntil(ctx context.Context, queue string, due time.Time, message any, opts ...SendOption) error
	Reply(ctx context.Context, message any, opts ...SendOption) error
	Cancel(ctx context.Context, ticket Ticket) error
	Reschedule(ctx context.Context, ticket Ticket, queue string, delay time.Duration, message any, opts ...SendOption) (Ticket, error)
}

var (
	_ Sender = (*Bus)(nil)
	_ Sender = (*Tx)(nil)
)

// sender has the methods that Bus and Tx share.
type sender struct {
	endpoint *endpoint
	scope    *scope // where messages are buffered; nil sends at once
}

// String names the config of the setup that a Bus or Tx belongs to.
func (s sender) String() string { return "harebus.Bus of " + s.endpoint.setup.cfg.String() }

// Format writes String for every verb.
func (s sender) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, s.String()) }

// handlingKey is the key of the handler's bus in the handler's context.
type handlingKey struct{}

// within returns the sender for a call with ctx. If ctx belongs to a handler of the same setup, the call joins that
// handler's transaction.
func (s *sender) within(ctx context.Context) *sender {
	bus, ok := ctx.Value(handlingKey{}).(*Bus)
	switch {
	case !ok || bus.endpoint.setup != s.endpoint.setup || bus.scope == nil:
		return s
	case s.scope == nil:
		return &bus.sender
	}
	s.scope.Join(bus.scope)
	if s.endpoint == bus.endpoint {
		return s
	}
	return &sender{bus.endpoint, s.scope} // replies go to the queue of the handler
}

// Send sends a command to a queue. It goes to the direct exchange with the queue's name as key. If no queue is bound
// there with this key, it goes to the default exchange, which leads directly to the queue.
func (s *sender) Send(ctx context.Context, queue string, message any, opts ...SendOption) error {
	return s.emit(ctx, OpSend, queue, message, time.Time{}, opts)
}

// Publish publishes an event to everybody who subscribed to its topic. If nobody has subscribed, it returns an error,
// unless [NonMandatory], Config.Publish.OptionalEvents or a method OptionalEvent() bool of the event's type allows
// that.
func (s *sender) Publish(ctx context.Context, topic string, message any, opts ...SendOption) error {
	return s.emit(ctx, OpPublish, topic, message, time.Time{}, opts)
}

// Defer sends a command that reaches its queue after delay: never before, and on an idle broker about 8 ms after
// (docs/delays.md has the figures). Until then it waits in durable queues of the broker; with [WithTicket] it can be
// cancelled. A deferral declares the delay queues that it needs if they are not declared yet, some 10 to 30 ms for
// each. The longest delay is [topology.MaxDelay].
func (s *sender) Defer(ctx context.Context, queue string, delay time.Duration, message any, opts ...SendOption) error {
	if delay < 0 || delay > topology.MaxDelay {
		return refuse("defer", "delay %v is not between 0 and %v", delay, topology.MaxDelay)
	}
	return s.emit(ctx, OpDefer, queue, message, time.Now().Add(delay), opts)
}

// DeferUntil is [Bus.Defer] to a point in time. A time that has passed sends the message at once. The zero time, and a
// time further ahead than [topology.MaxDelay], are refused.
func (s *sender) DeferUntil(ctx context.Context, queue string, due time.Time, message any, opts ...SendOption) error {
	if due.IsZero() || time.Until(due) > topology.MaxDelay {
		return refuse("defer", "the time %v is zero or more than %v ahead", due, topology.MaxDelay)
	}
	return s.emit(ctx, OpDefer, queue, message, due, opts)
}

// Ticket names one deferred message, to cancel or reschedule it. [WithTicket] fills one in. It can be stored: see
// [topology.Ticket.String].
type Ticket = topology.Ticket

// Cancel cancels a deferred message. It returns nil if the message is certain never to be delivered: the broker had the
// cancellation a second before the message was due. If it came later the error is [ErrUnknownOutcome], and [ErrTooLate]
// if the message was due before. The clocks of the process that deferred and of the one that cancels must agree to
// within that second. What an outbox, or a handler that runs again, publishes of the message after it was due is caught
// for ten minutes at least, if it was deferred with [WithTicket]. Cancelling again does no harm, nor does a ticket
// whose message was never sent. In a handler or transaction the cancellation is made at the commit, when the messages
// are confirmed, and a commit that cannot make it fails. docs/delays.md says more.
func (s *sender) Cancel(ctx context.Context, ticket Ticket) error {
	if err := cancellable("cancel", ticket); err != nil {
		return err
	}
	out := publish.Cancellation(int8(OpCancel), ticket)
	ctx, o := s.endpoint.setup.observers.start(ctx, Observation{Operation: OpCancel, Exchange: out.Exchange, RoutingKey: out.Key})
	err := s.within(ctx).hand(ctx, out, &sendOptions{observed: o})
	o.End(err)
	return err
}

// cancellable refuses a ticket that is none, and one whose message is due.
func cancellable(verb string, t Ticket) error {
	if err := t.Validate(); err != nil {
		return refuse(verb, "%w", err)
	}
	if time.Until(t.Due) <= 0 {
		return &PublishError{MessageID: t.ID, Err: ErrTooLate, cancels: true}
	}
	return nil
}

// Reschedule defers a message, as [Bus.Defer] does, in the place of the one that the ticket names, and then cancels
// that one. It returns the new ticket. The new message has an id of its own, as with Defer: a repeated call makes a
// further message, a handler that runs again a copy. With [ErrTooLate] the old message stays and the new one is
// cancelled; with other errors of [Bus.Cancel], and after a commit that is too late, both may be delivered.
func (s *sender) Reschedule(ctx context.Context, ticket Ticket, queue string, delay time.Duration, message any, opts ...SendOption) (next Ticket, err error) {
	if err := cancellable("reschedule", ticket); err != nil {
		return Ticket{}, err
	}
	if newSendOptions(opts).messageID == ticket.ID {
		return Ticket{}, refuse("reschedule", "the new message has the id of the old one, so both would be cancelled")
	}
	if err = s.Defer(ctx, queue, delay, message, append(slices.Clone(opts), WithTicket(&next))...); err != nil {
		return Ticket{}, err
	}
	if err = s.Cancel(ctx, ticket); errors.Is(err, ErrTooLate) {
		return Ticket{}, errors.Join(err, s.Cancel(ctx, next))
	}
	return next, err
}

// Reply answers the message that is being handled: it sends to the reply address in the message, with its correlation
// id. It fails with [ErrReplyOutsideHandler] outside a handler, with [ErrNoReplyAddress] if the message names no
// address, and with [ErrRefused] if the address is a queue of the broker's own (amq.…; see Config.Reply.Reserved), the
// error queue, or one that Config.Reply.Policy does not allow. The last two are final, as if marked with [NoRetry].
func (s *sender) Reply(ctx context.Context, message any, opts ...SendOption) error {
	m := s.within(ctx).scope.Message()
	if m == nil {
		return fmt.Errorf("harebus: reply: %w", ErrReplyOutsideHandler)
	}
	if err := m.peer.Refuses(); err != nil {
		return NoRetry(refuse("reply", "message %q: %w", m.ID, err))
	}
	if m.ReplyTo == "" {
		return NoRetry(fmt.Errorf("harebus: reply to message %q: %w", m.ID, ErrNoReplyAddress))
	}
	if err := s.allowReply(m); err != nil {
		return NoRetry(refuse("reply", "address %s: %w", field.Quote(m.ReplyTo), err))
	}
	return s.emit(ctx, OpReply, m.ReplyTo, message, time.Time{}, opts)
}

// ReplyPolicy decides whether a reply to m may go to m.ReplyTo. The address comes from the network, and the reply is
// sent with this service's permissions. Without a policy anybody who can write to the listener queue can make this
// service send to any queue. If it returns an error, the reply is refused.
type ReplyPolicy func(m *Message) error

// RepliesTo is a policy that allows the given queues only, and the reply queues of the requests that services with
// these listener queues make.
func RepliesTo(queues ...string) ReplyPolicy {
	allowed := make(map[string]struct{}, len(queues))
	for _, q := range queues {
		allowed[q] = struct{}{}
	}
	return func(m *Message) error {
		_, queue := allowed[m.ReplyTo]
		_, owner := allowed[routing.Owner(m.ReplyTo)]
		if !queue && !owner {
			return fmt.Errorf("%s is not one of the allowed reply addresses", field.Quote(m.ReplyTo))
		}
		return nil
	}
}

// allowReply applies the rules that always hold, then the configured policy.
func (s *sender) allowReply(m *Message) error {
	policy := &s.endpoint.setup.cfg.Reply
	switch err := topology.ValidName("queue", m.ReplyTo); {
	case s.endpoint.setup.parksIn(m.ReplyTo):
		return fmt.Errorf("%q is the error queue", m.ReplyTo)
	case routing.Reserved(m.ReplyTo):
		if !policy.Reserved {
			return errors.New("the broker has named it; Config.Reply.Reserved allows such addresses")
		}
	case err != nil:
		return err
	}
	if policy.Policy == nil {
		return nil
	}
	return foreign.Call(func() error { return policy.Policy(m) })
}
