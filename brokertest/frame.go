package brokertest

import (
	"encoding/binary"
	"fmt"
	"io"
)

// Frame types and sizes of AMQP 0-9-1.
const (
	frameMethod    = 1
	frameHeader    = 2
	frameBody      = 3
	frameHeartbeat = 8
	frameEnd       = 0xCE

	frameOverhead = 8 // type, channel, size and end octet
	frameMin      = 4096
	frameMax      = 131072
)

// frame is one frame as read from a client.
type frame struct {
	kind    uint8
	channel uint16
	payload []byte
}

// readFrame reads one frame whose payload is at most limit bytes. A frame that
// breaks the rules is an *amqpError, everything else an error of the transport.
func readFrame(r io.Reader, limit uint32) (frame, error) {
	var head [7]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return frame{}, err
	}
	f := frame{kind: head[0], channel: binary.BigEndian.Uint16(head[1:])}
	size := binary.BigEndian.Uint32(head[3:])
	if size > limit {
		return f, errFrame("type %d, all octets = <<>>: {frame_too_large,%d,%d}", f.kind, size, limit-frameOverhead)
	}
	f.payload = make([]byte, size+1)
	if _, err := io.ReadFull(r, f.payload); err != nil {
		return f, err
	}
	if end := f.payload[size]; end != frameEnd {
		return f, errFrame("type %d, %s: {invalid_frame_end_marker,%d}", f.kind, snippet(f.payload[:size]), end)
	}
	f.payload = f.payload[:size]
	return f, nil
}

// snippet describes the start of a payload the way the broker logs it.
func snippet(p []byte) string {
	if len(p) <= 16 {
		return fmt.Sprintf("all octets = %v", p)
	}
	return fmt.Sprintf("first 16 octets = %v", p[:16])
}

// appendFrame appends a frame whose payload body writes.
func (e *encoder) frame(kind uint8, channel uint16, body func()) {
	e.u8(kind)
	e.u16(channel)
	e.sized(body)
	e.u8(frameEnd)
}

// method appends a method frame.
func (e *encoder) method(channel uint16, m method) {
	e.frame(frameMethod, channel, func() {
		e.u32(uint32(m.id()))
		m.fields(e)
	})
}

// content appends the header and body frames of a message.
func (e *encoder) content(channel uint16, header, body []byte, limit uint32) {
	e.frame(frameHeader, channel, func() {
		e.u16(classBasic)
		e.u16(0)
		e.u64(uint64(len(body)))
		e.buf = append(e.buf, header...)
	})
	step := len(body)
	if limit > 0 {
		step = int(limit) - frameOverhead
	}
	for len(body) > 0 {
		n := min(step, len(body))
		part := body[:n]
		e.frame(frameBody, channel, func() { e.buf = append(e.buf, part...) })
		body = body[n:]
	}
}

// contentHeader is a decoded header frame.
type contentHeader struct {
	class uint16
	size  uint64
	props properties
}

// decodeHeader reads the payload of a header frame.
func decodeHeader(payload []byte) (contentHeader, error) {
	d := decoder{buf: payload}
	h := contentHeader{class: d.u16()}
	d.u16() // weight
	h.size = d.u64()
	h.props.decode(&d)
	if d.err == nil && len(d.buf) > 0 {
		d.fail("%d octets after the properties", len(d.buf))
	}
	return h, d.err
}
