package harebus

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
	"go.uber.org/zap"

	"github.com/harebus/harebus/topology"
)

// exchangeTopology are the two exchanges, exactly as PikaBus declares them.
func (c *Config) exchangeTopology() topology.Topology {
	return topology.Topology{Exchanges: []topology.Exchange{
		{Name: c.DirectExchange, Kind: topology.Direct},
		{Name: c.TopicExchange, Kind: topology.Topic},
	}}
}

// errorTopology is the error queue, bound as PikaBus binds it.
func (c *Config) errorTopology() topology.Topology {
	return topology.Topology{
		Queues: []topology.Queue{{
			Name: c.ErrorQueue.Name, Type: c.ErrorQueue.Type, Arguments: c.errorArguments(),
		}},
		Bindings: []topology.Binding{c.errorBinding()},
	}
}

func (c *Config) errorBinding() topology.Binding {
	return topology.Binding{Exchange: c.DirectExchange, Key: c.ErrorQueue.Name, Queue: c.ErrorQueue.Name}
}

// queueTopology is the listener queue with its bindings.
func (c *Config) queueTopology(topics []string) topology.Topology {
	if c.Queue == "" {
		return topology.Topology{}
	}
	t := topology.Topology{
		Queues:   []topology.Queue{{Name: c.Queue, Type: c.QueueType, Arguments: c.queueArguments()}},
		Bindings: []topology.Binding{{Exchange: c.DirectExchange, Key: c.Queue, Queue: c.Queue}},
	}
	for _, topic := range topics {
		t.Bindings = append(t.Bindings, topology.Binding{Exchange: c.TopicExchange, Key: topic, Queue: c.Queue})
	}
	return t
}

// queueArguments gives a quorum queue its second net: what the library cannot
// even read is moved to the error queue by the broker, after a limited number
// of deliveries.
func (c *Config) queueArguments() map[string]any {
	args := map[string]any{}
	if c.QueueType == topology.Quorum {
		args = map[string]any{
			"x-delivery-limit":          defaultDeliveryLimit,
			"x-dead-letter-exchange":    "",
			"x-dead-letter-routing-key": c.ErrorQueue.Name,
			"x-dead-letter-strategy":    "at-least-once",
			"x-overflow":                "reject-publish",
		}
	}
	return merged(args, c.QueueArguments)
}

// errorArguments let people look at parked messages as often as they like: a
// quorum queue counts each look as a delivery, and drops a message that has
// been delivered too often.
func (c *Config) errorArguments() map[string]any {
	args := map[string]any{}
	if c.ErrorQueue.Type == topology.Quorum {
		args["x-delivery-limit"] = topology.LookLimit
	}
	return merged(args, c.ErrorQueue.Arguments)
}

// merged adds the user's arguments to the defaults; a nil value removes one.
func merged(args, own map[string]any) map[string]any {
	maps.Copy(args, own)
	maps.DeleteFunc(args, func(_ string, value any) bool { return value == nil })
	return args
}

// ownTopology is everything but the delay infrastructure.
func (c *Config) ownTopology(topics []string) topology.Topology {
	t := topology.Join(c.exchangeTopology(), c.queueTopology(topics), c.Topology)
	if c.Queue != "" {
		t = topology.Join(t, c.errorTopology())
	}
	return t
}

// establish declares t on a session, or checks it.
func (s *Setup) establish(ctx context.Context, on *session, t topology.Topology) error {
	if s.cfg.Declare == CheckOnly {
		return on.rpc(ctx, func() error {
			return t.Check(func() (topology.Channel, error) { return on.conn.Channel() })
		})
	}
	return declare(ctx, on, t)
}

// declare takes as long as it takes, as long as the broker answers: on a busy
// cluster the queues for delays need a minute.
func declare(ctx context.Context, on *session, t topology.Topology) error {
	return on.rpcs(ctx, func(next func()) error { return declareOn(on, t, next) })
}

// declareOn declares on a channel of its own, and calls next before each request.
func declareOn(on *session, t topology.Topology, next func()) error {
	ch, err := on.conn.Channel()
	if err != nil {
		return err
	}
	defer func() { _ = ch.Close() }()
	for _, one := range steps(t) {
		next()
		if err := one.Declare(ch); err != nil {
			return err
		}
	}
	next()
	return nil
}

// errNoAnswer says that the broker still has a request that was not waited for.
var errNoAnswer = errors.New("no answer yet")

