package declare

import (
	"context"
	"sync/atomic"

	amqp "github.com/rabbitmq/amqp091-go"
	"go.uber.org/zap"

	"github.com/harebus/harebus/internal/refusal"
	"github.com/harebus/harebus/internal/session"
	"github.com/harebus/harebus/internal/wait"
	"github.com/harebus/harebus/topology"
)

// Change is one change of the bindings of queues. Make a new one for each call of
// [Declarer.Change].
type Change struct {
	Bindings []topology.Binding
	// Remove says that the bindings are removed and not made.
	Remove bool
	// Undo returns those of the changed bindings that are changed back when the call
	// fails: not those that were as they should be before. Nil means none.
	Undo func(changed []topology.Binding) []topology.Binding
	// Keep is called when the broker has made the whole change and no other declaration
	// has begun. It updates what Config.Queues returns.
	Keep func()

	made    int         // bindings that the broker has changed
	decided atomic.Bool // set by the first of two: the broker's answer, or the end of the caller's context
}

// Change makes a change on the broker and returns when that is done. When the connection
// is lost, it waits for the next one until ctx ends. A call that fails changes nothing: what
// the broker has changed is changed back.
func (d *Declarer) Change(ctx context.Context, link *session.Link, c *Change) error {
	pauses := d.cfg.BackOff()
	for {
		on, err := link.Session(ctx)
		if err == nil {
			err = d.inTurn(ctx, on, func() error { return d.change(ctx, on, c) }, c.give)
		}
		if err == nil {
			return nil
		}
		// If the connection ends before the answer, the change is not decided yet.
		if on == nil || on.Alive() || c.decided.Load() || session.Permanent(err) || !wait.Sleep(ctx, wait.Next(pauses)) {
			return err
		}
	}
}

// give lets the caller stop waiting, unless the broker has answered already.
func (c *Change) give() bool { return c.decided.CompareAndSwap(false, true) }

// change makes the change on the broker, and then calls Keep. When ctx ends it
// continues, so that it learns what the broker did, and undoes that. The caller has the turn.
func (d *Declarer) change(ctx context.Context, on *session.Session, c *Change) error {
	asking := context.WithoutCancel(ctx)
	err := c.make(asking, on)
	if refusal.Missing(err) && !session.Unreachable(err) { // the queue or the exchange: bindings come last
		c.made = 0
		if err = d.objects(asking, on, nil); err == nil {
			err = c.make(asking, on)
		}
	}
	if err == nil && c.decided.CompareAndSwap(false, true) {
		c.Keep()
		return nil
	}
	if undone := c.takeBack(asking, on); undone != nil && on.Alive() {
		d.cfg.Log.Warn("cannot take back a change of bindings; call Unsubscribe or Subscribe again",
			zap.Strings("topics", c.keys()), zap.Error(undone))
	}
	if err == nil {
		err = context.Cause(ctx)
	}
	return err
}

// make changes one binding after the other, and counts them.
func (c *Change) make(ctx context.Context, on *session.Session) (err error) {
	c.made, err = each(ctx, on, c.Bindings, c.Remove)
	return err
}

// takeBack undoes the part of a failed change that was made.
func (c *Change) takeBack(ctx context.Context, on *session.Session) error {
	if c.Undo == nil || c.made == 0 {
		return nil
	}
	_, err := each(ctx, on, c.Undo(c.Bindings[:c.made]), !c.Remove)
	return err
}

func (c *Change) keys() []string {
	keys := make([]string, len(c.Bindings))
	for i, b := range c.Bindings {
		keys[i] = b.Key
	}
	return keys
}

// each makes or removes bindings in their order, and says how many. ctx must not end.
func each(ctx context.Context, on *session.Session, bindings []topology.Binding, remove bool) (done int, err error) {
	err = on.RPCs(ctx, func(next func()) error {
		ch, err := on.Channel()
		if err != nil {
			return err
		}
		defer func() { _ = ch.Close() }()
		for _, b := range bindings {
			next()
			if err := one(ch, b, remove); err != nil {
				return err
			}
			done++
		}
		next()
		return nil
	})
	return done, err
}

func one(ch *amqp.Channel, b topology.Binding, remove bool) error {
	if remove {
		return ch.QueueUnbind(b.Queue, b.Key, b.Exchange, b.Arguments)
	}
	return topology.Topology{Bindings: []topology.Binding{b}}.Declare(ch)
}
