package harebus

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/harebus/harebus/internal/declare"
	"github.com/harebus/harebus/internal/field"
	"github.com/harebus/harebus/internal/session"
	"github.com/harebus/harebus/topology"
)

// exchangeTopology are the two exchanges, exactly as PikaBus declares them. The
// ones that every broker has (amq.direct, amq.topic) are not declared.
func (c *Config) exchangeTopology() topology.Topology {
	var t topology.Topology
	if c.Exchanges.Direct != "amq.direct" {
		t.Exchanges = append(t.Exchanges, topology.Exchange{Name: c.Exchanges.Direct, Kind: topology.Direct})
	}
	if c.Exchanges.Topic != "amq.topic" {
		t.Exchanges = append(t.Exchanges, topology.Exchange{Name: c.Exchanges.Topic, Kind: topology.Topic})
	}
	return t
}

// merged adds the user's arguments to the defaults; a nil value removes one.
func merged(args, own map[string]any) map[string]any {
	maps.Copy(args, own)
	maps.DeleteFunc(args, func(_ string, value any) bool { return value == nil })
	return args
}

// instanceExpires is how long the queue of an instance is kept after the instance
// has ended.
const instanceExpires = 30 * time.Minute

// exitGrace is how much longer than a listener queue with x-expires its exit lives:
// somebody may still use the queue shortly before it expires.
const exitGrace = 5 * time.Minute

// errorTopology is the error queue, bound as PikaBus binds it.
func (c *EndpointConfig) errorTopology(x ExchangeConfig) topology.Topology {
	return topology.Topology{
		Queues: []topology.Queue{{
			Name: c.ErrorQueue.Name, Type: c.ErrorQueue.Type, Arguments: c.errorArguments(),
		}},
		Bindings: []topology.Binding{{Exchange: x.Direct, Key: c.ErrorQueue.Name, Queue: c.ErrorQueue.Name}},
	}
}

// queueTopology is the listener queue with its bindings.
func (c *EndpointConfig) queueTopology(x ExchangeConfig, topics []string) topology.Topology {
	if c.Queue == "" {
		return topology.Topology{}
	}
	o := &c.QueueOptions
	t := topology.Topology{
		Queues: []topology.Queue{{
			Name: c.Queue, Type: o.Type, Arguments: c.queueArguments(), Exclusive: o.Exclusive, AutoDelete: o.AutoDelete,
		}},
		Bindings: []topology.Binding{{Exchange: x.Direct, Key: c.Queue, Queue: c.Queue}},
	}
	for _, topic := range topics {
		t.Bindings = append(t.Bindings, topology.Binding{Exchange: x.Topic, Key: topic, Queue: c.Queue})
	}
	if o.AsFound {
		t.Queues = nil
	}
	return t
}

// queueArguments sets the delivery limit and dead-lettering of a quorum queue:
// after that many deliveries the broker moves to the error queue what the library
// cannot read.
func (c *EndpointConfig) queueArguments() map[string]any {
	args := map[string]any{}
	if c.QueueOptions.Type == topology.Quorum {
		args = map[string]any{
			"x-delivery-limit":          defaultDeliveryLimit,
			"x-dead-letter-exchange":    "",
			"x-dead-letter-routing-key": c.ErrorQueue.Name,
			"x-dead-letter-strategy":    "at-least-once",
			"x-overflow":                "reject-publish",
		}
	}
	if c.QueueOptions.PerInstance && !c.QueueOptions.Exclusive {
		args["x-expires"] = instanceExpires.Milliseconds()
	}
	return merged(args, c.QueueOptions.Arguments)
}

// errorArguments set a high delivery limit, because a quorum queue counts each look
// at a message as a delivery and drops a message that reaches the limit.
func (c *EndpointConfig) errorArguments() map[string]any {
	args := map[string]any{}
	if c.ErrorQueue.Type == topology.Quorum {
		args["x-delivery-limit"] = topology.LookLimit
	}
	return merged(args, c.ErrorQueue.Arguments)
}

// exitTopology is the exit of a destination. If the listener queue expires, as the
// queue of an instance does, its exit expires as well, because nobody would remove
// it. Publisher.KeepExit keeps it while the queue has its consumer.
func (s *Setup) exitTopology(exchange, key string) topology.Topology {
	t := topology.Delays{}.Exit(exchange, key)
	if exchange != "" {
		return t
	}
	for _, e := range s.all() {
		if life := e.cfg.queueLife(); life > 0 && key == e.queue {
			t.Queues[0].Arguments["x-expires"] = (life + exitGrace).Milliseconds()
		}
	}
	return t
}

// queueLife is how long the listener queue stays when nobody uses it; 0 means for ever.
func (c *EndpointConfig) queueLife() time.Duration {
	if c.QueueOptions.Exclusive {
		return instanceExpires // it goes at once, and comes back with the next connection
	}
	var ms int64
	if _, err := fmt.Sscan(fmt.Sprint(c.queueArguments()["x-expires"]), &ms); err != nil {
		return 0
	}
	return time.Duration(ms) * time.Millisecond
}

