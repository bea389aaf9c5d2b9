// Package stream reads a stream: a log of messages on the broker from which reading takes nothing, such as
// that of topology.EventLog.
//
//	cfg.Queue = "events"
//	cfg.Consume.Stream = &stream.Config{Group: "billing", Topics: []string{"order.*"}}
//
// Handlers, middleware, observers and retries are those of the bus. Messages come in the order of the stream; with
// Consume.Concurrency 1 they are also handled one after the other, in this order, because one that has failed is handled
// again where it is. Offset says where in the stream a message is. docs/streams.md says what is promised.
package stream

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/harebus/harebus/topology"
)

// Config makes an endpoint read its queue as a stream. The zero value reads all of it, on every start.
type Config struct {
	// Group is the name that the instances of a service have in common: one of them reads, the others stand by, and
	// whoever reads goes on where the last one was. Its place is in a queue on the broker, see [TokenQueue]. Default:
	// each instance reads for itself, from From, or from where Store says.
	Group string
	// Topics are the patterns of the topics that are handled; the others are passed over. The broker sends all
	// messages of the stream nevertheless. Default: all.
	Topics []string
	// From is where reading begins while no place is known. Default: [FromStart].
	From From
	// Store keeps the place somewhere else than in the queue of the group: in the database of the handlers, for
	// example. Without a Group there must be one process only that uses it. Default: none.
	Store OffsetStore
	// OnGap says what happens when messages are gone that were not read: [GapFails] by default.
	OnGap GapMode
}

// OffsetStore keeps the offset up to which everything is handled. With Consume.Concurrency 1 a handler that writes the offset of its
// message into its own database transaction can leave Save empty; then nothing is handled twice. With more it must not: an older message may still be
// under way, and would be lost in a crash. There is one call at a time. A panic is an error like others; Load may take 30 seconds and Save 10.
type OffsetStore interface {
	// Load returns the offset; ok is false when there is none yet. It is called before reading begins, after each lost
	// connection, too.
	Load(ctx context.Context) (offset int64, ok bool, err error)
	// Save stores the offset. It is called a few times a second while messages are handled, and at the end; after an
	// error again.
	Save(ctx context.Context, offset int64) error
}

// GapMode says what happens when messages are gone that were not read, because retention has deleted them.
type GapMode int8

const (
	// GapFails stops reading before the gap. Start fails, or Ready says what is missing, until somebody has decided.
	GapFails GapMode = iota
	// GapSkips goes on behind it, and logs how much is missing.
	GapSkips
)

// From is a place in a stream. The zero value is that of [FromStart].
type From struct {
	kind   byte
	offset int64
	at     time.Time
}

const (
	start byte = iota
	end
	offset
	moment
)

// FromStart is the oldest message that is still there.
func FromStart() From { return From{} }

// FromEnd is what comes from now on.
func FromEnd() From { return From{kind: end} }

// FromOffset is the message with an offset. One that is not there any more is a gap, and one beyond the end is an error.
func FromOffset(n int64) From { return From{kind: offset, offset: n} }

// FromTime is the first message that came at a time or later, to the second. Some that came shortly before it can come, too,
// because the broker finds only the piece of the stream in which the time lies.
func FromTime(t time.Time) From { return From{kind: moment, at: t} }

// Argument is the place as the argument x-stream-offset.
func (f From) Argument() any {
	switch f.kind {
	case end:
		return "next"
	case offset:
		return f.offset
	case moment:
		return f.at.Truncate(time.Second)
	}
	return "first"
}

// Offset is the n of FromOffset.
func (f From) Offset() (n int64, ok bool) { return f.offset, f.kind == offset }

// AtEnd says whether it is FromEnd.
func (f From) AtEnd() bool { return f.kind == end }

// Prefetch is the least number of messages that a reader fetches ahead.
const Prefetch = 1000

// TokenQueue is the name of the queue that is the lock of a group and has its place. Deleting it while no instance runs
// has the group begin again from Config.From.
func TokenQueue(stream, group string) string { return "harebus.group/" + stream + "/" + group }

