// Package services is what the commands status, top and control, and the page, have in common: they ask the instances
// of services how they are, and give them orders.
package services

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/internal/access"
	"github.com/harebus/harebus/pulse"
)

// Options say how to ask. All are set.
type Options struct {
	Broker access.Broker
	// Operator is who asks: "ann@ops1".
	Operator string
	// Wait is how long the first answer may take, Quiet how long the next one, and Timeout how long the broker.
	Wait, Quiet, Timeout time.Duration
}

// Asker asks instances. It is for one goroutine.
type Asker struct {
	client *pulse.Client
	most   time.Duration
	cause  error
}

// Open makes an asker, which connects when it first asks.
func Open(o Options) (*Asker, error) {
	b := o.Broker
	client, err := pulse.Open(pulse.ClientConfig{
		Connect: harebus.ConnectConfig{URLs: b.URLs, Username: b.Username, Password: b.Password, Credentials: b.Credentials, TLS: b.TLS, ExternalAuth: b.ExternalAuth},
		Dial:    b.Dial, Patience: o.Wait, Quiet: o.Quiet, From: o.Operator, Log: b.Log,
	})
	if err != nil {
		return nil, err
	}
	return &Asker{client, o.Timeout + 2*o.Wait, fmt.Errorf("gave up after %v", o.Timeout)}, nil
}

// Close ends the connections.
func (a *Asker) Close() { a.client.Close() }

// Bounded ends a round that the broker does not let end.
func (a *Asker) Bounded(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(ctx, a.most, a.cause)
}

// State is what is known of some queues, or of all that an instance has answered for.
type State struct {
	// Round has the answers.
	Round *pulse.Round
	// Refused is why the broker has not passed on the question, such as an alarm or a permission. Then Round is empty.
	Refused error
	// Consumers is how many consumers the instances have that have answered, by queue. Several services may share a queue.
	Consumers map[string]int
	// Waiting is what the broker says about the queues.
	Waiting map[string]pulse.Waiting
	// Silent are the queues that were named, and of which no instance has answered.
	Silent []string
}

// Look asks the instances of some queues, or all, and the broker about these queues and others. Nothing is changed.
func (a *Asker) Look(ctx context.Context, queues []string, others ...string) (*State, error) {
	s := &State{}
	if s.Round, s.Refused = a.ask(ctx, queues); s.Refused != nil {
		if ctx.Err() != nil {
			return nil, s.Refused
		}
		s.Round = &pulse.Round{}
	}
	s.Consumers, s.Silent = consumers(s.Round), silent(queues, s.Round)
	names := slices.Concat(slices.Collect(maps.Keys(s.Consumers)), s.Silent, others)
	slices.Sort(names)
	var err error
	s.Waiting, err = a.client.Waiting(ctx, slices.Compact(names))
	return s, err
}

func (a *Asker) ask(ctx context.Context, queues []string) (*pulse.Round, error) {
	to := pulse.Target{}
	if len(queues) == 1 {
		to.Queue = queues[0]
	}
	round, err := a.client.Ask(ctx, to)
	if err != nil || len(queues) == 0 {
		return round, err
	}
	for i := range round.Answers {
		mine := &round.Answers[i].Queues
		*mine = slices.DeleteFunc(*mine, func(q pulse.Queue) bool { return !slices.Contains(queues, q.Name) })
	}
	round.Answers = slices.DeleteFunc(round.Answers, func(a pulse.Answer) bool { return len(a.Queues) == 0 })
	return round, nil
}

func consumers(round *pulse.Round) map[string]int {
	of := map[string]int{}
	for i := range round.Answers {
		for _, q := range round.Answers[i].Queues {
			n := q.Consumers
			if q.Paused {
				n = 0
			}
			of[q.Name] += n
		}
	}
	return of
}

func silent(queues []string, round *pulse.Round) []string {
	return slices.DeleteFunc(slices.Clone(queues), func(name string) bool {
		return slices.ContainsFunc(round.Answers, func(a pulse.Answer) bool {
			return slices.ContainsFunc(a.Queues, func(q pulse.Queue) bool { return q.Name == name })
		})
	})
}

// Expect notes queues of which an answer is expected, beside those that were named: the broker was asked about them, too.
func (s *State) Expect(queues []string) { s.Silent = append(s.Silent, silent(queues, s.Round)...) }
