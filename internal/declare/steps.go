package declare

import (
	"context"
	"fmt"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/harebus/harebus/internal/session"
	"github.com/harebus/harebus/topology"
)

// declare has no time limit in all, only one for each answer: on a busy cluster the
// queues for delays need a minute.
func declare(ctx context.Context, on *session.Session, t topology.Topology) error {
	return on.RPCs(ctx, func(next func()) error { return declareOn(ctx, on, t, next) })
}

// declareOn declares on a channel of its own, and calls next before each request.
func declareOn(ctx context.Context, on *session.Session, t topology.Topology, next func()) error {
	_, _, err := declareSteps(ctx, on, steps(t), next)
	return err
}

// declareEach declares all that is not refused.
func declareEach(ctx context.Context, on *session.Session, t topology.Topology, r *refusals) error {
	return on.RPCs(ctx, func(next func()) error {
		left := steps(t)
		for len(left) > 0 && ctx.Err() == nil {
			done, _, err := declareSteps(ctx, on, left, next)
			if err == nil {
				return nil
			}
			if r.take(queueOf(left[done]), err) != nil {
				return err
			}
			left = left[done+1:] // without the one that was refused
		}
		return nil
	})
}

// steps takes a topology apart, in the order in which it is declared.
func steps(t topology.Topology) []topology.Topology {
	var parts []topology.Topology
	for _, e := range t.Exchanges {
		parts = append(parts, topology.Topology{Exchanges: []topology.Exchange{e}})
	}
	for _, q := range t.Queues {
		parts = append(parts, topology.Topology{Queues: []topology.Queue{q}})
	}
	for _, b := range t.Bindings {
		parts = append(parts, topology.Topology{Bindings: []topology.Binding{b}})
	}
	return parts
}

// queueOf is the queue that a topology begins with, or to which its first binding leads.
// It is empty for exchanges and bindings between them.
func queueOf(t topology.Topology) string {
	switch {
	case len(t.Queues) > 0:
		return t.Queues[0].Name
	case len(t.Bindings) > 0:
		return t.Bindings[0].Queue
	default:
		return ""
	}
}

// bindingsAtATime is how many bindings are sent before the broker's answer is awaited.
const bindingsAtATime = 128

// declareSteps is declareOn for parts, and says how many it has declared and how many it has
// asked the broker for. It ends with ctx. Bindings go together, without an answer to each: a
// service may have thousands. The broker does not say which of them it refuses, so then they
// are sent again one by one, which changes nothing for those that it has made.
func declareSteps(ctx context.Context, on *session.Session, parts []topology.Topology, next func()) (done, asked int, err error) {
	ch, err := on.Channel()
	if err != nil {
		return 0, 0, err
	}
	defer func() { _ = ch.Close() }()
	most := bindingsAtATime
	for done < len(parts) {
		if ctx.Err() != nil {
			return done, asked, context.Cause(ctx)
		}
		next()
		some := parts[done : done+together(parts[done:], most)]
		asked = max(asked, done+len(some))
		err := declareTogether(ch, some)
		switch {
		case err == nil:
			done += len(some)
		case len(some) == 1:
			return done, asked, err
		default:
			most = 1
			_ = ch.Close() // nearly always the broker has done so
			again, err := on.Channel()
			if err != nil {
				return done, asked, err
			}
			ch = again
		}
	}
	next()
	return done, asked, nil
}

// together is how many of the first parts can be declared with one answer: one, or
// some bindings.
func together(parts []topology.Topology, most int) (n int) {
	for n < min(most, len(parts)) && len(parts[n].Bindings) == 1 {
		n++
	}
	return max(n, 1)
}

// declareTogether declares parts and waits for the answer to the last. The broker
// does what a channel asks in order, and does nothing after a refusal.
func declareTogether(ch topology.Channel, parts []topology.Topology) error {
	last := len(parts) - 1
	for _, one := range parts[:last] {
		if err := one.Declare(unanswered{ch}); err != nil {
			return err
		}
	}
	return parts[last].Declare(ch)
}

// unanswered is a channel whose bindings the broker does not answer.
type unanswered struct{ topology.Channel }

func (u unanswered) QueueBind(name, key, exchange string, _ bool, args amqp.Table) error {
	return u.Channel.QueueBind(name, key, exchange, true, args)
}

func (u unanswered) ExchangeBind(destination, key, source string, _ bool, args amqp.Table) error {
	return u.Channel.ExchangeBind(destination, key, source, true, args)
}

// declareBriefly declares and does not wait for long. If one node of a cluster is
// frozen, the others do not answer for a queue on it, and replacing the connection
// would not help.
func declareBriefly(ctx context.Context, on *session.Session, t topology.Topology) error {
	return briefly(ctx, on, func() error { return declareOn(ctx, on, t, func() {}) })
}

// briefly runs fn and does not wait for it for long. A request that it no longer
// waits for ends with the session at the latest.
func briefly(ctx context.Context, on *session.Session, fn func() error) error {
	const long = 3 * time.Second
	done := make(chan error, 1)
	if !on.Spawn(func() { done <- fn() }) {
		return on.Cause()
	}
	late := time.NewTimer(long)
	defer late.Stop()
	select {
	case err := <-done:
		return err
	case <-late.C:
		return fmt.Errorf("%w after %v", session.ErrNoAnswer, long)
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
