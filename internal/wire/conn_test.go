package wire_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/harebus/harebus/internal/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const timeout = 10 * time.Second

// full is what may wait before messages are held back.
const full = 1 << 20

func bubble(t *testing.T, test func(t *testing.T, c *wire.Conn, peer net.Conn)) {
	t.Helper()
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ours, peer := net.Pipe()
		c := wire.New(ours, timeout)
		t.Cleanup(func() {
			_ = peer.Close()
			_ = c.Close()
		})
		test(t, c, peer)
	})
}

func write(t *testing.T, c *wire.Conn, b []byte) {
	t.Helper()
	if n, err := c.Write(b); n != len(b) || err != nil {
		t.Fatalf("wrote %d: %v", n, err)
	}
}

// send sends a message of n bytes when there is room.
func send(ctx context.Context, c *wire.Conn, n int) error {
	for {
		_, err := c.Instead(nil, func() error {
			_, err := c.Write(make([]byte, n))
			return err
		}, nil)
		if !errors.Is(err, wire.ErrFull) {
			return err
		}
		if err := c.Room(ctx); err != nil {
			return err
		}
	}
}

// read reads exactly n bytes.
func read(t *testing.T, from io.Reader, n int) []byte {
	t.Helper()
	b := make([]byte, n)
	if _, err := io.ReadFull(from, b); err != nil {
		t.Fatal(err)
	}
	return b
}

// TestGathers: what is written while one write is under way goes in one more.
func TestGathers(t *testing.T) {
	bubble(t, func(t *testing.T, c *wire.Conn, peer net.Conn) {
		write(t, c, []byte("first"))
		synctest.Wait() // the flusher is inside its first write: nobody reads
		var want []byte
		for i := range 1000 {
			piece := bytes.Repeat([]byte{byte(i)}, 10)
			want = append(want, piece...)
			write(t, c, piece)
		}
		if got := read(t, peer, 5); string(got) != "first" {
			t.Errorf("got %q", got)
		}
		if got := read(t, peer, len(want)); !bytes.Equal(got, want) {
			t.Error("the order has changed")
		}
		synctest.Wait()
		if n := c.Writes(); n != 2 {
			t.Errorf("%d writes", n)
		}
	})
}

// TestIdleWritesAtOnce: nothing waits for company.
func TestIdleWritesAtOnce(t *testing.T) {
	bubble(t, func(t *testing.T, c *wire.Conn, peer net.Conn) {
		start := time.Now()
		for range 5 {
			write(t, c, []byte("x"))
			read(t, peer, 1)
			synctest.Wait()
		}
		if c.Writes() != 5 || time.Since(start) != 0 {
			t.Errorf("%d writes in %v", c.Writes(), time.Since(start))
		}
	})
}

// TestWriterMayReuse: the caller's buffer is its own again when Write returns.
func TestWriterMayReuse(t *testing.T) {
	bubble(t, func(t *testing.T, c *wire.Conn, peer net.Conn) {
		b := []byte("good")
		write(t, c, b)
		copy(b, "evil")
		if got := read(t, peer, 4); string(got) != "good" {
			t.Errorf("got %q", got)
		}
	})
}

// TestWriteTimeout: a peer that reads nothing ends the connection, at the
// deadline, and everybody hears of it.
func TestWriteTimeout(t *testing.T) {
	bubble(t, func(t *testing.T, c *wire.Conn, peer net.Conn) {
		start := time.Now()
		write(t, c, make([]byte, full))
		waiting := make(chan error, 1)
		go func() { waiting <- send(t.Context(), c, 1) }()
		err := <-waiting
		if !errors.Is(err, os.ErrDeadlineExceeded) || !errors.As(err, new(wire.UnsentError)) || time.Since(start) != timeout {
			t.Errorf("a message that waited ended after %v: %v", time.Since(start), err)
		}
		synctest.Wait()
		if _, err := c.Write([]byte("x")); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("write: %v", err)
		}
		if _, err := c.Read(make([]byte, 1)); err == nil {
			t.Error("the socket is still open")
		}
	})
}

