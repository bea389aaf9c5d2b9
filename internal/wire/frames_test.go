package wire_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/harebus/harebus/brokertest"
	"github.com/harebus/harebus/internal/wire"
)

// recorder keeps what is written and, once it is muted, does not send it.
type recorder struct {
	net.Conn

	mu      sync.Mutex
	muted   bool
	written []byte
}

func (r *recorder) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.muted {
		return r.Conn.Write(p)
	}
	r.written = append(r.written, p...)
	return len(p), nil
}

func (r *recorder) mute() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.muted = true
}

// take waits for n bytes and returns all there are.
func (r *recorder) take(n int) []byte {
	for range 2000 {
		r.mu.Lock()
		if len(r.written) >= n {
			defer r.mu.Unlock()
			got := r.written
			r.written = nil
			return got
		}
		r.mu.Unlock()
		time.Sleep(time.Millisecond)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.written
}

// client is a channel in confirm mode on a socket of ours.
type client struct {
	conn *amqp.Connection
	sock *wire.Conn
	ch   *amqp.Channel
	rec  *recorder
}

const testFrameMax = 16 << 10

// dial connects, with the client writing to our socket or straight to the recorder.
func dial(t testing.TB, b *brokertest.Broker, direct bool) *client {
	t.Helper()
	c := &client{}
	config := amqp.Config{FrameSize: testFrameMax, Heartbeat: time.Hour, Dial: func(network, address string) (net.Conn, error) {
		raw, err := b.Dial(network, address)
		if err != nil {
			return nil, err
		}
		c.rec = &recorder{Conn: raw}
		if direct {
			return c.rec, nil
		}
		c.sock = wire.New(c.rec, timeout)
		return c.sock, nil
	}}
	var err error
	if c.conn, err = amqp.DialConfig(b.URL(), config); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.rec.Close() })
	if c.ch, err = c.conn.Channel(); err != nil {
		t.Fatal(err)
	}
	if err := c.ch.Confirm(false); err != nil {
		t.Fatal(err)
	}
	return c
}

// empty has the client publish an empty message.
func (c *client) empty() error { return c.ch.Publish("", "", false, false, amqp.Publishing{}) }

// publish sends a message in the place of an empty one.
func (c *client) publish(exchange, key string, mandatory bool, p *amqp.Publishing) (replaced bool, err error) {
	m, err := wire.Encode(exchange, key, mandatory, p, c.conn.Config.FrameSize)
	if err != nil {
		return false, err
	}
	defer m.Free()
	return c.sock.Instead(m, c.empty, func() error { return nil })
}

// value makes a header of each type that harebus sends.
func value(kind uint8, n int64, s string) any {
	all := []any{
		nil, n%2 == 0, uint8(n), int8(n), int16(n), uint16(n), int32(n), uint32(n), n, float32(n) / 3, float64(n) / 3,
		amqp.Decimal{Scale: uint8(n), Value: int32(n)}, s, []byte(s), time.Unix(n%1e12, 0),
		[]any{s, n, nil, []any{int32(n)}, amqp.Table{s: s}}, amqp.Table{s: amqp.Table{"x": []any{}}}, []any{}, amqp.Table{},
	}
	return all[int(kind)%len(all)]
}

// The bytes must be those of the client, whatever the message: the client is the
// one that RabbitMQ and its users have tested.
func FuzzEncode(f *testing.F) {
	for kind := range uint8(19) {
		f.Add("amq.topic", "order.placed", true, kind, int64(kind)*7-50, "key", "text/plain", []byte("body"))
	}
	f.Add("", "", false, uint8(12), int64(-1), "", "", []byte{})
	f.Add("", "large", true, uint8(12), int64(1<<40), strings.Repeat("k", 255), "a", bytes.Repeat([]byte("0123456789abcdef"), 2000))
	f.Add("", "larger than a frame", true, uint8(12), int64(3), "k", "a", bytes.Repeat([]byte("0123456789"), 2000))
	b := brokertest.New()
	f.Cleanup(b.Close)
	plain, ours := dial(f, b, true), dial(f, b, false)
	plain.rec.mute()
	ours.rec.mute()
	f.Fuzz(func(t *testing.T, exchange, key string, mandatory bool, kind uint8, n int64, name, text string, body []byte) {
		p := amqp.Publishing{
			Headers: amqp.Table{name: value(kind, n, name)}, ContentType: text, ContentEncoding: name, DeliveryMode: kind % 3,
			Priority: uint8(n), CorrelationId: key, ReplyTo: text, Expiration: name, MessageId: text, Type: key, UserId: text, AppId: name,
			Body: body,
		}
		if n%2 == 0 {
			p.Timestamp = time.Unix(n%1e12, 0)
		}
		for _, s := range []string{exchange, key, name, text} {
			if len(s) > 255 { // the client breaks the connection
				if _, err := ours.publish(exchange, key, mandatory, &p); !errors.Is(err, wire.ErrUnencodable) {
					t.Errorf("a string of %d bytes: %v", len(s), err)
				}
				return
			}
		}
		if err := plain.ch.Publish(exchange, key, mandatory, false, p); err != nil {
			t.Fatal(err)
		}
		want := plain.rec.take(0)
		replaced, err := ours.publish(exchange, key, mandatory, &p)
		if !replaced || err != nil {
			t.Fatalf("replaced: %t, error: %v", replaced, err)
		}
		if got := ours.rec.take(len(want)); !bytes.Equal(got, want) {
			t.Errorf("wrote\n%q, the client\n%q", got, want)
		}
	})
}

