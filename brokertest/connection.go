package brokertest

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net"
	"slices"
	"sync/atomic"
	"time"
)

// State of a connection, in the order of its life.
type connState int

const (
	connStarting connState = iota // start sent
	connTuning                    // tune sent
	connOpening                   // tuned
	connRunning
	connClosing // close or close-ok sent, everything released
	connClosed
)

// String is RabbitMQ's word for the state.
func (s connState) String() string {
	return [...]string{"starting", "tuning", "opening", "running", "closed", "closed"}[s]
}

// handshakeTimeout is how long a client may take until its connection is open,
// closeTimeout how long it may take to answer connection.close.
const (
	handshakeTimeout = 10 * time.Second
	closeTimeout     = 10 * time.Second
)

// connection is one client. Its reader goroutine handles what arrives, under
// the broker's lock; its writer goroutine drains the outbox.
type connection struct {
	broker *Broker
	id     uint64
	conn   net.Conn
	pipe   *pipeConn // conn when it is in memory
	out    *sendBuffer
	full   atomic.Bool // the outbox passed its soft limit and was not drained yet

	// Under the broker's lock:
	state      connState
	released   bool
	user       string
	vhost      *vhost
	props      table
	caps       table
	frameMax   uint32
	channelMax uint16
	channels   map[uint16]*channel
	owned      []*queue // exclusive queues
	handled    int64    // bytes read and handled
	received   uint64   // frames
	sentFrames uint64
	deadline   *alarm // handshake or close
	beats      [2]*alarm
	gate       chan struct{} // nothing is read until a fault closes it
	valve      chan struct{} // nothing is read until Unblock closes it
	notified   bool          // connection.blocked was sent
	scratch    encoder
	doomed     bool // it is cut when the operation ends
}

// serve takes over a new transport. The broker's lock is held.
func (b *Broker) serve(conn net.Conn) {
	c := &connection{
		broker: b, id: b.seq, conn: conn, out: newOutbox(),
		frameMax: frameMax, channels: map[uint16]*channel{},
	}
	c.pipe, _ = conn.(*pipeConn)
	b.conns = append(b.conns, c)
	c.awaitHandshake()
	b.wg.Add(2)
	go c.read()
	go c.write()
}

// awaitHandshake gives the client the time of a handshake, from now on.
func (c *connection) awaitHandshake() {
	b := c.broker
	b.clock.cancel(c.deadline)
	c.deadline = b.clock.after(handshakeTimeout, func() {
		b.logf("connection %d: handshake timed out", c.id)
		c.terminate()
	})
}

// write drains the outbox, then closes the transport.
func (c *connection) write() {
	defer c.broker.wg.Done()
	err := c.out.write(thawedWriter{c}, c.drained)
	c.out.kill()
	if cerr := c.conn.Close(); err == nil {
		err = cerr
	}
	if err != nil && !errors.Is(err, net.ErrClosed) {
		c.broker.locked(func() { c.broker.logf("connection %d: write: %v", c.id, err) })
	}
}

// drained resumes deliveries when a full outbox has room again.
func (c *connection) drained() {
	if !c.full.Load() || c.out.pending() > c.broker.cfg.outboxSoft/2 {
		return
	}
	c.broker.locked(func() {
		c.full.Store(false)
		c.touchQueues()
	})
}

// touchQueues has every queue the connection consumes from looked at.
func (c *connection) touchQueues() {
	for _, ch := range c.channels {
		ch.touchQueues()
	}
}

// congested says whether the client has more to read than is good.
func (c *connection) congested() bool { return c.doomed || c.full.Load() }

// read handles what arrives until the transport ends.
func (c *connection) read() {
	b := c.broker
	defer b.wg.Done()
	err := c.readFrames(bufio.NewReaderSize(c.conn, 32<<10))
	b.waitThaw()
	b.locked(func() {
		if err != nil && c.state < connClosing && !errors.Is(err, net.ErrClosed) {
			b.logf("connection %d: lost: %v", c.id, err)
		}
		c.terminate()
	})
}

// protocolHeader is what a client sends first.
var protocolHeader = []byte("AMQP\x00\x00\x09\x01")

