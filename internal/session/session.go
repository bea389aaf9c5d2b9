package session

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/harebus/harebus/internal/wait"
	"github.com/harebus/harebus/internal/wire"
)

// Session is one connection, from dial to its end. Nothing in it is reused:
// delivery tags and confirms of one session mean nothing in another.
type Session struct {
	conn     *amqp.Connection
	sock     *wire.Conn
	address  int    // its place among those configured
	name     string // of the connection: that of the link, or longer
	hostPort string // of the broker
	user     string // who has logged in; empty if only the broker knows
	waits    wait.Teller
	frameMax int           // as negotiated
	timeout  time.Duration // of one request to the broker
	closed   chan struct{} // closed when the connection has ended
	watched  chan struct{} // closed when watch has ended
	calls    sync.WaitGroup
	trial    *Trial        // of the messages that come first
	spare    chan struct{} // see Spare
	blocks   chan struct{} // signalled when the broker begins or ends to block publishers

	mu        sync.Mutex // guards what follows
	err       error      // why it ended
	lost      bool       // it ended before Close was called
	closing   bool       // no new goroutines
	blocked   string     // the broker's reason, while it blocks publishers
	unblocked chan struct{}
	tell      func() // ends the reports of that
}

func newSession(conn *amqp.Connection, sock *wire.Conn, timeout time.Duration, waits wait.Teller) *Session {
	s := &Session{
		conn: conn, sock: sock, frameMax: conn.Config.FrameSize, timeout: timeout, waits: waits,
		closed: make(chan struct{}), watched: make(chan struct{}),
		trial: newTrial(), blocks: make(chan struct{}, 1),
	}
	closes := conn.NotifyClose(make(chan *amqp.Error, 1))
	blocks := conn.NotifyBlocked(make(chan amqp.Blocking, 16))
	go s.watch(closes, blocks)
	return s
}

func (s *Session) watch(closes <-chan *amqp.Error, blocks <-chan amqp.Blocking) {
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

func (s *Session) ended(err *amqp.Error) {
	s.mu.Lock()
	s.err = errors.New("connection closed")
	if err != nil {
		s.err = err
	}
	s.lost = !s.closing
	s.unblock()
	close(s.closed)
	s.mu.Unlock()
	_ = s.sock.Close()
}

func (s *Session) setBlocked(b amqp.Blocking) {
	s.mu.Lock()
	defer s.mu.Unlock()
	select {
	case s.blocks <- struct{}{}:
	default: // it has been signalled already
	}
	if b.Active {
		s.blocked = b.Reason
		if s.unblocked == nil {
			s.unblocked = make(chan struct{})
			s.tell = s.waits.While("the broker blocks publishers", func() error { return errors.New(s.BlockedReason()) })
		}
		return
	}
	s.blocked = ""
	s.unblock()
}

// unblock lets publishers continue. s.mu is held.
func (s *Session) unblock() {
	if s.unblocked != nil {
		close(s.unblocked)
		s.unblocked = nil
		s.tell()
	}
}

// Alive says whether the connection is still up.
func (s *Session) Alive() bool {
	select {
	case <-s.closed:
		return false
	default:
		return !s.conn.IsClosed()
	}
}

// Cause is why the connection has ended.
func (s *Session) Cause() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err == nil {
		return errors.New("the connection is being closed")
	}
	return s.err
}

// Lost is why the connection has ended, or nil if its owner has closed it.
func (s *Session) Lost() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.lost {
		return nil
	}
	return s.err
}

// Blocks signals that the broker has begun or ended to block publishers. It is for one
// reader.
func (s *Session) Blocks() <-chan struct{} { return s.blocks }

// Blocked says whether the broker blocks publishers, and why.
func (s *Session) Blocked() (reason string, blocked bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.blocked, s.unblocked != nil
}

// BlockedReason is why the broker blocks publishers; empty while it does not.
func (s *Session) BlockedReason() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.blocked
}

