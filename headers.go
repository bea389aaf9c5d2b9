package harebus

import (
	"context"
	"errors"
	"fmt"

	"github.com/harebus/harebus/internal/field"
	"github.com/harebus/harebus/internal/header"
	"github.com/harebus/harebus/internal/messageid"
	"github.com/harebus/harebus/internal/travel"
)

// The standard headers, without their prefix. On the wire they are
// "PikaBus.MessageId" and so on; Config.Payload.HeaderPrefix changes the prefix.
const (
	HeaderMessageID          = "MessageId"
	HeaderCorrelationID      = "CorrelationId"
	HeaderTimeSent           = "TimeSent"
	HeaderReplyTo            = "ReplyToAddress"
	HeaderOriginatingAddress = "OriginatingAddress"
	HeaderIntent             = "Intent"
	HeaderMessageType        = "MessageType"
	HeaderContentType        = "ContentType"
	HeaderContentEncoding    = "ContentEncoding"
	HeaderDeferredTime       = "DeferredTime"
	HeaderErrorRetries       = "ErrorRetries"
	HeaderErrorDetails       = "ErrorDetails"
	HeaderSourceQueue        = "SourceQueue"
	// HeaderHops is how many replies in a row have answered a reply. PikaBus
	// neither writes nor reads it.
	HeaderHops = "Hops"
	// HeaderFirstFailed is when the message failed or was postponed for the first
	// time. PikaBus does not know it.
	HeaderFirstFailed = "FirstFailed"
	// HeaderLeftOut names the headers for which a copy of a failed message had no
	// room. PikaBus does not know it.
	HeaderLeftOut = "LeftOut"
	// HeaderParking marks a failed message that waits in the delay queues until the
	// error queue takes messages again. Messages in the error queue do not have it.
	// PikaBus does not know it.
	HeaderParking = "Parking"
	// HeaderRawHeaders has the bytes of the header table of a parked message whose
	// headers could not be read. PikaBus does not know it.
	HeaderRawHeaders = "RawHeaders"
	// HeaderCausationID is the id of the message whose handler sent this one. PikaBus does
	// not know it.
	HeaderCausationID = "CausationId"
	// HeaderEnvironment and HeaderBuild are Config.Payload.Environment and Build of the
	// sender. PikaBus does not know them.
	HeaderEnvironment = "Environment"
	HeaderBuild       = "Build"
	// HeaderSignature is the proof of a [Guard] that signs. PikaBus ignores it.
	HeaderSignature = "Signature"
	// HeaderDialect is the name of the dialect in which a copy of a message is written that another bus
	// has sent. PikaBus does not know it.
	HeaderDialect = "Dialect"
	// HeaderReplyBy says that the sender of a message waits for a reply, and until when:
	// see [Request]. PikaBus does not know it.
	HeaderReplyBy = "ReplyBy"
	// HeaderFault marks a reply that says that a request was given up. It has the reason
	// code, and HeaderErrorDetails the text. PikaBus does not know it.
	HeaderFault = "Fault"
	// HeaderKey is the key of a message: see [WithKey]. PikaBus does not know it.
	HeaderKey = "Key"
	// HeaderStreamOffset is where a parked or replayed message is in its stream. A replayed one also has the run
	// in HeaderReplayed and its id in HeaderOriginalMessageID.
	HeaderStreamOffset      = "StreamOffset"
	HeaderReplayed          = "Replayed"
	HeaderOriginalMessageID = "OriginalMessageId"
)

// Intent says whether a message is a command or an event.
type Intent string

// The two intents.
const (
	// IntentCommand is written by Send, Defer and Reply.
	IntentCommand Intent = "command"
	// IntentEvent is written by Publish.
	IntentEvent Intent = "event"
)

// newDialect returns how a setup writes headers.
func newDialect(cfg *PayloadConfig) header.Dialect {
	prefix := cfg.HeaderPrefix
	format := header.ISOTime
	if cfg.TimeFormat == TimeLegacy {
		format = header.LegacyTime
	}
	always := map[string]any{}
	if cfg.Environment != "" {
		always[prefix+HeaderEnvironment] = cfg.Environment
	}
	if cfg.Build != "" {
		always[prefix+HeaderBuild] = cfg.Build
	}
	return header.Dialect{Prefix: prefix, Time: format, Always: always, Environment: cfg.Environment, Keep: header.Bound(cfg.Guards), Names: header.NamesOf(prefix)}
}

