package harebus

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
	"go.uber.org/zap"

	"github.com/harebus/harebus/internal/session"
	"github.com/harebus/harebus/topology"
)

// exchangeTopology are the two exchanges, exactly as PikaBus declares them. The
// ones that every broker has (amq.direct, amq.topic) are not declared.
func (c *Config) exchangeTopology() topology.Topology {
	var t topology.Topology
	if c.DirectExchange != "amq.direct" {
		t.Exchanges = append(t.Exchanges, topology.Exchange{Name: c.DirectExchange, Kind: topology.Direct})
	}
	if c.TopicExchange != "amq.topic" {
		t.Exchanges = append(t.Exchanges, topology.Exchange{Name: c.TopicExchange, Kind: topology.Topic})
	}
	return t
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

// queueArguments sets the delivery limit and dead-lettering of a quorum queue:
// after that many deliveries the broker moves to the error queue what the library
// cannot read.
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
	if c.PerInstance {
		args["x-expires"] = instanceExpires.Milliseconds()
	}
	return merged(args, c.QueueArguments)
}

// errorArguments set a high delivery limit, because a quorum queue counts each look
// at a message as a delivery and drops a message that reaches the limit.
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

// instanceExpires is how long the queue of an instance is kept after the instance
// has ended.
const instanceExpires = 30 * time.Minute

// exitGrace is how much longer than a listener queue with x-expires its exit lives:
// somebody may still use the queue shortly before it expires.
const exitGrace = 5 * time.Minute

// exitTopology is the exit of a destination. If the listener queue expires, as the
// queue of an instance does, its exit expires as well, because nobody would remove
// it. Publisher.KeepExit keeps it while the queue has its consumer.
func (c *Config) exitTopology(exchange, key string) topology.Topology {
	t := topology.Delays{}.Exit(exchange, key)
	if life := c.queueLife(); life > 0 && exchange == "" && key == c.Queue {
		t.Queues[0].Arguments["x-expires"] = (life + exitGrace).Milliseconds()
	}
	return t
}

