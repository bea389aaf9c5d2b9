// Package declare creates the exchanges, queues and bindings of a service on the broker, or
// checks that they exist. It declares them again after a reconnect and from time to time,
// changes bindings while the service runs, and remembers what the broker refuses. It is
// given topologies and knows no Setup and no Config of the root package.
package declare

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/cenkalti/backoff/v4"
	"go.uber.org/zap"

	"github.com/harebus/harebus/internal/session"
	"github.com/harebus/harebus/topology"
)

// Config is what a [Declarer] declares, and how. The functions are called again for each
// declaration, because a service may get more topics and queues while it runs.
type Config struct {
	// CheckOnly says that nothing may be declared, only checked.
	CheckOnly bool
	// Exchanges are what sending needs.
	Exchanges topology.Topology
	// ErrorQueues are the error queues, one in each topology, with its binding.
	ErrorQueues func() []topology.Topology
	// Queues are the listener queues with their bindings, and whatever else the service has.
	Queues func() topology.Topology
	// Exclusive are the listener queues, with their bindings, that belong to the connection
	// that consumes. May be nil.
	Exclusive func() topology.Topology
	// Consuming says whether the service has been started to consume. One that only sends
	// declares the exchanges and nothing else.
	Consuming func() bool
	// BackOff makes the pauses between attempts to change bindings.
	BackOff func() backoff.BackOff
	// Extra opens a connection for declarations alone.
	Extra func(ctx context.Context) (*session.Session, error)
	Log   *zap.Logger
}

// all is everything that a Config names.
func (c *Config) all() topology.Topology {
	return topology.Join(append([]topology.Topology{c.Exchanges, c.Queues()}, c.ErrorQueues()...)...)
}

// Declarer declares the objects of one service. Its methods may be called at any time and
// by several goroutines; one declaration of the queues, or one change of their bindings, is
// made after the other.
type Declarer struct {
	cfg    Config
	turn   chan struct{} // held while queues are declared or bindings are changed
	wanted chan struct{} // told when something new is to be declared soon

	// The latest complete declaration: its session, and when it began. Guarded by turn.
	on    *session.Session
	began time.Time
	// quiet is until when refusals are not logged again, in nanoseconds.
	quiet atomic.Int64
	// failed are changes that have failed and were not taken back yet. Guarded by turn.
	failed []*Change

	doubts    doubts
	seclusion seclusion
	// endings are of each part of the exclusive queues. Guarded by turn.
	endings map[string]*session.Endings
	hurried time.Time // when hurry last did something; likewise
}

// New makes a Declarer.
func New(cfg Config) *Declarer {
	return &Declarer{
		cfg: cfg, turn: make(chan struct{}, 1), wanted: make(chan struct{}, 1), doubts: doubts{queues: map[string]struct{}{}},
		endings: map[string]*session.Endings{},
	}
}

// Establish declares a topology on a session, or checks it.
func (d *Declarer) Establish(ctx context.Context, on *session.Session, t topology.Topology) error {
	if d.cfg.CheckOnly {
		return exist(ctx, on, t)
	}
	return declare(ctx, on, t)
}

// All declares or checks everything. The first refusal is an error.
func (d *Declarer) All(ctx context.Context, on *session.Session) error {
	return d.inTurn(ctx, on, func() error { return d.objects(ctx, on, nil) }, nil)
}

// First is All for a consumer that has not consumed yet. It does nothing if another consumer
// has declared everything on this session later than since, so the consumers of one
// connection declare once.
func (d *Declarer) First(ctx context.Context, on *session.Session, since time.Time) error {
	return d.since(ctx, on, since, nil)
}

// Again is First for a consumer that has consumed before: objects that the broker refuses
// are logged and remembered, and are no error. They may exist, as when somebody takes away
// the configure permission, so a refusal must not end consuming. When a declaration has ended
// the connection, Again leaves the next one to Refresh, which makes it apart, but for the
// exclusive queues: only the connection that consumes can declare them.
func (d *Declarer) Again(ctx context.Context, on *session.Session, since time.Time) error {
	if d.seclusion.needed.Load() {
		return d.inTurn(ctx, on, func() error {
			d.hurry()
			return d.exclusive(ctx, on, nil)
		}, nil)
	}
	return d.since(ctx, on, since, &refusals{})
}

func (d *Declarer) since(ctx context.Context, on *session.Session, since time.Time, r *refusals) error {
	return d.inTurn(ctx, on, func() (err error) {
		defer func() { d.watch(ctx, on, err) }()
		if d.on == on && d.began.After(since) {
			return nil
		}
		began := time.Now()
		if err := d.objects(ctx, on, r); err != nil {
			return err
		}
		if err := d.exclusive(ctx, on, r); err != nil {
			return err
		}
		d.on, d.began = on, began
		d.note(r)
		d.takeBackFailed(ctx, on)
		return nil
	}, nil)
}

// objects declares or checks everything. The caller has the turn.
func (d *Declarer) objects(ctx context.Context, on *session.Session, r *refusals) error {
	if d.cfg.CheckOnly {
		return r.take("", d.check(ctx, on, d.cfg.all()))
	}
	if err := declareEach(ctx, on, d.cfg.Exchanges, r); err != nil {
		return err
	}
	for _, t := range d.cfg.ErrorQueues() {
		if err := r.take(queueOf(t), d.ErrorQueue(ctx, on, t)); err != nil {
			return err
		}
	}
	return declareEach(ctx, on, d.cfg.Queues(), r)
}

// exclusive declares the exclusive queues on the connection that consumes. The caller has
// the turn.
func (d *Declarer) exclusive(ctx context.Context, on *session.Session, r *refusals) error {
	switch {
	case d.cfg.Exclusive == nil:
		return nil
	case d.seclusion.needed.Load():
		return d.exclusiveEach(ctx, on)
	}
	d.doubts.noteExclusive(nil) // r has it
	return declareEach(ctx, on, d.cfg.Exclusive(), r)
}

// inTurn runs fn while no other goroutine declares the queues or changes their
// bindings, because a declaration with an old list would undo the change. fn keeps
// its turn until it returns, also when ctx ends before; then give, if not nil, says
// whether the caller may stop waiting.
func (d *Declarer) inTurn(ctx context.Context, on *session.Session, fn func() error, give func() bool) error {
	select {
	case d.turn <- struct{}{}:
	case <-on.Done():
		return on.Cause()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	done := make(chan error, 1)
	if !on.Spawn(func() {
		err := fn()
		<-d.turn
		done <- err
	}) {
		<-d.turn
		return on.Cause()
	}
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		if give != nil && !give() {
			return <-done
		}
		return context.Cause(ctx)
	}
}
