package harebus

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"sync"

	"github.com/harebus/harebus/internal/publish"
)

// scope buffers the messages of a transaction or of one run of a handler, in
// the order of the calls.
type scope struct {
	incoming *Message // what the handler handles; nil in a transaction
	// id is that of incoming as it came, and origin the listener queue and the handler: for
	// derived ids.
	id, origin string
	// rehearsal says that nothing is published: see Setup.Invoke.
	rehearsal bool

	mu     sync.Mutex // guards what follows
	parent *scope     // joined at the commit; nil for an outermost one
	outs   []*publish.Message
	ended  bool
	made   map[string]int // messages by what their ids derive from
	// immediate are the messages of a rehearsal that have the option Immediately.
	immediate map[*publish.Message]bool
}

// newScope makes a scope inside parent, which may be nil.
func newScope(parent *scope) *scope { return &scope{parent: parent} }

// outer returns the scope that this one joins at the commit, or nil.
func (s *scope) outer() *scope {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.parent
}

func (s *scope) outermost() *scope {
	for {
		outer := s.outer()
		if outer == nil {
			return s
		}
		s = outer
	}
}

// join makes a transaction that is in no handler yet a part of handler's buffer.
func (s *scope) join(handler *scope) {
	top := s.outermost()
	if top.incoming != nil {
		return
	}
	top.mu.Lock()
	defer top.mu.Unlock()
	if top.parent == nil {
		top.parent = handler
	}
}

// message returns the message that is being handled, or nil. s may be nil.
func (s *scope) message() *Message {
	if s == nil {
		return nil
	}
	return s.outermost().incoming
}

// add buffers messages.
func (s *scope) add(outs ...*publish.Message) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended {
		return refuse("send", "%w; what a handler leaves behind, such as a goroutine, needs the option Immediately", ErrHandlerReturned)
	}
	s.outs = append(s.outs, outs...)
	return nil
}

// addNow notes a message that is sent at once.
func (s *scope) addNow(out *publish.Message) error {
	if err := s.add(out); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.immediate == nil {
		s.immediate = map[*publish.Message]bool{}
	}
	s.immediate[out] = true
	return nil
}

// end closes the scope and returns what it buffered.
func (s *scope) end() ([]*publish.Message, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended {
		return nil, ErrHandlerReturned
	}
	s.ended = true
	outs := s.outs
	s.outs = nil
	return outs, nil
}

// deriveID makes the id of the next message of its kind: the same handler, given
// the same incoming message, makes the same ids again, while two services that
// handle one event make different ones.
func (s *scope) deriveID(exchange, key, messageType string) string {
	s = s.outermost()
	s.mu.Lock()
	defer s.mu.Unlock()
	kind := exchange + "\x00" + key + "\x00" + messageType
	if s.made == nil {
		s.made = map[string]int{}
	}
	n := s.made[kind]
	s.made[kind]++
	return derivedID(s.id, s.origin, kind, strconv.Itoa(n))
}

// commit publishes buffered messages and reports on each if one of them failed.
func (e *engine) commit(ctx context.Context, outs []*publish.Message) error {
	ctx, op := e.setup.observers.start(ctx, Observation{Operation: OpCommit, Messages: len(outs)})
	err := e.publishAll(ctx, outs)
	op.End(err)
	return err
}

func (e *engine) publishAll(ctx context.Context, outs []*publish.Message) error {
	errs := e.publisher.PublishAll(ctx, outs)
	if !slices.ContainsFunc(errs, func(err error) bool { return err != nil }) {
		return nil
	}
	messages := make([]MessageOutcome, len(outs))
	for i, out := range outs {
		messages[i] = MessageOutcome{
			MessageID: out.Publishing.MessageId, Exchange: out.Exchange, RoutingKey: out.Key, Outcome: Confirmed, Err: errs[i],
		}
		var failure *PublishError
		if errors.As(errs[i], &failure) {
			messages[i].Outcome = failure.Outcome
		}
	}
	return &TransactionError{Messages: messages}
}
