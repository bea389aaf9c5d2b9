package harebus

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/harebus/harebus/dialect"
	"github.com/harebus/harebus/internal/field"
	"github.com/harebus/harebus/internal/foreign"
	"github.com/harebus/harebus/internal/header"
	"github.com/harebus/harebus/internal/peer"
	"github.com/harebus/harebus/internal/publish"
	"github.com/harebus/harebus/internal/routing"
	"github.com/harebus/harebus/internal/session"
	"github.com/harebus/harebus/internal/wirename"
	"github.com/harebus/harebus/order"
)

const maxShortString = field.MaxShortString

// Outgoing is a message as send middleware sees it: encoded, but not yet
// stamped with its times. Header and body changes take effect.
type Outgoing struct {
	// Operation is OpSend, OpPublish, OpDefer, OpReply or OpRequest.
	Operation Operation
	// Exchange and RoutingKey are where it will go.
	Exchange, RoutingKey string
	// Type is the wire name of the message's type.
	Type string
	// Headers are the caller's headers. Middleware may add to them.
	Headers map[string]any
	// Body is the encoded payload, and ContentType what it is.
	Body        []byte
	ContentType string
}

// address is where a call sends its message, and when the message is due; zero is at once.
type address struct {
	op            Operation
	exchange, key string
	due           time.Time
}

// emit composes a message and buffers or publishes it.
func (s *sender) emit(ctx context.Context, op Operation, key string, message any, due time.Time, opts []SendOption) error {
	o := newSendOptions(opts)
	if op == OpDefer && o.expiration != 0 {
		return refuse("defer", "a deferred message cannot expire: it would expire while it waits")
	}
	to := address{op: op, exchange: s.exchange(op, key, &o), key: key, due: due}
	ctx, o.observed = s.endpoint.setup.observers.start(ctx, Observation{Operation: op, Exchange: to.exchange, RoutingKey: key})
	err := s.within(ctx).dispatch(ctx, to, message, &o)
	o.observed.End(err)
	return err
}

// exchange is the one that a call publishes to.
func (s *sender) exchange(op Operation, key string, o *sendOptions) string {
	routing := &s.endpoint.setup.routing
	switch {
	case o.exchange != "":
		return o.exchange
	case op == OpPublish:
		return routing.Topic
	case op == OpReply:
		return routing.Reply(key)
	default:
		return routing.Direct
	}
}

// route says how a message goes to its address.
func (s *sender) route(to address, value any, o *sendOptions) (*publish.Message, error) {
	out := &publish.Message{Op: int8(to.op), Exchange: to.exchange, Key: to.key, Due: to.due, Mandatory: !o.optional, Foreign: o.exchange != ""}
	switch {
	case to.op == OpPublish && out.Mandatory:
		needless, err := wirename.Optional(value, s.endpoint.setup.cfg.Publish.OptionalEvents)
		if err != nil {
			return nil, fmt.Errorf("%T: %w", value, err)
		}
		out.Mandatory = !needless
	case to.op == OpReply && strings.HasPrefix(to.key, routing.DirectReplyTo):
		out.Mandatory = false // RabbitMQ returns what is: no queue takes it, but the requester
	case to.op == OpReply && s.scope.Message().awaited(&s.endpoint.setup.dialect):
		out.Mandatory = false // when its sender has gone, nobody needs it
	case to.op == OpRequest:
		out.Once = true
	}
	out.Several = to.op == OpPublish || out.Foreign
	out.ViaDefault = !out.Several && to.exchange != ""
	return out, nil
}

func (s *sender) dispatch(ctx context.Context, to address, message any, o *sendOptions) error {
	var out *publish.Message
	// Codecs, middleware and the methods of the message are foreign code.
	err := foreign.Call(func() (err error) {
		out, err = s.compose(ctx, to, message, o)
		return err
	})
	if p, ok := err.(*PanicError); ok { //nolint:errorlint // foreign.Call returns it as it is
		err = refuse(to.op.String(), "a %T: %w", message, p)
	}
	if err != nil {
		return err
	}
	return s.hand(ctx, out, o)
}

// hand buffers or publishes what was composed.
func (s *sender) hand(ctx context.Context, out *publish.Message, o *sendOptions) error {
	if s.scope != nil {
		if !o.now {
			buffered(o.observed)
			return add(s.scope, out)
		}
		if top := s.scope.Outermost(); top.Rehearsal {
			return afterEnd(top.AddNow(out))
		}
	}
	publisher, err := s.endpoint.setup.publisher()
	if err != nil {
		return fmt.Errorf("harebus: %s: %w", Operation(out.Op), err)
	}
	err = publisher.Publish(ctx, out)
	reached(o.observed, out)
	return err
}

