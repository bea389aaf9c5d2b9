package session

import (
	"context"
	"fmt"
	"time"
)

// greetingTime is how long a broker may take to greet a new connection.
const greetingTime = 3 * time.Second

// Greets says whether a broker answers a new connection. It is false only if the
// broker takes the connection and then says nothing. It returns when ctx ends.
func (d *Dialer) Greets(ctx context.Context, address int) bool {
	waiting, cancel := context.WithTimeoutCause(ctx, greetingTime, fmt.Errorf("no connection within %v", greetingTime))
	defer cancel()
	conn, err := d.socket(waiting, HostPort(d.cfg.Addresses[address]))
	if err != nil {
		return true // which says nothing about file descriptors
	}
	defer func() { _ = conn.Close() }()
	stop := context.AfterFunc(waiting, func() { _ = conn.Close() })
	defer stop()
	if _, err := conn.Write([]byte("AMQP\x00\x00\x09\x01")); err == nil {
		_, _ = conn.Read(make([]byte, 1)) // a broker that wants TLS answers as well
	}
	return waiting.Err() == nil || ctx.Err() != nil
}