// declareBriefly declares and does not wait for long. A single node of a cluster
// that says nothing keeps the others from answering for a queue of its own; the
// connection is not to blame. What is not waited for ends with the session at the
// latest.
func declareBriefly(ctx context.Context, on *session, t topology.Topology) error {
	const long = 3 * time.Second
	done := make(chan error, 1)
	if !on.spawn(func() { done <- declareOn(on, t, func() {}) }) {
		return on.cause()
	}
	late := time.NewTimer(long)
	defer late.Stop()
	select {
	case err := <-done:
		return err
	case <-late.C:
		return fmt.Errorf("%w after %v", errNoAnswer, long)
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// steps takes a topology apart, in the order in which it is declared.
func steps(t topology.Topology) []topology.Topology {
	var parts []topology.Topology
	for _, e := range t.Exchanges {
		parts = append(parts, topology.Topology{Exchanges: []topology.Exchange{e}})
	}
	for _, q := range t.Queues {
		parts = append(parts, topology.Topology{Queues: []topology.Queue{q}})
	}
	for _, b := range t.Bindings {
		parts = append(parts, topology.Topology{Bindings: []topology.Binding{b}})
	}
	return parts
}

// declareForSending declares what sending needs: the exchanges. A setup that
// also consumes declares the rest too, because an exchange that has vanished took
// its bindings along; should that fail it is the consumers' concern, and no
// reason not to send to others.
func (s *Setup) declareForSending(ctx context.Context, on *session) error {
	s.mu.Lock()
	started := s.started
	s.mu.Unlock()
	if err := s.establish(ctx, on, s.cfg.exchangeTopology()); err != nil || !started || s.cfg.Declare == CheckOnly {
		return err
	}
	own := topology.Join(s.cfg.queueTopology(s.topics()), s.cfg.Topology)
	for _, t := range []topology.Topology{s.cfg.errorTopology(), own} {
		if err := declareBriefly(ctx, on, t); err != nil && ctx.Err() == nil {
			s.log.Warn("cannot declare the queues; sending goes on", zap.Error(err))
		}
	}
	return nil
}

// declareAll declares or checks the setup's own objects on a session.
func (s *Setup) declareAll(ctx context.Context, on *session) error {
	topics := s.topics()
	if s.cfg.Declare == CheckOnly {
		return s.check(ctx, on, s.cfg.ownTopology(topics))
	}
	if err := s.establish(ctx, on, s.cfg.exchangeTopology()); err != nil {
		return err
	}
	if s.cfg.Queue != "" {
		if err := s.declareErrorQueue(ctx, on); err != nil {
			return err
		}
	}
	return s.establish(ctx, on, topology.Join(s.cfg.queueTopology(topics), s.cfg.Topology))
}

// check looks for everything. A queue that is out of reach is there: whoever
// needs it finds out.
func (s *Setup) check(ctx context.Context, on *session, t topology.Topology) error {
	err := s.establish(ctx, on, t)
	if unreachable(err) {
		s.log.Warn("a queue is out of reach; going on without it", zap.Error(err))
		return nil
	}
	return err
}

// declareErrorQueue creates the error queue if it is missing. One that exists
// with other arguments belongs to all services together and is used as it is.
// One whose node is down or silent is a reason to wait for those who want to park,
// and not for everybody: a classic one lives on one node of the cluster.
func (s *Setup) declareErrorQueue(ctx context.Context, on *session) error {
	t := s.cfg.errorTopology()
	err := declareBriefly(ctx, on, t)
	if unreachable(err) || errors.Is(err, errNoAnswer) {
		s.log.Warn("the error queue is out of reach; what has to be parked waits for it", zap.Error(err))
		return nil
	}
	var broker *amqp.Error
	if !errors.As(err, &broker) || broker.Code != amqp.PreconditionFailed {
		return err
	}
	s.log.Warn("the error queue exists with other properties; using it as it is", zap.Error(err))
	return on.withChannel(ctx, func(ch *amqp.Channel) error {
		b := s.cfg.errorBinding()
		return ch.QueueBind(b.Queue, b.Key, b.Exchange, false, nil)
	})
}

// missing says whether the broker has found something not to exist, or out of
// reach: see unreachable.
func missing(err error) bool {
	var broker *amqp.Error
	return errors.As(err, &broker) && broker.Code == amqp.NotFound
}

// forbidden says whether the user may not even look. RabbitMQ 4.3, and 4.2.6, refuse
// a passive declare to users who have no permission on the name, whether it exists
// or not; older versions let everybody look. So it says nothing about the object.
func forbidden(err error) bool {
	var broker *amqp.Error
	return errors.As(err, &broker) && broker.Code == amqp.AccessRefused
}

// unreachable says whether err is nothing but queues that exist and cannot be
// used at the moment. The broker answers with the code it has for those that do
// not exist; only the text differs.
func unreachable(err error) bool {
	var several interface{ Unwrap() []error }
	if errors.As(err, &several) {
		return !slices.ContainsFunc(several.Unwrap(), func(one error) bool { return !unreachable(one) })
	}
	var broker *amqp.Error
	if !errors.As(err, &broker) || broker.Code != amqp.NotFound {
		return false
	}
	return slices.ContainsFunc(outOfReach, func(text string) bool { return strings.Contains(broker.Reason, text) })
}

// outOfReach are the broker's words for it: the node is down, the queue is being
// restarted, or it does not answer.
var outOfReach = []string{"is down or inaccessible", "stopped by supervisor", "due to timeout"}
