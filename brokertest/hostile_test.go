package brokertest_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/harebus/harebus/brokertest"
)

// stalled is a connection whose client stops reading when told.
type stalled struct {
	net.Conn
	mu    sync.Mutex // guards gate
	gate  chan struct{}
	ended chan struct{}
}

func (s *stalled) Read(p []byte) (int, error) {
	s.mu.Lock()
	gate := s.gate
	s.mu.Unlock()
	if gate != nil {
		select {
		case <-gate:
		case <-s.ended:
			return 0, io.EOF
		}
	}
	return s.Conn.Read(p)
}

func (s *stalled) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	select {
	case <-s.ended:
	default:
		close(s.ended)
	}
	return s.Conn.Close()
}

func (s *stalled) stall() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.gate = make(chan struct{})
}

func (s *stalled) resume() {
	s.mu.Lock()
	defer s.mu.Unlock()
	close(s.gate)
	s.gate = nil
}

func connectStalled(t *testing.T, b *brokertest.Broker) (*client, *stalled) {
	t.Helper()
	var s *stalled
	c := &client{TB: t}
	var err error
	c.conn, err = amqp.DialConfig(b.URL(), amqp.Config{Heartbeat: time.Hour, Dial: func(network, addr string) (net.Conn, error) {
		conn, err := b.Dial(network, addr)
		s = &stalled{Conn: conn, ended: make(chan struct{})}
		return s, err
	}})
	c.ok(err)
	c.ch, err = c.conn.Channel()
	c.ok(err)
	return c, s
}

func TestSlowConsumerHoldsUpNobodyAndGrowsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := brokertest.New()
		defer b.Close()
		fast := connect(t, b)
		fast.queue("q", nil)
		slow, s := connectStalled(t, b)
		_, err := slow.ch.Consume("q", "", true, false, false, false, nil)
		slow.ok(err)
		s.stall()
		body := string(make([]byte, 100<<10))
		for range 200 { // 20 MB, of which the client takes nothing
			fast.publish("q", body).Wait()
		}
		q, _ := b.Queue("q")
		if q.Ready < 150 {
			t.Fatalf("%d of 200 messages still in the queue", q.Ready)
		}
		s.resume()
		fast.ok(b.WaitQueue(t.Context(), "q", func(q brokertest.Queue) bool { return q.Ready == 0 }))
		fast.ok(slow.conn.Close())
		fast.ok(fast.conn.Close())
	})
}

func TestDeadClientIsCutAndItsMessagesComeBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := brokertest.New()
		defer b.Close()
		c := connect(t, b)
		c.queue("q", nil)
		dead, s := connectStalled(t, b)
		_, err := dead.ch.Consume("q", "", false, false, false, false, nil)
		c.ok(err)
		s.stall()
		body := string(make([]byte, 100<<10))
		start := time.Now()
		for range 50 {
			c.publish("q", body).Wait()
		}
		c.ok(b.WaitQueue(t.Context(), "q", func(q brokertest.Queue) bool { return q.Ready == 50 && len(q.Consumers) == 0 }))
		equal(t, "after", time.Since(start), 30*time.Second)
		equal(t, "connections", len(b.Connections()), 1)
		_ = dead.conn.CloseDeadline(time.Now()) // the broker hung up
		c.ok(c.conn.Close())
	})
}

// opened shakes hands with the broker by hand, for heartbeats at an interval in
// seconds.
func opened(t *testing.T, b *brokertest.Broker, heartbeat byte) net.Conn {
	t.Helper()
	conn, err := b.Dial("", "")
	if err != nil {
		t.Fatal(err)
	}
	hello := []byte("AMQP\x00\x00\x09\x01")
	method := func(class, method uint16, args string) {
		p := binary.BigEndian.AppendUint16(nil, class)
		p = append(binary.BigEndian.AppendUint16(p, method), args...)
		hello = append(hello, 1, 0, 0)
		hello = binary.BigEndian.AppendUint32(hello, uint32(len(p)))
		hello = append(append(hello, p...), 0xCE)
	}
	method(10, 11, "\x00\x00\x00\x00\x05PLAIN\x00\x00\x00\x0c\x00guest\x00guest\x05en_US")
	method(10, 31, "\x07\xff\x00\x02\x00\x00\x00"+string([]byte{heartbeat}))
	method(10, 40, "\x01/\x00\x00")
	if _, err := conn.Write(hello); err != nil {
		t.Fatal(err)
	}
	return conn
}

