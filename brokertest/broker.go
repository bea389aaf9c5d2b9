package brokertest

import (
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/url"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// ErrClosed is returned by calls on a closed broker.
var ErrClosed = errors.New("brokertest: broker closed")

// ErrRefused is returned by Dial while the broker refuses connections.
var ErrRefused = errors.New("brokertest: connection refused")

// Broker is an AMQP 0-9-1 broker in this process. All methods may be called
// from any goroutine.
type Broker struct {
	cfg config
	wg  sync.WaitGroup // readers, writers and accept loops

	frozen atomic.Pointer[freeze] // nil unless it is frozen; changed under mu

	mu        sync.Mutex // guards everything below: one lock, one total order
	closed    bool
	vhosts    map[string]*vhost
	conns     []*connection
	listeners []net.Listener
	clock     clock
	rand      *rand.Rand
	seq       uint64 // numbers connections and messages
	dirty     []*queue
	doomed    []*connection
	faults    []*Injection
	refusing  time.Time // connections are refused until then
	blocked   string    // reason publishers are blocked for, "" when they are not
	waiters   []*waiter
	moves     uint64 // of messages, consumers and connections
	holding   int    // frames a fault holds or delays
}

// vhost is a name space of exchanges and queues.
type vhost struct {
	name      string
	exchanges map[string]*exchange
	queues    map[string]*queue
	bindings  []*binding
}

// New starts a broker. It runs until Close and has no goroutine while no client is
// connected.
func New(opts ...Option) *Broker {
	b := &Broker{cfg: newConfig(opts), vhosts: map[string]*vhost{}}
	b.rand = rand.New(rand.NewPCG(b.cfg.seed, 0))
	b.clock.fire = b.tick
	for _, name := range b.cfg.vhosts {
		b.vhosts[name] = newVHost(name)
	}
	return b
}

func newVHost(name string) *vhost {
	v := &vhost{name: name, exchanges: map[string]*exchange{}, queues: map[string]*queue{}}
	for name, kind := range map[string]string{
		"": "direct", "amq.direct": "direct", "amq.fanout": "fanout", "amq.topic": "topic",
		"amq.headers": "headers", "amq.match": "headers",
	} {
		v.exchanges[name] = &exchange{vhost: v, name: name, kind: kind, durable: true}
	}
	v.exchanges["amq.rabbitmq.trace"] = &exchange{vhost: v, name: "amq.rabbitmq.trace", kind: "topic", durable: true, internal: true}
	return v
}

// URL returns an address with valid credentials for use with Dial. Its host and
// port have no meaning: it is the same for every broker.
func (b *Broker) URL() string {
	user := slices.Sorted(mapKeys(b.cfg.users))[0]
	if _, ok := b.cfg.users["guest"]; ok {
		user = "guest"
	}
	return b.urlFor(user, "brokertest:5672")
}

func (b *Broker) urlFor(user, host string) string {
	u := url.URL{Scheme: "amqp", Host: host, Path: "/", User: url.UserPassword(user, b.cfg.users[user])}
	return u.String()
}

// Dial opens a connection to the broker. Its signature is that of the field
// Dial of amqp091-go's Config; network and address are ignored. The connection
// is buffered memory, so it works inside a testing/synctest bubble.
func (b *Broker) Dial(network, address string) (net.Conn, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.moves++
	if err := b.mayConnect(); err != nil {
		return nil, &net.OpError{Op: "dial", Net: network, Addr: pipeAddr(address), Err: err}
	}
	b.seq++
	client, server := newPipe(fmt.Sprintf("pipe-%d", b.seq))
	b.serve(server)
	return client, nil
}

// mayConnect says why a new connection is not let in.
func (b *Broker) mayConnect() error {
	switch {
	case b.closed:
		return ErrClosed
	case time.Now().Before(b.refusing):
		return ErrRefused
	}
	return nil
}

// Listen also serves TCP on address, "127.0.0.1:0" for a free port, and returns the
// address it got. Every client that knows a password may do everything, so listen
// on loopback only.
func (b *Broker) Listen(address string) (net.Addr, error) {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return nil, fmt.Errorf("brokertest: listen: %w", err)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return nil, errors.Join(ErrClosed, l.Close())
	}
	b.listeners = append(b.listeners, l)
	b.wg.Add(1)
	go b.accept(l)
	return l.Addr(), nil
}

// accept serves what connects until the listener is closed.
func (b *Broker) accept(l net.Listener) {
	defer b.wg.Done()
	for {
		c, err := l.Accept()
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				return
			}
			continue
		}
		b.mu.Lock()
		if b.mayConnect() != nil {
			_ = c.Close() // refused: the client sees the end of the connection
		} else {
			b.seq++
			b.serve(c)
		}
		b.mu.Unlock()
	}
}

// Close ends the broker: every connection is cut, and when it returns none of
// its goroutines runs any more. A second Close does nothing.
func (b *Broker) Close() {
	b.mu.Lock()
	if !b.closed {
		b.closed = true
		b.thaw()
		for _, l := range b.listeners {
			_ = l.Close() // it was open: nothing to report
		}
		for _, c := range slices.Clone(b.conns) {
			c.terminate()
		}
		b.clock.stop()
		b.wakeWaiters()
	}
	b.mu.Unlock()
	b.wg.Wait()
}

// tick runs what is due.
func (b *Broker) tick() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed || b.frozen.Load() != nil {
		return // thaw does it
	}
	b.clock.due(time.Now())
	b.settle()
}

// settle lets every queue that changed deliver, expire and overflow until
// nothing changes any more. Every operation ends with it.
func (b *Broker) settle() {
	for len(b.dirty)+len(b.doomed) > 0 {
		if len(b.doomed) > 0 {
			c := b.doomed[0]
			b.doomed = b.doomed[1:]
			c.release()
			c.terminateAfterDrain()
			continue
		}
		q := b.dirty[0]
		b.dirty = b.dirty[1:]
		q.dirty = false
		q.run()
	}
	b.dirty, b.doomed = nil, nil
	if len(b.waiters) > 0 {
		b.wakeWaiters()
	}
}

// locked runs f as one operation.
func (b *Broker) locked(f func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	f()
	b.settle()
}

func (b *Broker) logf(format string, args ...any) {
	if b.cfg.log != nil {
		b.cfg.log(format, args...)
	}
}

// name makes a server-generated name that starts with prefix.
func (b *Broker) name(prefix string) string {
	var raw [16]byte
	binary.BigEndian.PutUint64(raw[:], b.rand.Uint64())
	binary.BigEndian.PutUint64(raw[8:], b.rand.Uint64())
	return prefix + "-" + base64.RawURLEncoding.EncodeToString(raw[:])
}

// mapKeys iterates over the keys of m.
func mapKeys[K comparable, V any](m map[K]V) func(func(K) bool) {
	return func(yield func(K) bool) {
		for k := range m {
			if !yield(k) {
				return
			}
		}
	}
}
