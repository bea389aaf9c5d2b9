package harebus

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/harebus/harebus/contract"
	"github.com/harebus/harebus/internal/consume"
	"github.com/harebus/harebus/internal/field"
	"github.com/harebus/harebus/internal/lanes"
	"github.com/harebus/harebus/internal/resend"
	"github.com/harebus/harebus/internal/routing"
	"github.com/harebus/harebus/internal/session"
	"github.com/harebus/harebus/internal/streams"
	"github.com/harebus/harebus/internal/tally"
	"github.com/harebus/harebus/order"
	"github.com/harebus/harebus/topology"
)

// EndpointConfig configures one more queue of a setup: see [Setup.Endpoint]. Its fields are those of [Config] with the
// same names, and have the same defaults. Nothing is taken over from the Config of the setup.
type EndpointConfig struct {
	Queue         string
	QueueOptions  QueueOptions
	Subscriptions []string
	Consume       ConsumeConfig
	Handling      HandlingConfig
	Retry         RetryConfig
	ErrorQueue    ErrorQueueConfig
}

// instance is the name of the queue, for one instance alone if it is to have its own.
func (c EndpointConfig) instance() string {
	if !c.QueueOptions.PerInstance || c.Queue == "" {
		return c.Queue
	}
	return routing.Instance(c.Queue, NewMessageID())
}

// withDefaults returns a copy with every zero field filled in.
func (c EndpointConfig) withDefaults() EndpointConfig {
	c.Subscriptions = slices.Clone(c.Subscriptions)
	c.QueueOptions.Arguments = maps.Clone(c.QueueOptions.Arguments)
	c.ErrorQueue.Arguments = maps.Clone(c.ErrorQueue.Arguments)
	if c.QueueOptions.Exclusive || c.QueueOptions.AutoDelete {
		fill(&c.QueueOptions.Type, topology.Classic)
	}
	if c.Consume.Stream = c.Consume.Stream.Complete(); c.Consume.Stream != nil {
		fill(&c.QueueOptions.Type, topology.Stream)
		fill(&c.Handling.Unhandled, UnhandledIgnore)
		c.QueueOptions.AsFound = true
	}
	fill(&c.QueueOptions.Type, topology.Quorum)
	c.Consume.Arguments = maps.Clone(c.Consume.Arguments)
	c.Consume.Order = c.Consume.Order.Complete()
	c.QueueOptions.Arguments, c.Consume.Prefetch = c.Consume.Order.Arguments(c.QueueOptions.Arguments), c.Consume.Order.Prefetch(c.Consume.Prefetch)
	fill(&c.ErrorQueue.Name, defaultErrorQueue)
	fill(&c.ErrorQueue.Type, topology.Quorum)
	fill(&c.Consume.Concurrency, 10)
	fill(&c.Consume.Prefetch, defaultPrefetch(c.Consume.Concurrency))
	c.Consume.Prefetch = c.Consume.Stream.Least(c.Consume.Prefetch)
	fill(&c.Consume.Consumers, 1)
	fill(&c.Handling.Timeout, 5*time.Minute)
	c.Retry = c.Retry.withDefaults(defaultRetry())
	return c
}

func defaultPrefetch(concurrency int) int { return min(5*concurrency, maxPrefetch) }

// validate reports everything that is wrong with a filled in endpoint of a setup.
func (c *EndpointConfig) validate(of *Config) []error {
	var faults []error
	fault := func(format string, args ...any) { faults = append(faults, fmt.Errorf(format, args...)) }
	if c.Queue == "" && (len(c.Subscriptions) > 0 || len(c.QueueOptions.Arguments) > 0) {
		fault("Subscriptions and QueueOptions.Arguments need a Queue")
	}
	if c.Queue == c.ErrorQueue.Name {
		fault("Queue and ErrorQueue.Name are both %q: what fails there would go round in circles", c.Queue)
	}
	if c.Queue == "" && c.QueueOptions.PerInstance {
		fault("QueueOptions.PerInstance needs a Queue")
	}
	faults = append(faults, c.validateKind(of)...)
	for _, topic := range c.Subscriptions {
		if err := topology.ValidTopic(topic); err != nil {
			faults = append(faults, err)
		}
	}
	faults = append(faults, routing.Unroutable(c.Queue, c.ErrorQueue.Name)...)
	if err := c.ownTopology(of).Validate(); err != nil {
		faults = append(faults, err)
	}
	if c.Handling.Unhandled < UnhandledRetry || c.Handling.Unhandled > UnhandledIgnore {
		fault("Handling.Unhandled %d is none of UnhandledRetry, UnhandledPark and UnhandledIgnore", c.Handling.Unhandled)
	}
	faults = slices.Concat(faults, c.Consume.outside(), field.Outside("Consume.Consumers", c.Consume.Consumers, 1, 1000))
	for i, m := range c.Handling.Middleware {
		if m == nil {
			fault("Handling.Middleware[%d] is nil", i)
		}
	}
	return append(faults, c.Retry.validate("Retry")...)
}