// A message goes out in three stages. It is drafted: encoded, and changed by the send
// middleware. It is stamped: from then on it has all its headers and properties. It is
// sealed: whatever protects or stores it sees it as it will be on the wire, and after that
// it does not change.

// compose makes a sealed message of a call. It checks everything that the broker would
// refuse, because the broker then closes a channel that other messages use.
func (s *sender) compose(ctx context.Context, to address, value any, o *sendOptions) (*publish.Message, error) {
	verb := to.op.String()
	if err := s.speak(to, o); err != nil {
		return nil, refuse(verb, "%w", err)
	}
	draft, err := s.draft(ctx, to, value, o)
	if err != nil {
		return nil, err
	}
	out, err := s.route(to, value, o)
	if err != nil {
		return nil, refuse(verb, "%w", err)
	}
	if err := s.stamp(out, draft, to, o); err != nil {
		return nil, refuse(verb, "%w", err)
	}
	if err := s.carry(ctx, out.Publishing.Headers, o); err != nil {
		return nil, refuse(verb, "%w", err)
	}
	s.endpoint.setup.observers.carry(o.observed, out)
	if err := s.translate(out, to, o); err != nil {
		return nil, refuse(verb, "%w", err)
	}
	if err := s.seal(ctx, out); err != nil {
		return nil, fmt.Errorf("harebus: %s: %w", verb, err)
	}
	return out, nil
}

// speak chooses the dialect of a message: that of the call, else that of the message which it
// answers, else that of its destination.
func (s *sender) speak(to address, o *sendOptions) error {
	setup := s.endpoint.setup
	if m := s.scope.Message(); !o.spoken && to.op == OpReply && m.peer != nil {
		o.as, o.spoken = m.peer.Dialect, true
	}
	if !o.spoken {
		o.as = setup.peers.To(to.exchange, to.key)
	}
	return setup.peers.Speak(o.as, kinds[to.op], o.compression != nil, len(setup.cfg.Payload.Guards) > 0)
}

// translate writes a message as another bus does.
func (s *sender) translate(out *publish.Message, to address, o *sendOptions) error {
	if o.as == nil {
		return nil
	}
	l := peer.Letter{Message: out, Kind: kinds[to.op], Named: o.exchange, Accepts: o.accepts}
	if m := s.scope.Message(); m != nil {
		l.Handled = m.peer
	}
	return s.endpoint.setup.peers.Write(o.as, l)
}

// kinds are what operations are to another bus; a deferred message is sent.
var kinds = map[Operation]dialect.Kind{OpPublish: dialect.Publish, OpRequest: dialect.Request, OpReply: dialect.Reply}

// draft encodes the value of a call and runs the send middleware.
func (s *sender) draft(ctx context.Context, to address, value any, o *sendOptions) (Outgoing, error) {
	verb := to.op.String()
	messageType, err := o.typeOf(value)
	if err != nil {
		return Outgoing{}, refuse(verb, "%w", err)
	}
	codec, err := s.endpoint.setup.codecs.ForSending(o.contentType, messageType, value)
	if err != nil {
		return Outgoing{}, refuse(verb, "%w", err)
	}
	body, err := codec.Encode(value)
	if err != nil {
		return Outgoing{}, refuse(verb, "encode %T as %s: %w", value, codec.ContentType(), err)
	}
	draft := Outgoing{
		Operation: to.op, Exchange: to.exchange, RoutingKey: to.key, Type: messageType,
		Headers: o.headers, Body: body, ContentType: codec.ContentType(),
	}
	if len(s.endpoint.setup.cfg.Publish.Middleware) == 0 {
		return draft, nil
	}
	seen := draft // only this one escapes
	if err := s.runSendMiddleware(ctx, &seen); err != nil {
		return Outgoing{}, fmt.Errorf("harebus: %s: middleware: %w", verb, err)
	}
	return seen, nil
}

