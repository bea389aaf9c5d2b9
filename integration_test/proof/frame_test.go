package proof_test

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
)

// A method is a class and a method of AMQP 0-9-1.
type method struct{ Class, Number uint16 }

// The methods that the proxy looks into, or that a test breaks.
var (
	connectionStartOk = method{10, 11}
	channelOpen       = method{20, 10}
	channelClose      = method{20, 40}
	confirmSelect     = method{85, 10}
	basicQosOk        = method{60, 11}
	basicPublish      = method{60, 40}
	basicReturn       = method{60, 50}
	basicDeliver      = method{60, 60}
	basicGetOk        = method{60, 71}
	basicAck          = method{60, 80}
	basicNack         = method{60, 120}
)

// hasContent says whether a header and a body follow.
func (m method) hasContent() bool {
	return m == basicPublish || m == basicReturn || m == basicDeliver || m == basicGetOk
}

// A unit is a method with all of its content, or a heartbeat, or the first bytes of a connection: what is forwarded,
// or broken, as one.
type unit struct {
	method   method // zero if it is none
	channel  uint16
	frames   [][]byte
	tag      uint64 // of an ack, a nack and a delivery; a publish in confirm mode gets its number here
	multiple bool   // of an ack and a nack

	messageID   string
	redelivered bool // of a delivery
	failures    int  // by the header that counts them
	fate        action
}

// The kinds of frames, and what surrounds a payload.
const (
	methodFrame, headerFrame, bodyFrame = 1, 2, 3

	frameHead = 7 // kind, channel and size
	frameEnd  = 0xCE
)

// An assembler reads one direction of a connection and puts the frames of each content together, which may come
// between those of another channel.
type assembler struct {
	from *bufio.Reader
	open map[uint16]*unit
	left map[uint16]uint64 // how much of the body is still to come
}

func newAssembler(from io.Reader) *assembler {
	return &assembler{from: bufio.NewReader(from), open: map[uint16]*unit{}, left: map[uint16]uint64{}}
}

// greeting reads what a client sends before its first frame.
func (a *assembler) greeting() (*unit, error) {
	b := make([]byte, len("AMQP0091"))
	_, err := io.ReadFull(a.from, b)
	return &unit{frames: [][]byte{b}}, err
}

// next returns the next unit that is complete.
func (a *assembler) next() (*unit, error) {
	for {
		frame, err := a.frame()
		if err != nil {
			return nil, err
		}
		if u, err := a.add(frame); u != nil || err != nil {
			return u, err
		}
	}
}

func (a *assembler) frame() ([]byte, error) {
	head, err := a.from.Peek(frameHead)
	if err != nil {
		return nil, err
	}
	frame := make([]byte, frameHead+int(binary.BigEndian.Uint32(head[3:]))+1)
	if _, err := io.ReadFull(a.from, frame); err != nil {
		return nil, err
	}
	if frame[len(frame)-1] != frameEnd {
		return nil, fmt.Errorf("a frame of kind %d ends in %x", frame[0], frame[len(frame)-1])
	}
	return frame, nil
}

// add returns the unit that the frame completes, if it does.
func (a *assembler) add(frame []byte) (*unit, error) {
	channel, payload := binary.BigEndian.Uint16(frame[1:]), frame[frameHead:len(frame)-1]
	if frame[0] == methodFrame {
		u, err := readMethod(channel, frame, payload)
		if err != nil || !u.method.hasContent() {
			return u, err
		}
		a.open[channel] = u
		return nil, nil //nolint:nilnil // not complete yet
	}
	if frame[0] != headerFrame && frame[0] != bodyFrame {
		return &unit{channel: channel, frames: [][]byte{frame}}, nil
	}
	u := a.open[channel]
	if u == nil {
		return nil, fmt.Errorf("content without a method on channel %d", channel)
	}
	u.frames = append(u.frames, frame)
	if frame[0] == headerFrame {
		a.left[channel] = binary.BigEndian.Uint64(payload[4:])
		u.readHeader(payload[12:])
	} else {
		a.left[channel] -= uint64(len(payload))
	}
	if a.left[channel] > 0 {
		return nil, nil //nolint:nilnil // not complete yet
	}
	delete(a.open, channel)
	return u, nil
}

