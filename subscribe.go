package harebus

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"

	amqp "github.com/rabbitmq/amqp091-go"
	"go.uber.org/zap"

	"github.com/harebus/harebus/internal/refusal"
	"github.com/harebus/harebus/internal/session"
	"github.com/harebus/harebus/internal/wait"
	"github.com/harebus/harebus/topology"
)

// Subscribe binds topics to the listener queue, which is declared if it is missing,
// and keeps them in its list: a binding that somebody removes is made again. It
// returns when all are bound. When the connection is lost, it waits for the next
// one until ctx ends.
//
// A call that fails changes nothing: topics that it has bound are unbound
// again, and none is bound later.
func (s *Setup) Subscribe(ctx context.Context, topics ...string) error {
	return s.changeBindings(ctx, &bindingChange{verb: "subscribe", topics: topics, make: bind, undo: unbind, keep: s.addTopics})
}

// SubscribeWith is Subscribe with binding arguments, which only exchanges of
// special types use. If somebody removes such a binding, it is not made again, and
// it stays when a later topic of the call fails. To keep such a binding, put it
// into Config.Topology.
func (s *Setup) SubscribeWith(ctx context.Context, arguments map[string]any, topics ...string) error {
	c := &bindingChange{verb: "subscribe", topics: topics, arguments: arguments, make: bind, keep: s.removeTopics}
	if arguments == nil {
		c.undo, c.keep = unbind, s.addTopics
	}
	return s.changeBindings(ctx, c)
}

// Unsubscribe removes the bindings of topics from the listener queue. Messages that
// are already in the queue stay there. A topic that was not bound is no error. A
// call that fails changes nothing, as with [Setup.Subscribe].
func (s *Setup) Unsubscribe(ctx context.Context, topics ...string) error {
	return s.changeBindings(ctx, &bindingChange{verb: "unsubscribe", topics: topics, make: unbind, undo: bind, keep: s.removeTopics})
}

// bindingChange is one call of Subscribe, SubscribeWith or Unsubscribe.
type bindingChange struct {
	verb      string
	topics    []string
	arguments map[string]any
	make      func(*amqp.Channel, topology.Binding) error
	undo      func(*amqp.Channel, topology.Binding) error // nil: what was made stays
	keep      func(topics []string)                       // notes the change once the broker has made it
	made      int                                         // topics that the broker has changed
	outcome   atomic.Bool                                 // set by the first of two: the broker's answer or the end of the caller's ctx
}

func bind(ch *amqp.Channel, b topology.Binding) error {
	return topology.Topology{Bindings: []topology.Binding{b}}.Declare(ch)
}

func unbind(ch *amqp.Channel, b topology.Binding) error {
	return ch.QueueUnbind(b.Queue, b.Key, b.Exchange, b.Arguments)
}

func (s *Setup) changeBindings(ctx context.Context, c *bindingChange) error {
	if err := s.checkTopics(c); err != nil {
		return err
	}
	e, err := s.engine()
	if err != nil {
		return fmt.Errorf("harebus: %s: %w", c.verb, err)
	}
	pauses := s.cfg.Connect.BackOff()
	for {
		on, err := e.publish.Session(ctx)
		if err == nil {
			err = s.inTurn(ctx, on, func() error { return s.rebind(ctx, on, c) }, c.give)
		}
		if err == nil {
			return nil
		}
		// If the connection ends before the answer, the change is not decided yet.
		if on == nil || on.Alive() || c.outcome.Load() || session.Permanent(err) || !wait.Sleep(ctx, wait.Next(pauses)) {
			return fmt.Errorf("harebus: %s: %w", c.verb, err)
		}
	}
}

func (s *Setup) checkTopics(c *bindingChange) error {
	switch {
	case s.cfg.Queue == "":
		return fmt.Errorf("harebus: %s: %w", c.verb, ErrNoQueue)
	case s.cfg.Declare == CheckOnly:
		return refuse(c.verb, "this setup declares nothing (Config.Declare is CheckOnly)")
	}
	var faults []error
	for _, topic := range c.topics {
		if err := topology.ValidTopic(topic); err != nil {
			faults = append(faults, err)
		}
	}
	if len(faults) > 0 {
		return refuse(c.verb, "%w", errors.Join(faults...))
	}
	return nil
}

// give lets the caller stop waiting, unless the broker has answered already.
func (c *bindingChange) give() bool { return c.outcome.CompareAndSwap(false, true) }

// rebind makes the change on the broker, and then in the list. When ctx ends it
// continues, so that it learns what the broker did, and undoes that.
func (s *Setup) rebind(ctx context.Context, on *session.Session, c *bindingChange) error {
	asking := context.WithoutCancel(ctx)
	c.made = 0
	err := s.eachTopic(asking, on, c)
	if refusal.Missing(err) && !session.Unreachable(err) { // the queue or the exchange: bindings come last
		c.made = 0
		if err = s.declareObjects(asking, on, nil); err == nil {
			err = s.eachTopic(asking, on, c)
		}
	}
	if err == nil && c.outcome.CompareAndSwap(false, true) {
		c.keep(c.topics)
		return nil
	}
	if undone := s.takeBack(asking, on, c); undone != nil && on.Alive() {
		s.log.Warn("cannot take back a change of bindings; call Unsubscribe or Subscribe again", zap.Strings("topics", c.topics), zap.Error(undone))
	}
	if err == nil {
		err = context.Cause(ctx)
	}
	return err
}

func (s *Setup) eachTopic(ctx context.Context, on *session.Session, c *bindingChange) error {
	return on.RPCs(ctx, func(next func()) error {
		ch, err := on.Channel()
		if err != nil {
			return err
		}
		defer func() { _ = ch.Close() }()
		for _, topic := range c.topics {
			next()
			if err := c.make(ch, s.topicBinding(topic, c.arguments)); err != nil {
				return err
			}
			c.made++
		}
		next()
		return nil
	})
}

// takeBack undoes the part of a failed change that was made, except bindings that
// existed before.
func (s *Setup) takeBack(ctx context.Context, on *session.Session, c *bindingChange) error {
	if c.undo == nil || c.made == 0 {
		return nil
	}
	kept := s.topics()
	subscribed := c.verb == "subscribe"
	return on.RPCs(ctx, func(next func()) error {
		ch, err := on.Channel()
		if err != nil {
			return err
		}
		defer func() { _ = ch.Close() }()
		for _, topic := range c.topics[:c.made] {
			if slices.Contains(kept, topic) == subscribed {
				continue
			}
			next()
			if err := c.undo(ch, s.topicBinding(topic, nil)); err != nil {
				return err
			}
		}
		next()
		return nil
	})
}

func (s *Setup) topicBinding(topic string, arguments map[string]any) topology.Binding {
	return topology.Binding{Exchange: s.cfg.TopicExchange, Key: topic, Queue: s.cfg.Queue, Arguments: arguments}
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

func without(all, topics []string) []string {
	gone := make(map[string]struct{}, len(topics))
	for _, topic := range topics {
		gone[topic] = struct{}{}
	}
	return slices.DeleteFunc(all, func(t string) bool {
		_, ok := gone[t]
		return ok
	})
}