// stamp gives the message its headers and properties.
func (s *sender) stamp(out *publish.Message, draft Outgoing, to address, o *sendOptions) error {
	setup := s.endpoint.setup
	dialect := &setup.dialect
	if limit := setup.cfg.Payload.MaxBody; len(draft.Body) > limit {
		return fmt.Errorf("the body has %d bytes, more than Config.Payload.MaxBody %d", len(draft.Body), limit)
	}
	encoding := header.Charset(draft.ContentType)
	if !s.rehearses() && o.as == nil {
		coded, err := setup.cfg.Payload.Compress.compress(&draft, o)
		if err != nil {
			return err
		}
		encoding = cmp.Or(coded, encoding)
	}
	headers, err := dialect.Custom(draft.Headers, s.endpoint.queue != "")
	if err != nil {
		return err
	}
	h := header.Head{
		ID: s.messageID(out, draft.Type, o), CorrelationID: s.correlationID(o), CausationID: s.causationID(), Type: draft.Type, Intent: string(s.intent(out)),
		ReplyTo: o.replyTo, OriginatingAddress: s.endpoint.queue,
		ContentType: draft.ContentType, ContentEncoding: encoding,
		TimeSent: time.Now().UTC(), DeferredUntil: to.due, ReplyBy: o.replyBy,
	}
	if h.ReplyTo == "" && s.endpoint.cfg.Consume.Stream == nil {
		h.ReplyTo = s.endpoint.queue
	}
	if to.op == OpReply {
		h.Hops = s.scope.Message().hops + 1
		h.GivenUp, h.ErrorDetails = o.fault.code(), o.fault.details()
	}
	if o.keyed {
		if err := order.CheckKey(o.key, o.priority); err != nil {
			return err
		}
		headers[dialect.Names.Key] = o.key
	}
	if o.ticket != nil && to.op == OpDefer {
		*o.ticket, out.Ticket = Ticket{ID: h.ID, Due: to.due}, true
	}
	out.Publishing = dialect.Stamp(&h, headers)
	msg := &out.Publishing
	msg.Priority, msg.AppId, msg.Body = o.priority, o.appID, draft.Body
	if o.expiration != 0 {
		msg.Expiration, err = field.Expiration(o.expiration)
	}
	return err
}

// rehearses says whether messages are composed and not sent: see Setup.Invoke.
func (s *sender) rehearses() bool { return s.scope != nil && s.scope.Outermost().Rehearsal }

// intent is event for messages to the topic exchange, also if they are deferred.
func (s *sender) intent(out *publish.Message) Intent {
	if Operation(out.Op) == OpPublish || out.Exchange == s.endpoint.setup.routing.Topic {
		return IntentEvent
	}
	return IntentCommand
}

func (s *sender) correlationID(o *sendOptions) string {
	if o.correlationID != "" {
		return o.correlationID
	}
	if m := s.scope.Message(); m != nil && m.CorrelationID != "" {
		return m.CorrelationID
	}
	return NewMessageID()
}

// causationID is the id of the message that is being handled.
func (s *sender) causationID() string {
	if s.scope.Message() == nil {
		return ""
	}
	return s.scope.Outermost().ID
}

func (s *sender) messageID(out *publish.Message, messageType string, o *sendOptions) string {
	switch {
	case o.messageID != "":
		return o.messageID
	case s.scope.Message() != nil:
		return s.scope.DeriveID(out.Exchange, out.Key, messageType)
	default:
		return NewMessageID()
	}
}

// seal is the last stage of a message that goes out. The guards protect its content; then
// it refuses messages that would close the channel or the whole connection.
func (s *sender) seal(ctx context.Context, out *publish.Message) error {
	if !s.rehearses() {
		if err := s.endpoint.protect(ctx, out); err != nil {
			return fmt.Errorf("protect the message: %w", err) // perhaps only now
		}
	}
	faults := out.Faults()
	if err := s.fits(out); err != nil {
		faults = append(faults, err)
	}
	if len(faults) > 0 {
		return fmt.Errorf("%w: %w", ErrRefused, errors.Join(faults...))
	}
	return nil
}

// fits refuses a message whose headers would close the connection, or could not
// be read where they arrive.
func (s *sender) fits(out *publish.Message) error {
	if n := len(out.Publishing.Headers); n > header.MaxEntries {
		return fmt.Errorf("the message has %d headers with the standard ones, more than %d", n, header.MaxEntries)
	}
	frameMax := s.endpoint.setup.frameMax()
	limit := publish.HeaderLimit(frameMax, out.Exchange, out.Key)
	if size := publish.HeaderFrame(&out.Publishing); size > limit {
		return session.TooLong(size, limit, frameMax)
	}
	return nil
}
