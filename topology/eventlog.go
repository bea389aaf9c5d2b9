package topology

import (
	"fmt"
	"regexp"
	"slices"
	"time"
)

// Stream is a log: a queue from which reading takes nothing. See [EventLog] and package stream.
const Stream QueueType = "stream"

const (
	// defaultSegment is the size of a segment when none is given, and largestSegment the largest that is accepted, in bytes.
	defaultSegment, largestSegment = 500_000_000, 3_000_000_000
	// smallestSegment is the smallest that EventLog asks for. RabbitMQ 3.10 has stopped a node whose segments had 1,000 bytes
	// and were deleted while they were read.
	smallestSegment = 1_000_000
	// segments is how many segments KeepBytes has at least.
	segments = 8
)

// EventLog is a stream called name that keeps a copy of every event that is published to a topic exchange, such as
// "PikaBusTopic": to be read later, from any place, any number of times. Publishers and other queues are not concerned. Put
// it into Config.Declare.Topology of one service, or apply it with harebus topology.
//
//	topology.EventLog("events", "PikaBusTopic", topology.KeepAge(7*24*time.Hour), topology.KeepBytes(20<<30))
//
// Without options everything is kept until the disk is full. What is kept is fixed when the stream is declared: a
// declaration with other options is refused. The stream begins when it is declared; older events are not in it.
func EventLog(name, exchange string, keep ...LogOption) Topology {
	q := Queue{Name: name, Type: Stream, Arguments: map[string]any{}}
	for _, option := range keep {
		option(q.Arguments)
	}
	return Topology{Queues: []Queue{q}, Bindings: []Binding{{Exchange: exchange, Key: "#", Queue: name}}}
}

// LogOption says how much an [EventLog] keeps.
type LogOption func(arguments map[string]any)

// KeepAge keeps what is not older than d, in whole seconds, rounded up. More can be kept: the broker looks at the age when
// a segment of 500 MB is full, and deletes whole segments.
func KeepAge(d time.Duration) LogOption {
	seconds := int64((d + time.Second - 1) / time.Second)
	return func(arguments map[string]any) { arguments["x-max-age"] = age(seconds) }
}

// KeepBytes keeps the newest n bytes, at least 1,000,000. The broker deletes whole segments; so that it can do that often enough, a
// segment is an eighth of n, at most 500 MB.
func KeepBytes(n int64) LogOption {
	return func(arguments map[string]any) {
		arguments["x-max-length-bytes"] = n
		if part := max(n/segments, smallestSegment); part < defaultSegment {
			arguments["x-stream-max-segment-size-bytes"] = part
		}
	}
}

// age writes a time as the broker reads it, with the largest unit that divides it.
func age(seconds int64) string {
	for _, unit := range []struct {
		name    string
		seconds int64
	}{{"D", 86400}, {"h", 3600}, {"m", 60}} {
		if seconds > 0 && seconds%unit.seconds == 0 {
			return fmt.Sprint(seconds/unit.seconds, unit.name)
		}
	}
	return fmt.Sprint(seconds, "s")
}

// validAge is what the broker reads. RabbitMQ before 4.3 ends the connection for other texts.
var validAge = regexp.MustCompile(`^0*[1-9][0-9]{0,8}[YMDhms]$`)

// notOfStreams are arguments that a stream refuses.
var notOfStreams = []string{
	"x-single-active-consumer", "x-max-length", "x-message-ttl", "x-expires", "x-overflow", "x-delivery-limit", "x-max-priority",
	"x-dead-letter-exchange", "x-dead-letter-routing-key", "x-dead-letter-strategy",
}

// streamFaults finds what the broker refuses for a stream, and retention that keeps more than it says.
func (q Queue) streamFaults(fault func(text string, args ...any)) {
	if q.Exclusive || q.AutoDelete || q.Transient {
		fault("a stream cannot be exclusive, auto-delete or transient; choose the classic type")
	}
	if _, ok := q.Arguments["x-queue-type"]; ok {
		fault("x-queue-type is set by Type, not by Arguments")
	}
	for _, name := range sortedKeys(q.Arguments) {
		if slices.Contains(notOfStreams, name) {
			fault("a stream has no %s", name)
		}
	}
	if value, ok := q.Arguments["x-max-age"]; ok {
		if s, isText := value.(string); !isText || !validAge.MatchString(s) {
			fault("x-max-age %v is not a positive number with one of the units Y, M, D, h, m and s, such as 7D", value)
		}
	}
	segment := q.number("x-stream-max-segment-size-bytes", defaultSegment)
	if segment < 1 || segment > largestSegment {
		fault("x-stream-max-segment-size-bytes %d is not between 1 and %d", segment, int64(largestSegment))
	}
	if n := q.number("x-max-length-bytes", segment); n < segment {
		fault("x-max-length-bytes %d is less than a segment (x-stream-max-segment-size-bytes, %d), and only whole segments are deleted;"+
			" keep more, or have smaller segments", n, segment)
	}
}

// number is an argument that is an integer, or the default.
func (q Queue) number(name string, otherwise int64) int64 {
	if value, ok := q.Arguments[name]; ok {
		if converted, err := argument(name, value); err == nil {
			if n, ok := converted.(int64); ok {
				return n
			}
		}
	}
	return otherwise
}
