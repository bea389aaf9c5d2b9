package session

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"time"
)

// greetingTime is how long a broker may take to greet a new connection.
const greetingTime = 3 * time.Second

// Greets says whether a broker answers a new connection. It is false only if the
// broker takes the connection and then says nothing.
func (d *Dialer) Greets(ctx context.Context, address int) bool {
	ctx, cancel := context.WithTimeoutCause(ctx, greetingTime, fmt.Errorf("no connection within %v", greetingTime))
	defer cancel()
	conn, err := d.socket(ctx, HostPort(d.cfg.Addresses[address]))
	if err != nil {
		return true // which says nothing about file descriptors
	}
	defer func() { _ = conn.Close() }()
	if err := conn.SetDeadline(time.Now().Add(greetingTime)); err != nil {
		return true
	}
	if _, err := conn.Write([]byte("AMQP\x00\x00\x09\x01")); err != nil {
		return true
	}
	_, err = conn.Read(make([]byte, 1)) // a broker that wants TLS answers as well
	var late net.Error
	return !errors.Is(err, os.ErrDeadlineExceeded) && (!errors.As(err, &late) || !late.Timeout())
}
