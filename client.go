package harebus

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"go.uber.org/zap"

	"github.com/harebus/harebus/contract"
	"github.com/harebus/harebus/internal/declare"
	"github.com/harebus/harebus/internal/program"
	"github.com/harebus/harebus/internal/publish"
	"github.com/harebus/harebus/internal/replies"
	"github.com/harebus/harebus/internal/routing"
	"github.com/harebus/harebus/internal/session"
	"github.com/harebus/harebus/internal/wait"
	"github.com/harebus/harebus/topology"
)

// This file configures the AMQP client (internal/session), the publisher and what declares
// the topology, and counts what they report.

// dialing is the configuration of the setup's connections.
func (s *Setup) dialing(addresses []session.Address) session.Config {
	cfg, connect := &s.cfg, &s.cfg.Connect
	note := ""
	if cfg.defaultAddress {
		note = " (the default, since Config.URL is empty)"
	}
	return session.Config{
		Addresses: addresses, AddressNote: note, Name: cfg.Connect.Name, Product: "harebus", Version: program.Version(program.Library),
		TLS: cfg.Connect.TLS, Dial: cfg.Dial,
		ExternalAuth: cfg.Connect.ExternalAuth, Credentials: cfg.Connect.Credentials, Username: cfg.Connect.Username, Password: cfg.Connect.Password,
		Timeout: connect.Timeout, RequestTimeout: connect.RequestTimeout, WriteTimeout: connect.WriteTimeout,
		Heartbeat: connect.Heartbeat, HeartbeatAlways: cfg.ownHeartbeat, BackOff: connect.BackOff,
		Log: s.log, Waits: s.waits,
		Connecting: s.observers.connecting,
		Connected: func(on *session.Session) {
			s.counters.connections.Add(1)
			s.observers.follow(on)
			s.latestFrameMax.Store(int64(on.FrameMax()))
		},
	}
}

// publishing is the configuration of a publisher on a link.
func (s *Setup) publishing(link *session.Link) publish.Config {
	return publish.Config{
		Link: link, Dialer: s.dialer, Channels: s.cfg.Publish.Channels, Confirms: s.confirms(),
		Expires: s.expires, CheckOnly: s.cfg.Declare.Mode == CheckOnly,
		Declare: s.declarer.ForSending, Establish: s.declarer.Establish, Exit: s.exit, Fit: s.dialect.Fit,
		DueHeader: s.dialect.Names.DeferredTime, Failed: notConfirmed, Counts: &s.counters.publishing,
	}
}

// declaring is the configuration of what declares the setup's objects.
func (s *Setup) declaring() declare.Config {
	return declare.Config{
		CheckOnly: s.cfg.Declare.Mode == CheckOnly, Exchanges: s.routing.Topology(), ErrorQueues: s.errorTopologies,
		Queues: s.queueTopologies, Exclusive: s.exclusiveQueues, Consuming: s.consumes, BackOff: s.cfg.Connect.BackOff, Extra: s.extra, Log: s.log,
	}
}

// extra opens a connection for declarations alone.
func (s *Setup) extra(ctx context.Context) (*session.Session, error) {
	e, err := s.engine()
	if err != nil {
		return nil, err
	}
	link := e.Publish
	if s.consumes() {
		link = e.Consume
	}
	return link.Extra(ctx, "declare")
}

// queueTopologies are the listener queues, and what else the config names.
func (s *Setup) queueTopologies() topology.Topology {
	return topology.Join(s.listenerQueues(false), s.cfg.Declare.Topology)
}

// Topology is what the setup wants of the broker, as Start declares it: for a file that the command harebus compares with
// a broker. Left out are the delay queues ([topology.Delays]) and queues of one connection or instance.
func (s *Setup) Topology() topology.Topology {
	parts := append([]topology.Topology{s.routing.Topology()}, s.errorTopologies()...)
	for _, e := range s.all() {
		if o := e.cfg.QueueOptions; !o.Exclusive && !o.PerInstance {
			parts = append(parts, e.cfg.listener().Topology(s.routing, e.topics()))
		}
	}
	return topology.Join(append(parts, s.cfg.Declare.Topology)...)
}

// Contract is what the service takes from the bus, as its handlers and subscriptions say (without the messages of the library to itself), and what it gives, as [Sends] and
// [Publishes] say. The module asyncapi makes a document of it. Faulty registrations are an error.
func (s *Setup) Contract() (contract.Service, error) {
	of, faults := contract.Service{Direct: s.routing.Direct, Topic: s.routing.Topic, HeaderPrefix: s.dialect.Prefix}, []error(nil)
	for _, e := range s.all() {
		q := contract.Queue{Name: routing.Shared(e.queue, e.cfg.QueueOptions.PerInstance), PerInstance: e.cfg.QueueOptions.PerInstance, Topics: e.topics()}
		if e.consumes() && e.of == e {
			of.Queues = append(of.Queues, q)
		}
		s.mu.Lock()
		of.Sends = append(of.Sends, e.sent...)
		faults = append(append(faults, e.faults...), e.settle())
		s.mu.Unlock()
		handlers := *e.handlers.Load()
		for _, name := range slices.Sorted(maps.Keys(handlers)) {
			if h := handlers[name]; name != NoType && name != AnyType {
				of.Receives = append(of.Receives, contract.Message{Type: name, Value: h.value, ContentType: s.codecs.Media(name, h.value), Queue: q.Name, Topic: h.topic})
			}
		}
	}
	if err := errors.Join(faults...); err != nil {
		return of, fmt.Errorf("harebus: contract: %w", err)
	}
	return of.Public(), nil
}

