// Package wire owns the socket below the AMQP client.
//
// The client writes to its connection while it holds a lock that every other call
// on the channel needs, once per publish and once per ack, with no deadline. Conn
// solves both problems: Write only appends to a buffer, one goroutine writes the
// buffer to the socket, and every write to the socket has a deadline. Everything
// that is appended during one write goes out with the next. So there are fewer
// writes a message when the load is high, and nothing waits when it is low.
//
// It also encodes and decodes header tables instead of the client, which is slow at
// that: see Instead and Pack.
package wire

import (
	"net"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// limit is how many bytes may wait for the socket before Instead refuses
	// messages. The buffer can exceed it by one message. Write never waits.
	limit = 1 << 20
	// keep is the largest buffer that is used again after it was written.
	keep = 4 << 20
	// piece is how much is written to the socket under one deadline. A slow network
	// that takes this much in time is not broken, however much is waiting.
	piece = 64 << 10
	// closeGrace is how long Close waits until the buffer (connection.close) has
	// been written to the socket.
	closeGrace = time.Second
)

// Conn is a net.Conn whose writes are gathered and have deadlines. Reads are passed
// on unchanged.
type Conn struct {
	net.Conn // reads, addresses and read deadlines

	timeout time.Duration // of one write to the socket
	wake    chan struct{} // tells the flusher that there is something to do
	done    chan struct{} // closed when the flusher has ended

	replacing sync.Mutex    // held by Instead
	missed    int           // publishes in a row that could not be replaced; guarded by replacing
	full      atomic.Bool   // limit is reached
	room      chan struct{} // wakes one of those in Room

	mu      sync.Mutex // guards everything below
	pending batch      // what Write was given, until the flusher takes it
	instead *Message   // takes the place of the next empty publish
	writing int        // bytes the flusher is writing now
	queued  uint64     // bytes that have been pending since the beginning
	sent    uint64     // those of them that the socket has taken
	err     error      // why nothing can be written any more
	closing bool

	writes atomic.Uint64 // writes to the socket
}

// New starts the flusher for raw. If raw does not accept 64 KiB, or all that is
// waiting, within timeout, the connection is broken. Close must be called.
func New(raw net.Conn, timeout time.Duration) *Conn {
	c := &Conn{
		Conn:    raw,
		timeout: timeout,
		wake:    make(chan struct{}, 1),
		done:    make(chan struct{}),
		room:    make(chan struct{}, 1),
	}
	go c.flush()
	return c
}

// Write queues p and returns at once. An error means that the connection is
// broken, and that p is not sent.
func (c *Conn) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.broken(); err != nil {
		return 0, err
	}
	before := c.pending.length
	c.queue(p)
	c.queued += uint64(c.pending.length - before)
	if c.pending.length+c.writing >= limit {
		c.full.Store(true)
	}
	c.signal()
	return len(p), nil
}

// Queued is how many bytes have been appended so far, as they are written to the
// socket.
func (c *Conn) Queued() uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.queued
}

// Sent is how many of them the socket has accepted.
func (c *Conn) Sent() uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.sent
}

// Writes is the number of writes made to the socket so far.
func (c *Conn) Writes() uint64 { return c.writes.Load() }

// Close writes what is buffered, within a second, and closes the socket.
func (c *Conn) Close() error {
	c.mu.Lock()
	if !c.closing {
		c.closing = true
		c.makeRoom()
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

// take replaces the pending batch by an empty one. If nothing is pending it does
// nothing, and last says whether nothing will follow.
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
	c.sent += uint64(c.writing)
	c.writing = 0
	if c.pending.length < limit {
		c.makeRoom()
	}
}

// broken says why nothing can be written. c.mu is held.
func (c *Conn) broken() error {
	if c.err == nil && c.closing {
		return net.ErrClosed
	}
	return c.err
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

// makeRoom lets waiting messages continue; if they cannot be written, they report why. c.mu is
// held.
func (c *Conn) makeRoom() {
	c.full.Store(false)
	c.Admit()
}