// deliveryLimit is the number of deliveries after which the broker moves a message
// away, as far as the setup knows.
func (c *EndpointConfig) deliveryLimit() int {
	if limit, ok := c.queueArguments()["x-delivery-limit"]; ok {
		if n, err := field.ParseCount(limit); err == nil {
			return n
		}
	}
	return defaultDeliveryLimit // RabbitMQ 4 has the same default
}

// Subscribe binds topics to the listener queue, which is declared if it is missing,
// and keeps them in its list: a binding that somebody removes is made again. It
// returns when all are bound. When the connection is lost, it waits for the next
// one until ctx ends.
//
// A call that fails changes nothing: topics that it has bound are unbound
// again, and none is bound later. If the connection is lost before that, a
// service that consumes does it on the next one.
func (e *endpoint) Subscribe(ctx context.Context, topics ...string) error {
	return e.changeBindings(ctx, "subscribe", topics, &declare.Change{
		Bindings: e.topicBindings(topics, nil), Undo: e.unlisted, Keep: func() { e.addTopics(topics) },
	})
}

// SubscribeWith is Subscribe with binding arguments, which only exchanges of
// special types use. If somebody removes such a binding, it is not made again, and
// it stays when a later topic of the call fails. To keep such a binding, put it
// into Config.Topology.
func (e *endpoint) SubscribeWith(ctx context.Context, arguments map[string]any, topics ...string) error {
	if arguments == nil {
		return e.Subscribe(ctx, topics...)
	}
	return e.changeBindings(ctx, "subscribe", topics, &declare.Change{
		Bindings: e.topicBindings(topics, arguments), Keep: func() { e.removeTopics(topics) },
	})
}

// Unsubscribe removes the bindings of topics from the listener queue. Messages that
// are already in the queue stay there. A topic that was not bound is no error. A
// call that fails changes nothing, as with [Setup.Subscribe].
func (e *endpoint) Unsubscribe(ctx context.Context, topics ...string) error {
	return e.changeBindings(ctx, "unsubscribe", topics, &declare.Change{
		Bindings: e.topicBindings(topics, nil), Remove: true, Undo: e.listed, Keep: func() { e.removeTopics(topics) },
	})
}

func (e *endpoint) changeBindings(ctx context.Context, verb string, topics []string, c *declare.Change) error {
	if err := e.checkTopics(verb, topics); err != nil {
		return err
	}
	eng, err := e.setup.engine()
	if err == nil {
		err = e.setup.declarer.Change(ctx, eng.owner(e), c)
	}
	if err != nil {
		return fmt.Errorf("harebus: %s: %w", verb, err)
	}
	return nil
}

func (e *endpoint) checkTopics(verb string, topics []string) error {
	switch {
	case e.queue == "":
		return fmt.Errorf("harebus: %s: %w", verb, ErrNoQueue)
	case e.setup.cfg.Declare.Mode == CheckOnly:
		return refuse(verb, "this setup declares nothing (Config.Declare.Mode is CheckOnly)")
	}
	var faults []error
	for _, topic := range topics {
		if err := topology.ValidTopic(topic); err != nil {
			faults = append(faults, err)
		}
	}
	if len(faults) > 0 {
		return refuse(verb, "%w", errors.Join(faults...))
	}
	return nil
}

func (e *endpoint) topicBindings(topics []string, arguments map[string]any) []topology.Binding {
	bindings := make([]topology.Binding, len(topics))
	for i, topic := range topics {
		bindings[i] = topology.Binding{Exchange: e.setup.cfg.Exchanges.Topic, Key: topic, Queue: e.queue, Arguments: arguments}
	}
	return bindings
}

// listed returns those bindings whose topic is in the list.
func (e *endpoint) listed(bindings []topology.Binding) []topology.Binding {
	in := contained(e.topics())
	return slices.DeleteFunc(slices.Clone(bindings), func(b topology.Binding) bool { return !in(b.Key) })
}

// unlisted returns those bindings whose topic is not in the list.
func (e *endpoint) unlisted(bindings []topology.Binding) []topology.Binding {
	in := contained(e.topics())
	return slices.DeleteFunc(slices.Clone(bindings), func(b topology.Binding) bool { return in(b.Key) })
}

// topics are the subscriptions as they are now.
func (e *endpoint) topics() []string {
	e.setup.mu.Lock()
	defer e.setup.mu.Unlock()
	return slices.Clone(e.subs)
}

func (e *endpoint) addTopics(topics []string) {
	e.setup.mu.Lock()
	defer e.setup.mu.Unlock()
	e.subs = append(without(e.subs, topics), topics...)
}

func (e *endpoint) removeTopics(topics []string) {
	e.setup.mu.Lock()
	defer e.setup.mu.Unlock()
	e.subs = without(e.subs, topics)
}

func without(all, topics []string) []string { return slices.DeleteFunc(all, contained(topics)) }

// contained returns a function that says whether a topic is in the list.
func contained(list []string) func(topic string) bool {
	set := make(map[string]struct{}, len(list))
	for _, topic := range list {
		set[topic] = struct{}{}
	}
	return func(topic string) bool {
		_, ok := set[topic]
		return ok
	}
}

// owner is the link of the connection that may use the queue of an endpoint.
func (e *engine) owner(of *endpoint) *session.Link {
	if of.cfg.QueueOptions.Exclusive {
		return e.consume
	}
	return e.publish
}
