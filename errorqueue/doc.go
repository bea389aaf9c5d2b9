// Package errorqueue works with the messages in an error queue: it shows them in groups, and
// moves, changes, archives and restores them. It needs the broker and nothing else.
//
//	q, err := errorqueue.Open(ctx, errorqueue.Config{Connect: harebus.ConnectConfig{URLs: urls}})
//	found, err := q.Look(ctx, errorqueue.Filter{Type: "PlaceOrder"})
//	report, err := q.Retry(ctx, found.Messages, errorqueue.Options{})
//
// A look takes every message of the queue and gives all back, in their order. What it
// returns is a frozen selection: an action moves exactly these messages, and none that came
// later, however alike they are. A message leaves the error queue only after the broker has
// confirmed it in the other queue, or after it was written and synced to a file. So an
// interruption can leave it in both, but never in neither; [Report] and the journal name
// those that may be in both.
//
// Use it with error queues only. A look at the queue of a service takes its messages away for
// a moment, and uses up deliveries. A queue with consumers is refused, and so is one that
// dead-letters into another.
package errorqueue

import "github.com/harebus/harebus/internal/header"

// The headers, without their prefix, that a service writes when it parks a message, beside
// SourceQueue, ErrorDetails, ErrorRetries and FirstFailed. PikaBus neither writes nor reads
// them. Those that do not fit into the broker's frame are left out, but for ErrorId.
const (
	// HeaderErrorID is the id of one parking, a UUID of version 7, which has its time. A
	// message that is retried and parked again has another one.
	HeaderErrorID = header.ErrorID
	// HeaderErrorKind is the reason code of a rejected message, or "panic", "timeout" or
	// "error".
	HeaderErrorKind = header.ErrorKind
	// HeaderErrorGroup is a fingerprint of the failure: its kind, the types of the errors and
	// the text without numbers, ids and quotations. Of a panic it has the place, too.
	HeaderErrorGroup = header.ErrorGroup
	// HeaderAttempts are the times of the last ten failed attempts.
	HeaderAttempts = header.Attempts
	// HeaderHost is the name of the machine that parked the message, and
	// HeaderServiceVersion the version of its program: Config.Payload.Build, else that of the
	// main module.
	HeaderHost           = header.Host
	HeaderServiceVersion = header.ServiceVersion
	// HeaderReplays is how often the message was retried from an error queue.
	HeaderReplays = header.Replays
	// HeaderEditedFrom is the id of the message that [Queue.Edit] has made this one of.
	HeaderEditedFrom = header.EditedFrom
)
