package harebus

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/harebus/harebus/internal/field"
	"github.com/harebus/harebus/internal/header"
	"github.com/harebus/harebus/internal/publish"
	"github.com/harebus/harebus/internal/session"
	"github.com/harebus/harebus/topology"
)

const maxShortString = field.MaxShortString

// Outgoing is a message as send middleware sees it: encoded, but not yet
// stamped with its times. Header and body changes take effect.
type Outgoing struct {
	// Operation is OpSend, OpPublish, OpDefer or OpReply.
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

// compose encodes a call into an outgoing message. It checks everything that the
// broker would refuse, because the broker then closes a channel that other messages
// use.
func (s *sender) compose(ctx context.Context, op Operation, exchange, key string, value any, o *sendOptions) (*publish.Message, error) {
	verb := op.String()
	messageType, err := o.typeOf(value)
	if err != nil {
		return nil, refuse(verb, "%w", err)
	}
	codec, err := s.endpoint.setup.codecs.ForSending(o.contentType, messageType, value)
	if err != nil {
		return nil, refuse(verb, "%w", err)
	}
	body, err := codec.Encode(value)
	if err != nil {
		return nil, refuse(verb, "encode %T as %s: %w", value, codec.ContentType(), err)
	}
	draft := Outgoing{
		Operation: op, Exchange: exchange, RoutingKey: key, Type: messageType,
		Headers: o.headers, Body: body, ContentType: codec.ContentType(),
	}
	if len(s.endpoint.setup.cfg.Publish.Middleware) > 0 {
		seen := draft // only this one escapes
		if err := s.runSendMiddleware(ctx, &seen); err != nil {
			return nil, fmt.Errorf("harebus: %s: middleware: %w", verb, err)
		}
		draft = seen
	}
	out := &publish.Message{Op: int8(op), Exchange: exchange, Key: key, Mandatory: !o.optional, Foreign: o.exchange != ""}
	if op == OpPublish && out.Mandatory {
		needless, err := s.endpoint.setup.cfg.needless(value)
		if err != nil {
			return nil, refuse(verb, "%T: %w", value, err)
		}
		out.Mandatory = !needless
	}
	if op == OpReply && strings.HasPrefix(key, directReplyTo) {
		out.Mandatory = false // RabbitMQ returns what is: no queue takes it, but the requester
	}
	out.Several = op == OpPublish || out.Foreign
	out.ViaDefault = !out.Several && exchange != ""
	if err := s.stamp(out, &draft, o); err != nil {
		return nil, refuse(verb, "%w", err)
	}
	if err := s.check(out); err != nil {
		return nil, refuse(verb, "%w", err)
	}
	return out, nil
}

// stamp writes headers and mirrors them into properties, as the peers do.
func (s *sender) stamp(out *publish.Message, draft *Outgoing, o *sendOptions) error {
	names := &s.endpoint.setup.dialect.Names
	headers, err := s.customHeaders(draft.Headers)
	if err != nil {
		return err
	}
	now := time.Now().UTC()
	out.Publishing = amqp.Publishing{
		Headers:         headers,
		ContentType:     draft.ContentType,
		ContentEncoding: charset(draft.ContentType),
		DeliveryMode:    amqp.Persistent,
		Priority:        o.priority,
		CorrelationId:   s.correlationID(o),
		ReplyTo:         o.replyTo,
		MessageId:       s.messageID(out, draft, o),
		Timestamp:       now,
		Type:            draft.Type,
		AppId:           o.appID,
		Body:            draft.Body,
	}
	msg := &out.Publishing
	headers[names.MessageID] = msg.MessageId
	headers[names.CorrelationID] = msg.CorrelationId
	headers[names.TimeSent] = s.endpoint.setup.dialect.Time(now)
	headers[names.Intent] = boxed(string(s.intent(out)))
	headers[names.ContentType] = boxed(msg.ContentType)
	if msg.ContentEncoding != "" {
		headers[names.ContentEncoding] = boxed(msg.ContentEncoding)
	}
	if msg.Type != "" {
		headers[names.MessageType] = msg.Type
	}
	if queue := s.endpoint.queue; queue != "" {
		headers[names.OriginatingAddress] = queue
		if msg.ReplyTo == "" {
			msg.ReplyTo = queue
		}
	}
	if msg.ReplyTo != "" {
		headers[names.ReplyTo] = msg.ReplyTo
	}
	if o.expiration != 0 {
		if msg.Expiration, err = expiration(o.expiration); err != nil {
			return err
		}
	}
	return nil
}

// intent is event for messages to the topic exchange, also if they are deferred.
func (s *sender) intent(out *publish.Message) Intent {
	if Operation(out.Op) == OpPublish || out.Exchange == s.endpoint.setup.cfg.Exchanges.Topic {
		return IntentEvent
	}
	return IntentCommand
}

// boxed is s as a header value, without an allocation for the usual ones.
func boxed(s string) any {
	switch s {
	case "application/json":
		return "application/json"
	case "utf-8":
		return "utf-8"
	case string(IntentCommand):
		return string(IntentCommand)
	case string(IntentEvent):
		return string(IntentEvent)
	}
	return s
}

// charset is what the peers call content encoding: binary formats have none.
func charset(contentType string) string {
	if contentType == "application/json" || strings.HasPrefix(contentType, "text/") || strings.HasSuffix(contentType, "+json") {
		return "utf-8"
	}
	return ""
}

// customHeaders copies the caller's headers and leaves room for the standard ones.
func (s *sender) customHeaders(in map[string]any) (amqp.Table, error) {
	if len(in) == 0 {
		// Up to eight entries a map is one block. A sender without a queue
		// writes seven, and an eighth when it defers or replies.
		if s.endpoint.queue == "" {
			return make(amqp.Table, 8), nil
		}
		return make(amqp.Table, 12), nil
	}
	return s.endpoint.setup.dialect.Sendable(in)
}

func (s *sender) correlationID(o *sendOptions) string {
	if o.correlationID != "" {
		return o.correlationID
	}
	if m := s.scope.message(); m != nil && m.CorrelationID != "" {
		return m.CorrelationID
	}
	return NewMessageID()
}

func (s *sender) messageID(out *publish.Message, draft *Outgoing, o *sendOptions) string {
	switch {
	case o.messageID != "":
		return o.messageID
	case s.scope.message() != nil:
		return s.scope.deriveID(out.Exchange, out.Key, draft.Type)
	default:
		return NewMessageID()
	}
}

func expiration(d time.Duration) (string, error) {
	ms := d.Milliseconds()
	if ms < 1 || ms > math.MaxUint32 {
		return "", fmt.Errorf("expiration %v is not between 1ms and %v", d, time.Duration(math.MaxUint32)*time.Millisecond)
	}
	return strconv.FormatInt(ms, 10), nil
}

// check refuses messages that would close the channel or the whole connection.
func (s *sender) check(out *publish.Message) error {
	msg := &out.Publishing
	var faults []error
	for _, short := range []struct{ name, value string }{
		{"message id", msg.MessageId}, {"correlation id", msg.CorrelationId}, {"message type", msg.Type},
		{"reply address", msg.ReplyTo}, {"app id", msg.AppId}, {"content type", msg.ContentType},
	} {
		if err := checkShort(short.name, short.value); err != nil {
			faults = append(faults, err)
		}
	}
	faults = append(faults, addressFaults(out)...)
	if err := s.fits(out); err != nil {
		faults = append(faults, err)
	}
	if limit := s.endpoint.setup.cfg.Payload.MaxBody; len(msg.Body) > limit {
		faults = append(faults, fmt.Errorf("the body has %d bytes, more than Config.Payload.MaxBody %d", len(msg.Body), limit))
	}
	return errors.Join(faults...)
}

// checkShort refuses what is no short string of AMQP.
func checkShort(name, value string) error {
	if len(value) > maxShortString || !utf8.ValidString(value) {
		return fmt.Errorf("%s %s is longer than %d bytes or not valid UTF-8", name, field.Quote(value), maxShortString)
	}
	return nil
}

// addressFaults are those of an exchange and a routing key. Fanout and headers
// exchanges do not look at the key.
func addressFaults(out *publish.Message) (faults []error) {
	if err := checkShort("exchange", out.Exchange); err != nil {
		faults = append(faults, err)
	}
	if err := topology.ValidRoutingKey(out.Key); err != nil && (out.Key != "" || !out.Foreign) {
		faults = append(faults, err)
	}
	return faults
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
