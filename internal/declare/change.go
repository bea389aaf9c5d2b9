package declare

import (
	"context"
	"errors"
	"fmt"
	"slices"
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

	weight  atomic.Int64 // how suspicious it is of ending connections
	changed int          // how many of the first bindings the broker has changed, or may have changed
	undoing int          // how suspicious its undoing is
	decided atomic.Bool  // set by the first of two: the broker's answer, or the end of the caller's context
}

// Change makes a change on the broker and returns when that is done. When the connection
// is lost, it waits for the next one until ctx ends. A call that fails changes nothing: what
// the broker has changed is changed back, with the next declaration if that is not possible
// at once. When the connection has ended with the change, the next attempt is made on a
// connection of its own; a change that seems to end connections is an error.
func (d *Declarer) Change(ctx context.Context, link *session.Link, c *Change) error {
	pauses := d.cfg.BackOff()
	for {
		ended, err := d.changeOnce(ctx, link, c)
		switch {
		case err == nil:
			return nil
		case c.weight.Load() >= session.Suspicious:
			return fmt.Errorf("the connection ended at each attempt, so it is given up; see the broker's log for the reason: %w", err)
		// If the connection ends before the answer, the change is not decided yet.
		case !ended || c.decided.Load() || session.Permanent(err) || !wait.Sleep(ctx, wait.Next(pauses)):
			return err
		}
	}
}

// changeOnce makes a change on the link's session, or on a connection of its own. It says
// whether there was no connection, or it has ended.
func (d *Declarer) changeOnce(ctx context.Context, link *session.Link, c *Change) (ended bool, err error) {
	alone := c.weight.Load() > 0
	on, err := link.Session(ctx)
	if err != nil {
		return false, err
	}
	if alone {
		if on, err = link.Extra(ctx, "bind"); err != nil {
			return true, err
		}
		defer link.Spawn(on.Close)
	}
	err = d.inTurn(ctx, on, func() error { return d.change(ctx, on, c) }, c.give)
	if c.weight.Load() >= session.Suspicious {
		err = on.Cause()
	}
	return !on.Alive(), err
}

// give lets the caller stop waiting, unless the broker has answered already.
func (c *Change) give() bool { return c.decided.CompareAndSwap(false, true) }

// change makes the change on the broker, and then calls Keep. When ctx ends it
// continues, so that it learns what the broker did, and undoes that. The caller has the turn.
func (d *Declarer) change(ctx context.Context, on *session.Session, c *Change) error {
	asking := context.WithoutCancel(ctx)
	d.failed = slices.DeleteFunc(d.failed, func(other *Change) bool { return other == c }) // by a lost connection
	err := c.make(asking, on)
	if refusal.Missing(err) && !session.Unreachable(err) && !d.seclusion.needed.Load() { // the queue or the exchange: bindings come last
		if err = d.objects(asking, on, nil); err == nil {
			err = c.make(asking, on)
		}
	}
	if err == nil && c.decided.CompareAndSwap(false, true) {
		c.Keep()
		return nil
	}
	d.failed = append(d.failed, c)
	d.takeBackFailed(asking, on)
	if err == nil {
		err = context.Cause(ctx)
	}
	return err
}

// make makes or removes the bindings, and notes which of them the broker has changed.
func (c *Change) make(ctx context.Context, on *session.Session) error {
	done, asked, err := bind(ctx, on, c.Bindings, c.Remove)
	if !refusedOne(on, err) {
		done = asked // the broker may have changed what it did not answer
	}
	if err != nil && !on.Alive() {
		c.weight.Add(int64(suspicion(on)))
	}
	c.changed = max(c.changed, done) // an earlier attempt may have come further
	return err
}

// refusedOne says whether the broker has refused one binding and the connection is still there.
func refusedOne(on *session.Session, err error) bool {
	var broker *amqp.Error
	return errors.As(err, &broker) && broker.Server && on.Alive()
}

// takeBackFailed takes back the changes that have failed. When the connection is lost, the
// next declaration does it. The caller has the turn.
func (d *Declarer) takeBackFailed(ctx context.Context, on *session.Session) {
	for len(d.failed) > 0 && on.Alive() && d.takeBack(context.WithoutCancel(ctx), on, d.failed[0]) {
		d.failed = d.failed[1:]
	}
}

// takeBack undoes the part of a failed change that was made. It returns false when the
// connection is lost before it has finished.
func (d *Declarer) takeBack(ctx context.Context, on *session.Session, c *Change) bool {
	var left []topology.Binding
	if c.Undo != nil {
		left = c.Undo(c.Bindings[:c.changed])
	}
	var topics []string
	var list []refused
	for len(left) > 0 {
		done, _, err := bind(ctx, on, left, !c.Remove)
		if err == nil {
			break
		}
		if !refusedOne(on, err) {
			if on.Alive() {
				return false
			}
			if c.undoing += suspicion(on); c.undoing < session.Suspicious {
				return false
			}
			for _, b := range left[done:] {
				topics = append(topics, b.Key)
			}
			list = append(list, refused{err: err})
			break
		}
		topics, list = append(topics, left[done].Key), append(list, refused{err: err})
		left = left[done+1:]
	}
	if len(list) > 0 {
		d.cfg.Log.Warn("cannot take back a change of bindings; call Unsubscribe or Subscribe again",
			zap.Strings("topics", topics), zap.Error(joined(list)))
	}
	return true
}

// bind makes or removes bindings in their order, and says how many are done and how many it
// has asked the broker for. ctx must not end.
func bind(ctx context.Context, on *session.Session, bindings []topology.Binding, remove bool) (done, asked int, err error) {
	err = on.RPCs(ctx, func(next func()) (err error) {
		if remove {
			done, asked, err = unbind(on, bindings, next)
		} else {
			done, asked, err = declareSteps(ctx, on, steps(topology.Topology{Bindings: bindings}), next)
		}
		return err
	})
	return done, asked, err
}

// unbind removes one binding after the other, because AMQP has no queue.unbind without an
// answer.
func unbind(on *session.Session, bindings []topology.Binding, next func()) (done, asked int, err error) {
	ch, err := on.Channel()
	if err != nil {
		return 0, 0, err
	}
	defer func() { _ = ch.Close() }()
	for _, b := range bindings {
		next()
		if err := ch.QueueUnbind(b.Queue, b.Key, b.Exchange, b.Arguments); err != nil {
			return done, done + 1, err
		}
		done++
	}
	next()
	return done, done, nil
}