// validateKind finds properties of the queue and of its consumers that exclude each other.
func (c *EndpointConfig) validateKind(of *Config) []error {
	faults := c.listener().Faults(routing.Use{
		Consumers: c.Consume.Consumers, Exclusive: c.Consume.Exclusive, Arguments: c.Consume.Arguments, Topics: c.Subscriptions, Declared: of.Declare.Mode == DeclareAll,
	})
	if _, err := field.Table(c.Consume.Arguments); err != nil {
		faults = append(faults, fmt.Errorf("Consume.Arguments: %w", err))
	}
	return faults
}

// outside are the faults of the numbers that can change at run time.
func (c *ConsumeConfig) outside() []error {
	return append(field.Outside("Consume.Concurrency", c.Concurrency, 1, maxPrefetch),
		field.Outside("Consume.Prefetch", c.Prefetch, c.Concurrency, maxPrefetch)...)
}

// ownTopology is everything that a setup with only this endpoint declares, but the delay infrastructure.
func (c *EndpointConfig) ownTopology(of *Config) topology.Topology {
	t := topology.Join(routing.Exchanges(of.Exchanges).Topology(), c.listener().Topology(routing.Exchanges(of.Exchanges), c.Subscriptions), of.Declare.Topology)
	if c.Queue != "" {
		t = topology.Join(t, c.listener().ErrorQueue.Topology(routing.Exchanges(of.Exchanges)))
	}
	return t
}

// Registrar takes handlers: a [Setup], for the endpoint of Config.Queue, or an [Endpoint]. Packages that are built upon
// the bus can also look at its consumption, and change it.
type Registrar interface {
	registrar() *endpoint
	Consumption() ConsumeConfig
	SingleActive() bool
	SetConcurrency(concurrency, prefetch int) error
	Queue() string
	Gate(g Gate, room int) error
	Beside(queue string, options QueueOptions, consume ConsumeConfig) (*Endpoint, error)
}

// Endpoint is one more listener queue of a setup, with handlers, retries and limits of its own: see [Setup.Endpoint].
type Endpoint struct{ *endpoint }

// endpoint is a listener queue with what belongs to it. A setup without a queue has one as well, which has no
// consumers.
type endpoint struct {
	setup *Setup
	cfg   EndpointConfig
	queue string    // the name, with the digits of PerInstance; empty without a queue
	of    *endpoint // whose messages the queue has: the endpoint itself, or that which it is beside

	parts []*endpoint // the partitions of a divided queue; they do not change after New

	gate Gate // nil: none. Like room, it does not change after Start
	room int  // for messages that wait in the gate

	retries atomic.Int64 // the largest number among the retry policies
	counts  tally.Queue
	copies  *resend.Queue

	// handlers is replaced by settle and never changed: messages are looked up without a lock.
	handlers atomic.Pointer[map[string]*handler]

	// setup.mu guards what follows.
	known  map[string]*handler // registered
	faults []error             // of registrations; Start reports them
	late   []error             // of registrations after Start; Ready reports them
	subs   []string
	sent   []contract.Message // that Sends and Publishes have declared
	group  *consume.Group     // nil while nothing is consumed
	shares *consume.Shares    // of the partitions, since the latest Start
}