// queueLife is the x-expires of the listener queue; 0 means that it stays.
func (c *Config) queueLife() time.Duration {
	var ms int64
	if _, err := fmt.Sscan(fmt.Sprint(c.QueueArguments["x-expires"]), &ms); err != nil {
		return 0
	}
	return time.Duration(ms) * time.Millisecond
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
func (s *Setup) establish(ctx context.Context, on *session.Session, t topology.Topology) error {
	if s.cfg.Declare == CheckOnly {
		return on.RPC(ctx, func() error {
			return t.Check(func() (topology.Channel, error) { return on.Channel() })
		})
	}
	return declare(ctx, on, t)
}

// declare has no time limit in all, only one for each answer: on a busy cluster the
// queues for delays need a minute.
func declare(ctx context.Context, on *session.Session, t topology.Topology) error {
	return on.RPCs(ctx, func(next func()) error { return declareOn(ctx, on, t, next) })
}

// declareOn declares on a channel of its own, and calls next before each request.
func declareOn(ctx context.Context, on *session.Session, t topology.Topology, next func()) error {
	_, err := declareSteps(ctx, on, steps(t), next)
	return err
}

// bindingsAtATime is how many bindings are sent before the broker's answer is awaited.
const bindingsAtATime = 128

// declareSteps is declareOn for parts, and says how many it has declared. It ends with
// ctx. Bindings go together, without an answer to each: a service may have thousands.
// The broker does not say which of them it refuses, so then they are sent again one by
// one, which changes nothing for those that it has made.
func declareSteps(ctx context.Context, on *session.Session, parts []topology.Topology, next func()) (done int, err error) {
	ch, err := on.Channel()
	if err != nil {
		return 0, err
	}
	defer func() { _ = ch.Close() }()
	most := bindingsAtATime
	for done < len(parts) {
		if ctx.Err() != nil {
			return done, context.Cause(ctx)
		}
		next()
		some := parts[done : done+together(parts[done:], most)]
		err := declareTogether(ch, some)
		switch {
		case err == nil:
			done += len(some)
		case len(some) == 1:
			return done, err
		default:
			most = 1
			_ = ch.Close() // nearly always the broker has done so
			again, err := on.Channel()
			if err != nil {
				return done, err
			}
			ch = again
		}
	}
	next()
	return done, nil
}

// together is how many of the first parts can be declared with one answer: one, or
// some bindings.
func together(parts []topology.Topology, most int) (n int) {
	for n < min(most, len(parts)) && len(parts[n].Bindings) == 1 {
		n++
	}
	return max(n, 1)
}

// declareTogether declares parts and waits for the answer to the last. The broker
// does what a channel asks in order, and does nothing after a refusal.
func declareTogether(ch topology.Channel, parts []topology.Topology) error {
	last := len(parts) - 1
	for _, one := range parts[:last] {
		if err := one.Declare(unanswered{ch}); err != nil {
			return err
		}
	}
	return parts[last].Declare(ch)
}

// unanswered is a channel whose bindings the broker does not answer.
type unanswered struct{ topology.Channel }

func (u unanswered) QueueBind(name, key, exchange string, _ bool, args amqp.Table) error {
	return u.Channel.QueueBind(name, key, exchange, true, args)
}

func (u unanswered) ExchangeBind(destination, key, source string, _ bool, args amqp.Table) error {
	return u.Channel.ExchangeBind(destination, key, source, true, args)
}

// declareBriefly declares and does not wait for long. If one node of a cluster is
// frozen, the others do not answer for a queue on it, and replacing the connection
// would not help.
func declareBriefly(ctx context.Context, on *session.Session, t topology.Topology) error {
	return briefly(ctx, on, func() error { return declareOn(ctx, on, t, func() {}) })
}

// briefly runs fn and does not wait for it for long. A request that it no longer
// waits for ends with the session at the latest.
func briefly(ctx context.Context, on *session.Session, fn func() error) error {
	const long = 3 * time.Second
	done := make(chan error, 1)
	if !on.Spawn(func() { done <- fn() }) {
		return on.Cause()
	}
	late := time.NewTimer(long)
	defer late.Stop()
	select {
	case err := <-done:
		return err
	case <-late.C:
		return fmt.Errorf("%w after %v", session.ErrNoAnswer, long)
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

// declareForSending declares what sending needs: the exchanges. A setup that also
// consumes declares its other objects too, because the bindings of a deleted
// exchange are gone with it. If that fails, sending goes on and the consumers
// report it.
func (s *Setup) declareForSending(ctx context.Context, on *session.Session) error {
	s.mu.Lock()
	started := s.started
	s.mu.Unlock()
	err := s.establish(ctx, on, s.cfg.exchangeTopology())
	if err != nil && started && s.cfg.Declare == DeclareAll {
		err = s.exist(ctx, on, s.cfg.exchangeTopology(), err)
	}
	if err != nil || !started || s.cfg.Declare == CheckOnly {
		return err
	}
	err = declareBriefly(ctx, on, s.cfg.errorTopology())
	if err != nil && ctx.Err() == nil {
		s.log.Warn("cannot declare the error queue; sending goes on", zap.Error(err))
	}
	err = briefly(ctx, on, func() error {
		return s.inTurn(context.WithoutCancel(ctx), on, func() error {
			return declareOn(ctx, on, topology.Join(s.cfg.queueTopology(s.topics()), s.cfg.Topology), func() {})
		}, nil)
	})
	if err != nil && ctx.Err() == nil {
		s.log.Warn("cannot declare the queues; sending goes on", zap.Error(err))
	}
	return nil
}

// exist decides whether a refusal to declare matters to a started service: not if
// all objects exist. It returns the refusal if something is missing.
func (s *Setup) exist(ctx context.Context, on *session.Session, t topology.Topology, refusal error) error {
	if !session.Permanent(refusal) {
		return refusal
	}
	err := on.RPC(ctx, func() error {
		return t.Check(func() (topology.Channel, error) { return on.Channel() })
	})
	if err != nil { // an object that the user may not check counts as existing
		return refusal
	}
	s.log.Warn("the broker refuses to declare the exchanges; sending goes on with those that exist", zap.Error(refusal))
	return nil
}

// declares is what is known about the declarations of a setup.
type declares struct {
	turn  chan struct{}    // held while queues are declared or bindings are changed
	on    *session.Session // the last complete declaration, guarded by turn
	began time.Time        // likewise
	warn  time.Time        // no line in the log about refusals before then, guarded by turn

	wanted chan struct{} // told when there is a new topic to bind

	mu      sync.Mutex // guards what follows
	unsure  bool       // the queue may be without something since it was declared completely
	missing error      // what was refused while unsure, for Ready
}

// refused collects the objects that the broker refuses to declare. A nil one collects
// nothing: then the first refusal is an error, as it is for a service that starts.
// Once a service consumes, a refusal must not end consuming, because the objects may
// exist, as when somebody takes away the configure permission.
type refused struct{ errs []error }

func (r *refused) take(err error) error {
	if r == nil || err == nil || (!session.Permanent(err) && !session.Unreachable(err)) {
		return err
	}
	r.errs = append(r.errs, err)
	return nil
}

// declareAll declares or checks the setup's own objects on a session. The first
// refusal is an error.
func (s *Setup) declareAll(ctx context.Context, on *session.Session) error {
	return s.inTurn(ctx, on, func() error { return s.declareObjects(ctx, on, nil) }, nil)
}

// declareSince is declareAll, unless somebody else has done it on this session
// since then: the consumers of one connection declare once.
func (s *Setup) declareSince(ctx context.Context, on *session.Session, since time.Time, r *refused) error {
	return s.inTurn(ctx, on, func() error {
		d := &s.declares
		if d.on == on && d.began.After(since) {
			return nil
		}
		began := time.Now()
		if err := s.declareObjects(ctx, on, r); err != nil {
			return err
		}
		d.on, d.began = on, began
		s.noteRefusals(r)
		return nil
	}, nil)
}

// noteRefusals logs and remembers what was refused. The caller has the turn.
func (s *Setup) noteRefusals(r *refused) {
	const quiet = time.Minute
	d := &s.declares
	var err error
	if r != nil {
		err = shortened(r.errs)
	}
	d.mu.Lock()
	d.unsure = err != nil && (d.unsure || slices.ContainsFunc(r.errs, session.Unreachable))
	d.missing = err
	d.mu.Unlock()
	if err != nil && time.Now().After(d.warn) {
		d.warn = time.Now().Add(quiet - time.Second)
		s.log.Warn("the broker refuses to declare objects of this service; it continues to consume from the existing ones,"+
			" and tries to declare again every minute. Give the user the permissions back, or remove the refused objects from Config",
			zap.Error(err))
	}
}

// shortened joins errors, and counts those that would make the text too long.
func shortened(errs []error) error {
	const most = 5
	if len(errs) <= most {
		return errors.Join(errs...)
	}
	return errors.Join(errors.Join(errs[:most]...), fmt.Errorf("and %d more", len(errs)-most))
}

// doubt notes that the listener queue may have been deleted, and its bindings with
// it.
func (s *Setup) doubt() {
	s.declares.mu.Lock()
	defer s.declares.mu.Unlock()
	s.declares.unsure = true
}

// undeclared is what may be missing on the broker, because it was refused when the
// queue had to be declared again.
func (s *Setup) undeclared() error {
	s.declares.mu.Lock()
	defer s.declares.mu.Unlock()
	if !s.declares.unsure {
		return nil
	}
	return s.declares.missing
}

// declareObjects is called in turn.
func (s *Setup) declareObjects(ctx context.Context, on *session.Session, r *refused) error {
	topics := s.topics()
	if s.cfg.Declare == CheckOnly {
		return r.take(s.check(ctx, on, s.cfg.ownTopology(topics)))
	}
	if err := declareEach(ctx, on, s.cfg.exchangeTopology(), r); err != nil {
		return err
	}
	if s.cfg.Queue != "" {
		if err := r.take(s.declareErrorQueue(ctx, on)); err != nil {
			return err
		}
	}
	return declareEach(ctx, on, topology.Join(s.cfg.queueTopology(topics), s.cfg.Topology), r)
}

// declareEach declares all that is not refused.
func declareEach(ctx context.Context, on *session.Session, t topology.Topology, r *refused) error {
	return on.RPCs(ctx, func(next func()) error {
		left := steps(t)
		for len(left) > 0 && ctx.Err() == nil {
			done, err := declareSteps(ctx, on, left, next)
			if r.take(err) != nil {
				return err
			}
			left = left[min(done+1, len(left)):] // without the one that was refused
		}
		return nil
	})
}

// inTurn runs fn while no other goroutine declares the queue or changes its
// bindings, because a declaration with an old list would undo the change. fn keeps
// its turn until it returns, also when ctx ends before; then give, if not nil, says
// whether the caller may stop waiting.
func (s *Setup) inTurn(ctx context.Context, on *session.Session, fn func() error, give func() bool) error {
	select {
	case s.declares.turn <- struct{}{}:
	case <-on.Done():
		return on.Cause()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	done := make(chan error, 1)
	if !on.Spawn(func() {
		err := fn()
		<-s.declares.turn
		done <- err
	}) {
		<-s.declares.turn
		return on.Cause()
	}
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		if give != nil && !give() {
			return <-done
		}
		return context.Cause(ctx)
	}
}

// refresh declares everything again from time to time: somebody may have deleted a
// binding, and the broker does not report that. The pauses differ, so that a
// hundred instances of a service do not declare at the same time.
func (e *engine) refresh(ctx context.Context) {
	const most = time.Minute
	for e.setup.nextRefresh(ctx, most/2+rand.N(most/2)) {
		on, err := e.consume.Up()
		if err != nil {
			continue // using the connection reports the error
		}
		err = e.setup.declareSince(ctx, on, time.Now(), &refused{})
		if err != nil && ctx.Err() == nil && on.Alive() {
			e.setup.log.Warn("cannot declare the topology again; consuming goes on", zap.Error(err))
		}
		if err := e.publisher.KeepExit(ctx, on); err != nil && ctx.Err() == nil && on.Alive() {
			e.setup.log.Warn("cannot keep the exit of delays to this queue from expiring", zap.Error(err))
		}
	}
}

// nextRefresh waits for d, or until somebody has registered a topic, and says whether
// it did: false means that ctx has ended.
func (s *Setup) nextRefresh(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-s.declares.wanted:
		return true
	case <-ctx.Done():
		return false
	}
}

// check checks that every object exists. A queue that is out of reach counts as
// existing; using it reports the error.
func (s *Setup) check(ctx context.Context, on *session.Session, t topology.Topology) error {
	err := s.establish(ctx, on, t)
	if session.Unreachable(err) {
		s.log.Warn("a queue is out of reach; going on without it", zap.Error(err))
		return nil
	}
	return err
}

// declareErrorQueue creates the error queue if it is missing. One that exists with
// other arguments belongs to all services together and is used as it is. If its
// node is down or silent, only parking waits, and not the whole service: a classic
// queue lives on one node of the cluster.
func (s *Setup) declareErrorQueue(ctx context.Context, on *session.Session) error {
	t := s.cfg.errorTopology()
	err := declareBriefly(ctx, on, t)
	if session.Unreachable(err) || errors.Is(err, session.ErrNoAnswer) {
		s.log.Warn("the error queue is out of reach; messages to park wait until it is back", zap.Error(err))
		return nil
	}
	var broker *amqp.Error
	if !errors.As(err, &broker) || broker.Code != amqp.PreconditionFailed {
		return err
	}
	s.log.Warn("the error queue exists with other properties; using it as it is", zap.Error(err))
	return on.WithChannel(ctx, func(ch *amqp.Channel) error {
		b := s.cfg.errorBinding()
		return ch.QueueBind(b.Queue, b.Key, b.Exchange, false, nil)
	})
}
