package harebus

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/harebus/harebus/internal/wire"
)

// silentClose is how long RabbitMQ waits before it drops a connection with bad
// credentials, when the client does not ask for a reason. A connection dropped
// sooner was dropped by a broker that is going down or coming up.
const silentClose = 2500 * time.Millisecond

// dialer opens connections to any of the configured addresses.
type dialer struct {
	cfg       *Config
	addresses []amqp.URI
	waits     waiter

	mu       sync.Mutex // guards what follows
	troubles []trouble  // the latest with each address

	underClient func(net.Conn) net.Conn // wraps what the client writes to; nil but in tests
}

// distrust is how long an address that has failed is tried after the others: a
// node that is frozen costs the whole timeout each time.
const distrust = 3 * time.Minute

// dial tries every address once, so that a dead node of a cluster costs one attempt
// and not the connection.
func (d *dialer) dial(ctx context.Context, name string) (*session, error) {
	var errs []error
	for _, i := range d.order() {
		s, err := d.dialOne(ctx, d.addresses[i], name)
		if err == nil {
			s.address = i
			d.had(i, trouble{})
			return s, nil
		}
		d.had(i, trouble{unreachable: true, at: time.Now()})
		errs = append(errs, fmt.Errorf("connect to %s: %w", d.name(i), err))
		if ctx.Err() != nil {
			break
		}
	}
	return nil, errors.Join(errs...)
}

// name of an address for a person, who may not know that it is a default.
func (d *dialer) name(address int) string {
	name := hostPort(d.addresses[address])
	if d.cfg.defaultAddress {
		name += " (the default, since Config.URL is empty)"
	}
	return name
}

// trouble is what an address has done lately.
type trouble struct {
	unreachable bool // connecting failed; else a connection was lost
	at          time.Time
}

// order is the order in which the addresses are tried: by chance, but those whose
// connection was lost lately come later, and those that could not be reached last. Of
// these the one comes first whose trouble is the oldest.
func (d *dialer) order() []int {
	d.mu.Lock()
	defer d.mu.Unlock()
	order := rand.Perm(len(d.addresses))
	slices.SortStableFunc(order, func(a, b int) int {
		one, other := d.lately(a), d.lately(b)
		if one.unreachable != other.unreachable {
			if one.unreachable {
				return 1
			}
			return -1
		}
		return one.at.Compare(other.at)
	})
	return order
}

// lately is the trouble with an address, or none if that is long ago. d.mu is held.
func (d *dialer) lately(address int) trouble {
	if had := d.troubles[address]; time.Since(had.at) < distrust {
		return had
	}
	return trouble{}
}

// had notes the latest trouble with an address.
func (d *dialer) had(address int, t trouble) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.troubles[address] = t
}

// below is what the client writes to.
func (d *dialer) below(sock net.Conn) net.Conn {
	if d.underClient == nil {
		return sock
	}
	return d.underClient(sock)
}

func hostPort(uri amqp.URI) string {
	return net.JoinHostPort(uri.Host, strconv.Itoa(uri.Port))
}

func (d *dialer) dialOne(ctx context.Context, uri amqp.URI, name string) (*session, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, d.cfg.Connect.Timeout,
		fmt.Errorf("no connection within %v", d.cfg.Connect.Timeout))
	defer cancel()
	sasl, err := d.authentication(ctx, uri)
	if err != nil {
		return nil, err
	}
	raw, err := d.open(ctx, uri)
	if err != nil {
		return nil, err
	}
	// The handshake has no context of its own: ctx ends it by closing the socket.
	stop := context.AfterFunc(ctx, func() { _ = raw.Close() })
	defer stop()

	sock := wire.New(raw, d.cfg.Connect.WriteTimeout)
	started := time.Now()
	properties := amqp.NewConnectionProperties()
	properties["product"] = "harebus"
	properties["version"] = version()
	properties.SetClientConnectionName(d.cfg.ConnectionName + " " + name)
	server := &greeting{Conn: sock}
	conn, err := amqp.Open(d.below(wire.Pack(server)), amqp.Config{
		SASL:       sasl,
		Vhost:      uri.Vhost,
		FrameSize:  defaultFrameMax,
		Heartbeat:  d.heartbeat(raw),
		Properties: properties,
		Locale:     "en_US",
	})
	if err != nil {
		_ = sock.Close()
		if fault := server.fault(); fault != nil {
			return nil, fault
		}
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		if errors.Is(err, amqp.ErrCredentials) && time.Since(started) < silentClose {
			return nil, errors.New("connection dropped during the handshake")
		}
		return nil, loginFault(err)
	}
	return newSession(conn, sock, d.cfg.Connect.RequestTimeout, d.waits), nil
}

// heartbeat is the interval to ask for; 0 takes the broker's. The other end of a
// connection in memory does not vanish unnoticed.
func (d *dialer) heartbeat(conn net.Conn) time.Duration {
	if at := conn.RemoteAddr(); at != nil && at.Network() == "brokertest" && !d.cfg.ownHeartbeat {
		return 0
	}
	return d.cfg.Connect.Heartbeat
}