func newEndpoint(s *Setup, c EndpointConfig) *endpoint {
	e := &endpoint{setup: s, cfg: c, queue: c.Queue, subs: slices.Clone(c.Subscriptions), known: map[string]*handler{}}
	e.of = e
	e.retries.Store(int64(c.Retry.most()))
	e.handlers.Store(&map[string]*handler{})
	e.copies = &resend.Queue{
		Order: lanes.Of(c.Consume.Order, c.Queue, s.dialect.Prefix),
		Name:  c.Queue, Partitions: c.Consume.Order.PartitionQueues(c.Queue), ErrorQueue: c.ErrorQueue.Name, Exchange: s.routing.Direct, Events: s.routing.Topic, Dialect: &s.dialect, BackOff: s.cfg.Connect.BackOff,
		Publisher: s.publisher, Final: endsConnections,
		Restore: func(ctx context.Context, on *session.Session) error {
			return s.declarer.ErrorQueue(ctx, on, e.cfg.listener().ErrorQueue.Topology(s.routing))
		},
	}
	return e
}

func (e *endpoint) registrar() *endpoint { return e }

func (e *endpoint) consumes() bool { return e.queue != "" }

// works says whether there is something to start: consumers or a Transactor.
func (e *endpoint) works() bool { return e.consumes() || e.cfg.Handling.Transactor != nil }

// registered says what is wrong with the handlers. setup.mu is held.
func (e *endpoint) registered() error {
	switch {
	case len(e.faults) > 0:
		return errors.Join(e.faults...)
	case e.of == e && e.consumes() && len(e.known) == 0:
		return fmt.Errorf("no handler is registered for the queue %s; use Handle or HandleMessage", field.Quote(e.queue))
	}
	return e.settle()
}

// consumption is the configuration of the consumers, whose session consumes from so many queues. setup.mu is held.
func (e *endpoint) consumption(link *session.Link, queues int) consume.Config {
	s := e.setup
	if attempts := int(e.retries.Load()) + 1; e.cfg.listener().LowLimit(attempts) {
		s.log.Warn("x-delivery-limit in QueueOptions.Arguments is lower than the number of attempts, so the broker moves a message whose"+
			" process or connection ends again and again to the error queue before the retries are used up; remove it or raise it",
			zap.String("queue", e.queue), zap.Int("x-delivery-limit", e.cfg.listener().DeliveryLimit()), zap.Int("attempts", attempts))
	}
	arguments, _ := field.Table(e.cfg.Consume.Arguments) // validate has tried it
	workers, prefetch := e.size()
	if len(e.parts) > 0 { // which come after it
		e.shares = consume.NewShares(len(e.parts))
	}
	return consume.Config{
		Queue: e.queue, Queues: queues, Arguments: arguments, Exclusive: e.cfg.Consume.Exclusive, AutoDelete: e.cfg.QueueOptions.AutoDelete,
		Consumers: e.cfg.Consume.Consumers, Workers: workers, Prefetch: prefetch,
		OneByOne: e.cfg.QueueOptions.Type == topology.Quorum && !e.of.lends(), Single: e.SingleActive(), DeliveryLimit: e.cfg.listener().DeliveryLimit(),
		Link: link, BackOff: s.cfg.Connect.BackOff, Log: s.log, Waits: s.waits, Stopped: ErrStopped,
		Declare: func(ctx context.Context, on *session.Session, since time.Time, first bool) error {
			if first {
				return s.declarer.First(ctx, on, since)
			}
			return s.declarer.Again(ctx, on, since)
		},
		Stream: streams.New(e.cfg.Consume.Stream, e.queue, NewMessageID(), e.copies.Token, s.log),
		Order:  e.copies.Order, Note: e.copies.Note, Answer: e.copies.Answer, Shares: e.of.shares, Members: e.copies.Members(),
		Doubt:      func() { s.declarer.Doubt(e.queue) },
		Undeclared: func() error { return s.declarer.UndeclaredOf(e.queue) },
		Republish:  e.copies.Republish,
		Consuming:  s.observers.consuming(e.queue),
		Task:       e.task,
		Unread:     func() consume.Task { return &delivery{endpoint: e.of} }, // a router cannot send it on
	}
}

