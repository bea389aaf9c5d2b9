package harebus_test

import (
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/harebus/harebus"
)

// TestDialHangs: a Dial that does not come back has the connect timeout like everything else, and the connection that it
// makes in the end is closed.
func TestDialHangs(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		const timeout, hangs = 2 * time.Second, time.Minute
		var dials atomic.Int64
		late := make(chan net.Conn, 1)
		s := r.setup(harebus.Config{
			URL: r.broker.URL(), Connect: harebus.ConnectConfig{Timeout: timeout},
			Dial: func(network, address string) (net.Conn, error) {
				if dials.Add(1) > 1 {
					return r.broker.Dial(network, address)
				}
				time.Sleep(hangs)
				ours, theirs := net.Pipe()
				late <- theirs
				return ours, nil
			},
		})
		began := time.Now()
		if err := s.Init(r.ctx); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(began); took < timeout || took > 2*timeout {
			t.Errorf("connected after %v", took)
		}
		if _, err := (<-late).Read(make([]byte, 1)); err == nil {
			t.Error("the late connection is open")
		}
	})
}

// TestCloseDuringDial: closing a setup does not wait for a Dial that does not come back.
func TestCloseDuringDial(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		dialing, dialed := make(chan struct{}), make(chan struct{})
		s := r.setup(harebus.Config{
			URL: r.broker.URL(),
			Dial: func(string, string) (net.Conn, error) {
				close(dialing)
				time.Sleep(time.Hour)
				close(dialed)
				return nil, net.ErrClosed
			},
		})
		sent := make(chan error, 1)
		go func() { sent <- s.Bus().Send(r.ctx, "orders", order{1}) }()
		<-dialing
		began := time.Now()
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		if took := time.Since(began); took > time.Second {
			t.Errorf("closing took %v", took)
		}
		if err := <-sent; err == nil {
			t.Error("sent without a connection")
		}
		<-dialed
	})
}
