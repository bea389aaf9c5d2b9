package harebus

import (
	"context"
	"errors"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/harebus/harebus/internal/guard"
	"github.com/harebus/harebus/internal/publish"
	"github.com/harebus/harebus/internal/wait"
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

// Transactor runs handlers inside a transaction of something else, such as a database,
// and stores there what they send: what a handler changes and what it sends is kept
// together or not at all. Package outbox has one for SQL databases. With a Transactor
// in Config, a message is acknowledged when its transaction has been committed, and what
// its handler sent is published after that.
type Transactor interface {
	// Check says whether the transactor can work. Start calls it before it connects, and
	// fails with its error.
	Check(ctx context.Context) error
	// Transact handles one message. It calls run in a transaction, with a context made from
	// ctx that leads to the transaction; run calls the handler and returns what it sent.
	// Transact may call run again after a conflict of transactions: the handler then gets
	// the message as it came. It may also leave run uncalled, if m was handled before. When
	// Transact returns nil, effects and messages are stored, and m is acknowledged. Its
	// error decides about m as one that the handler returned.
	Transact(ctx context.Context, m *Message, run func(ctx context.Context) ([]Envelope, error)) error
	// Run publishes what Transact has stored, with [Bus.Forward], until ctx ends. Start
	// calls it in a goroutine of its own. Stop ends ctx when the last handler has returned,
	// waits for Run, and then closes the connections. A Run that ends early is called again.
	Run(ctx context.Context, bus *Bus) error
}

// WithoutTransaction runs one handler without Config.Handling.Transactor: what it sends is
// published before its message is acknowledged, as in a setup that has no Transactor.
func WithoutTransaction() HandlerOption {
	return handlerOption(func(h *handler) { h.untransacted = true })
}

// WithTransaction is for handlers that are wrong without Config.Handling.Transactor, such as
// those of package saga: Start fails if there is none.
func WithTransaction() HandlerOption {
	return handlerOption(func(h *handler) { h.transacted = true })
}

// transactor is the one that the handler runs in, or nil.
func (h *handler) transactor(cfg *EndpointConfig) Transactor {
	if h.untransacted {
		return nil
	}
	return cfg.Handling.Transactor
}

// handleIn runs the handler inside the transaction of t, which stores what it sent.
func (d *delivery) handleIn(t Transactor, h *handler) error {
	d.shown.Store(d.message)
	err := d.transact(d.ctx, t, func(ctx context.Context) ([]Envelope, error) {
		outs, err := d.run(ctx, h, &scope{incoming: d.message, id: d.came.id, origin: h.origin})
		if err == nil && len(outs) > 0 && !d.Connected() {
			// The broker gives the message to another consumer.
			err = errors.New("the connection was lost while the handler ran")
		}
		if err != nil {
			return nil, err
		}
		return envelopes(outs), nil
	})
	if err != nil {
		return failed(d.Context(), err)
	}
	return nil
}

// transact calls t. Each further run gets the message as it came, in case that the handler
// has changed it.
func (d *delivery) transact(ctx context.Context, t Transactor, run func(context.Context) ([]Envelope, error)) error {
	first, runs := *d.message, 0
	first.Headers = maps.Clone(first.Headers)
	return guard.Call(func() error {
		return t.Transact(ctx, d.message, func(ctx context.Context) ([]Envelope, error) {
			if runs++; runs > 1 {
				again := first
				again.Headers = maps.Clone(first.Headers)
				d.message = &again
				d.shown.Store(d.message)
			}
			return run(ctx)
		})
	})
}

// run calls the handler and returns what it sent.
func (d *delivery) run(ctx context.Context, h *handler, scope *scope) ([]*publish.Message, error) {
	defer func() { _, _ = scope.end() }()
	if err := h.invoke(ctx, &Bus{sender{d.endpoint, scope}}, d.message); err != nil {
		return nil, err
	}
	return scope.end()
}

// operator runs a Transactor while the setup is started.
type operator struct {
	cancel context.CancelCauseFunc
	done   chan struct{}
}

// operate starts to run each Transactor of the endpoints.
func (e *engine) operate(ctx context.Context, endpoints []*endpoint) {
	for _, t := range transactors(endpoints) {
		ctx, cancel := context.WithCancelCause(ctx)
		o := &operator{cancel, make(chan struct{})}
		e.operators = append(e.operators, o)
		go func() {
			defer close(o.done)
			e.keepRunning(ctx, t)
		}()
	}
}

// transactors are those of the endpoints, each once.
func transactors(endpoints []*endpoint) (all []Transactor) {
	for _, one := range endpoints {
		t := one.cfg.Handling.Transactor
		known := func(other Transactor) bool { return reflect.TypeOf(t).Comparable() && other == t }
		if t != nil && !slices.ContainsFunc(all, known) {
			all = append(all, t)
		}
	}
	return all
}

// keepRunning runs a Transactor until ctx ends.
func (e *engine) keepRunning(ctx context.Context, t Transactor) {
	pauses := wait.NewPauses(e.setup.log, e.setup.cfg.Connect.BackOff)
	for {
		_, err := guard.Apart(context.WithoutCancel(ctx), func() (struct{}, error) {
			return struct{}{}, t.Run(ctx, e.setup.Bus())
		})
		if ctx.Err() != nil {
			return
		}
		e.setup.log.Error("the transactor has ended early; running it again", zap.Error(err))
		if !wait.Sleep(ctx, wait.Next(pauses)) {
			return
		}
	}
}

// end makes Run return, and waits for that until ctx ends, but for two seconds at least.
func (o *operator) end(ctx context.Context) error {
	o.cancel(ErrStopped)
	select {
	case <-o.done:
		return nil
	case <-ctx.Done():
	}
	const least = 2 * time.Second
	t := time.NewTimer(least)
	defer t.Stop()
	select {
	case <-o.done:
		return nil
	case <-t.C:
		return errors.New("harebus: stop: the Run of Config.Handling.Transactor has not returned")
	}
}

// checkTransactors asks the Transactors of endpoints whether they can work.
func checkTransactors(ctx context.Context, endpoints []*endpoint) error {
	for _, t := range transactors(endpoints) {
		if _, err := guard.Apart(ctx, func() (struct{}, error) { return struct{}{}, t.Check(ctx) }); err != nil {
			return err
		}
	}
	return nil
}