// size is how many messages a consumer handles at once, and its prefetch. setup.mu is held.
func (e *endpoint) size() (workers, prefetch int) {
	if len(e.parts) > 0 {
		return order.Window, order.Window
	}
	return e.cfg.Consume.Concurrency + e.room, e.cfg.Consume.Prefetch + e.room
}

// task makes the work on a delivery. What is in a divided queue goes to the partitions.
func (e *endpoint) task() consume.Task {
	if len(e.parts) > 0 {
		return e.copies.Route()
	}
	return &delivery{endpoint: e.of}
}

// lends says whether a handler has a lease: then the order of the queue is not kept. setup.mu is held.
func (e *endpoint) lends() bool {
	return slices.ContainsFunc(slices.Collect(maps.Values(e.known)), func(h *handler) bool { return h.leased })
}

// Queue is the name of the listener queue: that of the config, or with PerInstance one that begins with it. It is empty
// for a setup without a queue.
func (e *endpoint) Queue() string { return e.queue }

// Endpoint adds a queue to the setup: its consumers use the same connections as the others, and Start, Stop and the
// rest of Setup's methods are for all of them. [Handle], [HandleEvent] and the methods of the Endpoint register
// handlers, and subscribe, for its queue. What a handler sends names the queue of its endpoint as the reply address;
// what is sent outside handlers names Config.Queue. Endpoints are added before Start; the call reports every fault in
// cfg at once and does not connect.
func (s *Setup) Endpoint(cfg EndpointConfig) (*Endpoint, error) {
	c := cfg.withDefaults()
	c.Queue = c.instance()
	faults := c.validate(&s.cfg)
	if c.Queue == "" {
		faults = append(faults, ErrNoQueue)
	}
	e, err := s.add(c, faults)
	if err == nil {
		err = e.divide()
	}
	if err != nil {
		return nil, fmt.Errorf("harebus: new endpoint: %w", err)
	}
	return e, nil
}

func (s *Setup) add(c EndpointConfig, faults []error) (*Endpoint, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.started || s.stopping != nil {
		faults = append(faults, fmt.Errorf("add endpoints before Start: %w", ErrStarted))
	}
	for _, other := range s.endpoints {
		faults = append(faults, c.listener().Clashes(other.cfg.listener())...)
	}
	if err := errors.Join(faults...); err != nil {
		return nil, err
	}
	e := newEndpoint(s, c)
	s.endpoints = append(slices.Clip(s.endpoints), e) // all hands out the slice
	return &Endpoint{e}, nil
}

// divide adds the partitions of a queue that is divided.
func (e *endpoint) divide() error {
	for _, name := range e.copies.Partitions {
		consume := e.cfg.Consume
		consume.Order = consume.Order.OfPartition()
		part, err := e.Beside(name, e.cfg.QueueOptions, consume)
		if err != nil {
			return err
		}
		e.parts = append(e.parts, part.endpoint)
	}
	return nil
}

// whole is the endpoint with its partitions.
func (e *endpoint) whole() []*endpoint { return slices.Concat([]*endpoint{e}, e.parts) }

// Beside adds a queue whose messages are treated as those of this endpoint: by its handlers and its gate, with its
// names, policies and counts. The endpoint that is returned has no handlers; it can be paused, and its Stats have what
// it consumes with. See [Setup.Endpoint].
func (e *endpoint) Beside(queue string, options QueueOptions, consume ConsumeConfig) (*Endpoint, error) {
	o := &e.cfg.QueueOptions
	if e.queue == "" || e.of != e || o.Exclusive || o.AutoDelete || o.PerInstance {
		return nil, fmt.Errorf("harebus: add the queue %s: it would be left behind by a queue that is not there, or not for good", field.Quote(queue))
	}
	cfg := EndpointConfig{Queue: queue, QueueOptions: options, Consume: consume, Handling: e.cfg.Handling, Retry: e.cfg.Retry, ErrorQueue: e.cfg.ErrorQueue}
	added, err := e.setup.Endpoint(cfg)
	if err == nil {
		added.of = e
	}
	return added, err
}

// all are the endpoints. The first one is that of Config.Queue.
func (s *Setup) all() []*endpoint {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.endpoints
}

