// Package nullbroker is a broker that does nothing, as fast as it can: it
// completes the AMQP 0-9-1 handshake, grants every request, confirms every
// publish and throws the message away. What a client reaches against it is the
// client's own ceiling.
//
// Confirms are coalesced: one with the multiple flag for everything that came in
// one read, as a fast broker does. A consumer of queue Q is fed, without end and
// within its prefetch, copies of a message published with routing key Q before:
// the last one that was among the first few of its channel.
//
// It keeps no promise of a real broker and checks nothing. Tests of behaviour
// belong on package brokertest or on RabbitMQ.
package nullbroker

import (
	"errors"
	"fmt"
	"net"
	"sync"
)

// frameMax is the frame size that is offered, RabbitMQ's own.
const frameMax = 131072

// Broker serves any number of connections. Close ends them all.
type Broker struct {
	listener net.Listener
	wg       sync.WaitGroup

	mu     sync.Mutex // guards what follows
	conns  map[net.Conn]struct{}
	last   map[string]message // by routing key
	closed bool
}

// message is what was published, as it goes back to a consumer.
type message struct {
	exchange, key string
	header        []byte // payload of the content header frame
	body          []byte // whole body frames' payloads, joined
}

// Listen starts a broker on address, "127.0.0.1:0" for any free port.
func Listen(address string) (*Broker, error) {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return nil, fmt.Errorf("nullbroker: listen: %w", err)
	}
	b := &Broker{listener: l, conns: map[net.Conn]struct{}{}, last: map[string]message{}}
	b.wg.Go(b.accept)
	return b, nil
}

// Address is what the broker listens on.
func (b *Broker) Address() string { return b.listener.Addr().String() }

// URL is the address as clients want it; any user and password will do.
func (b *Broker) URL() string { return "amqp://guest:guest@" + b.Address() + "/" }

// Close ends all connections and waits for their goroutines.
func (b *Broker) Close() error {
	b.mu.Lock()
	b.closed = true
	for c := range b.conns {
		_ = c.Close()
	}
	b.mu.Unlock()
	err := b.listener.Close()
	b.wg.Wait()
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

func (b *Broker) accept() {
	for {
		c, err := b.listener.Accept()
		if err != nil {
			return
		}
		if !b.admit(c) {
			_ = c.Close()
			return
		}
		b.wg.Go(func() {
			defer b.dismiss(c)
			newConnection(b, c).serve()
		})
	}
}

func (b *Broker) admit(c net.Conn) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return false
	}
	b.conns[c] = struct{}{}
	return true
}

func (b *Broker) dismiss(c net.Conn) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.conns, c)
	_ = c.Close()
}

func (b *Broker) remember(m message) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.last[m.key] = m
}

func (b *Broker) recall(queue string) (message, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	m, ok := b.last[queue]
	return m, ok
}
