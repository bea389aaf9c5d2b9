// Package access turns what a command line says about the broker into the client of
// the tools, [session.Link], and into the settings of a service.
package access

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"net"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
	"go.uber.org/zap"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/internal/session"
	"github.com/harebus/harebus/internal/wait"
)

// Broker says where the broker is and who logs in. The fields mean what those of
// [harebus.Config] with the same names mean; there is at least one address.
type Broker struct {
	URLs []string
	// Username, Password and Credentials replace the login of the addresses.
	Username, Password string
	Credentials        func(context.Context) (username, password string, err error)
	ExternalAuth       bool
	TLS                *tls.Config
	Dial               func(network, address string) (net.Conn, error)
	// Name is what the broker shows of the connections. Default: "harebus".
	Name string
	// Version is that of the command. The broker shows it.
	Version string
	// RequestTimeout is how long the broker may take to answer. Default: 30 s.
	RequestTimeout time.Duration
	// Log, if not nil, reports waits.
	Log *zap.Logger
}

// Apply sets the fields of a setup's config so that it connects in the same way.
func (b Broker) Apply(cfg *harebus.Config) {
	cfg.Connect.URLs, cfg.Connect.ExternalAuth, cfg.Connect.TLS, cfg.Dial = b.URLs, b.ExternalAuth, b.TLS, b.Dial
	cfg.Connect.Username, cfg.Connect.Password, cfg.Connect.Credentials = b.Username, b.Password, b.Credentials
}

// Logger is Log, or a logger that logs nothing.
func (b Broker) Logger() *zap.Logger {
	if b.Log == nil {
		return zap.NewNop()
	}
	return b.Log
}

const (
	handshake      = 30 * time.Second // of one attempt to connect
	requestTimeout = 30 * time.Second
	writeTimeout   = 15 * time.Second
	heartbeat      = 5 * time.Second
)

// Link makes a link to the broker. It connects when it is first asked for a session.
func (b Broker) Link(name string) (*session.Link, error) {
	addresses, err := b.addresses()
	if err != nil {
		return nil, err
	}
	return session.NewLink(name, session.NewDialer(session.Config{
		Addresses: addresses, Name: cmp.Or(b.Name, "harebus"), Product: "harebus", Version: b.Version,
		TLS: b.TLS, Dial: b.Dial, ExternalAuth: b.ExternalAuth, Username: b.Username, Password: b.Password, Credentials: b.Credentials,
		Timeout: handshake, RequestTimeout: cmp.Or(b.RequestTimeout, requestTimeout), WriteTimeout: writeTimeout,
		Heartbeat: heartbeat, BackOff: wait.Default,
		Log: b.Logger(), Waits: wait.Teller{Log: b.Logger()},
	}), 0), nil
}

// addresses parses the URLs. The error does not quote one: it may hold a password.
func (b Broker) addresses() ([]amqp.URI, error) {
	uris := make([]amqp.URI, 0, len(b.URLs))
	for _, address := range b.URLs {
		uri, err := amqp.ParseURI(address)
		if err != nil {
			return nil, errors.New("the address is not of the form amqp://user:password@host:port/vhost")
		}
		uris = append(uris, uri)
	}
	return uris, nil
}
