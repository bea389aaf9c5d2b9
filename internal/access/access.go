// Package access connects the tools to a broker with nothing but the client: for what
// a service cannot do, such as taking messages out of its error queue.
package access

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/harebus/harebus"
)

// Broker says where the broker is and who logs in. The fields mean what those of
// [harebus.Config] with the same names mean; there is at least one address.
type Broker struct {
	URLs         []string
	ExternalAuth bool
	TLS          *tls.Config
	Dial         func(network, address string) (net.Conn, error)
	// Waiting, if any, is called with the reason whenever connecting has failed
	// and is going to be tried again.
	Waiting func(reason error)
}

// Apply has a setup connect in the same way.
func (b Broker) Apply(cfg *harebus.Config) {
	cfg.URLs, cfg.ExternalAuth, cfg.TLS, cfg.Dial = b.URLs, b.ExternalAuth, b.TLS, b.Dial
}

// A Conn is a connection whose socket can be cut: the client waits for the broker
// without a limit of its own.
type Conn struct {
	*amqp.Connection

	// Login is the user, or "" if only the broker knows: it reads the name out of a
	// client certificate.
	Login  string
	socket net.Conn
}

// Cut ends the connection at once.
func (c *Conn) Cut() { _ = c.socket.Close() }

// Use connects and calls fn. What waiting can cure, a broker that cannot be reached
// or a connection that is cut, is tried again with growing pauses until ctx ends; a
// refusal is an error at once. fn is called anew on each connection, so it must be
// something that can be repeated. When it has returned nil the connection stays open.
func (b Broker) Use(ctx context.Context, name string, fn func(*Conn) error) error {
	var reason error
	guesses := 0
	for attempt := 0; ; attempt++ {
		began := time.Now()
		err := b.once(ctx, name, b.URLs[attempt%len(b.URLs)], fn)
		guess := guessed(err) && time.Since(began) < silentClose
		if guess {
			guesses++
		}
		if err == nil || final(err) && (!guess || guesses == mostGuesses) {
			return err
		}
		var late interface{ Timeout() bool }
		if reason == nil || !errors.As(err, &late) || !late.Timeout() { // one that is cut short says less
			reason = err
		}
		if ctx.Err() == nil && b.Waiting != nil {
			b.Waiting(err)
		}
		pause := time.NewTimer(min(100*time.Millisecond<<min(attempt, 5), time.Second))
		select {
		case <-pause.C:
		case <-ctx.Done():
			pause.Stop()
			return fmt.Errorf("%w: %w", context.Cause(ctx), reason)
		}
	}
}

func (b Broker) once(ctx context.Context, name, url string, fn func(*Conn) error) error {
	conn, err := b.connect(ctx, name, url)
	if err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	stop := context.AfterFunc(ctx, conn.Cut)
	err = fn(conn)
	if stop() && err == nil {
		return nil
	}
	conn.Cut()
	if err == nil {
		err = context.Cause(ctx)
	}
	return err
}

// errAddress does not quote the address: it may hold a password.
var errAddress = errors.New("the address is not of the form amqp://user:password@host:port/vhost")

// handshake is how long one attempt to connect may take.
const handshake = 30 * time.Second

func (b Broker) connect(ctx context.Context, name, url string) (*Conn, error) {
	uri, err := amqp.ParseURI(url)
	if err != nil {
		return nil, errAddress
	}
	conn := &Conn{Login: uri.Username}
	ctx, cancel := context.WithTimeout(ctx, handshake)
	defer cancel()
	cfg := amqp.Config{
		Heartbeat: 5 * time.Second, Properties: amqp.NewConnectionProperties(), TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12},
		Dial: func(network, address string) (net.Conn, error) {
			socket, err := b.dial(ctx, network, address)
			if err != nil {
				return nil, err
			}
			conn.socket = socket
			deadline, _ := ctx.Deadline()
			return socket, socket.SetDeadline(deadline) // the client lifts it after the handshake
		},
	}
	if b.TLS != nil {
		cfg.TLSClientConfig = b.TLS.Clone()
		cfg.TLSClientConfig.MinVersion = max(cfg.TLSClientConfig.MinVersion, tls.VersionTLS12)
	}
	if b.ExternalAuth {
		conn.Login, cfg.SASL = "", []amqp.Authentication{&amqp.ExternalAuth{}}
	}
	cfg.Properties.SetClientConnectionName(name)
	conn.Connection, err = amqp.DialConfig(url, cfg)
	return conn, err
}

func (b Broker) dial(ctx context.Context, network, address string) (net.Conn, error) {
	if b.Dial != nil {
		return b.Dial(network, address)
	}
	return (&net.Dialer{}).DialContext(ctx, network, address)
}

// guessed says whether the client reads a refusal of the login or of the virtual host
// from nothing but the end of the connection, which may have been cut.
func guessed(err error) bool {
	return errors.Is(err, amqp.ErrCredentials) || errors.Is(err, amqp.ErrVhost)
}

const (
	// silentClose is shorter than the pause with which RabbitMQ and the in-process broker refuse
	// a login without a word; a connection that is cut ends at once.
	silentClose = 900 * time.Millisecond
	// mostGuesses is how many such refusals at once are taken for one.
	mostGuesses = 3
)

// final says whether err is a refusal: an answer of the broker that waiting does not
// change, or an address or a certificate that is wrong.
func final(err error) bool {
	if broker, ok := errors.AsType[*amqp.Error](err); ok {
		switch broker.Code {
		case amqp.ConnectionForced, amqp.FrameError, amqp.ChannelError: // it goes down, or was cut
			return false
		}
		return true
	}
	var (
		record  tls.RecordHeaderError
		alert   tls.AlertError
		checked *tls.CertificateVerificationError
		unknown x509.UnknownAuthorityError
	)
	return errors.Is(err, errAddress) || errors.As(err, &record) || errors.As(err, &alert) || errors.As(err, &checked) || errors.As(err, &unknown)
}
