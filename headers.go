package harebus

import (
	"github.com/google/uuid"

	"github.com/harebus/harebus/internal/header"
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
	return header.Dialect{Prefix: prefix, Time: format, Names: header.Names{
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
		Parking:            prefix + HeaderParking,
	}}
}

// NewMessageID returns a new id as the bus makes them: UUID version 7 (RFC 9562),
// which sorts by time and reveals nothing of the machine. Use it with
// [WithMessageID] when you must know the id before you send.
func NewMessageID() string {
	id, err := uuid.NewV7()
	if err != nil {
		// crypto/rand does not fail on supported systems; Go itself aborts if it does.
		panic("harebus: make message id: " + err.Error())
	}
	return id.String()
}

// derivedID makes the id of a message that a handler sends: a redelivery of the
// incoming message makes the same ones again. The first part is the incoming id. If that
// is a UUID with the time in front (version 7, or 8 as this function makes them), the new
// one begins with the same time: such ids stay in order in the index of an inbox, which
// costs a database a fraction of the work of random ones. (UUID versions 8 and 5, RFC 9562.)
func derivedID(parts ...string) string {
	var name []byte
	for _, part := range parts {
		name = append(name, part...)
		name = append(name, 0) // so that ("ab", "c") and ("a", "bc") differ
	}
	id := uuid.NewSHA1(derivedIDSpace, name)
	const timeBytes, canonical = 6, 36
	if len(parts[0]) == canonical {
		if in, err := uuid.Parse(parts[0]); err == nil && (in.Version() == 7 || in.Version() == 8) {
			copy(id[:timeBytes], in[:])
			id[timeBytes] = 8<<4 | id[timeBytes]&0x0f
		}
	}
	return id.String()
}

// derivedIDSpace is the name space of derivedID. Changing it would change every
// derived id.
var derivedIDSpace = uuid.MustParse("0f1e6c9a-6c1d-5d0e-9a51-6f2f6f0b7c11")

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
