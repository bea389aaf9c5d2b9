// Package plan compares a topology with what a broker has, down to each argument, and brings
// the broker nearer to it: it declares what is missing and removes bindings that are wanted no more
// (apply.go).
package plan

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/harebus/harebus/internal/management"
	"github.com/harebus/harebus/internal/survey"
	"github.com/harebus/harebus/topology"
)

// Action is what ends a difference.
type Action string

// The actions.
const (
	Create  Action = "create"  // apply declares the object
	Bind    Action = "bind"    // apply makes the binding
	Migrate Action = "migrate" // the queue has to be replaced
	Replace Action = "replace" // the exchange has to be deleted and declared anew
	Surplus Action = "surplus" // a binding that is not wanted; prune removes it
	Absent  Action = "absent"  // somebody else has to declare it
	Hidden  Action = "hidden"  // the broker does not tell
)

// Difference is one difference between a topology and a broker.
type Difference struct {
	Action Action `json:"action"`
	Object string `json:"object"`
	// Name is that of the queue or exchange; empty for a binding.
	Name string `json:"name,omitempty"`
	Text string `json:"text"`
	// Remedy is what to do about it.
	Remedy string `json:"remedy"`
}

// Plan is the result of a comparison.
type Plan struct {
	Differences []Difference `json:"differences"`
	Same        int          `json:"same"` // objects that are as wanted
	// Unseen is what was not compared, and why.
	Unseen []string `json:"unseen"`
	// Queues is what the broker has under the names of the wanted queues.
	Queues map[string]survey.Queue `json:"-"`
	// Surplus are the bindings to wanted queues that the management API shows and the topology
	// does not have.
	Surplus []topology.Binding `json:"-"`
}

// Stuck are the differences that Apply cannot end.
func (p *Plan) Stuck() []Difference {
	return slices.DeleteFunc(slices.Clone(p.Differences), func(d Difference) bool {
		return d.Action == Create || d.Action == Bind || d.Action == Surplus
	})
}

// Make compares. Without api, bindings are not compared.
func Make(ctx context.Context, s survey.Survey, api *management.Client, want topology.Topology) (*Plan, error) {
	p := &Plan{Differences: []Difference{}, Unseen: []string{}, Queues: map[string]survey.Queue{}}
	for _, e := range want.Exchanges {
		if err := p.exchange(ctx, s, e); err != nil {
			return nil, fmt.Errorf("look at exchange %q: %w", e.Name, err)
		}
	}
	for _, q := range want.Queues {
		if err := p.queue(ctx, s, q); err != nil {
			return nil, fmt.Errorf("look at queue %q: %w", q.Name, err)
		}
	}
	if err := p.others(ctx, s, want); err != nil {
		return nil, err
	}
	return p, p.bindings(ctx, api, want)
}

func (p *Plan) add(a Action, object, name, text, remedy string) {
	p.Differences = append(p.Differences, Difference{a, object, name, text, remedy})
}

func (p *Plan) exchange(ctx context.Context, s survey.Survey, want topology.Exchange) error {
	found, err := s.Exchange(ctx, want)
	if err != nil {
		return err
	}
	object := fmt.Sprintf("exchange %q", want.Name)
	switch differ := Exchanges(found.Exchange, want); {
	case found.Hidden != "":
		p.add(Hidden, object, want.Name, found.Hidden, "look with another user, or when it can be seen")
	case !found.Exists:
		p.add(Create, object, want.Name, string(want.Kind), "apply")
	case differ != "":
		p.add(Replace, object, want.Name, differ, "change the code; or stop its publishers, delete the exchange, and apply: its bindings go with it")
	default:
		p.Same++
	}
	return nil
}

func (p *Plan) queue(ctx context.Context, s survey.Survey, want topology.Queue) error {
	found, err := s.Queue(ctx, want)
	if err != nil {
		return err
	}
	p.Queues[want.Name] = found
	object := fmt.Sprintf("queue %q", want.Name)
	switch differ := Queues(found.Queue, want); {
	case found.Hidden != "":
		p.add(Hidden, object, want.Name, found.Hidden, "look with another user, or when it can be seen")
	case !found.Exists:
		p.add(Create, object, want.Name, string(kind(want)), "apply")
	case differ != "":
		p.add(Migrate, object, want.Name, fmt.Sprintf("%s (%d waiting, %d consumers)", differ, found.Ready, found.Consumers), "migrate "+want.Name)
	default:
		p.Same++
	}
	return nil
}

