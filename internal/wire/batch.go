package wire

import "net"

// large is the size from which on a piece of a body is not copied into a batch.
const large = 8 << 10

// batch is what is written to the socket together: a buffer, and large pieces of
// bodies that belong in between and are not copied.
type batch struct {
	buf    []byte
	bodies []reference
	length int // of all
}

// reference is a piece of a body, and where in a batch's buffer it belongs.
type reference struct {
	at   int
	body []byte
}

func (b *batch) append(p ...byte) {
	b.buf = append(b.buf, p...)
	b.length += len(p)
}

// refer appends p, which must not change until it has been written.
func (b *batch) refer(p []byte) {
	if len(p) < large {
		b.append(p...)
		return
	}
	b.bodies = append(b.bodies, reference{len(b.buf), p})
	b.length += len(p)
}

// buffers are the parts of the batch, in order.
func (b *batch) buffers() net.Buffers {
	dst := make(net.Buffers, 0, 2*len(b.bodies)+1)
	from := 0
	for _, r := range b.bodies {
		dst = append(dst, b.buf[from:r.at], r.body)
		from = r.at
	}
	return append(dst, b.buf[from:])
}

// reset empties the batch, and keeps its memory unless that is too much.
func (b *batch) reset() {
	clear(b.bodies)
	b.buf, b.bodies, b.length = b.buf[:0], b.bodies[:0], 0
	if cap(b.buf) > keep {
		b.buf = nil
	}
}

// cut takes at most n bytes off the front of all.
func cut(all *net.Buffers, n int) net.Buffers {
	var parts net.Buffers
	for rest := *all; len(rest) > 0 && n > 0; *all = rest {
		part := rest[0][:min(n, len(rest[0]))]
		if rest[0] = rest[0][len(part):]; len(rest[0]) == 0 {
			rest = rest[1:]
		}
		parts = append(parts, part)
		n -= len(part)
	}
	return parts
}
