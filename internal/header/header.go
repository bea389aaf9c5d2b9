// Package header knows the standard headers: their names, which headers a caller may
// send, and which a copy has room for.
package header

import (
	"fmt"
	"strings"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/harebus/harebus/internal/field"
)

// Names holds the full names of the standard headers, made once, so that
// stamping a message concatenates nothing.
type Names struct {
	MessageID, CorrelationID, TimeSent, ReplyTo, OriginatingAddress, Intent, MessageType,
	ContentType, ContentEncoding, DeferredTime, ErrorRetries, ErrorDetails, SourceQueue, Hops, FirstFailed, LeftOut, Parking, RawHeaders, ReplyBy, Fault, Key, Signature, CausationID, Environment, Dialect, StreamOffset, Replayed, OriginalMessageID string
}

// Dialect is how a setup writes headers: their names and the format of times.
type Dialect struct {
	Prefix string
	Names  Names
	Time   func(time.Time) string
	// Always are headers of every message, by their full names.
	Always map[string]any
	// Environment is where this setup runs; "" takes messages of every environment.
	Environment string
	// Keep are custom headers that copies lose only when nothing else is left to lose.
	Keep []string
}

const (
	isoLayout    = "2006-01-02T15:04:05"
	legacyLayout = "01/02/2006 15:04:05"
)

// ISOTime is t in UTC with microseconds. Both formats drop what they cannot hold, so
// that a receiver never sees a time that is later than t.
func ISOTime(t time.Time) string {
	t = t.UTC()
	if t.Nanosecond() < 1000 { // Python writes no fraction when there is none
		return t.Format(isoLayout) + "+00:00"
	}
	return t.Format(isoLayout+".000000") + "+00:00"
}

// LegacyTime is t in UTC to the second, as PikaBus 1.x writes it.
func LegacyTime(t time.Time) string { return t.UTC().Format(legacyLayout) }

// MaxEntries is how many headers a message may have. The broker adds its own on the
// way, and no client reads more than field.MaxElements.
const MaxEntries = field.MaxElements - 32

// Sendable copies headers that are not the bus's or the broker's own.
func (d *Dialect) Sendable(in map[string]any) (amqp.Table, error) {
	for key := range in {
		if OfBroker(key) {
			return nil, fmt.Errorf("header %q belongs to the broker", key)
		}
		if strings.HasPrefix(key, d.Prefix) {
			return nil, fmt.Errorf("header %q is a standard header; use the option for it", key)
		}
	}
	headers, err := field.Table(in)
	if err != nil {
		return nil, fmt.Errorf("header %w", err)
	}
	return headers, nil
}

// ClientCount is a header in which a client of .NET counts what it publishes on a channel.
const ClientCount = "x-dotnet-pub-seq-no"

// OfBroker says whether the broker writes the header key, or acts on it. CC and
// BCC make whoever publishes them write to any queue; a copied x-death makes a
// second delay vanish on RabbitMQ 3.10; with x-received-from an event is not
// federated a second time.
func OfBroker(key string) bool {
	switch key {
	case "CC", "BCC", "x-death", "x-delivery-count", "x-acquired-count", "x-delay", "x-match",
		"x-received-from", "x-routed-by", "x-stream-offset":
		return true
	}
	for _, family := range []string{"x-first-death-", "x-last-death-", "x-shovelled", "x-opt-"} {
		if strings.HasPrefix(key, family) {
			return true
		}
	}
	return false
}
