// Package failed tells who wants to know of messages that are moved to an error queue, by an event for each of them. Other
// buses call it a fault. It uses the exported API of harebus only.
package failed

import (
	"context"
	"strings"
	"time"

	"github.com/harebus/harebus"
)

// Prefix starts the topics of the events: failed.PlaceOrder for a message of type PlaceOrder. Subscribe to failed.#, or to
// that of a type.
const Prefix = "failed."

// Event says that a message is about to be moved to an error queue. It has nothing of the body, and no text of the error, which
// may quote it: those are in the error queue.
type Event struct {
	// MessageID, CorrelationID, CausationID and Type are those of the message, as it came.
	MessageID     string `json:"messageId"`
	CorrelationID string `json:"correlationId,omitempty"`
	CausationID   string `json:"causationId,omitempty"`
	Type          string `json:"type"`
	// Queue is where it was received.
	Queue string `json:"queue"`
	// Kind is the reason code of a rejected message, "panic", "timeout" or "error".
	Kind string `json:"kind"`
	// Group is common to failures of one kind, in the error queue too (harebus errors).
	Group string `json:"group"`
	// Attempts is how often its handling was tried.
	Attempts int `json:"attempts"`
	// Time is when this was.
	Time time.Time `json:"time"`
}

// typeName is the wire name of Event.
const typeName = "harebus.Failed"

// MessageType is the wire name harebus.Failed.
func (Event) MessageType() string { return typeName }

// Publish publishes an [Event]. It is for harebus.HandlingConfig:
//
//	harebus.HandlingConfig{GivenUp: failed.Publish}
//
// The event is published before the message is moved, so after a crash in between it comes again, with the same id. Nobody needs to
// have subscribed. If it cannot be published, that is logged, and the message is moved all the same. An Event that cannot be
// handled makes no further one. What the broker moves itself, such as a message that has ended a process twenty times, or one that
// has expired, makes none.
func Publish(ctx context.Context, bus *harebus.Bus, f harebus.Failed) error {
	if f.Type == typeName {
		return nil
	}
	return bus.Publish(ctx, Topic(f.Type), Event{
		MessageID: f.ID, CorrelationID: f.CorrelationID, CausationID: f.CausationID, Type: f.Type,
		Queue: f.Queue, Kind: f.Kind, Group: f.Group, Attempts: f.Attempt, Time: time.Now().UTC(),
	}, harebus.NonMandatory())
}

// Topic is the topic of the events about a type of messages. Types come from the network, so what is not a letter, a digit, - or
// _ becomes -, and a long one is cut. A message without a type has "failed.-".
func Topic(messageType string) string {
	const longest = 100
	word := strings.Map(func(r rune) rune {
		if r == '-' || r == '_' || r >= '0' && r <= '9' || r >= 'A' && r <= 'Z' || r >= 'a' && r <= 'z' {
			return r
		}
		return '-'
	}, messageType)
	if word == "" {
		word = "-"
	}
	return Prefix + word[:min(len(word), longest)]
}