// Large bodies are not copied into what waits for the socket; everything keeps its order nevertheless.
func TestLargeAndSmallBodies(t *testing.T) {
	t.Parallel()
	b := brokertest.New()
	defer b.Close()
	plain, ours := dial(t, b, true), dial(t, b, false)
	plain.rec.mute()
	ours.rec.mute()
	ours.rec.mu.Lock() // so that all wait together
	for n, size := range []int{10, 9000, 200 << 10, 0, 8191, 8192, testFrameMax, 700 << 10, 3} {
		p := amqp.Publishing{MessageId: fmt.Sprint(n), Body: bytes.Repeat([]byte{byte(n)}, size)}
		if err := plain.ch.Publish("", "q", true, false, p); err != nil {
			t.Fatal(err)
		}
		if replaced, err := ours.publish("", "q", true, &p); !replaced || err != nil {
			t.Fatalf("replaced: %t, error: %v", replaced, err)
		}
	}
	ours.rec.mu.Unlock()
	want := plain.rec.take(0)
	if got := ours.rec.take(len(want)); !bytes.Equal(got, want) {
		t.Errorf("%d bytes, %d of the client's, and they differ", len(got), len(want))
	}
}

func TestEncodeRefusesWhatHasNoForm(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", 256)
	for name, p := range map[string]amqp.Publishing{
		"type":              {Headers: amqp.Table{"a": struct{}{}}},
		"int":               {Headers: amqp.Table{"a": 1}}, // the client would cut it to 32 bits
		"nested type":       {Headers: amqp.Table{"a": []any{amqp.Table{"b": complex(1, 1)}}}},
		"long key":          {Headers: amqp.Table{long: nil}},
		"long property":     {MessageId: long},
		"long nested table": {Headers: amqp.Table{"a": amqp.Table{long: nil}}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if _, err := wire.Encode("", "", false, &p, 0); !errors.Is(err, wire.ErrUnencodable) {
				t.Errorf("error %v", err)
			}
		})
	}
}

// While other channels of the connection are busy, the client may write frames of
// theirs between those of the empty message. Then it goes out as it is, and that is
// said; nothing is ever replaced by half.
func TestInsteadAmongOtherFrames(t *testing.T) {
	t.Parallel()
	b := brokertest.New()
	defer b.Close()
	c := dial(t, b, false)
	if _, err := c.ch.QueueDeclare("q", true, false, false, false, nil); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	var others sync.WaitGroup
	for range 3 {
		others.Go(func() {
			for ctx.Err() == nil {
				ch, err := c.conn.Channel()
				if err != nil {
					t.Error(err)
					return
				}
				if err := ch.Close(); err != nil {
					t.Error(err)
				}
			}
		})
	}
	const messages = 3000
	missed := 0
	for n := range messages {
		p := amqp.Publishing{Body: fmt.Append(nil, n), Headers: amqp.Table{"n": int64(n)}}
		replaced, err := c.publish("", "q", true, &p)
		if err != nil {
			t.Fatal(err)
		}
		if !replaced {
			missed++
			if err := c.ch.Publish("", "q", true, false, p); err != nil {
				t.Fatal(err)
			}
		}
	}
	cancel()
	others.Wait()
	for n := range messages {
		d, ok, err := c.ch.Get("q", true)
		if err != nil || !ok || string(d.Body) != fmt.Sprint(n) || d.Headers["n"] != int64(n) {
			t.Fatalf("message %d is %q with %v: %t, %v", n, d.Body, d.Headers, ok, err)
		}
	}
	t.Logf("%d of %d went out empty first", missed, messages)
}

