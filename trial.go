package harebus

import "sync"

// trial is the caution at the start of a connection, when the next message may
// be one that ends it, or the process. The broker then counts a delivery for
// everything that was in hand, by all consumers of the connection together. So
// one consumer takes messages, one at a time, and the others stand by, until
// it is sure that it has not received such a message.
type trial struct {
	turn chan struct{} // held by the consumer that takes messages
	over chan struct{} // closed when all may
	once sync.Once
}

func newTrial() *trial {
	return &trial{turn: make(chan struct{}, 1), over: make(chan struct{})}
}

// end lets all consumers of the connection take as many messages as configured.
func (t *trial) end() { t.once.Do(func() { close(t.over) }) }
