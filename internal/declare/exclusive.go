package declare

import (
	"context"
	"fmt"
	"time"

	"github.com/harebus/harebus/internal/session"
	"github.com/harebus/harebus/topology"
)

// exclusiveEach declares the exclusive queues and their bindings one by one, because one of
// them may end the connection, and only the connection that consumes can declare them. What
// has ended it again and again is left out for a while, so that consuming goes on without it.
// The caller has the turn.
func (d *Declarer) exclusiveEach(ctx context.Context, on *session.Session) error {
	var r refusals
	for _, one := range steps(d.cfg.Exclusive()) {
		e := d.endingsOf(one)
		err := e.Try(ctx, on, func() error { return declare(ctx, on, one) })
		switch {
		case err == nil:
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case !on.Alive():
			return err
		case e.Suspected():
			r.ended++
			_ = r.add(queueOf(one), err)
		default:
			if err := r.take(queueOf(one), err); err != nil {
				return err
			}
		}
	}
	d.noteExclusive(&r)
	return nil
}

func (d *Declarer) endingsOf(one topology.Topology) *session.Endings {
	key := fmt.Sprint(one)
	if d.endings[key] == nil {
		what := "the exclusive queue " + queueOf(one) + " is declared"
		if len(one.Bindings) > 0 {
			what = fmt.Sprintf("the binding of the exclusive queue %s to %s with key %q is declared", queueOf(one), one.Bindings[0].Exchange, one.Bindings[0].Key)
		}
		d.endings[key] = &session.Endings{What: what}
	}
	return d.endings[key]
}

// noteExclusive remembers what an exclusive queue lacks: it was new with its connection.
func (d *Declarer) noteExclusive(r *refusals) {
	for _, one := range r.list {
		d.Doubt(one.queue)
	}
	d.doubts.noteExclusive(r.list)
	if err := joined(r.list); err != nil {
		d.warn(textOf(r), err)
	}
}

// hurry has Refresh declare at once. The consumer of an exclusive queue that is missing,
// because declaring it ends connections, asks again and again, and that must not cost a
// connection each time. The caller has the turn.
func (d *Declarer) hurry() {
	const pause = 30 * time.Second
	if now := time.Now(); !d.exclusiveSuspected() || now.Sub(d.hurried) > pause {
		d.hurried = now
		d.Soon()
	}
}

// exclusiveSuspected says whether a part of an exclusive queue ends connections. The caller
// has the turn.
func (d *Declarer) exclusiveSuspected() bool {
	for _, e := range d.endings {
		if e.Suspected() {
			return true
		}
	}
	return false
}
