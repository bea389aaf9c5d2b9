package errorqueue

import (
	"cmp"
	"encoding/hex"
	"time"

	"github.com/google/uuid"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/internal/field"
	"github.com/harebus/harebus/internal/fingerprint"
	"github.com/harebus/harebus/internal/header"
	"github.com/harebus/harebus/internal/queue"
)

// Message is what an [Index] knows of a failed message.
type Message struct {
	// MessageID is that of the message, or "". Copies of it have the same.
	MessageID string
	// Group is the group of the message.
	Group *Group
	// Position is the place in the queue, from 1.
	Position int
	// Size is the length of the body.
	Size int
	// Attempts is how often it has failed, Replays how often it was retried from an error
	// queue before.
	Attempts, Replays int

	key    key
	id     uuid.UUID // of its parking; zero if it has none
	parked int64     // in milliseconds since 1970; 0 if it is unknown
}

// ID is the id of this parking: ErrorId, or 32 hexadecimal digits made from all that is in a
// message without one.
func (m *Message) ID() string {
	if m.id != uuid.Nil {
		return m.id.String()
	}
	return hex.EncodeToString(m.key[:])
}

// Same says whether another look has found the same message with the same body. [Message.ID] alone does not say it: anybody
// may have written that.
func (m *Message) Same(other *Message) bool { return m.key == other.key }

// Parked is when it was parked, as far as it is known. A message without ErrorId says only
// when it was sent.
func (m *Message) Parked() time.Time {
	if m.parked == 0 {
		return time.Time{}
	}
	return time.UnixMilli(m.parked)
}

// Group is a set of messages of one type that failed in one queue in the same way.
type Group struct {
	// ID is the same for each look, in each process: eight hexadecimal digits.
	ID string
	// Type is the wire name of the messages, Queue where they failed, Kind the header
	// ErrorKind, or the reason for which the broker has parked them. Each may be "".
	Type, Queue, Kind string
	// Error is the text of the failure, on one line. "#" stands for words with digits and "…" for quotations.
	Error string
	// Count is how many the look has found. First and Last are when the first and the last
	// of them was parked.
	Count       int
	First, Last time.Time
}

// Content is a failed message with all that is in it.
type Content struct {
	Message

	// Failure is the text of the failure, up to 8 KiB, as the service has written it; of another bus it may be longer.
	Failure string
	// FirstFailed is when it failed for the first time, Failed the times of the last ten
	// failed attempts.
	FirstFailed time.Time
	Failed      []time.Time
	// Host and Version are the machine and the version of the service that parked it.
	Host, Version string
	// Headers and Properties are those of the message. With Unreadable, Headers lacks those
	// that no AMQP client for Go can read.
	Headers    map[string]any
	Properties harebus.Properties
	Unreadable bool
	Exchange   string
	RoutingKey string
	Body       []byte

	raw *queue.Message
}

// groupKey is what makes a group.
type groupKey struct{ messageType, queue, failure string }

// reader reads messages and keeps their groups.
type reader struct {
	prefix string
	name   string // of the error queue
	groups map[groupKey]*Group
}