func (c *connection) readFrames(r *bufio.Reader) error {
	var head [8]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return err
	}
	if !bytes.Equal(head[:], protocolHeader) {
		c.out.push(protocolHeader)
		c.linger()
		return errors.New("bad protocol header")
	}
	c.broker.waitThaw()
	c.broker.locked(func() {
		c.handled += int64(len(head))
		c.start()
	})
	for {
		f, err := readFrame(r, c.limit())
		fault := (*amqpError)(nil)
		if err != nil && !errors.As(err, &fault) {
			return err
		}
		var done bool
		c.broker.waitThaw()
		c.broker.locked(func() {
			if fault != nil {
				c.fail(fault)
			} else {
				c.frame(f)
				c.handled += int64(len(f.payload) + frameOverhead)
			}
			done = c.state == connClosed
		})
		if fault != nil {
			c.linger()
			return err
		}
		if done {
			c.drain()
			return nil
		}
		c.waitOpen()
		c.out.waitBelow(c.broker.cfg.outboxSoft)
	}
}

// drain lets the writer send what is left, so that the client sees the reason
// before the end.
func (c *connection) drain() {
	c.out.finish()
	c.out.waitBelow(1)
}

// waitOpen waits until neither a fault nor an alarm keeps the client waiting.
func (c *connection) waitOpen() {
	for {
		c.broker.mu.Lock()
		gate := c.gate
		if gate == nil {
			gate = c.valve
		}
		c.broker.mu.Unlock()
		if gate == nil {
			return
		}
		<-gate
	}
}

// lingerTime is how long a client that broke the framing may take to read why.
const lingerTime = 500 * time.Millisecond

// linger sends what is left and throws away what the client still sends: a TCP
// connection closed over unread bytes would take the last frames with it.
func (c *connection) linger() {
	c.out.waitBelow(1)
	if c.conn.SetReadDeadline(time.Now().Add(lingerTime)) == nil {
		_, _ = io.Copy(io.Discard, c.conn) // it ends with the deadline
	}
}

// limit is the largest payload the client may send.
func (c *connection) limit() uint32 {
	c.broker.mu.Lock()
	defer c.broker.mu.Unlock()
	if c.frameMax == 0 {
		return frameMax
	}
	return c.frameMax
}

// frame handles one frame. Faults decide first.
func (c *connection) frame(f frame) {
	c.received++
	if c.state == connClosed || c.doomed {
		return
	}
	var err *amqpError
	switch {
	case c.state == connClosing:
		c.frameClosing(f)
	case f.kind != frameMethod && f.kind != frameHeader && f.kind != frameBody && f.kind != frameHeartbeat:
		err = errFrame("type %d, %s: unknown_frame", f.kind, snippet(f.payload))
	case f.channel == 0:
		err = c.frameZero(f)
	case c.state != connRunning || f.kind == frameHeartbeat:
		err = errUnexpectedFrame("type %d, %s", f.kind, snippet(f.payload))
	default:
		err = c.frameChannel(f)
	}
	if err != nil {
		c.fail(err)
	}
}

// frameClosing waits for the client to agree to the end.
func (c *connection) frameClosing(f frame) {
	if f.kind != frameMethod || f.channel != 0 {
		return
	}
	switch m, _ := decodeMethod(f.payload); m.(type) {
	case *connectionClose:
		c.send(0, &connectionCloseOk{})
	case *connectionCloseOk:
		c.terminateAfterDrain()
	}
}

// frameZero handles a frame on the connection's own channel.
func (c *connection) frameZero(f frame) *amqpError {
	if f.kind == frameHeartbeat {
		return nil
	}
	if f.kind != frameMethod {
		return errUnexpectedFrame("type %d, %s", f.kind, snippet(f.payload))
	}
	m, err := decodeMethod(f.payload)
	if err != nil {
		return asAMQP(err)
	}
	v, e := c.intercept(m, 0, nil, func() { c.failed(c.method(m), m) })
	if v == verdictPass {
		e = c.method(m)
	}
	c.failed(e, m)
	return nil
}

// failed ends the connection for an error of a method; nil is none.
func (c *connection) failed(e *amqpError, m method) {
	if e == nil {
		return
	}
	if e.method == idNone {
		e.method = m.id()
	}
	c.fail(e)
}

// asAMQP returns the protocol error in err.
func asAMQP(err error) *amqpError {
	var e *amqpError
	if !errors.As(err, &e) {
		e = errFrame("%v", err)
	}
	return e
}

// method handles a method on the connection's own channel.
func (c *connection) method(m method) *amqpError {
	switch m := m.(type) {
	case *connectionStartOk:
		if c.state == connStarting {
			return c.startOK(m)
		}
	case *connectionTuneOk:
		if c.state == connTuning {
			c.tuneOK(m)
			return nil
		}
	case *connectionOpen:
		if c.state == connOpening {
			return c.open(m)
		}
	case *connectionClose:
		if c.state == connRunning {
			c.closed()
			return nil
		}
	case *connectionUpdateSecret:
		if c.state == connRunning {
			c.send(0, &connectionUpdateSecretOk{})
			return nil
		}
	}
	return errChannel("unexpected method in connection state %s", c.state)
}

