package publish

import (
	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/harebus/harebus/internal/field"
)

// The properties and headers of a message travel in one frame. A frame longer
// than the connection's frame_max ends the connection, for everybody who uses it.

// frameOverhead is what a frame needs around its payload.
const frameOverhead = 8

// HeaderFrame is the length of the frame with the properties and headers of a
// message, or a few bytes more.
func HeaderFrame(msg *amqp.Publishing) int {
	const fixed = 12 + 2 + 1 + 1 + 8 // class, weight, size; flags; delivery mode, priority, timestamp
	size := frameOverhead + fixed + field.Size(msg.Headers)
	for _, s := range [...]string{
		msg.ContentType, msg.ContentEncoding, msg.CorrelationId, msg.ReplyTo, msg.Expiration, msg.MessageId, msg.Type, msg.AppId,
	} {
		size += 1 + len(s)
	}
	return size
}

// deathRoom is the most by which the headers grow when the broker moves a message
// from a queue to the error queue: an entry in x-death, and the x-first-death-… and
// x-last-death-… headers. Nobody knows the names of the queues of an event.
func deathRoom(exchange, key string) int {
	const fixed, entries = 400, 3 // how often queue and exchange are named
	return fixed + entries*(field.MaxShortString+len(exchange)) + len(key)
}

// delayRoom is what is left for a way through the delay queues. Where frames are small
// there is not enough room for all of it, but harebus can read a longer frame.
func delayRoom(frameMax, most int) int { return min(most, frameMax/4) }

// HeaderLimit is the longest header frame that is sent when the caller can still
// be told. It leaves a sixteenth for what a retry adds: the broker records every
// queue on the way.
func HeaderLimit(frameMax int, exchange, key string) int {
	return frameMax - max(deathRoom(exchange, key), frameMax/16)
}
