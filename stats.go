package harebus

import (
	"math"
	"sync/atomic"
	"time"

	"github.com/harebus/harebus/internal/publish"
	"github.com/harebus/harebus/internal/tally"
)

// Stats are counts since the setup was made.
type Stats struct {
	// MessageStats are the counts of all received messages.
	MessageStats
	// Types are the counts by wire name. The types of all handlers are there, and further ones that have come, at most
	// 200 together; [OtherTypes] stands for all others.
	Types map[string]MessageStats
	// Connections is the number of connections made, both kinds together.
	Connections uint64
	// Published is the number of messages confirmed by the broker, retries and parked ones included. Unpublished is the
	// number of messages that were not confirmed in the end, Republished the number of repeated attempts.
	Published, Unpublished, Republished uint64
	// LateReplies is the number of replies for which no [Request] waited any more: they came too late, or were the
	// second to one request.
	LateReplies uint64
	// Plain is the number of messages that the AMQP client had to encode, which costs several times as much CPU. When
	// several channels are busy, it is one in some thousands. If it grows as fast as Published, harebus does not know
	// this version of the client.
	Plain uint64
	// Delivered is the number of deliveries taken from the broker, Redelivered those among them that had been delivered
	// before.
	Delivered, Redelivered uint64
	// Paused says that the setup is paused: see [Setup.Pause].
	Paused bool
	// InFlight is the number of messages inside handlers now.
	InFlight int64
	// OldestInFlight is for how long the oldest of them has been there.
	OldestInFlight time.Duration
	// Consume has what an endpoint consumes with now; that of a setup is zero.
	Consume ConsumeConfig
}

// OtherTypes is the name in [Stats.Types] of the types that are not counted apart.
const OtherTypes = tally.Other

// MessageStats are counts of received messages.
type MessageStats struct {
	// Handled is the number of messages handled with success, Failed the number of failed attempts. Retried and Parked
	// are the numbers of those that were retried and parked.
	Handled, Failed, Retried, Parked uint64
	// Postponed is how often a message was delayed without a failure: because it came before its time, or because its
	// handler returned [Postpone]. Discarded is the number an error handler dropped, and Ignored those without a
	// handler that UnhandledIgnore dropped.
	Postponed, Discarded, Ignored uint64
	// HandlingTime is of every attempt that called a handler: from the delivery until the handler has returned and what
	// it sent is confirmed. CriticalTime is of every message handled with success: from the time when its sender says
	// it sent it until then. It is not known of messages without that time, or with one in the future.
	HandlingTime, CriticalTime Histogram
}

func (m *MessageStats) add(t *tally.Type) {
	m.Handled += t.Handled.Load()
	m.Failed += t.Failed.Load()
	m.Retried += t.Retried.Load()
	m.Parked += t.Parked.Load()
	m.Postponed += t.Postponed.Load()
	m.Discarded += t.Discarded.Load()
	m.Ignored += t.Ignored.Load()
	m.HandlingTime.add(&t.HandlingTime)
	m.CriticalTime.add(&t.CriticalTime)
}

// Histogram counts durations in buckets.
type Histogram struct {
	// Counts are the numbers of durations in each bucket: longer than the bound before, and at most as long as its own,
	// which [HistogramBounds] has. The last count is for longer ones than all bounds. Nil if nothing can have been
	// counted.
	Counts []uint64
	// Sum is the sum of all durations.
	Sum time.Duration
}

// HistogramBounds returns the upper bounds of the buckets of every [Histogram]: 26, from 100 µs to 24 h.
func HistogramBounds() []time.Duration { return tally.Bounds() }

// Count is the number of durations.
func (h Histogram) Count() (n uint64) {
	for _, count := range h.Counts {
		n += count
	}
	return n
}

// Quantile returns the upper bound of the bucket in which the share q of all durations ends, such as 0.99: that many
// were not longer. It is 0 if there are none, and the largest Duration if they were longer than all bounds.
func (h Histogram) Quantile(q float64) time.Duration {
	n, seen := h.Count(), uint64(0)
	if n == 0 {
		return 0
	}
	bounds := HistogramBounds()
	for i, count := range h.Counts[:len(bounds)] {
		if seen += count; seen > 0 && float64(seen) >= q*float64(n) {
			return bounds[i]
		}
	}
	return math.MaxInt64
}

func (h *Histogram) add(counted *tally.Histogram) {
	counts, sum := counted.AddTo(h.Counts)
	h.Counts, h.Sum = counts, h.Sum+sum
}

type counters struct {
	connections, plain atomic.Uint64
	lateReplies        atomic.Uint64
	warned             atomic.Bool // of plain
	publishing         publish.Counts
}

// addQueue adds the counts of a queue.
func (s *Stats) addQueue(q *tally.Queue) {
	s.Delivered += q.Delivered.Load()
	s.Redelivered += q.Redelivered.Load()
	s.InFlight += q.InFlight.Load()
	if types := q.Types(); len(types) > 0 && s.Types == nil {
		s.Types = map[string]MessageStats{}
	}
	for name, counts := range q.Types() {
		one := s.Types[name]
		one.add(counts)
		s.Types[name] = one
		s.MessageStats.add(counts)
	}
}

// Stats returns the current counts. It may be called at any time.
func (s *Setup) Stats() Stats {
	c := &s.counters
	stats := Stats{
		Connections: c.connections.Load(), Plain: c.plain.Load(), LateReplies: c.lateReplies.Load(),
		Published: c.publishing.Published.Load(), Unpublished: c.publishing.Unpublished.Load(), Republished: c.publishing.Republished.Load(),
	}
	s.mu.Lock()
	eng, endpoints := s.eng, s.endpoints
	s.mu.Unlock()
	for _, one := range endpoints {
		stats.addQueue(&one.counts)
	}
	if eng != nil {
		stats.OldestInFlight, stats.Paused = eng.Groups.Oldest(), eng.Groups.Paused()
	}
	return stats
}
