// Package topology describes what a service needs on the broker – exchanges,
// queues and the bindings between them – as plain data, and declares or checks
// it over one channel.
//
// The data can be compared, printed and tested without a broker. [Topology.Validate]
// reports every fault that can be found without a broker; [Topology.Declare] creates
// missing objects; [Topology.Check] only checks that they exist. [Delays] is the set
// of queues that holds deferred messages until they are due.
package topology

import (
	"errors"
	"fmt"
	"maps"
	"slices"
)

// Kind is the type of an exchange. It has no default: an exchange without a
// kind does not validate, because the kind cannot be changed once declared.
type Kind string

// The kinds of exchange every broker has. Others come from plugins; declaring
// one that is missing closes the whole connection, so they do not validate.
const (
	Direct  Kind = "direct"
	Topic   Kind = "topic"
	Fanout  Kind = "fanout"
	Headers Kind = "headers"
)

// QueueType says how the broker stores a queue. The zero value means [Quorum].
type QueueType string

const (
	// Quorum is the replicated, always durable queue type.
	Quorum QueueType = "quorum"
	// Classic is the queue type of a single node. A classic queue is declared
	// with exactly the Arguments given and never with an x-queue-type, so that
	// a queue which another program declared without arguments is accepted.
	// (A virtual host whose default queue type is not classic needs
	// "x-queue-type": "classic" in Arguments.)
	Classic QueueType = "classic"
)

// Exchange is one exchange, durable unless Transient.
type Exchange struct {
	// Name is 1 to 255 bytes and does not start with "amq.".
	Name string `json:"name"`
	// Kind says how the exchange routes. Required.
	Kind Kind `json:"kind"`
	// Internal exchanges accept messages from other exchanges and from
	// dead-lettering only, never from a publisher.
	Internal bool `json:"internal,omitempty"`
	// AutoDelete removes the exchange after its last binding is gone.
	AutoDelete bool `json:"autoDelete,omitempty"`
	// Transient exchanges are deleted when the broker restarts.
	Transient bool `json:"transient,omitempty"`
	// Arguments are passed to the broker, for example "alternate-exchange".
	Arguments map[string]any `json:"arguments,omitempty"`
}

// Queue is one queue, durable unless Transient.
type Queue struct {
	// Name is 1 to 255 bytes and does not start with "amq.".
	Name string `json:"name"`
	// Type is Quorum when empty.
	Type QueueType `json:"type,omitempty"`
	// Exclusive queues belong to one connection and end with it.
	Exclusive bool `json:"exclusive,omitempty"`
	// AutoDelete removes the queue after its last consumer is gone, with the
	// messages in it.
	AutoDelete bool `json:"autoDelete,omitempty"`
	// Transient queues are deleted when the broker restarts. Brokers from 4.3 on
	// refuse them unless Exclusive.
	Transient bool `json:"transient,omitempty"`
	// Arguments are passed to the broker, for example "x-delivery-limit". The
	// queue type is added for quorum queues and streams and must not be repeated here.
	Arguments map[string]any `json:"arguments,omitempty"`
}

// Binding routes messages from an exchange to a queue or to another exchange.
// Exactly one of Queue and ToExchange is set. Neither end needs to be part of
// the same Topology.
type Binding struct {
	// Exchange is the source.
	Exchange string `json:"exchange"`
	// Key is the routing key or pattern; empty for fanout and headers exchanges.
	Key string `json:"key"`
	// Queue is the destination queue.
	Queue string `json:"queue,omitempty"`
	// ToExchange is the destination exchange.
	ToExchange string `json:"toExchange,omitempty"`
	// Arguments are those of a headers exchange.
	Arguments map[string]any `json:"arguments,omitempty"`
}

// Topology is a set of objects that are declared together. The zero value is empty
// and valid. Values share the slices from which they were made; this package never
// changes these.
type Topology struct {
	Exchanges []Exchange `json:"exchanges,omitempty"`
	Queues    []Queue    `json:"queues,omitempty"`
	Bindings  []Binding  `json:"bindings,omitempty"`
}

// Join returns the objects of all topologies, each once, in their order. Two
// objects of one name that differ are both kept, for [Topology.Validate] to
// report.
func Join(topologies ...Topology) Topology {
	var joined Topology
	exchanges, queues, bindings := map[string][]Exchange{}, map[string][]Queue{}, map[way][]Binding{}
	for _, t := range topologies {
		for _, e := range t.Exchanges {
			if same := exchanges[e.Name]; !slices.ContainsFunc(same, e.equal) {
				exchanges[e.Name] = append(same, e)
				joined.Exchanges = append(joined.Exchanges, e)
			}
		}
		for _, q := range t.Queues {
			if same := queues[q.Name]; !slices.ContainsFunc(same, q.equal) {
				queues[q.Name] = append(same, q)
				joined.Queues = append(joined.Queues, q)
			}
		}
		for _, b := range t.Bindings {
			if same := bindings[b.way()]; !slices.ContainsFunc(same, b.equal) {
				bindings[b.way()] = append(same, b)
				joined.Bindings = append(joined.Bindings, b)
			}
		}
	}
	return joined
}

// way is all of a binding but its arguments.
type way struct{ exchange, key, queue, toExchange string }

func (b Binding) way() way { return way{b.Exchange, b.Key, b.Queue, b.ToExchange} }