// read reads a message.
func (r *reader) read(m *queue.Message, position int) *Content {
	c := &Content{
		Message:    Message{MessageID: m.Text(r.prefix+harebus.HeaderMessageID, m.MessageId), Position: position, Size: len(m.Body)},
		Failure:    m.Text(r.prefix+harebus.HeaderErrorDetails, ""),
		Host:       m.Text(r.prefix+header.Host, ""),
		Version:    m.Text(r.prefix+header.ServiceVersion, ""),
		Headers:    m.Headers,
		Unreadable: m.Table != nil || m.Broken,
		Exchange:   m.Exchange, RoutingKey: m.RoutingKey, Body: m.Body, raw: m,
		Properties: harebus.Properties{
			ContentType: m.ContentType, ContentEncoding: m.ContentEncoding, DeliveryMode: m.DeliveryMode, Priority: m.Priority,
			CorrelationID: m.CorrelationId, ReplyTo: m.ReplyTo, Expiration: m.Expiration, MessageID: m.MessageId,
			Timestamp: m.Timestamp, Type: m.Type, UserID: m.UserId, AppID: m.AppId,
		},
	}
	c.Attempts, _ = field.ParseCount(m.Headers[r.prefix+harebus.HeaderErrorRetries]) // 0 without
	c.Replays, _ = field.ParseCount(m.Headers[r.prefix+header.Replays])
	c.FirstFailed, _ = field.ParseTime(m.Headers[r.prefix+harebus.HeaderFirstFailed])
	times, _ := m.Headers[r.prefix+header.Attempts].([]any)
	for _, value := range times {
		if at, ok := value.(time.Time); ok {
			c.Failed = append(c.Failed, at)
		}
	}
	theirs := m.Theirs(r.prefix, r.name)
	if theirs != nil {
		c.Failure = theirs.Text
	}
	r.identify(c, m)
	if theirs != nil && c.parked == 0 && !theirs.Parked.IsZero() {
		c.parked = known(theirs.Parked)
	}
	c.Group = r.group(c, m, theirs)
	return c
}

// identify finds out the ids and the time of the parking.
func (r *reader) identify(c *Content, m *queue.Message) {
	id := m.Text(r.prefix+header.ErrorID, "")
	if parsed, err := uuid.Parse(id); err == nil && parsed.Version() == 7 {
		c.id = parsed
	}
	c.key = keyOf(c, m)
	switch death, ok := m.Death()["time"].(time.Time); {
	case c.id != uuid.Nil:
		const milliseconds = 6
		var since int64
		for _, octet := range c.id[:milliseconds] {
			since = since<<8 | int64(octet)
		}
		c.parked = known(time.UnixMilli(since))
	case ok:
		c.parked = known(death)
	case !m.Timestamp.IsZero():
		c.parked = known(m.Timestamp)
	}
}

// known is a time in milliseconds since 1970, or 0 if it is outside the years 1 to 9999, which
// JSON does not have. Some clients write a timestamp in milliseconds.
func known(at time.Time) int64 {
	const first, last = -62_135_596_800, 253_402_300_799
	if at.Unix() < first || at.Unix() > last {
		return 0
	}
	return at.UnixMilli()
}

// group returns the group of a message, which may be a new one. theirs is the note of another bus.
func (r *reader) group(c *Content, m *queue.Message, theirs *queue.Note) *Group {
	kind, death := m.Text(r.prefix+header.ErrorKind, ""), m.Death()
	reason, _ := field.Text(death["reason"])
	source, _ := field.Text(death["queue"])
	k := groupKey{
		messageType: m.Text(r.prefix+harebus.HeaderMessageType, m.Type),
		queue:       m.Text(r.prefix+harebus.HeaderSourceQueue, source),
		failure:     m.Text(r.prefix+header.ErrorGroup, ""),
	}
	if theirs != nil {
		kind = theirs.Kind
		k = groupKey{messageType: cmp.Or(k.messageType, theirs.Type), queue: cmp.Or(theirs.Queue, k.queue)}
	}
	text := ""
	if k.failure == "" {
		if text = fingerprint.Text(c.Failure); text == "" && reason != "" {
			text, kind = "the broker moved it here: "+fingerprint.Line(reason), reason
		}
		k.failure = text
	}
	g := r.groups[k]
	if g == nil {
		if text == "" {
			text = fingerprint.Text(c.Failure)
		}
		const digits = 8
		g = &Group{ID: fingerprint.Of(k.messageType, k.queue, k.failure)[:digits], Type: k.messageType, Queue: k.queue, Kind: kind, Error: text}
		r.groups[k] = g
	}
	return g
}

// add counts a message of the group.
func (g *Group) add(m *Message) {
	g.Count++
	at := m.Parked()
	if !at.IsZero() && (g.First.IsZero() || at.Before(g.First)) {
		g.First = at
	}
	if at.After(g.Last) {
		g.Last = at
	}
}
