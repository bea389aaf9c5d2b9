// Package buffer keeps the outgoing messages of a transaction, or of one run of a handler,
// until they are published together.
package buffer

import (
	"errors"
	"strconv"
	"sync"

	"github.com/harebus/harebus/internal/messageid"
	"github.com/harebus/harebus/internal/publish"
)

// ErrEnded says that a transaction or a handler has ended before.
var ErrEnded = errors.New("the handler or transaction has ended")

// Scope buffers messages in the order of the calls. M is the type of the received messages.
type Scope[M any] struct {
	// Incoming is what the handler handles; nil in a transaction.
	Incoming *M
	// ID (of the incoming message, as it came) and Origin (the listener queue and the handler)
	// are what the ids of sent messages derive from.
	ID, Origin string
	// Rehearsal says that nothing is published.
	Rehearsal bool

	mu     sync.Mutex // guards what follows
	parent *Scope[M]  // joined at the commit; nil for an outermost one
	outs   []*publish.Message
	ended  bool
	made   map[string]int // messages by what their ids derive from
	now    map[*publish.Message]bool
}

// New makes a scope inside parent, which may be nil.
func New[M any](parent *Scope[M]) *Scope[M] { return &Scope[M]{parent: parent} }

// Outer returns the scope that this one joins at the commit, or nil.
func (s *Scope[M]) Outer() *Scope[M] {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.parent
}

// Outermost is the top of the chain of scopes that this one is in.
func (s *Scope[M]) Outermost() *Scope[M] {
	for {
		outer := s.Outer()
		if outer == nil {
			return s
		}
		s = outer
	}
}

// Join makes a transaction that is in no handler yet a part of handler's buffer.
func (s *Scope[M]) Join(handler *Scope[M]) {
	top := s.Outermost()
	if top.Incoming != nil {
		return
	}
	top.mu.Lock()
	defer top.mu.Unlock()
	if top.parent == nil {
		top.parent = handler
	}
}

// Message returns the message that is being handled, or nil. s may be nil.
func (s *Scope[M]) Message() *M {
	if s == nil {
		return nil
	}
	return s.Outermost().Incoming
}

// Add buffers messages. It fails with [ErrEnded].
func (s *Scope[M]) Add(outs ...*publish.Message) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended {
		return ErrEnded
	}
	s.outs = append(s.outs, outs...)
	return nil
}

// AddNow notes, in a rehearsal, a message that would be sent at once.
func (s *Scope[M]) AddNow(out *publish.Message) error {
	if err := s.Add(out); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.now == nil {
		s.now = map[*publish.Message]bool{}
	}
	s.now[out] = true
	return nil
}

// SentNow says whether a message was added with AddNow.
func (s *Scope[M]) SentNow(out *publish.Message) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.now[out]
}

// End closes the scope and returns what it buffered. It fails with [ErrEnded] after the
// first call.
func (s *Scope[M]) End() ([]*publish.Message, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended {
		return nil, ErrEnded
	}
	s.ended = true
	outs := s.outs
	s.outs = nil
	return outs, nil
}

// DeriveID makes the id of the next message of its kind: the same handler, given the same
// incoming message, makes the same ids again, while two services that handle one event make
// different ones.
func (s *Scope[M]) DeriveID(exchange, key, messageType string) string {
	s = s.Outermost()
	s.mu.Lock()
	defer s.mu.Unlock()
	kind := exchange + "\x00" + key + "\x00" + messageType
	if s.made == nil {
		s.made = map[string]int{}
	}
	n := s.made[kind]
	s.made[kind]++
	return messageid.Derive(s.ID, s.Origin, kind, strconv.Itoa(n))
}
