package nullbroker

import (
	"encoding/binary"
	"sync"
)

// unlimited stands for prefetch 0; the client could not buffer more anyway.
const unlimited = 1 << 16

// feed delivers on one channel, within the prefetch. Delivery tags count for
// the channel, across consumers.
type feed struct {
	mu       sync.Mutex // guards what follows
	room     sync.Cond  // prefetch, settled or stop has changed
	prefetch int
	sent     uint64 // the last tag sent
	low      uint64 // everything up to here is settled
	settled  []bool // by tag modulo its length, above low
	open     int    // sent and not settled
	stop     *bool  // of the consumer that is fed; nil without one
}

func newFeed() *feed {
	f := &feed{prefetch: unlimited, settled: make([]bool, 2*unlimited)}
	f.room.L = &f.mu
	return f
}

func (f *feed) limit(prefetch int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if prefetch == 0 {
		prefetch = unlimited
	}
	f.prefetch = prefetch
	f.room.Broadcast()
}

// begin makes room for a new consumer; its stop flag is guarded by f.mu.
func (f *feed) begin() *bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.stop = new(bool)
	return f.stop
}

func (f *feed) cancel() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.stop != nil {
		*f.stop = true
	}
	f.room.Broadcast()
}

func (f *feed) end() { f.cancel() }

// settle counts a tag, or every tag up to it, as settled.
func (f *feed) settle(tag uint64, multiple bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if tag > f.sent || tag <= f.low {
		return // a real broker would close the channel
	}
	first := tag
	if multiple {
		first = f.low + 1
	}
	for t := first; t <= tag; t++ {
		place := &f.settled[t%uint64(len(f.settled))]
		if !*place {
			*place = true
			f.open--
		}
	}
	for f.low < f.sent && f.settled[(f.low+1)%uint64(len(f.settled))] {
		f.low++
		f.settled[f.low%uint64(len(f.settled))] = false
	}
	f.room.Signal()
}

// reserve waits for room and returns the tags that may be sent now.
func (f *feed) reserve(stop *bool, most int) (first uint64, n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for !*stop && f.open >= f.prefetch {
		f.room.Wait()
	}
	if *stop {
		return 0, 0
	}
	n = min(f.prefetch-f.open, most)
	first = f.sent + 1
	f.sent += uint64(n) //nolint:gosec // positive
	f.open += n
	return first, n
}

// run delivers copies of one message until the consumer ends.
func (f *feed) run(c *connection, d delivery, stop *bool) {
	const most = 64
	buffer := make([]byte, 0, most*len(d.frames))
	for {
		first, n := f.reserve(stop, most)
		if n == 0 {
			return
		}
		buffer = buffer[:0]
		for i := range n {
			at := len(buffer) + d.tagAt
			buffer = append(buffer, d.frames...)
			binary.BigEndian.PutUint64(buffer[at:], first+uint64(i)) //nolint:gosec // small
		}
		c.write(buffer)
	}
}

// delivery is a basic.deliver with its content, encoded but for the tag.
type delivery struct {
	frames []byte
	tagAt  int
}

func newDelivery(channelID uint16, consumer string, m message) delivery {
	const frameHead, methodHead = 7, 4
	args := appendShort(nil, consumer)
	tagAt := frameHead + methodHead + len(args)
	args = append(args, 0, 0, 0, 0, 0, 0, 0, 0, 0)
	args = appendShort(appendShort(args, m.exchange), m.key)
	frames := method(channelID, 60, 60, args)
	frames = append(frames, frame(frameHeader, channelID, m.header)...)
	for body := m.body; len(body) > 0; {
		n := min(len(body), frameMax-8)
		frames = append(frames, frame(frameBody, channelID, body[:n])...)
		body = body[n:]
	}
	return delivery{frames, tagAt}
}
