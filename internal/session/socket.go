package session

import (
	"context"
	"crypto/tls"
	"errors"
	"net"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/harebus/harebus/internal/foreign"
)

// open connects the socket and, for amqps, does the TLS handshake: writes are
// gathered above TLS, so it cannot be left to the client.
func (d *Dialer) open(ctx context.Context, uri amqp.URI) (net.Conn, error) {
	raw, err := d.socket(ctx, HostPort(uri))
	if err != nil || uri.Scheme != "amqps" {
		return raw, err
	}
	cfg := d.cfg.TLS.Clone()
	if cfg == nil {
		cfg = &tls.Config{MinVersion: tls.VersionTLS12}
	}
	if cfg.MinVersion < tls.VersionTLS12 {
		cfg.MinVersion = tls.VersionTLS12
	}
	if cfg.ServerName == "" {
		cfg.ServerName = uri.Host
	}
	secure := tls.Client(raw, cfg)
	// The functions in cfg are foreign code.
	_, err = foreign.Apart(ctx, func() (struct{}, error) { return struct{}{}, secure.HandshakeContext(ctx) })
	if err != nil {
		_ = raw.Close()
		return nil, tlsFault(err)
	}
	return secure, nil
}

func (d *Dialer) socket(ctx context.Context, address string) (net.Conn, error) {
	if d.cfg.Dial != nil {
		return dialWithin(ctx, d.cfg.Dial, address)
	}
	var dialer net.Dialer
	return dialer.DialContext(ctx, "tcp", address)
}

// dialWithin calls a dial function without a context, and stops waiting for it when ctx ends. So an
// address that does not answer cannot keep others from being tried, nor a setup from closing. A
// connection that comes later is closed.
func dialWithin(ctx context.Context, dial func(network, address string) (net.Conn, error), address string) (net.Conn, error) {
	type outcome struct {
		conn net.Conn
		err  error
	}
	dialed := make(chan outcome)
	go func() { // ends when dial does
		var conn net.Conn
		foreign.Conclude(func() (err error) {
			if conn, err = dial("tcp", address); err == nil && conn == nil {
				err = errors.New("Config.Dial returned neither a connection nor an error")
			}
			return err
		}, func(err error) {
			select {
			case dialed <- outcome{conn, err}:
			case <-ctx.Done():
				if err == nil {
					_ = conn.Close()
				}
			}
		})
	}()
	select {
	case d := <-dialed:
		return d.conn, d.err
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}
