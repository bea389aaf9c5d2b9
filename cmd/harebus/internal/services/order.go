package services

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/harebus/harebus/internal/visible"
	"github.com/harebus/harebus/pulse"
)

// Find asks which instances an order about a queue would reach, or whether the one that is named is there. It fails if
// none of them takes orders.
func (a *Asker) Find(ctx context.Context, queue, instance string) (*State, error) {
	s, err := a.Look(ctx, []string{queue}, queue)
	if err == nil {
		err = s.Refused
	}
	if err != nil {
		return nil, err
	}
	s.Round.Answers = slices.DeleteFunc(s.Round.Answers, func(a pulse.Answer) bool { return instance != "" && a.Instance != instance })
	switch {
	case len(s.Round.Answers) == 0:
		return nil, fmt.Errorf("no instance answers for the queue %q", queue)
	case s.Takers() == 0:
		return nil, fmt.Errorf("none of %d instances takes orders; the program has to allow it with pulse.Config.Control", len(s.Round.Answers))
	}
	return s, nil
}

// Takers is how many instances take orders.
func (s *State) Takers() (n int) {
	for i := range s.Round.Answers {
		if s.Round.Answers[i].Control {
			n++
		}
	}
	return n
}

// Outcome is what has become of an order.
type Outcome struct {
	Order pulse.Order
	// There is what [Asker.Find] has found, and Done has the answers to the order.
	There *State
	Done  *pulse.Round
}

// Order gives an order to the instances that Find has found.
func (a *Asker) Order(ctx context.Context, there *State, instance string, o pulse.Order) (*Outcome, error) {
	done, err := a.client.Control(ctx, pulse.Target{Queue: o.Queue, Instance: instance}, o)
	if err != nil {
		return nil, err
	}
	return &Outcome{o, there, done}, nil
}

// Err says how many instances have not done what they were told.
func (o *Outcome) Err() error {
	refused, missing := 0, 0
	for i := range o.Done.Answers {
		if o.Done.Answers[i].Refused != "" {
			refused++
		}
	}
	for i := range o.There.Round.Answers {
		if a := &o.There.Round.Answers[i]; a.Control && !o.answered(a.Instance) {
			missing++
		}
	}
	switch {
	case refused+missing > 0:
		return fmt.Errorf("of %d instances %d have refused and %d have not answered", len(o.Done.Answers)+missing, refused, missing)
	case len(o.Done.Answers) == 0:
		return errors.New("no instance has answered")
	}
	return nil
}

func (o *Outcome) answered(instance string) bool {
	return slices.ContainsFunc(o.Done.Answers, func(a pulse.Answer) bool { return a.Instance == instance })
}

// Result is what an instance has done, in a few words.
type Result struct {
	Instance string
	Words    []string
}

// Results are those of all instances, also of those that take no orders.
func (o *Outcome) Results() (all []Result) {
	for i := range o.Done.Answers {
		if words := o.words(&o.Done.Answers[i]); len(words) > 0 {
			all = append(all, Result{o.Done.Answers[i].Instance, words})
		}
	}
	for i := range o.There.Round.Answers {
		switch a := &o.There.Round.Answers[i]; {
		case o.answered(a.Instance):
		case a.Control:
			all = append(all, Result{a.Instance, []string{"no answer"}})
		default:
			all = append(all, Result{a.Instance, []string{"takes no orders"}})
		}
	}
	return all
}

func (o *Outcome) words(a *pulse.Answer) []string {
	if a.Refused != "" {
		return []string{"refused: " + visible.Line(a.Refused)}
	}
	i := slices.IndexFunc(a.Queues, func(q pulse.Queue) bool { return q.Name == o.Order.Queue })
	if i < 0 {
		return nil
	}
	q := &a.Queues[i]
	state := "consumes"
	if q.Paused {
		state = "paused"
	}
	words := []string{state, "limit " + Limits(q), fmt.Sprintf("%d in hand", q.InHand)}
	if !a.LogUntil.IsZero() { // an order about it holds
		words = append(words, fmt.Sprintf("log %s until %s", visible.Word(a.LogLevel), a.LogUntil.UTC().Format("15:04:05Z")))
	}
	return words
}
