package plan

import (
	"context"
	"fmt"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/harebus/harebus/internal/management"
	"github.com/harebus/harebus/internal/survey"
	"github.com/harebus/harebus/topology"
)

// Apply declares everything of a topology. It is for one whose plan has nothing stuck: the
// broker refuses what exists with other properties.
func Apply(ctx context.Context, s survey.Survey, want topology.Topology) error {
	return each(ctx, s, want, func(ch *amqp.Channel, part topology.Topology) error { return part.Declare(ch) })
}

// DeleteExchanges deletes the exchanges that have to be replaced, and returns their bindings as
// far as the management API tells them; without it, none. What is published between this and
// Apply finds no exchange.
func (p *Plan) DeleteExchanges(ctx context.Context, s survey.Survey, api *management.Client) (bindings []topology.Binding, err error) {
	var all []topology.Binding
	if api != nil {
		if all, err = api.Bindings(ctx); err != nil {
			return nil, err
		}
	}
	for _, d := range p.Differences {
		if d.Action != Replace {
			continue
		}
		for _, b := range all {
			if b.Exchange == d.Name || b.ToExchange == d.Name {
				bindings = append(bindings, b)
			}
		}
		if err := s.On.WithChannel(ctx, func(ch *amqp.Channel) error { return ch.ExchangeDelete(d.Name, false, false) }); err != nil {
			return nil, fmt.Errorf("delete exchange %q: %w", d.Name, err)
		}
	}
	return bindings, nil
}

// each does something with each object of a topology, on one channel.
func each(ctx context.Context, s survey.Survey, t topology.Topology, do func(*amqp.Channel, topology.Topology) error) error {
	var ch *amqp.Channel
	err := s.On.RPCs(ctx, func(next func()) (err error) {
		if ch, err = s.On.Channel(); err != nil {
			return err
		}
		defer func() { _ = ch.Close() }()
		for _, part := range parts(t) {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			next()
			if err := do(ch, part); err != nil {
				return err
			}
		}
		return nil
	})
	return err
}

// parts takes a topology apart, in the order in which it is declared.
func parts(t topology.Topology) (all []topology.Topology) {
	for _, e := range t.Exchanges {
		all = append(all, topology.Topology{Exchanges: []topology.Exchange{e}})
	}
	for _, q := range t.Queues {
		all = append(all, topology.Topology{Queues: []topology.Queue{q}})
	}
	for _, b := range t.Bindings {
		all = append(all, topology.Topology{Bindings: []topology.Binding{b}})
	}
	return all
}

// Former are the bindings of one topology to its queues that another does not want any more:
// what a deployment leaves behind. Only bindings of queues that both have count, because
// those of a queue that went to another service may be in use.
func Former(before, now topology.Topology) []topology.Binding {
	wanted, own := map[string]bool{}, map[string]bool{}
	for _, q := range now.Queues {
		own[q.Name] = true
	}
	for _, b := range now.Bindings {
		wanted[text(b)] = true
	}
	var former []topology.Binding
	for _, b := range before.Bindings {
		if own[b.Queue] && !wanted[text(b)] {
			former = append(former, b)
		}
	}
	return former
}

// Surplus are the bindings to wanted queues that the management API shows and the topology
// does not have.
func (p *Plan) Surplus() []topology.Binding { return p.surplus }

// Describe names a binding.
func Describe(b topology.Binding) string { return describe(b) }

// Prune removes bindings. One that is not there is removed already.
func Prune(ctx context.Context, s survey.Survey, bindings []topology.Binding) error {
	return each(ctx, s, topology.Topology{Bindings: bindings}, func(ch *amqp.Channel, part topology.Topology) error {
		b := part.Bindings[0]
		if err := ch.QueueUnbind(b.Queue, b.Key, b.Exchange, amqp.Table(b.Arguments)); err != nil {
			return fmt.Errorf("remove %s: %w", describe(b), err)
		}
		return nil
	})
}