var errWhole = errors.New("the whole message failed")

// Two writes for one publish are not replaced, nor is what merely looks alike.
func TestInsteadReplacesNothingElse(t *testing.T) {
	t.Parallel()
	b := brokertest.New()
	defer b.Close()
	c := dial(t, b, false)
	c.rec.mute()
	m, err := wire.Encode("", "q", true, &amqp.Publishing{Body: []byte("x")}, testFrameMax)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Free()
	if err := c.empty(); err != nil {
		t.Fatal(err)
	}
	empty := c.rec.take(39)
	other := bytes.Clone(empty)
	other[2]++ // the channel of the method frame is not that of the header frame
	for name, writes := range map[string][][]byte{
		"nothing": nil, "in two": {empty[:17], empty[17:]}, "with more": {append(bytes.Clone(empty), 8, 0, 0, 0, 0, 0, 0, 0xCE)},
		"two channels": {other}, "cut": {empty[:38]},
	} {
		c := dial(t, b, false)
		c.rec.mute()
		write := func() error {
			for _, w := range writes {
				if _, err := c.sock.Write(w); err != nil {
					return err
				}
			}
			return nil
		}
		whole := func() error {
			if _, err := c.sock.Write([]byte("whole")); err != nil {
				return err
			}
			return errWhole
		}
		replaced, err := c.sock.Instead(m, write, whole)
		want := append(bytes.Join(writes, nil), "whole"...)
		if replaced || !errors.Is(err, errWhole) || !bytes.Equal(c.rec.take(len(want)), want) {
			t.Errorf("%s: replaced: %t, error: %v", name, replaced, err)
		}
	}
	failing := func() error { return errWhole }
	if _, err := c.sock.Instead(m, failing, nil); !errors.Is(err, errWhole) || !errors.As(err, new(wire.UnsentError)) {
		t.Errorf("error %v", err)
	}
	if replaced, err := c.sock.Instead(m, c.empty, nil); !replaced || err != nil {
		t.Errorf("replaced: %t, error: %v", replaced, err)
	}
}

// TestFrameByFrame: a client that writes its frames one by one publishes the first three
// messages twice, once empty; from then on no empty one leaves, and all of the real ones do.
func TestFrameByFrame(t *testing.T) {
	t.Parallel()
	b := brokertest.New()
	defer b.Close()
	c := dial(t, b, false)
	c.rec.mute()
	if err := c.empty(); err != nil {
		t.Fatal(err)
	}
	empty := c.rec.take(39)
	const messages = 10
	empties, wholes := 0, 0
	for range messages {
		m, err := wire.Encode("", "q", true, &amqp.Publishing{Body: []byte("x")}, testFrameMax)
		if err != nil {
			t.Fatal(err)
		}
		replaced, err := c.sock.Instead(m, func() error {
			empties++
			_, first := c.sock.Write(empty[:17])
			_, second := c.sock.Write(empty[17:])
			return errors.Join(first, second)
		}, func() error { wholes++; return nil })
		m.Free()
		if replaced || err != nil {
			t.Errorf("replaced: %t, error: %v", replaced, err)
		}
	}
	if empties != 3 || wholes != messages || !c.sock.Plain() {
		t.Errorf("%d empty publishes and %d whole ones, plain: %t", empties, wholes, c.sock.Plain())
	}
}

// TestOneMissIsForgiven: what could not be replaced now and then does not count.
func TestOneMissIsForgiven(t *testing.T) {
	t.Parallel()
	b := brokertest.New()
	defer b.Close()
	c := dial(t, b, false)
	for range 10 {
		m, err := wire.Encode("", "q", true, &amqp.Publishing{}, testFrameMax)
		if err != nil {
			t.Fatal(err)
		}
		nothing := func() error { return nil }
		for i, empty := range []func() error{nothing, nothing, c.empty} {
			if replaced, err := c.sock.Instead(m, empty, nothing); replaced != (i == 2) || err != nil {
				t.Fatalf("replaced: %t, error: %v", replaced, err)
			}
		}
		m.Free()
	}
	if c.sock.Plain() {
		t.Error("given up after two misses")
	}
}
