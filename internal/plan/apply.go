package plan

import (
	"context"
	"errors"
	"fmt"
	"slices"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/harebus/harebus/internal/management"
	"github.com/harebus/harebus/internal/refusal"
	"github.com/harebus/harebus/internal/survey"
	"github.com/harebus/harebus/topology"
)

// Apply declares everything of a topology. It is for one whose plan has nothing stuck: the
// broker refuses what exists with other properties.
func Apply(ctx context.Context, s survey.Survey, want topology.Topology) error {
	return each(ctx, s, want, func(ch *amqp.Channel, part topology.Topology) error { return part.Declare(ch) })
}

// Attached are the bindings that go with the exchanges that have to be replaced.
func (p *Plan) Attached(ctx context.Context, api *management.Client) (bindings []topology.Binding, err error) {
	replaced := p.replaced()
	if len(replaced) == 0 {
		return nil, nil
	}
	all, err := api.Bindings(ctx)
	for _, b := range all {
		if slices.Contains(replaced, b.Exchange) || slices.Contains(replaced, b.ToExchange) {
			bindings = append(bindings, b)
		}
	}
	return bindings, err
}

func (p *Plan) replaced() (names []string) {
	for _, d := range p.Differences {
		if d.Action == Replace {
			names = append(names, d.Name)
		}
	}
	return names
}

// Replace deletes the exchanges that have to be replaced, one after the other, and declares each anew. What is
// published in between finds no exchange, and their bindings are gone.
func (p *Plan) Replace(ctx context.Context, s survey.Survey, want topology.Topology) error {
	replaced := p.replaced()
	for _, x := range want.Exchanges {
		if !slices.Contains(replaced, x.Name) {
			continue
		}
		if err := s.On.WithChannel(ctx, func(ch *amqp.Channel) error {
			if err := ch.ExchangeDelete(x.Name, false, false); err != nil {
				return fmt.Errorf("delete exchange %q: %w", x.Name, err)
			}
			return topology.Topology{Exchanges: []topology.Exchange{x}}.Declare(ch)
		}); err != nil {
			return err
		}
	}
	return nil
}

// Restore makes bindings, and returns those that the broker refuses, with the reasons.
func Restore(ctx context.Context, s survey.Survey, bindings []topology.Binding) (left []topology.Binding, refused, err error) {
	for i, b := range bindings {
		err := s.On.WithChannel(ctx, func(ch *amqp.Channel) error { return topology.Topology{Bindings: []topology.Binding{b}}.Declare(ch) })
		switch {
		case refusal.ByBroker(err) && s.On.Alive():
			left, refused = append(left, b), errors.Join(refused, err)
		case err != nil:
			return append(left, bindings[i:]...), refused, err
		}
	}
	return left, refused, nil
}

// each does something with each object of a topology, on one channel.
func each(ctx context.Context, s survey.Survey, t topology.Topology, do func(*amqp.Channel, topology.Topology) error) error {
	return s.On.RPCs(ctx, func(next func()) error {
		ch, err := s.On.Channel()
		if err != nil {
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

// Prune removes bindings. One that is not there is removed already.
func Prune(ctx context.Context, s survey.Survey, bindings []topology.Binding) error {
	return each(ctx, s, topology.Topology{Bindings: bindings}, func(ch *amqp.Channel, part topology.Topology) error {
		b := part.Bindings[0]
		if err := ch.QueueUnbind(b.Queue, b.Key, b.Exchange, amqp.Table(b.Arguments)); err != nil {
			return fmt.Errorf("remove %s: %w", Describe(b), err)
		}
		return nil
	})
}