// Ready waits while the broker blocks publishers. It returns nil when the session
// has ended: the publish then says so.
func (s *Session) Ready(ctx context.Context) error {
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
func (s *Session) room(ctx context.Context) error {
	if err := s.sock.Room(ctx); err != nil {
		return err
	}
	if s.BlockedReason() == "" {
		return nil
	}
	s.sock.Admit()
	if err := s.Ready(ctx); err != nil {
		return wire.UnsentError{Err: err}
	}
	return nil
}

// RPC runs fn, which calls the broker and has no deadline of its own. When the
// broker does not answer in time the connection is closed: it is the only way
// to end the call. When ctx ends first, rpc returns and fn goes on without it.
func (s *Session) RPC(ctx context.Context, fn func() error) error {
	return s.RPCs(ctx, func(func()) error { return fn() })
}

// RPCs is rpc for a series of requests: fn calls next before each, which then
// has the whole time of one.
func (s *Session) RPCs(ctx context.Context, fn func(next func()) error) error {
	done := make(chan error, 1)
	if !s.Spawn(func() { done <- s.timed(fn) }) {
		return s.Cause()
	}
	defer s.waits.While("the broker to answer", func() error { return ErrNoAnswer })()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return fmt.Errorf("the broker has not answered: %w", context.Cause(ctx))
	}
}

// timed runs fn, and ends the connection when a request in it takes too long.
func (s *Session) timed(fn func(next func()) error) error {
	late := time.AfterFunc(s.timeout, s.Abort)
	defer late.Stop()
	return fn(func() { late.Reset(s.timeout) })
}

// Spawn starts a goroutine that close waits for. It does not when the session is
// being closed, and says so.
func (s *Session) Spawn(fn func()) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing {
		return false
	}
	s.calls.Go(fn)
	return true
}

// WithChannel runs fn on a channel of its own, for everything that can fail: a
// failure closes the channel.
func (s *Session) WithChannel(ctx context.Context, fn func(*amqp.Channel) error) error {
	return s.RPC(ctx, func() error {
		ch, err := s.conn.Channel()
		if err != nil {
			return err
		}
		defer func() { _ = ch.Close() }()
		return fn(ch)
	})
}

// Close says goodbye to the broker, within a second or two, and waits until
// everything that belongs to the session has ended.
func (s *Session) Close() {
	const goodbye = 2 * time.Second
	s.mu.Lock()
	s.closing = true
	s.mu.Unlock()
	// The client's own deadline does not help, because every heartbeat extends it.
	late := time.AfterFunc(goodbye, s.Abort)
	defer late.Stop()
	_ = s.conn.CloseDeadline(time.Now().Add(goodbye))
	_ = s.sock.Close()
	<-s.watched
	s.calls.Wait()
}

// Done is closed when the connection has ended.
func (s *Session) Done() <-chan struct{} { return s.closed }

// Abort ends the connection at once, without a word to the broker.
func (s *Session) Abort() { _ = s.sock.Abort() }

// Channel opens a channel. It has no deadline of its own: call it inside RPC.
func (s *Session) Channel() (*amqp.Channel, error) { return s.conn.Channel() }

// Version is the broker's version.
func (s *Session) Version() string {
	version, _ := s.conn.Properties["version"].(string)
	return version
}

// Spare has room for as many values as the connection allows channels beside those that
// its user needs all the time, and for 128 at most. Who opens one of these puts a value in first, and takes one
// out when it has closed it.
func (s *Session) Spare() chan struct{} { return s.spare }

// User is the name that has logged in. It is empty if only the broker knows it, which
// reads it out of a client certificate.
func (s *Session) User() string { return s.user }

// Name is the name of the connection: that of its link, or longer.
func (s *Session) Name() string { return s.name }

// HostPort is the address of the broker, without the rest of its URL.
func (s *Session) HostPort() string { return s.hostPort }

// FrameMax is the largest frame that was negotiated.
func (s *Session) FrameMax() int { return s.frameMax }

// Address is the place of the session's address among those of the dialer.
func (s *Session) Address() int { return s.address }

// Trial is the caution with the first deliveries of this session.
func (s *Session) Trial() *Trial { return s.trial }