// Least is the prefetch of a reader; the given one for nil.
func (c *Config) Least(prefetch int) int {
	if c == nil {
		return prefetch
	}
	return max(prefetch, Prefetch)
}

// Complete returns a copy; nil for nil.
func (c *Config) Complete() *Config {
	if c == nil {
		return nil
	}
	full := *c
	full.Topics = append([]string(nil), c.Topics...)
	return &full
}

// Topology is the token queue of a group; nothing for nil, and without a Group.
func (c *Config) Topology(name string) topology.Topology {
	if c == nil || c.Group == "" || name == "" {
		return topology.Topology{}
	}
	return topology.Topology{Queues: []topology.Queue{{
		Name: TokenQueue(name, c.Group), Type: topology.Quorum,
		Arguments: map[string]any{"x-single-active-consumer": true, "x-delivery-limit": topology.LookLimit, "x-overflow": "reject-publish"},
	}}}
}

// Uses is how the queue of an endpoint is used that is to be read as a stream.
type Uses struct {
	Name      string
	Arguments map[string]any // of the queue
	Consume   map[string]any // of basic.consume
	Consumers int
	Ordered   bool
	Bound     bool // to topics
	// Private is a queue that is not shared, and Alone a consumer that refuses others.
	Private, Alone bool
}

// Faults are why it cannot be.
func (c *Config) Faults(of Uses) (faults []error) {
	if c == nil {
		return nil
	}
	fault := func(wrong bool, format string, args ...any) {
		if wrong {
			faults = append(faults, fmt.Errorf("Consume.Stream: "+format, args...))
		}
	}
	for _, topic := range c.Topics {
		if err := topology.ValidTopic(topic); err != nil {
			faults = append(faults, fmt.Errorf("Consume.Stream: Topics: %w", err))
		}
	}
	if c.Group != "" {
		if err := topology.ValidName("queue", TokenQueue(of.Name, c.Group)); err != nil {
			faults = append(faults, fmt.Errorf("Consume.Stream: Group is a part of the name of a queue: %w", err))
		}
		fault(strings.ContainsAny(c.Group, "/"), "Group %q contains a slash", c.Group)
	}
	n, fixed := c.From.Offset()
	fault(fixed && n < 0, "From is offset %d, and the first one is 0", n)
	fault(c.From.kind == moment && c.From.at.Before(time.Unix(0, 0)), "From is %v, before 1970", c.From.at)
	fault(c.OnGap < GapFails || c.OnGap > GapSkips, "OnGap %d is neither GapFails nor GapSkips", c.OnGap)
	fault(of.Name == "", "it needs the name of the stream in Queue")
	fault(of.Bound, "leave Subscriptions out: Topics chooses among the messages of the stream, whose bindings are its own")
	fault(of.Ordered, "leave Consume.Order out: a stream is read in its order, and Consume.Concurrency 1 also handles in it")
	fault(of.Private, "leave QueueOptions out: a stream is declared by topology.EventLog, or somebody else")
	fault(of.Alone, "leave Consume.Exclusive out: the broker does not enforce it for streams; give the instances a Group")
	fault(of.Consumers != 1, "it needs one consumer, and Consume.Consumers is %d: raise Consume.Concurrency instead", of.Consumers)
	_, single := of.Arguments["x-single-active-consumer"]
	fault(single, "a stream has no x-single-active-consumer: give the instances a Group")
	_, place := of.Consume["x-stream-offset"]
	fault(place, "leave x-stream-offset out of Consume.Arguments: From says where reading begins")
	_, priority := of.Consume["x-priority"]
	fault(priority, "leave x-priority out of Consume.Arguments: a stream refuses it")
	return faults
}

// ErrNoOffset is the error of [Offset] for a message that is of no stream.
var ErrNoOffset = errors.New("stream: the message has no offset: it was not read from a stream")
