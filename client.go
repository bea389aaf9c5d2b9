package harebus

import (
	"context"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
	"go.uber.org/zap"

	"github.com/harebus/harebus/internal/consume"
	"github.com/harebus/harebus/internal/declare"
	"github.com/harebus/harebus/internal/publish"
	"github.com/harebus/harebus/internal/session"
	"github.com/harebus/harebus/internal/wait"
	"github.com/harebus/harebus/topology"
)

// This file configures the AMQP client (internal/session), the publisher and what declares
// the topology, and counts what they report.

// dialing is the configuration of the setup's connections.
func (s *Setup) dialing(addresses []amqp.URI) session.Config {
	cfg, connect := &s.cfg, &s.cfg.Connect
	note := ""
	if cfg.defaultAddress {
		note = " (the default, since Config.URL is empty)"
	}
	return session.Config{
		Addresses: addresses, AddressNote: note, Name: cfg.Connect.Name, Product: "harebus", Version: version(),
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
		Queue: s.cfg.Queue, QueueExpires: s.cfg.queueLife() > 0, CheckOnly: s.cfg.Declare.Mode == CheckOnly,
		Declare: s.declarer.ForSending, Establish: s.declarer.Establish, Exit: s.cfg.exitTopology, Fit: s.dialect.fit,
		Failed: notConfirmed, Counts: &s.counters.publishing,
	}
}

// declaring is the configuration of what declares the setup's objects.
func (s *Setup) declaring() declare.Config {
	return declare.Config{
		CheckOnly: s.cfg.Declare.Mode == CheckOnly, Exchanges: s.cfg.exchangeTopology(), ErrorQueues: s.cfg.errorTopologies,
		Queues: func() topology.Topology {
			return topology.Join(s.cfg.queueTopology(s.topics()), s.cfg.Declare.Topology)
		},
		Consuming: s.consumes, BackOff: s.cfg.Connect.BackOff, Extra: s.extra, Log: s.log,
	}
}

// extra opens a connection for declarations alone.
func (s *Setup) extra(ctx context.Context) (*session.Session, error) {
	e, err := s.engine()
	if err != nil {
		return nil, err
	}
	link := e.publish
	if s.consumes() {
		link = e.consume
	}
	return link.Extra(ctx, "declare")
}

// keepExit keeps the exit of delays to the listener queue from expiring.
func (e *engine) keepExit(ctx context.Context, on *session.Session) {
	if err := e.publisher.KeepExit(ctx, on); err != nil && ctx.Err() == nil && on.Alive() {
		e.setup.log.Warn("cannot keep the exit of delays to this queue from expiring", zap.Error(err))
	}
}

// notConfirmed is the error of a message that was not confirmed.
func notConfirmed(m *publish.Message, verdict session.Verdict, reason error) error {
	return &PublishError{
		MessageID: m.Publishing.MessageId, Exchange: m.Exchange, RoutingKey: m.Key, Outcome: Outcome(verdict), Err: reason,
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
			zap.String("client", client), zap.String("version", versionOf(client)))
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

// consumption is the configuration of the consumers on the listener queue.
func (s *Setup) consumption(link *session.Link) consume.Config {
	cfg, queue := &s.cfg, s.cfg.Queue
	single, _ := cfg.QueueOptions.Arguments["x-single-active-consumer"].(bool)
	return consume.Config{
		Queue:     queue,
		Consumers: cfg.Consume.Consumers, Workers: cfg.Consume.Concurrency, Prefetch: cfg.Consume.Prefetch,
		OneByOne: cfg.QueueOptions.Type == topology.Quorum, Single: single, DeliveryLimit: cfg.deliveryLimit(),
		Link: link, BackOff: cfg.Connect.BackOff, Log: s.log, Waits: s.waits, Stopped: ErrStopped,
		Declare: func(ctx context.Context, on *session.Session, since time.Time, first bool) error {
			if first {
				return s.declarer.First(ctx, on, since)
			}
			return s.declarer.Again(ctx, on, since)
		},
		Doubt:      func() { s.declarer.Doubt(queue) },
		Undeclared: func() error { return s.declarer.UndeclaredOf(queue) },
		Renew:      s.renew,
		Consuming:  s.observers.consuming(queue),
		Task:       func() consume.Task { return &delivery{setup: s} },
	}
}
