package session

import "sync"

// Trial is the caution at the start of a connection, when the next message may
// be one that ends it, or the process. The broker then counts a delivery for
// everything that was in hand, by all consumers of the connection together. So
// one consumer takes messages, one at a time, and the others stand by, until
// it is sure that it has not received such a message. A service that consumes from
// several queues tries one after the other.
type Trial struct {
	// Turn is held by the consumer that takes messages.
	Turn chan struct{}
	// Over is closed when all may.
	Over chan struct{}

	mu     sync.Mutex // guards what follows
	passed map[string]chan struct{}
	done   int
}

func newTrial() *Trial {
	return &Trial{Turn: make(chan struct{}, 1), Over: make(chan struct{}), passed: map[string]chan struct{}{}}
}

// Passed is closed when the trial of a queue is over: then it is the turn of another one.
func (t *Trial) Passed(queue string) <-chan struct{} {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.of(queue)
}

// Pass ends the trial of one of so many queues.
func (t *Trial) Pass(queue string, of int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	passed := t.of(queue)
	select {
	case <-passed:
		return
	default:
	}
	close(passed)
	if t.done++; t.done == of {
		close(t.Over)
	}
}

// of is called with mu held.
func (t *Trial) of(queue string) chan struct{} {
	if t.passed[queue] == nil {
		t.passed[queue] = make(chan struct{})
	}
	return t.passed[queue]
}

// Ended says whether all consumers of the connection may take as many messages as
// configured.
func (t *Trial) Ended() bool {
	select {
	case <-t.Over:
		return true
	default:
		return false
	}
}
