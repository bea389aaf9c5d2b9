// Package session is the one AMQP client of harebus: it connects, keeps connections
// up, publishes with confirms and settles deliveries. It knows brokers, addresses and
// channels, and no service: no queue is the service's own, no header has a meaning.
package session

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"time"

	"github.com/cenkalti/backoff/v4"
	amqp "github.com/rabbitmq/amqp091-go"
	"go.uber.org/zap"

	"github.com/harebus/harebus/internal/wait"
)

var (
	// ErrRefused says that a message cannot be sent as it is.
	ErrRefused = errors.New("refused")
	// ErrStopped says that the link was closed.
	ErrStopped = errors.New("stopped")
	// ErrNoAnswer says that the broker still has a request that was not waited for.
	ErrNoAnswer = errors.New("no answer yet")
)

// Config is how a [Dialer] connects, and whom it tells.
type Config struct {
	Addresses   []amqp.URI // at least one
	AddressNote string     // said behind an address, for a person
	Name        string     // of the connections, before that of the link
	Product     string     // what the broker shows
	Version     string     // likewise

	TLS  *tls.Config
	Dial func(network, address string) (net.Conn, error) // nil is TCP
	// One of these logs in; if none is set, the address does.
	ExternalAuth       bool
	Credentials        func(context.Context) (username, password string, err error)
	Username, Password string

	Timeout         time.Duration // of one attempt to connect
	RequestTimeout  time.Duration // of one request to the broker
	WriteTimeout    time.Duration // of one write to the socket
	Heartbeat       time.Duration
	HeartbeatAlways bool // also on a connection in memory
	BackOff         func() backoff.BackOff

	Log   *zap.Logger
	Waits wait.Teller
	// Connecting, if any, is called before each attempt to connect to an address
	// (host:port), and end with its error. The context it returns is that of the attempt.
	Connecting func(ctx context.Context, name, address string) (attempt context.Context, end func(error))
	// Connected, if any, is called with each new session.
	Connected func(*Session)
}

func (c *Config) connecting(ctx context.Context, name, address string) (context.Context, func(error)) {
	if c.Connecting == nil {
		return ctx, func(error) {}
	}
	return c.Connecting(ctx, name, address)
}

func (c *Config) connected(s *Session) {
	if c.Connected != nil {
		c.Connected(s)
	}
}
