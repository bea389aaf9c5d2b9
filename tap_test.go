package harebus_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net"
	"sync"
	"time"
)

// tap records what a setup writes to its sockets. It has a frame decoder of its
// own, so that what it reports owes nothing to the code under test.
type tap struct {
	dial func(network, address string) (net.Conn, error)

	mu    sync.Mutex // guards what follows
	conns []*tappedConn
	rate  int // bytes a second that the network takes; 0 is no limit
}

// Dial is for Config.Dial.
func (p *tap) Dial(network, address string) (net.Conn, error) {
	raw, err := p.dial(network, address)
	if err != nil {
		return nil, err
	}
	c := &tappedConn{Conn: raw, tap: p, closed: make(chan struct{})}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.conns = append(p.conns, c)
	return c, nil
}

// dialed is the number of connections opened so far.
func (p *tap) dialed() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.conns)
}

// count is how often a piece of bytes has been written.
func (p *tap) count(piece []byte) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := 0
	for _, c := range p.conns {
		n += bytes.Count(c.written, piece)
	}
	return n
}

type tappedConn struct {
	net.Conn
	tap     *tap
	closing sync.Once
	closed  chan struct{}
	written []byte // guarded by tap.mu
}

func (c *tappedConn) Close() error {
	c.closing.Do(func() { close(c.closed) })
	return c.Conn.Close()
}

func (c *tappedConn) Write(b []byte) (int, error) {
	c.tap.mu.Lock()
	c.written = append(c.written, b...)
	rate := c.tap.rate
	c.tap.mu.Unlock()
	if rate > 0 {
		select {
		case <-time.After(time.Duration(len(b)) * time.Second / time.Duration(rate)):
		case <-c.closed: // as a socket
		}
	}
	return c.Conn.Write(b)
}

// throttle limits how many bytes a second the network takes; 0 ends that.
func (p *tap) throttle(rate int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.rate = rate
}

// published is one basic.publish as it was on the wire. Values carry the name or
// the letter of their type: "shortstr:utf-8", "S:command", "b:1".
type published struct {
	exchange, key string
	mandatory     bool
	properties    map[string]string
	headers       map[string]string
	headerFrame   int // bytes of its payload
	body          []byte
}

// publishes decodes everything published so far, in order within a connection.
func (p *tap) publishes() ([]published, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	var all []published
	for _, c := range p.conns {
		some, err := decodeStream(c.written)
		if err != nil {
			return nil, err
		}
		all = append(all, some...)
	}
	return all, nil
}

// decodeStream reads the client's half of a connection.
func decodeStream(stream []byte) ([]published, error) {
	const protocolHeader = 8
	if len(stream) < protocolHeader {
		return nil, nil
	}
	r := &wireReader{buf: stream[protocolHeader:]}
	open := map[uint16]*published{} // by channel: whose body is still coming
	left := map[uint16]uint64{}
	var done []published
	for len(r.buf) > 0 && r.err == nil {
		kind, channel := r.u8(), r.u16()
		payload := &wireReader{buf: r.bytes(int(r.u32()))}
		if end := r.u8(); end != 0xCE {
			return nil, fmt.Errorf("frame end %#x", end)
		}
		switch kind {
		case 1:
			if payload.u16() == 60 && payload.u16() == 40 {
				payload.u16()
				m := &published{exchange: payload.short(), key: payload.short()}
				m.mandatory = payload.u8()&1 == 1
				open[channel] = m
			}
		case 2:
			m := open[channel]
			m.headerFrame = len(payload.buf)
			payload.bytes(4)
			left[channel] = payload.u64()
			m.properties, m.headers = payload.contentProperties()
		case 3:
			m := open[channel]
			m.body = append(m.body, payload.buf...)
			left[channel] -= uint64(len(payload.buf))
			payload.buf = nil
		default:
			continue
		}
		if payload.err != nil {
			return nil, payload.err
		}
		if m := open[channel]; m != nil && m.properties != nil && left[channel] == 0 {
			done = append(done, *m)
			delete(open, channel)
		}
	}
	return done, r.err
}