// open connects the socket and, for amqps, does the TLS handshake: writes are
// gathered above TLS, so it cannot be left to the client.
func (d *dialer) open(ctx context.Context, uri amqp.URI) (net.Conn, error) {
	raw, err := d.socket(ctx, hostPort(uri))
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
	_, err = apart(ctx, func() (struct{}, error) { return struct{}{}, secure.HandshakeContext(ctx) })
	if err != nil {
		_ = raw.Close()
		return nil, tlsFault(err)
	}
	return secure, nil
}

func (d *dialer) socket(ctx context.Context, address string) (net.Conn, error) {
	if d.cfg.Dial != nil {
		return dialWithin(ctx, d.cfg.Dial, address)
	}
	var dialer net.Dialer
	return dialer.DialContext(ctx, "tcp", address)
}

func (d *dialer) authentication(ctx context.Context, uri amqp.URI) ([]amqp.Authentication, error) {
	switch {
	case d.cfg.ExternalAuth:
		return []amqp.Authentication{&amqp.ExternalAuth{}}, nil
	case d.cfg.Credentials != nil:
		login, err := apart(ctx, func() (*amqp.PlainAuth, error) {
			username, password, err := d.cfg.Credentials(ctx)
			return &amqp.PlainAuth{Username: username, Password: password}, err
		})
		if err != nil {
			return nil, fmt.Errorf("fetch credentials: %w", err)
		}
		return []amqp.Authentication{login}, nil
	case d.cfg.Username != "":
		return []amqp.Authentication{&amqp.PlainAuth{Username: d.cfg.Username, Password: d.cfg.Password}}, nil
	default:
		return []amqp.Authentication{uri.PlainAuth()}, nil
	}
}

// loginFault adds to a refused login what can be done.
func loginFault(err error) error {
	var broker *amqp.Error
	switch {
	case errors.Is(err, amqp.ErrSASL):
		return fmt.Errorf("%w: the broker offers neither of PLAIN and EXTERNAL that was asked for; see its auth_mechanisms and Config.ExternalAuth", err)
	case errors.Is(err, amqp.ErrCredentials), errors.As(err, &broker) && broker.Code == amqp.AccessRefused:
		return fmt.Errorf("%w; check the user name and password (guest may log in from the broker's own host only)", err)
	default:
		return err
	}
}

// permanent says whether trying again cannot help: the broker was there and
// refused, what was asked for contradicts what exists, or there is no broker but
// something else. The end of a connection proves nothing.
func permanent(err error) bool {
	if errors.Is(err, amqp.ErrCredentials) || errors.Is(err, amqp.ErrSASL) || errors.As(err, new(*channelsError)) {
		return true
	}
	var broker *amqp.Error
	if errors.As(err, &broker) {
		return broker.Server && slices.Contains(refusals, broker.Code) && !unreachable(err) && !full(broker)
	}
	return misdirected(err)
}

// full says whether the broker has refused a connection because it has too many:
// others end, for instance those of the instances that this one replaces.
func full(err *amqp.Error) bool {
	return err.Code == amqp.NotAllowed && strings.Contains(err.Reason, "connection") && strings.Contains(err.Reason, "limit")
}

// channelsError says that the broker allows a connection fewer channels than the
// setup needs.
type channelsError struct{ needed, allowed int }

func (e *channelsError) Error() string {
	return fmt.Sprintf("the broker allows %d channels on a connection and this one needs %d:"+
		" raise the broker's channel_max, or lower Consume.Consumers or Publish.Channels", e.allowed, e.needed)
}

// refusals are the reply codes by which the broker says no for good.
var refusals = []int{amqp.AccessRefused, amqp.NotFound, amqp.ResourceLocked, amqp.PreconditionFailed, amqp.NotAllowed, amqp.NotImplemented, amqp.CommandInvalid}

// session is one connection, from dial to its end. Nothing in it is reused:
// delivery tags and confirms of one session mean nothing in another.
type session struct {
	conn     *amqp.Connection
	sock     *wire.Conn
	address  int // its place among those configured
	waits    waiter
	frameMax int           // as negotiated
	timeout  time.Duration // of one request to the broker
	closed   chan struct{} // closed when the connection has ended
	watched  chan struct{} // closed when watch has ended
	calls    sync.WaitGroup
	trial    *trial // of the messages that come first

	mu        sync.Mutex // guards what follows
	err       error      // why it ended
	closing   bool       // no new goroutines
	blocked   string     // the broker's reason, while it blocks publishers
	unblocked chan struct{}
	tell      func() // ends the reports of that
}

