package harebus

import (
	"context"

	amqp "github.com/rabbitmq/amqp091-go"
	"go.uber.org/zap"

	"github.com/harebus/harebus/internal/session"
	"github.com/harebus/harebus/internal/wait"
)

// What the setup asks of the AMQP client, and what the client tells it.

// dialing is how the setup connects.
func (s *Setup) dialing(addresses []amqp.URI) session.Config {
	cfg, connect := &s.cfg, &s.cfg.Connect
	note := ""
	if cfg.defaultAddress {
		note = " (the default, since Config.URL is empty)"
	}
	return session.Config{
		Addresses: addresses, AddressNote: note, Name: cfg.ConnectionName, Product: "harebus", Version: version(),
		TLS: cfg.TLS, Dial: cfg.Dial,
		ExternalAuth: cfg.ExternalAuth, Credentials: cfg.Credentials, Username: cfg.Username, Password: cfg.Password,
		Timeout: connect.Timeout, RequestTimeout: connect.RequestTimeout, WriteTimeout: connect.WriteTimeout,
		Heartbeat: connect.Heartbeat, HeartbeatAlways: cfg.ownHeartbeat, BackOff: connect.BackOff,
		Log: s.log, Waits: s.waits,
		Connecting: func(ctx context.Context, link string) (context.Context, func(error)) {
			return s.trace.startApart(ctx, TraceEvent{Operation: OpConnect, Connection: link})
		},
		Connected: func(on *session.Session) {
			s.counters.connections.Add(1)
			s.latestFrameMax.Store(int64(on.FrameMax()))
		},
	}
}

// confirms is how the setup publishes.
func (s *Setup) confirms() session.ConfirmConfig {
	return session.ConfirmConfig{
		Window: s.cfg.Publish.Window, Timeout: s.cfg.Publish.ConfirmTimeout, Log: s.log, Waits: s.waits, Plain: s.encodedByClient,
	}
}

// encodedByClient counts a message that could not be encoded here. One now and then means
// nothing; when it is all of them, the client has come to write them differently.
func (s *Setup) encodedByClient(always bool) {
	s.counters.plain.Add(1)
	if always && s.counters.warned.CompareAndSwap(false, true) {
		s.log.Warn("the AMQP client writes its frames in another way than this version of harebus expects;"+
			" messages arrive, but cost more CPU: use the version of the client that harebus requires, or a newer harebus",
			zap.String("client", client), zap.String("version", versionOf(client)))
	}
}

// teller tells of waits: on standard error when there is no logger.
func teller(logger *zap.Logger) wait.Teller {
	if logger == nil {
		logger = wait.OnStderr()
	}
	return wait.Teller{Log: safeLogger(logger)}
}