// exclusiveQueues are the listener queues that belong to the connection that consumes.
func (s *Setup) exclusiveQueues() topology.Topology { return s.listenerQueues(true) }

func (s *Setup) listenerQueues(exclusive bool) topology.Topology {
	var all []topology.Topology
	for _, e := range s.all() {
		if e.cfg.QueueOptions.Exclusive == exclusive {
			all = append(all, e.cfg.listener().Topology(s.routing, e.topics()))
		}
	}
	return topology.Join(all...)
}

// errorTopologies are the error queues, each once.
func (s *Setup) errorTopologies() (all []topology.Topology) {
	names := map[string]struct{}{}
	for _, e := range s.all() {
		if _, known := names[e.cfg.ErrorQueue.Name]; known || !e.consumes() {
			continue
		}
		names[e.cfg.ErrorQueue.Name] = struct{}{}
		all = append(all, e.cfg.listener().ErrorQueue.Topology(s.routing))
	}
	return all
}

// exit is where what was delayed leaves the delay queues for a destination.
func (s *Setup) exit(exchange, key string) topology.Topology {
	var listeners []routing.Listener
	for _, e := range s.all() {
		listeners = append(listeners, *e.cfg.listener())
	}
	return routing.Exit(exchange, key, listeners)
}

// expires says whether a queue is one of the setup's that goes when nobody uses it.
func (s *Setup) expires(queue string) bool {
	return slices.ContainsFunc(s.all(), func(e *endpoint) bool { return e.queue == queue && e.cfg.listener().Life() > 0 })
}

// keepExit keeps the exits of delays to the listener queues from expiring.
func (s *Setup) keepExit(p *publish.Publisher) func(context.Context, *session.Session) {
	return func(ctx context.Context, on *session.Session) {
		if err := p.KeepExits(ctx, on); err != nil && ctx.Err() == nil && on.Alive() {
			s.log.Warn("cannot keep the exits of delays to the queues of this service from expiring", zap.Error(err))
		}
	}
}

// notConfirmed is the error of a message that was not confirmed.
func notConfirmed(m *publish.Message, verdict session.Verdict, reason error) error {
	return &PublishError{
		MessageID: m.Publishing.MessageId, Exchange: m.Exchange, RoutingKey: m.Key, Outcome: Outcome(verdict), Err: reason, cancels: m.Cancels,
	}
}

// confirms is the configuration of the setup's confirm channels.
func (s *Setup) confirms() session.ConfirmConfig {
	return session.ConfirmConfig{
		Window: s.cfg.Publish.Window, Timeout: s.cfg.Publish.ConfirmTimeout, Log: s.log, Waits: s.waits, Plain: s.encodedByClient,
	}
}

// encodedByClient counts a message that could not be encoded here. A few do not matter.
// If all messages are counted, this version of the client writes its frames in another
// way.
func (s *Setup) encodedByClient(always bool) {
	s.counters.plain.Add(1)
	if always && s.counters.warned.CompareAndSwap(false, true) {
		s.log.Warn("the AMQP client writes its frames in another way than this version of harebus expects;"+
			" messages arrive, but cost more CPU: use the version of the client that harebus requires, or a newer harebus",
			zap.String("client", program.Client), zap.String("version", program.Version(program.Client)))
	}
}

// teller reports waits, on standard error when there is no logger.
func teller(logger *zap.Logger) wait.Teller {
	if logger == nil {
		logger = wait.OnStderr()
	}
	return wait.Teller{Log: safeLogger(logger)}
}

// frameMax is the frame_max of the latest connection that publishes.
func (s *Setup) frameMax() int {
	if n := s.latestFrameMax.Load(); n > 0 {
		return int(n)
	}
	return session.MaxFrame
}

// replying is the configuration of the reply queue.
func (s *Setup) replying(link *session.Link) replies.Config {
	owner := s.endpoint.queue
	if owner == "" {
		owner = program.Name()
	}
	return replies.Config{
		Link: link, BackOff: s.cfg.Connect.BackOff, Log: s.log.Named("replies"), Late: &s.counters.lateReplies,
		ID:   s.peers.AnswersTo,
		Name: func() string { return routing.ReplyQueue(owner) },
		Declare: func(ctx context.Context, on *session.Session, queue string) error {
			return s.declarer.ForReplies(ctx, on, s.routing.Replies(queue))
		},
	}
}
