package harebus

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/harebus/harebus/internal/declare"
	"github.com/harebus/harebus/topology"
)

// Subscribe binds topics to the listener queue, which is declared if it is missing,
// and keeps them in its list: a binding that somebody removes is made again. It
// returns when all are bound. When the connection is lost, it waits for the next
// one until ctx ends.
//
// A call that fails changes nothing: topics that it has bound are unbound
// again, and none is bound later. If the connection is lost before that, a
// service that consumes does it on the next one.
func (s *Setup) Subscribe(ctx context.Context, topics ...string) error {
	return s.changeBindings(ctx, "subscribe", topics, &declare.Change{
		Bindings: s.topicBindings(topics, nil), Undo: s.unlisted, Keep: func() { s.addTopics(topics) },
	})
}

// SubscribeWith is Subscribe with binding arguments, which only exchanges of
// special types use. If somebody removes such a binding, it is not made again, and
// it stays when a later topic of the call fails. To keep such a binding, put it
// into Config.Topology.
func (s *Setup) SubscribeWith(ctx context.Context, arguments map[string]any, topics ...string) error {
	if arguments == nil {
		return s.Subscribe(ctx, topics...)
	}
	return s.changeBindings(ctx, "subscribe", topics, &declare.Change{
		Bindings: s.topicBindings(topics, arguments), Keep: func() { s.removeTopics(topics) },
	})
}

// Unsubscribe removes the bindings of topics from the listener queue. Messages that
// are already in the queue stay there. A topic that was not bound is no error. A
// call that fails changes nothing, as with [Setup.Subscribe].
func (s *Setup) Unsubscribe(ctx context.Context, topics ...string) error {
	return s.changeBindings(ctx, "unsubscribe", topics, &declare.Change{
		Bindings: s.topicBindings(topics, nil), Remove: true, Undo: s.listed, Keep: func() { s.removeTopics(topics) },
	})
}

func (s *Setup) changeBindings(ctx context.Context, verb string, topics []string, c *declare.Change) error {
	if err := s.checkTopics(verb, topics); err != nil {
		return err
	}
	e, err := s.engine()
	if err == nil {
		err = s.declarer.Change(ctx, e.publish, c)
	}
	if err != nil {
		return fmt.Errorf("harebus: %s: %w", verb, err)
	}
	return nil
}

func (s *Setup) checkTopics(verb string, topics []string) error {
	switch {
	case s.cfg.Queue == "":
		return fmt.Errorf("harebus: %s: %w", verb, ErrNoQueue)
	case s.cfg.Declare.Mode == CheckOnly:
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

func (s *Setup) topicBindings(topics []string, arguments map[string]any) []topology.Binding {
	bindings := make([]topology.Binding, len(topics))
	for i, topic := range topics {
		bindings[i] = topology.Binding{Exchange: s.cfg.Exchanges.Topic, Key: topic, Queue: s.cfg.Queue, Arguments: arguments}
	}
	return bindings
}

// listed returns those bindings whose topic is in the list.
func (s *Setup) listed(bindings []topology.Binding) []topology.Binding {
	in := contained(s.topics())
	return slices.DeleteFunc(slices.Clone(bindings), func(b topology.Binding) bool { return !in(b.Key) })
}

// unlisted returns those bindings whose topic is not in the list.
func (s *Setup) unlisted(bindings []topology.Binding) []topology.Binding {
	in := contained(s.topics())
	return slices.DeleteFunc(slices.Clone(bindings), func(b topology.Binding) bool { return in(b.Key) })
}

// topics are the subscriptions as they are now.
func (s *Setup) topics() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.subs)
}

func (s *Setup) addTopics(topics []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.subs = append(without(s.subs, topics), topics...)
}

func (s *Setup) removeTopics(topics []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.subs = without(s.subs, topics)
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
