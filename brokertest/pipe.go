package brokertest

import (
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// pipeBuffer is what each direction of an in-process connection holds before a
// write waits for the reader, like the socket buffers of a loopback connection.
const pipeBuffer = 256 << 10

// pipeAddr is the address both ends of an in-process connection report.
type pipeAddr string

func (pipeAddr) Network() string  { return "brokertest" }
func (a pipeAddr) String() string { return string(a) }

// pipeConn is one end of a buffered in-process connection. Unlike net.Pipe a
// write returns as soon as the bytes fit into the buffer, so two sides that
// write at the same time do not deadlock.
type pipeConn struct {
	in, out       *pipeHalf
	local, remote pipeAddr
}

// newPipe returns the client's and the broker's end of a connection.
func newPipe(name string) (client, broker *pipeConn) {
	up, down := newPipeHalf(), newPipeHalf()
	c, b := pipeAddr(name), pipeAddr("broker")
	return &pipeConn{in: down, out: up, local: c, remote: b},
		&pipeConn{in: up, out: down, local: b, remote: c}
}

func (c *pipeConn) Read(p []byte) (int, error)  { return c.in.read(p) }
func (c *pipeConn) Write(p []byte) (int, error) { return c.out.write(p) }
func (c *pipeConn) LocalAddr() net.Addr         { return c.local }
func (c *pipeConn) RemoteAddr() net.Addr        { return c.remote }

// Close ends both directions: the peer still reads what was written before.
func (c *pipeConn) Close() error {
	c.out.closeWrite()
	c.in.closeRead()
	return nil
}

func (c *pipeConn) SetDeadline(t time.Time) error {
	c.in.setReadDeadline(t)
	c.out.setWriteDeadline(t)
	return nil
}

func (c *pipeConn) SetReadDeadline(t time.Time) error {
	c.in.setReadDeadline(t)
	return nil
}

func (c *pipeConn) SetWriteDeadline(t time.Time) error {
	c.out.setWriteDeadline(t)
	return nil
}

// pipeHalf is one direction.
type pipeHalf struct {
	written atomic.Int64 // bytes ever accepted, read by WaitQuiet

	mu            sync.Mutex // guards everything below
	cond          *sync.Cond
	buf           []byte
	off           int
	readClosed    bool
	writeClosed   bool
	readDeadline  deadline
	writeDeadline deadline
}

// deadline wakes the waiters of a half when it passes.
type deadline struct {
	at    time.Time
	timer *time.Timer
}

func (d *deadline) passed() bool { return !d.at.IsZero() && !time.Now().Before(d.at) }

func newPipeHalf() *pipeHalf {
	h := &pipeHalf{}
	h.cond = sync.NewCond(&h.mu)
	return h
}

func (h *pipeHalf) read(p []byte) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for {
		switch {
		case h.readClosed:
			return 0, net.ErrClosed
		case h.readDeadline.passed():
			return 0, os.ErrDeadlineExceeded
		case len(h.buf) > h.off:
			n := copy(p, h.buf[h.off:])
			if h.off += n; h.off == len(h.buf) {
				h.buf, h.off = h.buf[:0], 0
			}
			h.cond.Broadcast()
			return n, nil
		case h.writeClosed:
			return 0, io.EOF
		case len(p) == 0:
			return 0, nil
		}
		h.wait(&h.readDeadline)
	}
}

func (h *pipeHalf) write(p []byte) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	done := 0
	for {
		switch {
		case h.writeClosed:
			return done, net.ErrClosed
		case h.readClosed:
			return done, io.ErrClosedPipe
		case h.writeDeadline.passed():
			return done, os.ErrDeadlineExceeded
		}
		if room := pipeBuffer - (len(h.buf) - h.off); room > 0 && done < len(p) {
			n := min(room, len(p)-done)
			h.append(p[done : done+n])
			done += n
			h.written.Add(int64(n))
			h.cond.Broadcast()
		}
		if done == len(p) {
			return done, nil
		}
		h.wait(&h.writeDeadline)
	}
}

// append moves the unread bytes to the front when that saves growing.
func (h *pipeHalf) append(p []byte) {
	if h.off > 0 && len(h.buf)+len(p) > cap(h.buf) {
		n := copy(h.buf, h.buf[h.off:])
		h.buf, h.off = h.buf[:n], 0
	}
	h.buf = append(h.buf, p...)
}

func (h *pipeHalf) closeWrite() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.writeClosed = true
	h.writeDeadline.stop()
	h.cond.Broadcast()
}

func (h *pipeHalf) closeRead() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.readClosed = true
	h.buf, h.off = nil, 0
	h.readDeadline.stop()
	h.cond.Broadcast()
}

func (h *pipeHalf) setReadDeadline(t time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.readClosed {
		h.setDeadline(&h.readDeadline, t)
	}
}

func (h *pipeHalf) setWriteDeadline(t time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.writeClosed {
		h.setDeadline(&h.writeDeadline, t)
	}
}

func (h *pipeHalf) setDeadline(d *deadline, t time.Time) {
	d.stop()
	d.at = t
	h.cond.Broadcast()
}

// wait waits for a change or for d. Only a waiter needs the timer.
func (h *pipeHalf) wait(d *deadline) {
	if !d.at.IsZero() && d.timer == nil {
		d.timer = time.AfterFunc(time.Until(d.at), func() {
			h.mu.Lock()
			defer h.mu.Unlock()
			h.cond.Broadcast()
		})
	}
	h.cond.Wait()
}

func (d *deadline) stop() {
	if d.timer != nil {
		d.timer.Stop()
		d.timer = nil
	}
}