// NewMessageID returns a new id as the bus makes them: UUID version 7 (RFC 9562),
// which sorts by time and reveals nothing of the machine. Use it with
// [WithMessageID] when you must know the id before you send.
func NewMessageID() string { return messageid.New() }

// TimeFormat is how times are written into headers. Both formats are always
// read.
type TimeFormat int8

const (
	// TimeISO is ISO 8601 in UTC with microseconds, as PikaBus 2.x writes it:
	// 2026-11-21T08:44:41.901107+00:00. It is the default.
	TimeISO TimeFormat = iota
	// TimeLegacy is the format that PikaBus 1.x writes, and the only one that it
	// can read: 11/21/2026 08:46:59, in UTC, to the second.
	TimeLegacy
)

// ContextHeader is a context value that travels with messages: see Config.Payload.Context.
type ContextHeader struct {
	// Name is that of the value, and of its header: "tenant".
	Name string
	// Required refuses to send a message without the value, and parks a received one
	// ("missing-context").
	Required bool
	// Max is how many bytes the value may have, at most 4,096. A message with a longer one,
	// or with one that is not printable text, is neither sent nor handled ("bad-context").
	// Default: 256.
	Max int
}

// WithContextValue returns a context whose value travels with messages, if
// Config.Payload.Context has its name. In a handler an empty one replaces that of the message.
func WithContextValue(ctx context.Context, name, value string) context.Context {
	return travel.With(ctx, name, value)
}

// ContextValue returns a value that [WithContextValue] has set, or that came with the message
// that is handled in ctx; "" if there is none.
func ContextValue(ctx context.Context, name string) string {
	value, _ := travel.Of(ctx, name)
	return value
}

// travels are the values that travel, with their defaults.
func (c *PayloadConfig) travels() travel.List {
	list := make(travel.List, len(c.Context))
	for i, one := range c.Context {
		fill(&one.Max, 256)
		list[i] = travel.Value(one)
	}
	return list
}

// contextFaults are those of Context.
func (c *PayloadConfig) contextFaults() (faults []error) {
	dialect, known := newDialect(c), map[string]bool{}
	for i, one := range c.travels() {
		if _, err := dialect.Sendable(map[string]any{one.Name: ""}); err != nil {
			faults = append(faults, fmt.Errorf("Payload.Context[%d]: %w", i, err))
		}
		if known[one.Name] {
			faults = append(faults, fmt.Errorf("Payload.Context[%d]: %q is there twice", i, one.Name))
		}
		known[one.Name] = true
		faults = append(faults, field.Outside(fmt.Sprintf("Payload.Context[%d].Max", i), one.Max, 1, 4096)...)
	}
	return faults
}

// carry takes the values that travel out of the message, into the context of its handler.
func (d *delivery) carry() error {
	values, err := d.endpoint.setup.travels.Read(d.message.Headers)
	var missing *travel.MissingError
	switch {
	case errors.As(err, &missing):
		return reject("missing-context", "%w", err)
	case err != nil:
		return reject("bad-context", "%w", err)
	}
	d.message.carried = values
	d.ctx = d.endpoint.setup.travels.Into(d.ctx, values)
	return nil
}

// carry puts the values that travel into the headers of a message. A reply that says that a
// request was given up needs none: the request may have come without.
func (s *sender) carry(ctx context.Context, headers map[string]any, o *sendOptions) error {
	travels := s.endpoint.setup.travels
	if len(travels) == 0 || o.givesUp() {
		return nil
	}
	var handled []string
	if m := s.scope.Message(); m != nil {
		handled = m.carried
	}
	err := travels.Write(ctx, handled, headers)
	if missing := (*travel.MissingError)(nil); errors.As(err, &missing) {
		return fmt.Errorf("%w, which Config.Payload.Context requires; set it with WithContextValue", err)
	}
	return err
}
