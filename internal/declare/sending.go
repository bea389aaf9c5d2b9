package declare

import (
	"context"
	"errors"

	"go.uber.org/zap"

	"github.com/harebus/harebus/internal/refusal"
	"github.com/harebus/harebus/internal/session"
	"github.com/harebus/harebus/topology"
)

// ForSending declares what sending needs: the exchanges. A service that also
// consumes declares its other objects too, because the bindings of a deleted
// exchange are gone with it. If that fails, sending goes on and the consumers
// report it. When a declaration has ended the connection, the next ones are made apart.
func (d *Declarer) ForSending(ctx context.Context, on *session.Session) error {
	switch {
	case !d.seclusion.needed.Load():
		err := d.forSending(ctx, on)
		d.watch(ctx, on, err)
		return err
	case d.cfg.Consuming():
		d.Soon()
	default:
		on.Spawn(func() { d.keepApart(context.WithoutCancel(ctx), on) })
	}
	return nil
}

// ForReplies declares a reply queue with its binding, and the exchanges before it: a service
// that only sends may not have declared them yet.
func (d *Declarer) ForReplies(ctx context.Context, on *session.Session, queue topology.Topology) error {
	if err := d.Establish(ctx, on, d.cfg.Exchanges); err != nil {
		if err := d.unlessThere(ctx, on, d.cfg.Exchanges, err); err != nil {
			return err
		}
	}
	return d.Establish(ctx, on, queue)
}

func (d *Declarer) forSending(ctx context.Context, on *session.Session) error {
	consuming := d.cfg.Consuming()
	err := d.Establish(ctx, on, d.cfg.Exchanges)
	if err != nil && consuming && !d.cfg.CheckOnly {
		err = d.unlessThere(ctx, on, d.cfg.Exchanges, err)
	}
	if err != nil || !consuming || d.cfg.CheckOnly {
		return err
	}
	for _, t := range d.cfg.ErrorQueues() {
		if err := declareBriefly(ctx, on, t); err != nil && ctx.Err() == nil {
			d.cfg.Log.Warn("cannot declare the error queue; sending goes on", zap.Error(err))
		}
	}
	err = briefly(ctx, on, func() error {
		return d.inTurn(context.WithoutCancel(ctx), on, func() error {
			return declareOn(ctx, on, d.cfg.Queues(), func() {})
		}, nil)
	})
	if err != nil && ctx.Err() == nil {
		d.cfg.Log.Warn("cannot declare the queues; sending goes on", zap.Error(err))
	}
	return nil
}

// unlessThere decides whether a refusal to declare matters to a started service: not if
// all objects exist. It returns the refusal if something is missing.
func (d *Declarer) unlessThere(ctx context.Context, on *session.Session, t topology.Topology, refused error) error {
	if !session.Permanent(refused) || exist(ctx, on, t) != nil { // an object that the user may not check counts as existing
		return refused
	}
	d.cfg.Log.Warn("the broker refuses to declare the exchanges; sending goes on with those that exist", zap.Error(refused))
	return nil
}

// exist checks that every object exists.
func exist(ctx context.Context, on *session.Session, t topology.Topology) error {
	return on.RPC(ctx, func() error {
		return t.Check(func() (topology.Channel, error) { return on.Channel() })
	})
}

// check is exist, but a queue that is out of reach counts as existing; using it
// reports the error.
func (d *Declarer) check(ctx context.Context, on *session.Session, t topology.Topology) error {
	err := exist(ctx, on, t)
	if session.Unreachable(err) {
		d.cfg.Log.Warn("a queue is out of reach; going on without it", zap.Error(err))
		return nil
	}
	return err
}

// ErrorQueue creates an error queue if it is missing and may be declared. One that
// exists with other arguments belongs to all services together and is used as it is. If
// its node is down or silent, only parking waits, and not the whole service: a classic
// queue lives on one node of the cluster.
func (d *Declarer) ErrorQueue(ctx context.Context, on *session.Session, t topology.Topology) error {
	if d.cfg.CheckOnly {
		return nil
	}
	err := declareBriefly(ctx, on, t)
	switch {
	case session.Unreachable(err) || errors.Is(err, session.ErrNoAnswer):
		d.cfg.Log.Warn("the error queue is out of reach; messages to park wait until it is back", zap.Error(err))
		return nil
	case refusal.Differs(err):
		d.cfg.Log.Warn("the error queue exists with other properties; using it as it is", zap.Error(err))
		return declare(ctx, on, topology.Topology{Bindings: t.Bindings})
	}
	return err
}
