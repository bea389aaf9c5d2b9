package harebus

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"

	"github.com/harebus/harebus/internal/declare"
	"github.com/harebus/harebus/internal/engine"
	"github.com/harebus/harebus/internal/field"
	"github.com/harebus/harebus/internal/routing"
	"github.com/harebus/harebus/internal/session"
	"github.com/harebus/harebus/internal/topics"
	"github.com/harebus/harebus/internal/wirename"
	"github.com/harebus/harebus/topology"
)

// listener is the listener queue and the error queue of an endpoint.
func (c *EndpointConfig) listener() *routing.Listener {
	return &routing.Listener{Name: c.Queue, Options: routing.Options(c.QueueOptions), ErrorQueue: routing.ErrorQueue(c.ErrorQueue), Order: c.Consume.Order, Stream: c.Consume.Stream}
}

// Subscribe binds topics to the listener queue, which is declared if it is missing, and keeps them in its list: a
// binding that somebody removes is made again. It returns when all are bound. When the connection is lost, it waits for
// the next one until ctx ends.
//
// A call that fails changes nothing: topics that it has bound are unbound again, and none is bound later. If the
// connection is lost before that, a service that consumes does it on the next one.
func (e *endpoint) Subscribe(ctx context.Context, topics ...string) error {
	return e.changeBindings(ctx, "subscribe", topics, &declare.Change{
		Bindings: e.topicBindings(topics, nil), Undo: e.unlisted, Keep: func() { e.addTopics(topics) },
	})
}

// SubscribeWith is Subscribe with binding arguments, which only exchanges of special types use. If somebody removes
// such a binding, it is not made again, and it stays when a later topic of the call fails. To keep such a binding, put
// it into Config.Declare.Topology.
func (e *endpoint) SubscribeWith(ctx context.Context, arguments map[string]any, topics ...string) error {
	if arguments == nil {
		return e.Subscribe(ctx, topics...)
	}
	return e.changeBindings(ctx, "subscribe", topics, &declare.Change{
		Bindings: e.topicBindings(topics, arguments), Keep: func() { e.removeTopics(topics) },
	})
}

// Unsubscribe removes the bindings of topics from the listener queue. Messages that are already in the queue stay
// there. A topic that was not bound is no error. A call that fails changes nothing, as with [Setup.Subscribe].
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
		err = e.setup.declarer.Change(ctx, e.owner(eng), c)
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
	case e.of != e:
		return refuse(verb, "messages come into the queue %s by way of %s: use the endpoint of that", field.Quote(e.queue), field.Quote(e.of.queue))
	case e.cfg.Consume.Stream != nil:
		return refuse(verb, "the bindings of a stream are its own: choose with Consume.Stream.Topics")
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
	return e.setup.routing.Bindings(e.queue, topics, arguments)
}

// listed returns those bindings whose topic is in the list.
func (e *endpoint) listed(bindings []topology.Binding) []topology.Binding {
	in := topics.In(e.topics())
	return slices.DeleteFunc(slices.Clone(bindings), func(b topology.Binding) bool { return !in(b.Key) })
}

// unlisted returns those bindings whose topic is not in the list.
func (e *endpoint) unlisted(bindings []topology.Binding) []topology.Binding {
	in := topics.In(e.topics())
	return slices.DeleteFunc(slices.Clone(bindings), func(b topology.Binding) bool { return in(b.Key) })
}

// topics are the subscriptions as they are now.
func (e *endpoint) topics() []string {
	e.setup.mu.Lock()
	defer e.setup.mu.Unlock()
	return slices.Clone(e.subs)
}

func (e *endpoint) addTopics(list []string) {
	e.setup.mu.Lock()
	defer e.setup.mu.Unlock()
	e.subs = append(topics.Without(e.subs, list), list...)
}

func (e *endpoint) removeTopics(list []string) {
	e.setup.mu.Lock()
	defer e.setup.mu.Unlock()
	e.subs = topics.Without(e.subs, list)
}

// owner is the link of the connection that may use the queue.
func (e *endpoint) owner(of *engine.Engine) *session.Link {
	if e.cfg.QueueOptions.Exclusive {
		return of.Consume
	}
	return of.Publish
}

// PublishEvent publishes an event to the topic that its method Topic() string returns, as [Bus.Publish] does. An event
// without that method is refused.
func (s *sender) PublishEvent(ctx context.Context, event any, opts ...SendOption) error {
	topic, err := wirename.Topic(event)
	if err != nil {
		return refuse(OpPublish.String(), "event %T: %w", event, err)
	}
	return s.Publish(ctx, topic, event, opts...)
}

// HandleEvent registers a handler for an event, as [Handle] does, and subscribes the listener queue to the event's
// topic, which T's method Topic() string returns. It is called on a zero T. The topic is bound when the setup starts. A
// handler that is registered after that has its topic bound soon after the call, and gets the events that are published
// from then on; [Setup.Subscribe] returns when the broker has bound it.
//
// Faults, such as a T without a topic, are reported by Start.
func HandleEvent[T any](on Registrar, fn func(ctx context.Context, bus *Bus, event T) error, opts ...HandlerOption) {
	topic, err := wirename.Topic(wirename.Target[T]())
	if err != nil {
		on.registrar().addHandler(nil, fmt.Errorf("handler of event %v: %w", reflect.TypeFor[T](), err))
		return
	}
	on.registrar().keepTopic(topic)
	Handle(on, fn, append(slices.Clip(opts), handlerOption(func(h *handler) { h.topic = topic }))...)
}

// keepTopic adds a topic to the list; the next declaration binds it. A setup that has started declares at once.
func (e *endpoint) keepTopic(topic string) {
	s := e.setup
	s.mu.Lock()
	defer s.mu.Unlock()
	if slices.Contains(e.subs, topic) {
		return
	}
	e.subs = append(e.subs, topic)
	if s.started {
		s.declarer.Soon()
	}
}
