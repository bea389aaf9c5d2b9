package publish

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/harebus/harebus/internal/session"
)

const (
	// maxWays limits the memory of a program that always sends to new queues.
	maxWays = 10_000
	// detourAge is how long a queue is believed not to be bound. Then one message
	// tries the direct exchange again: the queue, or another that wants the same
	// messages, may have been bound meanwhile.
	detourAge = time.Minute
)

// ways remembers, for the queues that commands go to, whether the direct exchange
// leads to them. One that is not bound there (a queue of PikaBus 1.x, or of a plain
// consumer) is reached through the default exchange. Without this memory every message
// to it would be returned first.
type ways struct {
	detours atomic.Int32 // known queues that are not bound; at 0 single messages look no further

	mu    sync.RWMutex     // guards what follows
	on    *session.Session // the session everything below was learned on
	known map[string]way
}

// way is what is known of one queue.
type way struct {
	bound bool
	since time.Time
}

// find returns what is known of a queue, and whether anything is.
func (w *ways) find(s *session.Session, queue string) (bound, known bool) {
	w.mu.RLock()
	defer w.mu.RUnlock()
	if w.on != s {
		return false, false
	}
	it, known := w.known[queue]
	if known && !it.bound && time.Since(it.since) > detourAge {
		return false, false
	}
	return it.bound, known
}

// learn remembers whether a queue is bound.
func (w *ways) learn(s *session.Session, queue string, bound bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.on != s || len(w.known) >= maxWays {
		w.on, w.known = s, map[string]way{}
		w.detours.Store(0)
	}
	if before, ok := w.known[queue]; ok && !before.bound {
		w.detours.Add(-1)
	}
	if !bound {
		w.detours.Add(1)
	}
	w.known[queue] = way{bound, time.Now()}
}
