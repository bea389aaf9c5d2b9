package session

import (
	"context"
	"errors"
	"net"

	"github.com/harebus/harebus/internal/guard"
)

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
		guard.Conclude(func() (err error) {
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