// Validate reports everything in t that the broker would refuse or that can lose
// messages, as one error made by [errors.Join]. It needs no broker and cannot know
// what exists on one.
func (t Topology) Validate() error {
	var faults []error
	exchanges := make(map[string]Exchange, len(t.Exchanges))
	for _, e := range t.Exchanges {
		if other, ok := exchanges[e.Name]; ok && !e.equal(other) {
			faults = append(faults, fmt.Errorf("topology: validate %s: listed twice with different properties", e.object()))
		}
		exchanges[e.Name] = e
		faults = append(faults, e.validate()...)
	}
	queues := make(map[string]Queue, len(t.Queues))
	for _, q := range t.Queues {
		if other, ok := queues[q.Name]; ok && !q.equal(other) {
			faults = append(faults, fmt.Errorf("topology: validate %s: listed twice with different properties", q.object()))
		}
		queues[q.Name] = q
		faults = append(faults, q.validate()...)
	}
	for _, b := range t.Bindings {
		faults = append(faults, b.validate()...)
	}
	return errors.Join(faults...)
}

func (e Exchange) object() string { return fmt.Sprintf("exchange %q", e.Name) }

func (e Exchange) equal(other Exchange) bool {
	return e.Name == other.Name && e.Kind == other.Kind && e.Internal == other.Internal &&
		e.AutoDelete == other.AutoDelete && e.Transient == other.Transient &&
		equalArguments(e.Arguments, other.Arguments)
}

func (e Exchange) validate() []error {
	var faults []error
	if err := ValidName("exchange", e.Name); err != nil {
		faults = append(faults, err)
	}
	if !slices.Contains([]Kind{Direct, Topic, Fanout, Headers}, e.Kind) {
		faults = append(faults, fmt.Errorf("topology: validate %s: kind %q is not one of direct, topic, fanout, headers", e.object(), e.Kind))
	}
	return append(faults, argumentFaults(e.object(), e.Arguments)...)
}

func (q Queue) object() string { return fmt.Sprintf("queue %q", q.Name) }

func (q Queue) quorum() bool { return q.Type == Quorum || q.Type == "" }

func (q Queue) equal(other Queue) bool {
	return q.Name == other.Name && q.quorum() == other.quorum() && (q.quorum() || q.Type == other.Type) &&
		q.Exclusive == other.Exclusive && q.AutoDelete == other.AutoDelete && q.Transient == other.Transient &&
		equalArguments(q.Arguments, other.Arguments)
}

func (q Queue) validate() []error {
	var faults []error
	fault := func(text string, args ...any) {
		faults = append(faults, fmt.Errorf("topology: validate %s: %s", q.object(), fmt.Sprintf(text, args...)))
	}
	if err := ValidName("queue", q.Name); err != nil {
		faults = append(faults, err)
	}
	switch {
	case q.quorum():
		if q.Exclusive || q.AutoDelete || q.Transient {
			fault("a quorum queue cannot be exclusive, auto-delete or transient; choose the classic type")
		}
		if _, ok := q.Arguments["x-queue-type"]; ok {
			fault("x-queue-type is set by Type, not by Arguments")
		}
	case q.Type == Classic:
		if t, ok := q.Arguments["x-queue-type"]; ok && t != "classic" {
			fault("x-queue-type %v contradicts Type", t)
		}
	case q.Type == Stream:
		q.streamFaults(fault)
	default:
		fault("type %q is not one of quorum, classic, stream", q.Type)
	}
	faults = append(faults, argumentFaults(q.object(), q.Arguments)...)
	return append(faults, queueArgumentFaults(q.object(), q.Arguments)...)
}

// declareArguments returns the arguments as they are sent.
func (q Queue) declareArguments() map[string]any {
	args := make(map[string]any, len(q.Arguments)+1)
	maps.Copy(args, q.Arguments)
	switch {
	case q.quorum():
		args["x-queue-type"] = string(Quorum)
	case q.Type == Stream:
		args["x-queue-type"] = string(Stream)
	}
	return args
}

func (b Binding) object() string {
	destination := fmt.Sprintf("queue %q", b.Queue)
	if b.ToExchange != "" {
		destination = fmt.Sprintf("exchange %q", b.ToExchange)
	}
	return fmt.Sprintf("binding of %s to exchange %q with key %q", destination, b.Exchange, b.Key)
}

func (b Binding) equal(other Binding) bool {
	return b.way() == other.way() && equalArguments(b.Arguments, other.Arguments)
}

func (b Binding) validate() []error {
	var faults []error
	if b.Exchange == "" {
		faults = append(faults, fmt.Errorf("topology: validate %s: no source exchange; nothing can be bound to the default exchange, which reaches every queue by its name already", b.object()))
	} else if err := existingName("exchange", b.Exchange); err != nil {
		faults = append(faults, err)
	}
	switch {
	case b.Queue == "" && b.ToExchange == "":
		faults = append(faults, fmt.Errorf("topology: validate %s: no destination", b.object()))
	case b.Queue != "" && b.ToExchange != "":
		faults = append(faults, fmt.Errorf("topology: validate %s: two destinations, queue %q and exchange %q", b.object(), b.Queue, b.ToExchange))
	case b.Queue != "":
		if err := existingName("queue", b.Queue); err != nil {
			faults = append(faults, err)
		}
	default:
		if err := existingName("exchange", b.ToExchange); err != nil {
			faults = append(faults, err)
		}
	}
	if err := shortString("binding key", b.Key); err != nil {
		faults = append(faults, err)
	}
	return append(faults, argumentFaults(b.object(), b.Arguments)...)
}
