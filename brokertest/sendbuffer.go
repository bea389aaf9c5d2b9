package brokertest

import (
	"io"
	"sync"
)

// sendBuffer is the buffer of bytes that a connection has still to send. The broker
// appends to it and never waits; the connection's writer goroutine sends it.
type sendBuffer struct {
	mu      sync.Mutex // guards everything below; taken after the broker's lock
	cond    *sync.Cond
	buf     []byte
	writing int  // bytes handed to the transport and not yet accepted by it
	closed  bool // nothing is accepted any more; what is there is still sent
	dead    bool // nothing is sent any more
}

func newOutbox() *sendBuffer {
	o := &sendBuffer{}
	o.cond = sync.NewCond(&o.mu)
	return o
}

// push appends p and returns how many bytes wait now.
func (o *sendBuffer) push(p []byte) int {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.closed {
		return 0
	}
	o.buf = append(o.buf, p...)
	o.cond.Broadcast()
	return len(o.buf) + o.writing
}

// pending returns how many bytes wait.
func (o *sendBuffer) pending() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return len(o.buf) + o.writing
}

// finish lets the writer send what is there and end.
func (o *sendBuffer) finish() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.closed = true
	o.cond.Broadcast()
}

// kill makes the writer end without sending what is there.
func (o *sendBuffer) kill() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.closed, o.dead = true, true
	o.buf = nil
	o.cond.Broadcast()
}

// waitBelow blocks until fewer than limit bytes wait or the outbox is dead.
func (o *sendBuffer) waitBelow(limit int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for !o.dead && len(o.buf)+o.writing >= limit {
		o.cond.Wait()
	}
}

// next waits for bytes and hands them to the writer; false means the end.
func (o *sendBuffer) next(spare []byte) ([]byte, bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for len(o.buf) == 0 && !o.closed {
		o.cond.Wait()
	}
	if o.dead || len(o.buf) == 0 {
		return nil, false
	}
	p := o.buf
	o.buf = spare[:0]
	o.writing = len(p)
	return p, true
}

// sent notes that the transport took what next returned.
func (o *sendBuffer) sent() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.writing = 0
	o.cond.Broadcast()
}

const (
	outboxKeep = 256 << 10 // the largest buffer kept for reuse
	outboxStep = 64 << 10  // what one write is given
)

// write sends the outbox's bytes until it ends or the transport fails.
func (o *sendBuffer) write(conn io.Writer, drained func()) error {
	var spare []byte
	for {
		p, ok := o.next(spare)
		if !ok {
			return nil
		}
		for rest := p; len(rest) > 0; {
			n := min(len(rest), outboxStep)
			if _, err := conn.Write(rest[:n]); err != nil {
				return err
			}
			rest = rest[n:]
		}
		o.sent()
		drained()
		if spare = p; cap(spare) > outboxKeep {
			spare = nil
		}
	}
}
