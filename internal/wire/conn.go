// Package wire owns the socket below the AMQP client.
//
// The client writes to its connection while it holds a lock that every other
// call on the channel needs, once per publish and once per ack, with no
// deadline. Conn takes both problems away: Write only appends to a buffer, one
// goroutine moves the buffer to the socket, and every write to the socket has
// a deadline. While one write is under way, everything that arrives meanwhile
// forms the next one, so the number of writes falls as the load rises and
// nothing waits when it is low.
package wire

import (
	"context"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// limit is how much may wait for the socket before Room holds new
	// messages back. Write itself never waits: whoever calls Room first
	// overshoots by one message at most.
	limit = 1 << 20
	// keep is the largest buffer that is used again after it was written.
	keep = 4 << 20
	// piece is how much goes to the socket under one deadline: a slow network
	// that takes it in time is not a broken one, however much is waiting.
	piece = 64 << 10
	// closeGrace is how long Close lets what is buffered (the goodbye of the
	// AMQP connection) reach the socket.
	closeGrace = time.Second
)

// Conn is a net.Conn whose writes are gathered and bounded in time. Reads go
// straight through.
type Conn struct {
	net.Conn // reads, addresses and read deadlines

	timeout time.Duration // of one write to the socket
	wake    chan struct{} // tells the flusher that there is something to do
	done    chan struct{} // closed when the flusher has ended
	full    atomic.Bool   // limit is reached; a cheap first look for Room

	replacing sync.Mutex // held by Instead

	mu      sync.Mutex // guards everything below
	pending batch      // what Write was given, until the flusher takes it
	instead *Message   // takes the place of the next empty publish
	writing int        // bytes the flusher is writing now
	err     error      // why nothing can be written any more
	closing bool
	room    chan struct{} // closed when Room may look again; nil when nobody waits

	writes atomic.Uint64 // writes to the socket
}

// New starts the flusher for raw. Unless raw takes 64 KiB, or less if there is
// less, within timeout, the connection is broken. Close must be called.
func New(raw net.Conn, timeout time.Duration) *Conn {
	c := &Conn{
		Conn:    raw,
		timeout: timeout,
		wake:    make(chan struct{}, 1),
		done:    make(chan struct{}),
	}
	go c.flush()
	return c
}

// Write queues p and returns at once. An error means that the connection is
// broken; p may then have been sent in part or not at all.
func (c *Conn) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return 0, c.err
	}
	if c.closing {
		return 0, net.ErrClosed
	}
	c.queue(p)
	if c.pending.length+c.writing >= limit {
		c.full.Store(true)
	}
	c.signal()
	return len(p), nil
}

// Room waits until there is room for another message, the connection breaks
// (the next Write reports it) or ctx ends.
func (c *Conn) Room(ctx context.Context) error {
	for c.full.Load() {
		c.mu.Lock()
		if broken := c.err != nil || c.closing; broken || !c.full.Load() {
			c.mu.Unlock()
			return nil
		}
		if c.room == nil {
			c.room = make(chan struct{})
		}
		room := c.room
		c.mu.Unlock()
		select {
		case <-room:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}

// Waiting is how many bytes the socket has not taken yet.
func (c *Conn) Waiting() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.pending.length + c.writing
}

// Writes is the number of writes made to the socket so far.
func (c *Conn) Writes() uint64 { return c.writes.Load() }

// Close writes what is buffered, within a second, and closes the socket.
func (c *Conn) Close() error {
	c.mu.Lock()
	if !c.closing {
		c.closing = true
		_ = c.Conn.SetWriteDeadline(time.Now().Add(closeGrace)) // also ends a write that hangs
	}
	c.signal()
	c.mu.Unlock()
	<-c.done
	return c.Conn.Close()
}

// Abort closes the socket at once; what is buffered is lost. It never blocks.
func (c *Conn) Abort() error {
	c.fail(net.ErrClosed)
	return c.Conn.Close()
}

func (c *Conn) signal() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

func (c *Conn) flush() {
	defer close(c.done)
	var b batch
	for range c.wake {
		for {
			last := c.take(&b)
			if b.length == 0 {
				if last {
					return
				}
				break
			}
			if err := c.write(&b); err != nil {
				c.fail(err)
				_ = c.Conn.Close()
				return
			}
			c.written()
			b.reset()
		}
	}
}

// take swaps the pending batch for an empty one, or does nothing; last then means
// that nothing will follow.
func (c *Conn) take(b *batch) (last bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.pending.length == 0 {
		return c.closing || c.err != nil
	}
	*b, c.pending = c.pending, *b
	c.writing = b.length
	return false
}

func (c *Conn) write(b *batch) error {
	for left := b.buffers(); len(left) > 0; {
		if err := c.limitWrite(); err != nil {
			return err
		}
		c.writes.Add(1)
		parts := cut(&left, piece)
		if _, err := parts.WriteTo(c.Conn); err != nil { // one call on a TCP socket, one a part on others
			return err
		}
	}
	return nil
}

func (c *Conn) limitWrite() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closing {
		return nil // Close has set a shorter deadline already
	}
	return c.Conn.SetWriteDeadline(time.Now().Add(c.timeout))
}

func (c *Conn) written() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.writing = 0
	if c.pending.length < limit {
		c.makeRoom()
	}
}

func (c *Conn) fail(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err == nil {
		c.err = err
	}
	c.pending = batch{}
	c.makeRoom()
	c.signal()
}

// makeRoom lets those go on who wait in Room. c.mu is held.
func (c *Conn) makeRoom() {
	c.full.Store(false)
	if c.room != nil {
		close(c.room)
		c.room = nil
	}
}