// TestSlowNetwork: much that waits takes longer than the timeout, but the peer
// goes on reading; the connection stays.
func TestSlowNetwork(t *testing.T) {
	bubble(t, func(t *testing.T, c *wire.Conn, peer net.Conn) {
		start := time.Now()
		write(t, c, make([]byte, full))
		for range full / (32 << 10) {
			time.Sleep(timeout / 4)
			read(t, peer, 32<<10)
		}
		if took := time.Since(start); took < 2*timeout {
			t.Errorf("the peer took only %v", took)
		}
		write(t, c, []byte("x"))
		read(t, peer, 1)
	})
}

// TestSlowPeer: the deadline is for one write, not for the connection.
func TestSlowPeer(t *testing.T) {
	bubble(t, func(t *testing.T, c *wire.Conn, peer net.Conn) {
		for range 5 {
			write(t, c, []byte("x"))
			<-time.After(timeout - time.Second)
			read(t, peer, 1)
			synctest.Wait()
		}
		<-time.After(10 * timeout)
		write(t, c, []byte("y"))
		read(t, peer, 1)
	})
}

// TestRoom: messages are held back when the buffer is full, and let go when it is not.
func TestRoom(t *testing.T) {
	bubble(t, func(t *testing.T, c *wire.Conn, peer net.Conn) {
		write(t, c, make([]byte, full-2))
		for range 2 {
			if err := send(t.Context(), c, 1); err != nil {
				t.Fatal(err)
			}
		}
		reason := errors.New("waited long enough")
		soon, cancel := context.WithTimeoutCause(t.Context(), time.Second, reason)
		defer cancel()
		if err := send(soon, c, 1); !errors.Is(err, wire.ErrFull) || !errors.Is(err, reason) {
			t.Errorf("a message without room: %v", err)
		}
		var waiters sync.WaitGroup
		for range 3 {
			waiters.Go(func() {
				if err := send(t.Context(), c, 1); err != nil {
					t.Error(err)
				}
			})
		}
		write(t, c, []byte("more")) // Write itself never waits
		synctest.Wait()
		read(t, peer, full+4)
		waiters.Wait()
		read(t, peer, 3)
	})
}

// TestRoomIsShared: what many senders have waiting stays within the limit, and each gets its turn, though half of them
// give up.
func TestRoomIsShared(t *testing.T) {
	bubble(t, func(t *testing.T, c *wire.Conn, peer net.Conn) {
		const senders, size = 200, full / 4
		hasty, giveUp := context.WithTimeout(t.Context(), time.Second)
		defer giveUp()
		results := make(chan error, senders)
		for i := range senders {
			ctx := []context.Context{t.Context(), hasty}[i%2]
			go func() { results <- send(ctx, c, size) }()
		}
		sent, gone := 0, 0
		for {
			<-time.After(time.Second)
			for len(results) > 0 {
				switch err := <-results; {
				case err == nil:
					sent++
				case errors.Is(err, wire.ErrFull):
					gone++
				default:
					t.Error(err)
				}
			}
			n := int(c.Queued() - c.Sent())
			if n == 0 {
				break
			}
			if n >= full+size {
				t.Errorf("%d bytes wait", n)
			}
			read(t, peer, n)
		}
		if sent+gone != senders || gone < senders/4 {
			t.Errorf("%d messages sent, %d given up, of %d", sent, gone, senders)
		}
	})
}

// TestRoomStaysShut: one write to the socket does not make room while as much
// again is waiting.
func TestRoomStaysShut(t *testing.T) {
	bubble(t, func(t *testing.T, c *wire.Conn, peer net.Conn) {
		write(t, c, make([]byte, full))
		synctest.Wait()
		write(t, c, make([]byte, full))
		read(t, peer, full)
		synctest.Wait()
		soon, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := send(soon, c, 1); !errors.Is(err, wire.ErrFull) {
			t.Errorf("there is room: %v", err)
		}
		read(t, peer, full)
		if err := send(t.Context(), c, 1); err != nil {
			t.Error(err)
		}
	})
}

// TestAbortEndsIdle: the flusher of an idle connection ends with Abort, too.
func TestAbortEndsIdle(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) { // it fails if a goroutine is left
		ours, peer := net.Pipe()
		defer func() { _ = peer.Close() }()
		if err := wire.New(ours, timeout).Abort(); err != nil {
			t.Error(err)
		}
	})
}