func readMethod(channel uint16, frame, payload []byte) (*unit, error) {
	u := &unit{channel: channel, frames: [][]byte{frame}}
	r := fields{rest: payload}
	u.method = method{r.u16(), r.u16()}
	switch u.method {
	case basicAck, basicNack:
		u.tag = r.u64()
		u.multiple = r.u8()&1 != 0
	case basicDeliver:
		r.short() // the consumer
		u.tag = r.u64()
		u.redelivered = r.u8() != 0
	}
	return u, r.err
}

// readHeader finds the message id among the properties, and the count of failures among the headers.
func (u *unit) readHeader(properties []byte) {
	r := fields{rest: properties}
	flags := r.u16()
	has := func(n int) bool { return flags&(1<<(15-n)) != 0 }
	for n := range 8 { // those before the message id
		switch {
		case !has(n):
		case n == 2:
			u.failures = failuresIn(r.take(int(r.u32())))
		case n == 3 || n == 4:
			r.u8()
		default:
			r.short()
		}
	}
	if has(8) {
		u.messageID = r.short()
	}
}

// failuresIn looks for the count that the library writes in the smallest type that holds it.
func failuresIn(table []byte) int {
	_, value, found := bytes.Cut(table, []byte("PikaBus.ErrorRetries"))
	if !found || len(value) < 2 || value[0] != 'b' {
		return 0
	}
	return int(value[1])
}

// fields reads the fields of a payload; the first error sticks.
type fields struct {
	rest []byte
	err  error
}

func (r *fields) take(n int) []byte {
	if n > len(r.rest) {
		r.err = fmt.Errorf("%d bytes wanted, %d left", n, len(r.rest))
		return make([]byte, n)
	}
	b := r.rest[:n]
	r.rest = r.rest[n:]
	return b
}

func (r *fields) u8() uint8     { return r.take(1)[0] }
func (r *fields) u16() uint16   { return binary.BigEndian.Uint16(r.take(2)) }
func (r *fields) u32() uint32   { return binary.BigEndian.Uint32(r.take(4)) }
func (r *fields) u64() uint64   { return binary.BigEndian.Uint64(r.take(8)) }
func (r *fields) short() string { return string(r.take(int(r.u8()))) }

// newMethod makes the frame of a method.
func newMethod(channel uint16, m method, arguments []byte) []byte {
	b := []byte{methodFrame}
	b = binary.BigEndian.AppendUint16(b, channel)
	b = binary.BigEndian.AppendUint32(b, uint32(4+len(arguments)))
	b = binary.BigEndian.AppendUint16(b, m.Class)
	b = binary.BigEndian.AppendUint16(b, m.Number)
	return append(append(b, arguments...), frameEnd)
}

// newConfirm makes a basic.ack or basic.nack.
func newConfirm(channel uint16, m method, tag uint64, multiple bool) *unit {
	arguments := append(binary.BigEndian.AppendUint64(nil, tag), 0)
	if multiple {
		arguments[8] = 1
	}
	return &unit{
		method: m, channel: channel, tag: tag, multiple: multiple,
		frames: [][]byte{newMethod(channel, m, arguments)},
	}
}

// nowhere is a publish with the same content that no queue gets and that is not returned. It keeps
// the broker's count of the channel's publishes equal to the client's.
func (u *unit) nowhere() [][]byte {
	const key = "proof.nowhere"
	arguments := append([]byte{0, 0, 0, byte(len(key))}, key...) // the default exchange
	frame := newMethod(u.channel, basicPublish, append(arguments, 0))
	return append([][]byte{frame}, u.frames[1:]...)
}