// frameChannel hands a frame to its channel, which it may open.
func (c *connection) frameChannel(f frame) *amqpError {
	ch, ok := c.channels[f.channel]
	if !ok {
		if c.channelMax > 0 && len(c.channels) >= int(c.channelMax) {
			return errNotAllowed("number of channels opened (%d) has reached the negotiated channel_max (%d)", len(c.channels), c.channelMax)
		}
		ch = newChannel(c, f.channel)
		c.channels[f.channel] = ch
	}
	return ch.frame(f)
}

// closed agrees to the client's end of the connection. The transport is the
// client's to close: a heartbeat of its own that is on the way at this moment
// must not fail.
func (c *connection) closed() {
	c.release()
	c.state = connClosing
	c.send(0, &connectionCloseOk{})
	c.broker.clock.cancel(c.deadline)
	c.deadline = c.broker.clock.after(closeTimeout, c.terminate)
}

// fail ends the connection with an error the client is told.
func (c *connection) fail(e *amqpError) {
	if c.state >= connClosing {
		return
	}
	c.broker.logf("connection %d: %v", c.id, e)
	c.release()
	c.state = connClosing
	c.send(0, &connectionClose{code: e.code, text: e.text, classID: e.method.class(), methodID: e.method.method()})
	c.broker.clock.cancel(c.deadline)
	c.deadline = c.broker.clock.after(closeTimeout, c.terminate)
}

// release gives back everything the client had: its deliveries are requeued,
// its consumers and exclusive queues are gone.
func (c *connection) release() {
	if c.released {
		return
	}
	c.released = true
	c.broker.moves++
	for _, a := range c.beats {
		c.broker.clock.cancel(a)
	}
	nums := slices.Sorted(mapKeys(c.channels))
	for _, n := range nums {
		c.channels[n].release()
	}
	c.channels = map[uint16]*channel{}
	for _, q := range slices.Clone(c.owned) {
		q.remove("its connection closed")
	}
	openGate(&c.gate)
	openGate(&c.valve)
}

// openGate lets a reader go on that waits at a gate.
func openGate(gate *chan struct{}) {
	if *gate != nil {
		close(*gate)
		*gate = nil
	}
}

// terminateAfterDrain ends the connection once the outbox is sent.
func (c *connection) terminateAfterDrain() {
	c.state = connClosed
	c.broker.clock.cancel(c.deadline)
	c.out.finish()
}

// terminate ends the connection at once; the client is not told.
func (c *connection) terminate() {
	c.release()
	c.state = connClosed
	c.broker.clock.cancel(c.deadline)
	c.out.kill()
	_ = c.conn.Close() // a second Close after the writer's is no fault
	c.broker.conns = remove(c.broker.conns, c)
}

// capable says whether the client announced a capability.
func (c *connection) capable(name string) bool {
	v, _ := c.caps.lookup(name)
	return v.v == true
}

// send queues a method for the client.
func (c *connection) send(channel uint16, m method) { c.outgoing(m, channel, nil, nil) }

// sendContent queues a method with a message for the client.
// header is the message's properties as they are to be sent.
func (c *connection) sendContent(channel uint16, m method, msg *message, header []byte) {
	c.outgoing(m, channel, msg, header)
}

// encode queues a method, with a message unless msg is nil.
func (c *connection) encode(channel uint16, m method, msg *message, header []byte) {
	if c.state == connClosed || c.doomed {
		return
	}
	c.scratch.buf = c.scratch.buf[:0]
	c.scratch.method(channel, m)
	if msg != nil {
		c.scratch.content(channel, header, msg.body, c.frameMax)
	}
	c.push(c.scratch.buf)
	if cap(c.scratch.buf) > outboxKeep {
		c.scratch.buf = nil
	}
}

// push queues encoded frames. A client that lets them pile up is cut off.
func (c *connection) push(p []byte) {
	c.sentFrames++
	n := c.out.push(p)
	if n > c.broker.cfg.outboxSoft {
		c.full.Store(true)
	}
	if n > c.broker.cfg.outboxHard {
		c.broker.logf("connection %d: cut, it does not read (%d bytes wait)", c.id, n)
		c.out.kill()
		c.doom()
	}
}