// others looks for the objects that bindings name and that somebody else declares.
func (p *Plan) others(ctx context.Context, s survey.Survey, want topology.Topology) error {
	for _, b := range want.Bindings {
		known := func(q topology.Queue) bool { return q.Name == b.Queue }
		if b.Queue == "" || slices.ContainsFunc(want.Queues, known) {
			continue
		}
		if _, seen := p.Queues[b.Queue]; seen {
			continue
		}
		found, err := s.Queue(ctx, topology.Queue{Name: b.Queue})
		if err != nil {
			return fmt.Errorf("look at queue %q: %w", b.Queue, err)
		}
		p.Queues[b.Queue] = found
		if !found.Exists && found.Hidden == "" {
			p.add(Absent, fmt.Sprintf("queue %q", b.Queue), b.Queue, "it does not exist, and the topology only binds it", "whoever owns the queue has to declare it")
		}
	}
	return nil
}

func (p *Plan) bindings(ctx context.Context, api *management.Client, want topology.Topology) error {
	if api == nil {
		if len(want.Bindings) > 0 {
			p.Unseen = append(p.Unseen, fmt.Sprintf("%d bindings (AMQP has no question for them: give -api; apply makes each, which changes nothing where it exists)", len(want.Bindings)))
		}
		p.Unseen = append(p.Unseen, "policies, bindings made by others (give -api)")
		return nil
	}
	all, err := api.Bindings(ctx)
	if err != nil {
		return err
	}
	there := map[string]bool{}
	for _, b := range all {
		there[text(b)] = true
	}
	for _, b := range want.Bindings {
		if there[text(b)] {
			p.Same++
		} else {
			p.add(Bind, Describe(b), "", "missing", "apply")
		}
	}
	p.Surplus = Former(topology.Topology{Bindings: all}, want)
	for _, b := range p.Surplus {
		p.add(Surplus, Describe(b), "", "not wanted", "prune, if nobody needs it")
	}
	return nil
}

// text is equal for equal bindings.
func text(value any) string {
	encoded, err := json.Marshal(value)
	if err != nil {
		return fmt.Sprint(value)
	}
	return string(encoded)
}

// Describe names a binding.
func Describe(b topology.Binding) string {
	to := fmt.Sprintf("queue %q", b.Queue)
	if b.ToExchange != "" {
		to = fmt.Sprintf("exchange %q", b.ToExchange)
	}
	object := fmt.Sprintf("binding %q → %s, key %q", b.Exchange, to, b.Key)
	if len(b.Arguments) > 0 {
		object += ", arguments " + text(b.Arguments)
	}
	return object
}

func kind(q topology.Queue) topology.QueueType { return cmp.Or(q.Type, topology.Quorum) }

// Queues says how a queue differs from the wanted one; it is empty if it does not.
func Queues(have, want topology.Queue) string {
	var d differences
	d.property("type", string(kind(have)), string(kind(want)))
	d.property("transient", have.Transient, want.Transient)
	d.property("auto-delete", have.AutoDelete, want.AutoDelete)
	d.property("exclusive", have.Exclusive, want.Exclusive)
	d.arguments(have.Arguments, want.Arguments)
	return strings.Join(d, ", ")
}

// Exchanges says how an exchange differs from the wanted one.
func Exchanges(have, want topology.Exchange) string {
	var d differences
	d.property("kind", string(have.Kind), string(want.Kind))
	d.property("transient", have.Transient, want.Transient)
	d.property("auto-delete", have.AutoDelete, want.AutoDelete)
	d.property("internal", have.Internal, want.Internal)
	d.arguments(have.Arguments, want.Arguments)
	return strings.Join(d, ", ")
}

type differences []string

func (d *differences) property(name string, have, want any) {
	if have != want {
		*d = append(*d, fmt.Sprintf("%s %v → %v", name, have, want))
	}
}

func (d *differences) arguments(have, want map[string]any) {
	var names []string
	for name := range have {
		names = append(names, name)
	}
	for name := range want {
		if _, both := have[name]; !both {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	show := func(of map[string]any, name string) string {
		if value, ok := of[name]; ok {
			return text(value)
		}
		return "none"
	}
	for _, name := range names {
		if name == "x-queue-type" { // that is the type
			continue
		}
		d.property(name, show(have, name), show(want, name))
	}
}
