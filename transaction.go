package harebus

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"

	"github.com/harebus/harebus/internal/background"
	"github.com/harebus/harebus/internal/buffer"
	"github.com/harebus/harebus/internal/foreign"
	"github.com/harebus/harebus/internal/publish"
)

// Tx is a transaction: it buffers messages until it is committed. It has nothing to do with a database: the commit
// publishes the buffered messages in order, and reports on each. A Tx is safe for concurrent use.
type Tx struct{ sender }

// Transaction calls fn with a transaction, commits it when fn returns nil, and discards it when fn returns an error or
// panics. A commit that did not get every message confirmed is a [*TransactionError].
//
// Inside a handler the transaction joins the handler's buffer: its messages are published with the others, after the
// handler has returned.
func (b *Bus) Transaction(ctx context.Context, fn func(ctx context.Context, tx *Tx) error) error {
	tx := &Tx{sender{b.endpoint, buffer.New(b.within(ctx).scope)}}
	defer tx.Rollback() // without effect after a commit
	if err := fn(ctx, tx); err != nil {
		return err
	}
	return tx.Commit(ctx)
}

// Begin starts a transaction for code that cannot be a closure. End it with Commit or Rollback. It joins the buffer of
// a handler as [Bus.Transaction] does when the context of a call on it is the handler's.
func (b *Bus) Begin() *Tx {
	return &Tx{sender{b.endpoint, buffer.New(b.scope)}}
}

// Commit publishes what was buffered, in order, and returns when every outcome is known or ctx has ended. It returns
// nil if all were confirmed, else a [*TransactionError]. In both cases the transaction has ended. A second Commit, or
// one after Rollback, fails with [ErrHandlerReturned].
func (t *Tx) Commit(ctx context.Context) error {
	t.within(ctx)
	outs, err := t.scope.End()
	if err != nil {
		return fmt.Errorf("harebus: commit: %w", err)
	}
	if outer := t.scope.Outer(); outer != nil {
		return add(outer, outs...)
	}
	if len(outs) == 0 {
		return nil
	}
	return t.endpoint.commit(ctx, outs)
}

// Rollback discards the buffered messages. After a Commit it does nothing, so you can call it with defer.
func (t *Tx) Rollback() {
	_, _ = t.scope.End() // it only fails if the transaction has ended
}

// scope buffers the messages of a transaction or of one run of a handler.
type scope = buffer.Scope[Message]

// add buffers messages.
func add(to *scope, outs ...*publish.Message) error {
	return afterEnd(to.Add(outs...))
}

// afterEnd says what to do about a call after the end of a handler.
func afterEnd(err error) error {
	if err != nil {
		err = refuse("send", "%w; what a handler leaves behind, such as a goroutine, needs the option Immediately", err)
	}
	return err
}

// commit publishes buffered messages and reports on each if one of them failed.
func (e *endpoint) commit(ctx context.Context, outs []*publish.Message) error {
	publisher, err := e.setup.publisher()
	if err != nil {
		return fmt.Errorf("harebus: commit: %w", err)
	}
	ctx, op := e.setup.observers.start(ctx, Observation{Operation: OpCommit, Messages: len(outs)})
	err = published(outs, publisher.PublishAll(ctx, outs))
	reached(op, outs...)
	op.End(err)
	return err
}

// published is the error of messages that were published together: nil if all are confirmed.
func published(outs []*publish.Message, errs []error) error {
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

// Transactor runs handlers inside a transaction of something else, such as a database, and stores there what they send:
// what a handler changes and what it sends is kept together or not at all. Package outbox has one for SQL databases.
// With a Transactor in Config, a message is acknowledged when its transaction has been committed, and what its handler
// sent is published after that. If it also has a method Ready() error, which must not block, [Setup.Ready] fails with
// the error of that, too.
type Transactor interface {
	// Check says whether the transactor can work. Start calls it before it connects, and fails with its error.
	Check(ctx context.Context) error
	// Transact handles one message. It calls run in a transaction, with a context made from ctx that leads to the
	// transaction; run calls the handler and returns what it sent. Transact may call run again after a conflict of
	// transactions: the handler then gets the message as it came. It may also leave run uncalled, if m was handled
	// before. When Transact returns nil, effects and messages are stored, and m is acknowledged. Its error decides
	// about m as one that the handler returned.
	Transact(ctx context.Context, m *Message, run func(ctx context.Context) ([]Envelope, error)) error
	// Run publishes what Transact has stored, with [Bus.Forward], until ctx ends. Start calls it in a goroutine of its
	// own. Stop ends ctx when the last handler has returned, waits for Run, and then closes the connections. A Run that
	// ends early is called again.
	Run(ctx context.Context, bus *Bus) error
}

// WithoutTransaction runs one handler without Config.Handling.Transactor: what it sends is published before its message
// is acknowledged, as in a setup that has no Transactor.
func WithoutTransaction() HandlerOption {
	return handlerOption(func(h *handler) { h.untransacted = true })
}

// WithTransaction is for handlers that are wrong without Config.Handling.Transactor, such as those of package saga:
// Start fails if there is none.
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
		outs, err := d.run(ctx, h, &scope{Incoming: d.message, ID: d.came.id, Origin: h.origin})
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

// transact calls t. Each further run gets the message as it came, in case that the handler has changed it.
func (d *delivery) transact(ctx context.Context, t Transactor, run func(context.Context) ([]Envelope, error)) error {
	first, runs := *d.message, 0
	first.Headers = maps.Clone(first.Headers)
	return foreign.Call(func() error {
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
	defer func() { _, _ = scope.End() }()
	if err := h.invoke(ctx, &Bus{sender{d.endpoint, scope}}, d.message); err != nil {
		return nil, err
	}
	return scope.End()
}

// operators start to run each Transactor of the endpoints.
func operators(ctx context.Context, endpoints []*endpoint) (tasks []*background.Task) {
	s := endpoints[0].setup
	for _, t := range transactors(endpoints) {
		tasks = append(tasks, background.Keep(ctx, "the transactor", s.log, s.cfg.Connect.BackOff, func(ctx context.Context) error {
			return t.Run(ctx, s.Bus())
		}))
	}
	return tasks
}

// transactors are those of the endpoints, each once: an endpoint beside another one has the same.
func transactors(endpoints []*endpoint) (all []Transactor) {
	for _, one := range endpoints {
		t := one.cfg.Handling.Transactor
		known := func(other Transactor) bool { return reflect.TypeOf(t).Comparable() && other == t }
		if t != nil && one.of == one && !slices.ContainsFunc(all, known) {
			all = append(all, t)
		}
	}
	return all
}

// transactorTroubles are why Transactors cannot publish what they have stored.
func transactorTroubles(endpoints []*endpoint) (faults []error) {
	for _, t := range transactors(endpoints) {
		if t, ok := t.(interface{ Ready() error }); ok {
			faults = append(faults, foreign.Call(t.Ready))
		}
	}
	return faults
}

// checkTransactors asks the Transactors of endpoints whether they can work.
func checkTransactors(ctx context.Context, endpoints []*endpoint) error {
	for _, t := range transactors(endpoints) {
		if _, err := foreign.Apart(ctx, func() (struct{}, error) { return struct{}{}, t.Check(ctx) }); err != nil {
			return err
		}
	}
	return nil
}
