package harebus

import (
	"github.com/harebus/harebus/internal/header"
	"github.com/harebus/harebus/internal/messageid"
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
	// HeaderReplyBy says that the sender of a message waits for a reply, and until when:
	// see [Request]. PikaBus does not know it.
	HeaderReplyBy = "ReplyBy"
	// HeaderFault marks a reply that says that a request was given up. It has the reason
	// code, and HeaderErrorDetails the text. PikaBus does not know it.
	HeaderFault = "Fault"
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

// newDialect returns how a setup writes headers. The full names are made once, so that
// stamping a message concatenates nothing.
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
	return header.Dialect{Prefix: prefix, Time: format, Always: always, Names: header.Names{
		MessageID:          prefix + HeaderMessageID,
		CorrelationID:      prefix + HeaderCorrelationID,
		TimeSent:           prefix + HeaderTimeSent,
		ReplyTo:            prefix + HeaderReplyTo,
		OriginatingAddress: prefix + HeaderOriginatingAddress,
		Intent:             prefix + HeaderIntent,
		MessageType:        prefix + HeaderMessageType,
		ContentType:        prefix + HeaderContentType,
		ContentEncoding:    prefix + HeaderContentEncoding,
		DeferredTime:       prefix + HeaderDeferredTime,
		ErrorRetries:       prefix + HeaderErrorRetries,
		ErrorDetails:       prefix + HeaderErrorDetails,
		SourceQueue:        prefix + HeaderSourceQueue,
		Hops:               prefix + HeaderHops,
		FirstFailed:        prefix + HeaderFirstFailed,
		LeftOut:            prefix + HeaderLeftOut,
		RawHeaders:         prefix + HeaderRawHeaders,
		Signature:          prefix + HeaderSignature,
		Parking:            prefix + HeaderParking,
		ReplyBy:            prefix + HeaderReplyBy,
		Fault:              prefix + HeaderFault,
		CausationID:        prefix + HeaderCausationID,
	}}
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