// Endpoints returns those of the setup. That of Config.Queue, if there is one, is the first.
func (s *Setup) Endpoints() (list []*Endpoint) {
	for _, one := range s.all() {
		if one.consumes() {
			list = append(list, &Endpoint{one})
		}
	}
	return list
}

// parksIn says whether a queue is an error queue of the setup.
func (s *Setup) parksIn(queue string) bool {
	return slices.ContainsFunc(s.all(), func(e *endpoint) bool { return e.cfg.ErrorQueue.Name == queue })
}

// Pause stops consuming from the queue of this endpoint, and its partitions, as [Setup.Pause] does for all.
func (e *Endpoint) Pause(ctx context.Context) error { return e.setup.pause(ctx, e.whole()...) }

// Resume ends a pause of this endpoint, as [Setup.Resume] does for all.
func (e *Endpoint) Resume() error { return e.setup.resume(e.whole()...) }

// SetConcurrency changes how many messages each consumer handles at once, and how many unacknowledged ones it may hold:
// Consume.Concurrency and Consume.Prefetch, with the same limits; a prefetch of 0 is five times the concurrency. It
// holds from now on, also for consumers that a later Start makes. Handlers that run are not disturbed: with a lower
// concurrency the ones that are too many finish their message first. Where the order of the queue is kept, or will be,
// the consumer first waits for its handlers. SetConcurrency returns at once.
func (e *endpoint) SetConcurrency(concurrency, prefetch int) error {
	consume := ConsumeConfig{Concurrency: concurrency, Prefetch: e.cfg.Consume.Order.Prefetch(prefetch)}
	fill(&consume.Prefetch, defaultPrefetch(concurrency))
	consume.Prefetch = e.cfg.Consume.Stream.Least(consume.Prefetch)
	faults := consume.outside()
	if e.queue == "" {
		faults = append(faults, ErrNoQueue)
	}
	if err := errors.Join(faults...); err != nil {
		return fmt.Errorf("harebus: set concurrency: %w", err)
	}
	for _, one := range e.whole() {
		e.setup.mu.Lock()
		one.cfg.Consume.Concurrency, one.cfg.Consume.Prefetch = consume.Concurrency, consume.Prefetch
		group := one.group
		workers, prefetch := one.size()
		e.setup.mu.Unlock()
		if group != nil {
			group.Resize(workers, prefetch) // logs, which may call the setup
		}
	}
	return nil
}

// Consumption is Consume of the configuration with its defaults, and what SetConcurrency has changed. Its Arguments are
// not to be changed.
func (e *endpoint) Consumption() ConsumeConfig {
	e.setup.mu.Lock()
	defer e.setup.mu.Unlock()
	return e.cfg.Consume
}

// SingleActive says whether one consumer at a time gets the messages of the queue (x-single-active-consumer).
func (e *endpoint) SingleActive() bool {
	single, _ := e.cfg.QueueOptions.Arguments["x-single-active-consumer"].(bool)
	return single
}

// Parked are the keys of an ordered queue whose messages are parked: see package order. It is empty in the instances
// that stand by; ask each, or use the command "harebus parked list".
func (e *endpoint) Parked() (all []order.Parked) {
	groups, _ := e.setup.consuming(e.whole()) // none before Start
	for _, group := range groups {
		all = append(all, group.Parked()...)
	}
	return all
}

// Stats returns the counts of what this endpoint has received. It may be called at any time.
func (e *Endpoint) Stats() Stats {
	var stats Stats
	stats.addQueue(&e.counts)
	e.setup.mu.Lock()
	group, consume := e.group, e.cfg.Consume
	e.setup.mu.Unlock()
	if stats.Consume = consume; group != nil {
		stats.OldestInFlight, stats.Paused = group.Oldest(), group.Paused()
	}
	for _, part := range e.parts { // which have the handlers
		stats.OldestInFlight = max(stats.OldestInFlight, (&Endpoint{part}).Stats().OldestInFlight)
	}
	return stats
}

// String names the queue.
func (e *Endpoint) String() string { return fmt.Sprintf("harebus.Endpoint of %q", e.queue) }

// Format writes String for every verb, so that nothing of the setup is printed.
func (e *Endpoint) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, e.String()) }
