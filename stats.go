package harebus

import (
	"sync/atomic"
	"time"

	"github.com/harebus/harebus/internal/publish"
)

// Stats are counts since the setup was made.
type Stats struct {
	// Connections is the number of connections made, both kinds together.
	Connections uint64
	// Published is the number of messages confirmed by the broker, retries and
	// parked ones included. Unpublished is the number of messages that were not
	// confirmed in the end, Republished the number of repeated attempts.
	Published, Unpublished, Republished uint64
	// Plain is the number of messages that the AMQP client had to encode, which costs several
	// times as much CPU. When several channels are busy, it is one in some thousands. If it
	// grows as fast as Published, harebus does not know this version of the client.
	Plain uint64
	// Delivered is the number of deliveries taken from the broker, Redelivered
	// those among them that had been delivered before.
	Delivered, Redelivered uint64
	// Handled is the number of messages handled with success, Failed the number of
	// failed attempts. Retried and Parked are the numbers of those that were
	// retried and parked.
	Handled, Failed, Retried, Parked uint64
	// Postponed is how often a message was delayed without a failure: because it
	// came before its time, or because its handler returned [Postpone]. Discarded
	// is the number an error handler dropped, and Ignored those without a handler
	// that UnhandledIgnore dropped.
	Postponed, Discarded, Ignored uint64
	// Paused says that the setup is paused: see [Setup.Pause].
	Paused bool
	// InFlight is the number of messages inside handlers now.
	InFlight int64
	// OldestInFlight is for how long the oldest of them has been there.
	OldestInFlight time.Duration
}

type counters struct {
	connections                      atomic.Uint64
	publishing                       publish.Counts
	plain                            atomic.Uint64
	warned                           atomic.Bool // of plain
	delivered, redelivered           atomic.Uint64
	handled, failed, retried, parked atomic.Uint64
	postponed, discarded, ignored    atomic.Uint64
	inFlight                         atomic.Int64
}

// Stats returns the current counts. It may be called at any time.
func (s *Setup) Stats() Stats {
	c := &s.counters
	var oldest time.Duration
	var paused bool
	if e := s.running(); e != nil {
		oldest, paused = e.oldest(), e.paused()
	}
	return Stats{
		Connections: c.connections.Load(),
		Published:   c.publishing.Published.Load(), Unpublished: c.publishing.Unpublished.Load(), Republished: c.publishing.Republished.Load(),
		Plain:     c.plain.Load(),
		Delivered: c.delivered.Load(), Redelivered: c.redelivered.Load(),
		Handled: c.handled.Load(), Failed: c.failed.Load(), Retried: c.retried.Load(), Parked: c.parked.Load(),
		Postponed: c.postponed.Load(), Discarded: c.discarded.Load(), Ignored: c.ignored.Load(),
		InFlight: c.inFlight.Load(), OldestInFlight: oldest, Paused: paused,
	}
}

// running is the engine, if there is one.
func (s *Setup) running() *engine {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.eng
}
