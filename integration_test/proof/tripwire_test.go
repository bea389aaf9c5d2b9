package proof_test

import (
	"encoding/binary"
	"net"
	"sync"
	"syscall"
)

// A trap says at which frame a process dies.
type trap struct {
	// FromBroker is whether the broker sends the frame; it dies before the client has read it.
	FromBroker bool
	// Method of the frame; none means that there is no trap.
	Method method
	// Nth frame of that kind that passes in this process, from 1.
	Nth int
	// Sent is whether the frame leaves before the process dies. For what the broker sends it means nothing.
	Sent bool
	// Confirmed is how many messages have to be confirmed first.
	Confirmed int
}

// A snare is a trap that is set: it counts the frames on all connections of the process.
type snare struct {
	trap

	mu        sync.Mutex // guards what follows
	seen      int
	confirmed map[uint64]bool // delivery tags; the process publishes on one channel
	enough    chan struct{}   // closed when as many as demanded are confirmed
}

func setTrap(t trap) *snare {
	return &snare{trap: t, confirmed: map[uint64]bool{}, enough: make(chan struct{})}
}

// dial opens a connection that is watched.
func (s *snare) dial(network, address string) (net.Conn, error) {
	conn, err := net.Dial(network, address)
	if err != nil {
		return nil, err
	}
	return &tripwire{Conn: conn, snare: s}, nil
}

// springs takes note of a frame and says whether it is the one.
func (s *snare) springs(f []byte, fromBroker bool) bool {
	if f[0] != methodFrame {
		return false
	}
	u, err := readMethod(0, f, f[frameHead:len(f)-1])
	if err != nil {
		panic(err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if fromBroker && u.method == basicAck {
		s.confirm(u.tag, u.multiple)
	}
	if u.method != s.Method || fromBroker != s.FromBroker {
		return false
	}
	s.seen++
	return s.seen == s.Nth
}

func (s *snare) confirm(tag uint64, multiple bool) {
	s.confirmed[tag] = true
	for below := tag - 1; multiple && below > 0; below-- {
		s.confirmed[below] = true
	}
	if len(s.confirmed) >= s.Confirmed {
		select {
		case <-s.enough:
		default:
			close(s.enough)
		}
	}
}

// A tripwire is a connection of which every frame is looked at, in both directions.
type tripwire struct {
	net.Conn

	snare   *snare
	out, in []byte // what is not a whole frame yet
}

// Write sends whole frames up to the one that springs the trap.
func (w *tripwire) Write(p []byte) (int, error) {
	w.out = append(w.out, p...)
	for {
		f := cutFrame(&w.out)
		if f == nil {
			return len(p), nil
		}
		caught := w.snare.springs(f, false)
		if caught && w.snare.Confirmed > 0 {
			<-w.snare.enough
		}
		if caught && !w.snare.Sent {
			die()
		}
		if _, err := w.Conn.Write(f); err != nil {
			return 0, err
		}
		if caught {
			die()
		}
	}
}

// Read hands on what comes, up to the frame that springs the trap.
func (w *tripwire) Read(p []byte) (int, error) {
	n, err := w.Conn.Read(p)
	w.in = append(w.in, p[:n]...)
	for f := cutFrame(&w.in); f != nil; f = cutFrame(&w.in) {
		if w.snare.springs(f, true) {
			die()
		}
	}
	return n, err
}

// cutFrame takes the first whole frame off the stream; nil means that there is none yet.
func cutFrame(stream *[]byte) []byte {
	const end = 1
	size := len("AMQP\x00\x00\x09\x01") // the greeting, before all frames
	if len(*stream) < frameHead {
		return nil
	}
	if (*stream)[0] != 'A' {
		size = frameHead + int(binary.BigEndian.Uint32((*stream)[3:])) + end
	}
	if len(*stream) < size {
		return nil
	}
	f := (*stream)[:size]
	*stream = (*stream)[size:]
	return f
}

// die is SIGKILL: nothing of the process runs after it.
func die() {
	_ = syscall.Kill(syscall.Getpid(), syscall.SIGKILL) // does not fail for the process itself
	select {}
}