// TestCloseFlushes: the goodbye still reaches the peer.
func TestCloseFlushes(t *testing.T) {
	bubble(t, func(t *testing.T, c *wire.Conn, peer net.Conn) {
		write(t, c, []byte("good"))
		write(t, c, []byte("bye"))
		closed := make(chan error, 1)
		go func() { closed <- c.Close() }()
		got, err := io.ReadAll(peer)
		if string(got) != "goodbye" || err != nil {
			t.Errorf("got %q, %v", got, err)
		}
		if err := <-closed; err != nil {
			t.Error(err)
		}
		if _, err := c.Write([]byte("x")); !errors.Is(err, net.ErrClosed) {
			t.Errorf("write after close: %v", err)
		}
		_ = c.Close() // a second one must not hang
	})
}

// TestCloseGivesUp: a peer that does not read costs a second, also when a write
// hangs already, and who waits to send is told at once.
func TestCloseGivesUp(t *testing.T) {
	bubble(t, func(t *testing.T, c *wire.Conn, peer net.Conn) {
		write(t, c, []byte("never read"))
		synctest.Wait()
		write(t, c, make([]byte, full))
		var waiters sync.WaitGroup
		start := time.Now()
		for range 3 {
			waiters.Go(func() {
				if err := send(t.Context(), c, 1); !errors.Is(err, net.ErrClosed) || time.Since(start) != 0 {
					t.Errorf("a message that waited ended after %v: %v", time.Since(start), err)
				}
			})
		}
		synctest.Wait()
		_ = c.Close() // its error is that of a socket closed twice
		if took := time.Since(start); took > 1100*time.Millisecond {
			t.Errorf("it took %v", took)
		}
		waiters.Wait()
	})
}

// TestAbort: it does not wait for anything, and frees all who do.
func TestAbort(t *testing.T) {
	bubble(t, func(t *testing.T, c *wire.Conn, peer net.Conn) {
		write(t, c, make([]byte, full))
		const senders = 3
		waiting := make(chan error, senders)
		for range senders {
			go func() { waiting <- send(t.Context(), c, 1) }()
		}
		synctest.Wait()
		start := time.Now()
		if err := c.Abort(); err != nil {
			t.Error(err)
		}
		for range senders {
			if err := <-waiting; !errors.Is(err, net.ErrClosed) || time.Since(start) != 0 {
				t.Errorf("a message that waited ended after %v: %v", time.Since(start), err)
			}
		}
		if _, err := c.Write([]byte("x")); err == nil {
			t.Error("a write after Abort succeeded")
		}
		if got, err := io.ReadAll(peer); len(got) != 0 || err != nil {
			t.Errorf("the peer got %d bytes, %v", len(got), err)
		}
	})
}

// TestPeerGone: the error of the socket is what Write reports.
func TestPeerGone(t *testing.T) {
	bubble(t, func(t *testing.T, c *wire.Conn, peer net.Conn) {
		if err := peer.Close(); err != nil {
			t.Fatal(err)
		}
		write(t, c, []byte("x"))
		synctest.Wait()
		if _, err := c.Write([]byte("y")); !errors.Is(err, io.ErrClosedPipe) {
			t.Errorf("write: %v", err)
		}
	})
}

// TestManyWriters: pieces stay whole, and each writer's stay in order.
func TestManyWriters(t *testing.T) {
	bubble(t, func(t *testing.T, c *wire.Conn, peer net.Conn) {
		const writers, pieces, size = 8, 200, 7
		var wg sync.WaitGroup
		for w := range writers {
			wg.Go(func() {
				for i := range pieces {
					b := bytes.Repeat([]byte{byte(w)}, size)
					b[size-1] = byte(i)
					if _, err := c.Write(b); err != nil {
						t.Error(err)
					}
				}
			})
		}
		got := read(t, peer, writers*pieces*size)
		wg.Wait()
		var next [writers]int
		for ; len(got) > 0; got = got[size:] {
			w := got[0]
			if !bytes.Equal(got[:size-1], bytes.Repeat([]byte{w}, size-1)) || got[size-1] != byte(next[w]) {
				t.Fatalf("piece %v, want number %d", got[:size], next[w])
			}
			next[w]++
		}
	})
}
