package session

import "sync"

// Trial is the caution at the start of a connection, when the next message may
// be one that ends it, or the process. The broker then counts a delivery for
// everything that was in hand, by all consumers of the connection together. So
// one consumer takes messages, one at a time, and the others stand by, until
// it is sure that it has not received such a message.
type Trial struct {
	Turn chan struct{} // held by the consumer that takes messages
	Over chan struct{} // closed when all may
	once sync.Once
}

func newTrial() *Trial {
	return &Trial{Turn: make(chan struct{}, 1), Over: make(chan struct{})}
}

// End lets all consumers of the connection take as many messages as configured.
func (t *Trial) End() { t.once.Do(func() { close(t.Over) }) }

// Ended says whether all consumers may take as many messages as configured.
func (t *Trial) Ended() bool {
	select {
	case <-t.Over:
		return true
	default:
		return false
	}
}
