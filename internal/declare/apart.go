package declare

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/harebus/harebus/internal/session"
	"github.com/harebus/harebus/topology"
)

// seclusion says whether this service declares on connections of its own. It does when a
// declaration has ended the connection that it was made on, until one ends none: such a
// declaration must not end consuming and sending too.
type seclusion struct {
	established atomic.Bool // everything was declared once
	needed      atomic.Bool
	kept        atomic.Bool // keepApart runs
}

// watch is called after a declaration on a connection that does other work, too. The ends
// of connections that a shutdown of the broker explains do not count.
func (d *Declarer) watch(ctx context.Context, on *session.Session, err error) {
	switch {
	case on.Alive():
		if err == nil {
			d.seclusion.established.Store(true)
		}
	case ctx.Err() == nil && d.seclusion.established.Load() && suspicion(on) > 0:
		d.seclusion.needed.Store(true)
		d.Soon()
	}
}

// suspicion is how likely it is that a request has ended the connection.
func suspicion(on *session.Session) int {
	<-on.Done()
	return session.Suspicion(on.Cause())
}

// piece is a part of a declaration that is made, or refused, as a whole.
type piece struct {
	queue string // as in refused
	make  func(ctx context.Context, on *session.Session) error
}

// pieces are everything that the service declares.
func (d *Declarer) pieces() []piece {
	consuming := d.cfg.Consuming()
	switch {
	case d.cfg.CheckOnly && consuming:
		return []piece{{make: func(ctx context.Context, on *session.Session) error { return d.check(ctx, on, d.cfg.all()) }}}
	case d.cfg.CheckOnly:
		return []piece{{make: func(ctx context.Context, on *session.Session) error { return exist(ctx, on, d.cfg.Exchanges) }}}
	}
	all := each(d.cfg.Exchanges)
	if !consuming {
		return all
	}
	for _, t := range d.cfg.ErrorQueues() {
		all = append(all, piece{queueOf(t), func(ctx context.Context, on *session.Session) error { return d.ErrorQueue(ctx, on, t) }})
	}
	return append(all, each(d.cfg.Queues())...)
}

func each(t topology.Topology) []piece {
	var all []piece
	for _, one := range steps(t) {
		all = append(all, piece{queueOf(one), func(ctx context.Context, on *session.Session) error { return declare(ctx, on, one) }})
	}
	return all
}

// apart declares everything on connections of its own. What ends one of them is left out,
// as what the broker refuses.
func (d *Declarer) apart(ctx context.Context) error {
	select {
	case d.turn <- struct{}{}:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	defer func() { <-d.turn }()
	a := &round{declarer: d}
	defer a.close()
	for _, p := range d.pieces() {
		if err := a.make(ctx, p); err != nil {
			return err
		}
	}
	if a.on != nil {
		d.takeBackFailed(ctx, a.on)
		if !a.on.Alive() {
			a.refusals.ended++
		}
	}
	d.note(&a.refusals)
	d.seclusion.needed.Store(a.refusals.ended > 0 || d.exclusiveSuspected())
	return nil
}

// round is one declaration of everything apart.
type round struct {
	declarer *Declarer
	on       *session.Session // nil when there is none, because a declaration has ended it
	refusals refusals
}

// make makes a piece, unless too many others have ended their connection.
func (a *round) make(ctx context.Context, p piece) error {
	const most = 5
	if a.on == nil && a.refusals.ended == most {
		return a.refusals.add(p.queue, errors.New("not declared, because other declarations end the connection"))
	}
	if a.on == nil {
		on, err := a.declarer.cfg.Extra(ctx)
		if err != nil {
			return err
		}
		a.on = on
	}
	err := p.make(ctx, a.on)
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case a.on.Alive():
		return a.refusals.take(p.queue, err)
	}
	cause := a.on.Cause()
	a.close()
	a.refusals.ended++
	if err == nil { // it was made before
		return nil
	}
	return a.refusals.add(p.queue, fmt.Errorf("%w: the connection has ended: %w", err, cause))
}

func (a *round) close() {
	if a.on != nil {
		a.on.Close()
		a.on = nil
	}
}

// keepApart declares apart until a declaration ends no connection any more, or the session
// ends. It is for a service that only sends.
func (d *Declarer) keepApart(ctx context.Context, while *session.Session) {
	if !d.seclusion.kept.CompareAndSwap(false, true) {
		return
	}
	defer d.seclusion.kept.Store(false)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	while.Spawn(func() {
		select {
		case <-while.Done():
			cancel()
		case <-ctx.Done():
		}
	})
	for p := new(pace); d.seclusion.needed.Load() && d.pause(ctx, p.next(true)); {
		if err := d.apart(ctx); err != nil && ctx.Err() == nil {
			d.warn("cannot declare the topology again; sending goes on", err)
		}
	}
}

// pace is that of declarations: two or one a minute, and fewer and fewer of those that end
// connections.
type pace struct{ grown time.Duration }

const (
	usual   = time.Minute
	slowest = 10 * time.Minute
)

// next is the pause before the next declaration, at most.
func (p *pace) next(apart bool) time.Duration {
	if !apart {
		p.grown = 0
		return usual
	}
	p.grown = min(max(usual, 2*p.grown), slowest)
	return p.grown
}