// wireReader reads AMQP primitives. The first fault sticks.
type wireReader struct {
	buf []byte
	err error
}

func (r *wireReader) bytes(n int) []byte {
	if n < 0 || n > len(r.buf) {
		if r.err == nil {
			r.err = fmt.Errorf("%d bytes wanted, %d left", n, len(r.buf))
		}
		r.buf = nil
		return make([]byte, max(0, min(n, 8)))
	}
	b := r.buf[:n]
	r.buf = r.buf[n:]
	return b
}

func (r *wireReader) u8() uint8     { return r.bytes(1)[0] }
func (r *wireReader) u16() uint16   { return binary.BigEndian.Uint16(r.bytes(2)) }
func (r *wireReader) u32() uint32   { return binary.BigEndian.Uint32(r.bytes(4)) }
func (r *wireReader) u64() uint64   { return binary.BigEndian.Uint64(r.bytes(8)) }
func (r *wireReader) short() string { return string(r.bytes(int(r.u8()))) }
func (r *wireReader) long() []byte  { return bytes.Clone(r.bytes(int(r.u32()))) }

// contentProperties reads the property flags and what they announce.
func (r *wireReader) contentProperties() (properties, headers map[string]string) {
	properties, headers = map[string]string{}, map[string]string{}
	flags := r.u16()
	for i, p := range []struct{ name, kind string }{
		{"content_type", "shortstr"}, {"content_encoding", "shortstr"}, {"headers", "table"},
		{"delivery_mode", "octet"}, {"priority", "octet"}, {"correlation_id", "shortstr"},
		{"reply_to", "shortstr"}, {"expiration", "shortstr"}, {"message_id", "shortstr"},
		{"timestamp", "timestamp"}, {"type", "shortstr"}, {"user_id", "shortstr"},
		{"app_id", "shortstr"}, {"cluster_id", "shortstr"},
	} {
		if flags&(1<<(15-i)) == 0 {
			continue
		}
		switch p.kind {
		case "shortstr":
			properties[p.name] = "shortstr:" + r.short()
		case "octet":
			properties[p.name] = fmt.Sprintf("octet:%d", r.u8())
		case "timestamp":
			properties[p.name] = fmt.Sprintf("timestamp:%d", r.u64())
		default:
			headers = r.table()
		}
	}
	return properties, headers
}

func (r *wireReader) table() map[string]string {
	in := &wireReader{buf: r.long()}
	out := map[string]string{}
	for len(in.buf) > 0 && in.err == nil {
		key := in.short()
		out[key] = in.field()
	}
	if r.err == nil {
		r.err = in.err
	}
	return out
}

// field reads a value as its type letter and text.
func (r *wireReader) field() string {
	kind := r.u8()
	var v any
	switch kind {
	case 't':
		v = r.u8() != 0
	case 'b':
		v = int8(r.u8())
	case 'B':
		v = r.u8()
	case 's':
		v = int16(r.u16())
	case 'u':
		v = r.u16()
	case 'I':
		v = int32(r.u32())
	case 'i', 'f':
		v = r.u32()
	case 'l':
		v = int64(r.u64())
	case 'd', 'T':
		v = r.u64()
	case 'D':
		v = fmt.Sprint(r.u8(), int32(r.u32()))
	case 'S':
		v = string(r.long())
	case 'x':
		v = fmt.Sprintf("%x", r.long())
	case 'F':
		v = r.table()
	case 'A':
		in := &wireReader{buf: r.long()}
		var list []string
		for len(in.buf) > 0 && in.err == nil {
			list = append(list, in.field())
		}
		v = list
	case 'V':
		v = nil
	default:
		r.err = fmt.Errorf("field type %q", kind)
	}
	return fmt.Sprintf("%c:%v", kind, v)
}
