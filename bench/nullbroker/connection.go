package nullbroker

import (
	"bufio"
	"encoding/binary"
	"io"
	"net"
	"sync"
	"time"
)

// Frame types of AMQP 0-9-1.
const (
	frameMethod    = 1
	frameHeader    = 2
	frameBody      = 3
	frameHeartbeat = 8
	frameEnd       = 0xCE
)

// readBuffer is how much is read at once, and so how many publishes share a
// confirm at most.
const readBuffer = 64 << 10

// connection is one client. serve reads; feeders and the heartbeat write too.
type connection struct {
	broker   *Broker
	conn     net.Conn
	in       *bufio.Reader
	payload  []byte // of the frame being read
	channels map[uint16]*channel
	dirty    []*channel // have unconfirmed messages
	done     chan struct{}
	wg       sync.WaitGroup

	out sync.Mutex // held while writing to conn
}

// channel is only touched by serve, but for its feed.
type channel struct {
	id        uint16
	confirms  bool
	published uint64
	confirmed uint64

	incoming  message // being read
	remaining uint64  // bytes of its body still to come

	feed *feed
}

func newConnection(b *Broker, c net.Conn) *connection {
	return &connection{
		broker: b, conn: c, in: bufio.NewReaderSize(c, readBuffer),
		channels: map[uint16]*channel{}, done: make(chan struct{}),
	}
}

// serve reads until the client goes away.
func (c *connection) serve() {
	defer c.wg.Wait()
	defer close(c.done)
	defer func() {
		for _, ch := range c.channels {
			ch.feed.end()
		}
	}()
	var preface [8]byte
	if _, err := io.ReadFull(c.in, preface[:]); err != nil {
		return
	}
	c.write(startFrame())
	c.wg.Go(c.beat)
	for {
		if c.in.Buffered() == 0 {
			c.confirmAll()
		}
		kind, id, err := c.readFrame()
		if err != nil || !c.take(kind, id) {
			return
		}
	}
}

// beat sends heartbeats: clients ask for intervals down to a second or so.
func (c *connection) beat() {
	t := time.NewTicker(500 * time.Millisecond)
	defer t.Stop()
	for {
		select {
		case <-t.C:
			c.write(frame(frameHeartbeat, 0, nil))
		case <-c.done:
			return
		}
	}
}

// readFrame leaves the payload in c.payload, which the next call overwrites.
func (c *connection) readFrame() (kind byte, id uint16, err error) {
	var head [7]byte
	if _, err := io.ReadFull(c.in, head[:]); err != nil {
		return 0, 0, err
	}
	size := int(binary.BigEndian.Uint32(head[3:]))
	if cap(c.payload) < size+1 {
		c.payload = make([]byte, size+1)
	}
	c.payload = c.payload[:size+1]
	if _, err := io.ReadFull(c.in, c.payload); err != nil {
		return 0, 0, err
	}
	c.payload = c.payload[:size]
	return head[0], binary.BigEndian.Uint16(head[1:]), nil
}

// take handles one frame and says whether to go on.
func (c *connection) take(kind byte, id uint16) bool {
	switch kind {
	case frameMethod:
		return c.method(id)
	case frameHeader:
		ch := c.channel(id)
		ch.remaining = binary.BigEndian.Uint64(c.payload[4:])
		ch.incoming.header = append(ch.incoming.header[:0], c.payload...)
		ch.incoming.body = ch.incoming.body[:0]
		c.completed(ch)
	case frameBody:
		ch := c.channel(id)
		ch.remaining -= uint64(len(c.payload))
		ch.incoming.body = append(ch.incoming.body, c.payload...)
		c.completed(ch)
	}
	return true
}

func (c *connection) channel(id uint16) *channel {
	ch := c.channels[id]
	if ch == nil {
		ch = &channel{id: id, feed: newFeed()}
		c.channels[id] = ch
	}
	return ch
}

// completed counts a message whose last byte has come. The first few of a
// channel are kept for consumers; copying all of them would cost more than
// everything else here.
func (c *connection) completed(ch *channel) {
	if ch.remaining > 0 {
		return
	}
	if ch.confirms && ch.published == ch.confirmed {
		c.dirty = append(c.dirty, ch)
	}
	ch.published++
	const kept = 4
	if ch.published <= kept {
		m := ch.incoming
		m.header = append([]byte(nil), m.header...)
		m.body = append([]byte(nil), m.body...)
		c.broker.remember(m)
	}
}

func (c *connection) confirmAll() {
	if len(c.dirty) == 0 {
		return
	}
	var frames []byte
	for _, ch := range c.dirty {
		ch.confirmed = ch.published
		frames = append(frames, confirmFrame(ch.id, ch.confirmed)...)
	}
	c.dirty = c.dirty[:0]
	c.write(frames)
}

// write sends whole frames. An error shows up in serve's next read.
func (c *connection) write(frames []byte) {
	c.out.Lock()
	defer c.out.Unlock()
	_, _ = c.conn.Write(frames)
}