func TestClientThatNeverReadsIsNotReadFrom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := brokertest.New()
		defer b.Close()
		conn := opened(t, b, 0)
		frame := func(channel uint16, payload string) []byte {
			p := binary.BigEndian.AppendUint16([]byte{1}, channel)
			p = binary.BigEndian.AppendUint32(p, uint32(len(payload)))
			return append(append(p, payload...), 0xCE)
		}
		write := func(p []byte) error { _, err := conn.Write(p); return err }
		if err := write(frame(1, "\x00\x14\x00\x0a\x00")); err != nil {
			t.Fatal(err)
		}
		get := bytes.Repeat(frame(1, "\x00\x32\x00\x0a\x00\x00\x01q\x00\x00\x00\x00\x00"), 1000) // queue.declare
		if err := conn.SetWriteDeadline(time.Now().Add(10 * time.Second)); err != nil {
			t.Fatal(err)
		}
		sent := 0
		for ; sent < 100<<20; sent += len(get) {
			if write(get) != nil {
				break
			}
		}
		if sent > 10<<20 {
			t.Fatalf("%d octets of requests taken from a client that reads no answer", sent)
		}
		time.Sleep(time.Minute) // of virtual time
		equal(t, "connections", len(b.Connections()), 0)
		if err := conn.Close(); err != nil {
			t.Fatal(err)
		}
	})
}

func TestMalformedClientsLeaveOthersAlone(t *testing.T) {
	b := brokertest.New()
	defer b.Close()
	c := connect(t, b)
	c.queue("q", nil)
	in := c.consume("q")
	var wg sync.WaitGroup
	for i := range 50 {
		wg.Go(func() {
			conn := opened(t, b, 0)
			junk := bytes.Repeat([]byte{byte(i), 0, byte(i), 0xff, 0x01, 0x00}, 500)
			_, _ = conn.Write(junk) // it is hung up on
			_, _ = io.Copy(io.Discard, conn)
			_ = conn.Close()
		})
	}
	for i := range 200 {
		equal(t, "acked", c.publish("q", fmt.Sprint(i)).Wait(), true)
		d := <-in
		c.ok(d.Ack(false))
	}
	wg.Wait()
	equal(t, "connections", len(b.Connections()), 1)
}

func TestManyClients(t *testing.T) {
	before := runtime.NumGoroutine()
	b := brokertest.New()
	defer b.Close()
	c := connect(t, b)
	c.queue("q", nil)
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			conn, err := amqp.DialConfig(b.URL(), amqp.Config{Dial: b.Dial})
			if err != nil {
				t.Error(err)
				return
			}
			defer conn.Close()
			ch, err := conn.Channel()
			if err != nil {
				t.Error(err)
				return
			}
			if err := ch.Confirm(false); err != nil {
				t.Error(err)
				return
			}
			var last *amqp.DeferredConfirmation
			for range 100 {
				if last, err = ch.PublishWithDeferredConfirm("", "q", true, false, amqp.Publishing{Body: []byte("m")}); err != nil {
					t.Error(err)
					return
				}
			}
			last.Wait()
		})
	}
	in := c.consume("q")
	for range 2000 {
		d := <-in
		c.ok(d.Ack(false))
	}
	wg.Wait()
	c.ok(b.WaitQuiet(t.Context()))
	c.ok(c.conn.Close())
	b.Close()
	for deadline := time.Now().Add(5 * time.Second); runtime.NumGoroutine() > before; {
		if time.Now().After(deadline) {
			t.Fatalf("%d goroutines before, %d after", before, runtime.NumGoroutine())
		}
		runtime.Gosched()
	}
}

func TestSilentClientIsCutAfterTwoHeartbeats(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := brokertest.New()
		defer b.Close()
		conn := opened(t, b, 10)
		start := time.Now()
		got, err := io.ReadAll(conn)
		if err != nil {
			t.Fatal(err)
		}
		equal(t, "heartbeats came", bytes.HasSuffix(got, []byte{8, 0, 0, 0, 0, 0, 0, 0xCE}), true)
		if d := time.Since(start); d < 20*time.Second || d > 30*time.Second {
			t.Fatalf("cut after %v", d)
		}
		if err := conn.Close(); err != nil {
			t.Fatal(err)
		}
	})
}

func TestHalfAFrameIsNotQuiet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := brokertest.New()
		defer b.Close()
		conn := opened(t, b, 0)
		if err := b.WaitQuiet(t.Context()); err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Write([]byte{8, 0, 0}); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		equal(t, "in time", errors.Is(b.WaitQuiet(ctx), context.DeadlineExceeded), true)
		if _, err := conn.Write([]byte{0, 0, 0, 0, 0xCE}); err != nil {
			t.Fatal(err)
		}
		if err := b.WaitQuiet(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := conn.Close(); err != nil {
			t.Fatal(err)
		}
	})
}