func newSession(conn *amqp.Connection, sock *wire.Conn, timeout time.Duration, waits waiter) *session {
	s := &session{
		conn: conn, sock: sock, frameMax: conn.Config.FrameSize, timeout: timeout, waits: waits,
		closed: make(chan struct{}), watched: make(chan struct{}),
		trial: newTrial(),
	}
	closes := conn.NotifyClose(make(chan *amqp.Error, 1))
	blocks := conn.NotifyBlocked(make(chan amqp.Blocking, 16))
	go s.watch(closes, blocks)
	return s
}

func (s *session) watch(closes <-chan *amqp.Error, blocks <-chan amqp.Blocking) {
	defer close(s.watched)
	for {
		select {
		case err := <-closes:
			s.ended(err)
			return
		case b, ok := <-blocks:
			if !ok {
				blocks = nil
				continue
			}
			s.setBlocked(b)
		}
	}
}

func (s *session) ended(err *amqp.Error) {
	s.mu.Lock()
	s.err = errors.New("connection closed")
	if err != nil {
		s.err = err
	}
	s.unblock()
	close(s.closed)
	s.mu.Unlock()
	_ = s.sock.Close()
}

func (s *session) setBlocked(b amqp.Blocking) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if b.Active {
		s.blocked = b.Reason
		if s.unblocked == nil {
			s.unblocked = make(chan struct{})
			s.tell = s.waits.while("the broker blocks publishers", func() error { return errors.New(s.blockedReason()) })
		}
		return
	}
	s.blocked = ""
	s.unblock()
}

// unblock lets publishers go on. s.mu is held.
func (s *session) unblock() {
	if s.unblocked != nil {
		close(s.unblocked)
		s.unblocked = nil
		s.tell()
	}
}

// alive says whether the connection is still up.
func (s *session) alive() bool {
	select {
	case <-s.closed:
		return false
	default:
		return !s.conn.IsClosed()
	}
}

func (s *session) cause() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err == nil {
		return errors.New("the connection is being closed")
	}
	return s.err
}

func (s *session) blockedReason() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.blocked
}

// ready waits while the broker blocks publishers. It returns nil when the session
// has ended: the publish then says so.
func (s *session) ready(ctx context.Context) error {
	s.mu.Lock()
	unblocked, reason := s.unblocked, s.blocked
	s.mu.Unlock()
	if unblocked != nil {
		select {
		case <-unblocked:
		case <-ctx.Done():
			return fmt.Errorf("the broker blocks publishers (%s): %w", reason, context.Cause(ctx))
		}
	}
	return nil
}

// room waits until the network takes another message, and for ready.
func (s *session) room(ctx context.Context) error {
	if err := s.sock.Room(ctx); err != nil {
		return err
	}
	if s.blockedReason() == "" {
		return nil
	}
	s.sock.Admit()
	if err := s.ready(ctx); err != nil {
		return wire.UnsentError{Err: err}
	}
	return nil
}

// rpc runs fn, which calls the broker and has no deadline of its own. When the
// broker does not answer in time the connection is closed: it is the only way
// to end the call. When ctx ends first, rpc returns and fn goes on without it.
func (s *session) rpc(ctx context.Context, fn func() error) error {
	return s.rpcs(ctx, func(func()) error { return fn() })
}

// rpcs is rpc for a series of requests: fn calls next before each, which then
// has the whole time of one.
func (s *session) rpcs(ctx context.Context, fn func(next func()) error) error {
	done := make(chan error, 1)
	if !s.spawn(func() { done <- s.timed(fn) }) {
		return s.cause()
	}
	defer s.waits.while("the broker to answer", func() error { return errNoAnswer })()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return fmt.Errorf("the broker has not answered: %w", context.Cause(ctx))
	}
}

// timed runs fn, and ends the connection when a request in it takes too long.
func (s *session) timed(fn func(next func()) error) error {
	late := time.AfterFunc(s.timeout, func() { _ = s.sock.Abort() })
	defer late.Stop()
	return fn(func() { late.Reset(s.timeout) })
}

// spawn starts a goroutine that close waits for. It does not when the session is
// being closed, and says so.
func (s *session) spawn(fn func()) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing {
		return false
	}
	s.calls.Go(fn)
	return true
}

// withChannel runs fn on a channel of its own, for everything that can fail: a
// failure closes the channel.
func (s *session) withChannel(ctx context.Context, fn func(*amqp.Channel) error) error {
	return s.rpc(ctx, func() error {
		ch, err := s.conn.Channel()
		if err != nil {
			return err
		}
		defer func() { _ = ch.Close() }()
		return fn(ch)
	})
}

// close says goodbye to the broker, within a second or two, and waits until
// everything that belongs to the session has ended.
func (s *session) close() {
	const goodbye = 2 * time.Second
	s.mu.Lock()
	s.closing = true
	s.mu.Unlock()
	// The deadline of the client's own is put off by every heartbeat.
	late := time.AfterFunc(goodbye, func() { _ = s.sock.Abort() })
	defer late.Stop()
	_ = s.conn.CloseDeadline(time.Now().Add(goodbye))
	_ = s.sock.Close()
	<-s.watched
	s.calls.Wait()
}
