package wire

import (
	"encoding/binary"
	"fmt"
	"net"
	"slices"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/harebus/harebus/internal/field"
)

// The client decodes slowly, too, and does it all in the one goroutine that reads.
// So the properties of a delivery pass through it as the beginning of the body:
// Pack puts them there, and Unpack decodes them in the goroutine that handles the
// message.

const (
	methodDeliver = classBasic<<16 | 60
	// reading is how much is read from the socket at once.
	reading = 64 << 10
	// frameHead is the length of what comes before the payload.
	frameHead = frameOverhead - 1
	// contentHead is what stands in a header frame before the properties: class,
	// weight and the size of the body.
	contentHead = 12
	// maxContent is the longest header frame. What is negotiated is less.
	maxContent = 1 << 20
	// leastFrame is the smallest frame_max that a connection can have. Headers that
	// the broker adds can make a header frame longer than frame_max. The client
	// cannot read such a frame, but it can read it as pieces of a body.
	leastFrame = 4096
	// shared is the largest buffer whose bytes the strings of a delivery may share,
	// because each of them keeps the whole buffer in memory.
	shared = 1 << 10
	// prefix is the length of packed properties, which stands before them.
	prefix = 4
)

// packer is a net.Conn that packs what is read.
type packer struct {
	net.Conn

	buf   []byte // for in
	in    []byte // what was read and not looked at yet
	whole uint64 // how much of in and of what follows it goes through as it is
	out   []byte // for packed frames
	ready []byte // what goes through now, a part of buf or out
	err   error  // what comes after in

	delivers map[uint16]bool // channels whose last method is a delivery
}

// Pack has every delivery that is read from the result carry its properties in its
// body; Unpack must be called with each. Properties that cannot be read do not end the
// connection, as they do the client's: Unpack reports them. Reads are gathered.
func Pack(c net.Conn) net.Conn {
	return &packer{Conn: c, buf: make([]byte, reading), delivers: make(map[uint16]bool)}
}

// UnreadableError says that the client cannot read the headers of a delivery, or all
// of its properties. The body and the other properties are there.
type UnreadableError struct {
	// Raw is the table as it came, with its length, or all properties.
	Raw []byte
	// All says that it is all properties.
	All bool
}

func (*UnreadableError) Error() string {
	return fmt.Sprintf("they are not AMQP, nested deeper than %d, or have a table or list of more than %d elements", field.MaxDepth, field.MaxElements)
}

// Unpack decodes the properties that Pack has put before the body of d. If properties
// cannot be read, it decodes the others and returns an *UnreadableError.
func Unpack(d *amqp.Delivery) error {
	if len(d.Body) < prefix {
		return errProperties
	}
	size, rest := uint64(binary.BigEndian.Uint32(d.Body)), d.Body[prefix:]
	if size > uint64(len(rest)) {
		return errProperties
	}
	in := decoder{b: rest[:size]}
	if size <= shared {
		in.text = string(rest[:size])
	}
	d.Body = rest[size:]
	before := *d
	if in.properties(d) != nil {
		*d = before
		return &UnreadableError{Raw: rest[:size], All: true}
	}
	if in.raw != nil {
		return &UnreadableError{Raw: in.raw}
	}
	return nil
}

// Read is for one goroutine at a time.
func (p *packer) Read(b []byte) (n int, err error) {
	for {
		done := copy(b[n:], p.ready)
		p.ready = p.ready[done:]
		if n += done; n == len(b) {
			return n, nil
		}
		if p.next() {
			continue
		}
		if n > 0 {
			return n, nil
		}
		if p.err != nil {
			return 0, p.err
		}
		p.fill()
	}
}

// fill reads more. Nothing is ready.
func (p *packer) fill() {
	if len(p.in) == len(p.buf) {
		p.buf = make([]byte, 2*len(p.buf))
	}
	have := copy(p.buf, p.in)
	n, err := p.Conn.Read(p.buf[have:])
	p.in, p.err = p.buf[:have+n], err
}

// next prepares the next bytes to read, and says whether there are any.
func (p *packer) next() bool {
	if p.whole == 0 && !p.begin() && p.err != nil { // the frame will never be complete
		p.whole = uint64(len(p.in))
	}
	if p.whole > 0 {
		n := min(p.whole, uint64(len(p.in)))
		p.ready, p.in = p.in[:n], p.in[n:]
		p.whole -= n
	}
	return len(p.ready) > 0
}

// begin looks at the next frame, and says whether enough of it is there. The header
// frame of a delivery is packed when it is complete; every other goes through as it comes.
func (p *packer) begin() bool {
	if len(p.in) < frameHead {
		return false
	}
	channel := binary.BigEndian.Uint16(p.in[1:])
	length := uint64(binary.BigEndian.Uint32(p.in[lengthAt:])) + frameOverhead
	switch p.in[0] {
	case frameMethod:
		if len(p.in) < frameHead+4 { // every method frame has that
			return false
		}
		p.delivers[channel] = binary.BigEndian.Uint32(p.in[frameHead:]) == methodDeliver
	case frameHeader:
		if p.delivers[channel] {
			return p.header(length)
		}
	}
	p.whole = length
	return true
}

// header packs the header frame at the beginning of in, and says whether all of it is there.
func (p *packer) header(length uint64) bool {
	if length < frameOverhead+contentHead || length > maxContent {
		p.err = fmt.Errorf("%w: a header frame of %d bytes", errProperties, length)
		return true
	}
	if length > uint64(len(p.in)) {
		return false
	}
	frame := p.in[:length]
	if frame[length-1] != frameEnd {
		p.err = fmt.Errorf("%w: their frame does not end where it says", errProperties)
		return true
	}
	p.in = p.in[length:]
	p.pack(frame, frame[frameHead+contentHead:length-1])
	return true
}

// pack makes an empty header frame and a body frame of a header frame and its properties.
func (p *packer) pack(frame, properties []byte) {
	size := binary.BigEndian.Uint64(frame[frameHead+4:]) + prefix + uint64(len(properties))
	p.out = append(p.out[:0], frame[:frameHead+4]...)
	binary.BigEndian.PutUint32(p.out[lengthAt:], contentHead+2)
	p.out = binary.BigEndian.AppendUint64(p.out, size)
	p.out = append(p.out, 0, 0, frameEnd) // no property

	first := min(len(properties), leastFrame-frameOverhead-prefix)
	p.body(frame, prefix+first)
	p.out = binary.BigEndian.AppendUint32(p.out, uint32(len(properties))) //nolint:gosec // no more than maxContent
	p.out = append(append(p.out, properties[:first]...), frameEnd)
	for rest := range slices.Chunk(properties[first:], leastFrame-frameOverhead) {
		p.body(frame, len(rest))
		p.out = append(append(p.out, rest...), frameEnd)
	}
	p.ready = p.out
}

// body begins a body frame of a header frame.
func (p *packer) body(frame []byte, length int) {
	p.out = append(p.out, frameBody, frame[1], frame[2])
	p.out = binary.BigEndian.AppendUint32(p.out, uint32(length)) //nolint:gosec // no more than leastFrame
}
