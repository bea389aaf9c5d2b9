package conformance

import (
	"bytes"
	"encoding/binary"
	"io"
	"net"
	"net/url"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

func TestConnections(t *testing.T) {
	runAll(t, []behaviour{
		{"a wrong password is refused", func(e *env) {
			u, err := url.Parse(e.broker.url)
			e.ok(err)
			for _, user := range []string{"guest", "nobody"} {
				u.User = url.UserPassword(user, "wrong")
				_, err := e.tryDial(u.String(), amqp.Config{})
				e.code(err, amqp.AccessRefused)
			}
		}},
		{"a missing virtual host is refused", func(e *env) {
			_, err := e.tryDial(e.broker.url, amqp.Config{Vhost: e.n("none")})
			e.code(err, amqp.NotAllowed)
		}},
		{"an unknown login mechanism", func(e *env) {
			_, err := e.tryDial(e.broker.url, amqp.Config{SASL: []amqp.Authentication{&amqp.ExternalAuth{}}})
			if err == nil {
				e.Fatal("connected")
			}
		}},
		{"AMQPLAIN", func(e *env) {
			u, err := url.Parse(e.broker.url)
			e.ok(err)
			password, _ := u.User.Password()
			_, err = e.tryDial(e.broker.url, amqp.Config{SASL: []amqp.Authentication{
				&amqp.AMQPlainAuth{Username: u.User.Username(), Password: password},
			}})
			e.ok(err)
		}},
		{"limits are negotiated", func(e *env) {
			conn, err := e.tryDial(e.broker.url, amqp.Config{})
			e.ok(err)
			want(e, "channels", conn.Config.ChannelMax, uint16(2047))
			want(e, "frame size", conn.Config.FrameSize, 131072)
			conn, err = e.tryDial(e.broker.url, amqp.Config{ChannelMax: 2, FrameSize: 8192})
			e.ok(err)
			for range 2 {
				e.channel(conn)
			}
			if _, err := conn.Channel(); err == nil {
				e.Fatal("a third channel opened")
			}
		}},
		{"small frames carry large messages", func(e *env) {
			conn, err := e.tryDial(e.broker.url, amqp.Config{FrameSize: 8192})
			e.ok(err)
			ch := e.channel(conn)
			q, err := ch.QueueDeclare("", false, false, true, false, nil)
			e.ok(err)
			body := bytes.Repeat([]byte("x"), 100000)
			e.ok(ch.Publish("", q.Name, false, false, amqp.Publishing{Body: body}))
			in, err := ch.Consume(q.Name, "", true, false, false, false, nil)
			e.ok(err)
			want(e, "body", len(e.next(in).Body), len(body))
		}},
		{"capabilities are announced", func(e *env) {
			caps, ok := e.conn.Properties["capabilities"].(amqp.Table)
			want(e, "capabilities there", ok, true)
			for _, name := range []string{
				"publisher_confirms", "exchange_exchange_bindings", "basic.nack", "consumer_cancel_notify",
				"connection.blocked", "consumer_priorities", "authentication_failure_close", "per_consumer_qos", "direct_reply_to",
			} {
				want(e, name, caps[name], any(true))
			}
		}},
		{"channel numbers are used again", func(e *env) {
			conn, err := e.tryDial(e.broker.url, amqp.Config{ChannelMax: 1})
			e.ok(err)
			for range 5 {
				ch := e.channel(conn)
				_, err := ch.QueueDeclarePassive(e.n("none"), false, false, false, false, nil)
				e.code(err, amqp.NotFound)
				ch = e.channel(conn)
				e.ok(ch.Close())
			}
		}},
	})
}

// raw is a connection that says what it wants.
type raw struct {
	*env
	net.Conn
}

// Protocol numbers used below.
const (
	methodFrame, headerFrame, bodyFrame, heartbeatFrame = 1, 2, 3, 8
	connectionClass, channelClass, queueClass, basic    = 10, 20, 50, 60
)

// raw dials and sends the protocol header.
func (e *env) raw() *raw {
	e.Helper()
	u, err := url.Parse(e.broker.url)
	e.ok(err)
	conn, err := e.broker.dial("tcp", u.Host)
	e.ok(err)
	e.Cleanup(func() { _ = conn.Close() }) // the broker may have closed it
	e.ok(conn.SetDeadline(time.Now().Add(2 * patience)))
	return &raw{e, conn}
}

// opened does the handshake of a well-behaved client.
func (e *env) opened() *raw {
	e.Helper()
	r := e.raw()
	r.header()
	r.startOK()
	r.expect(connectionClass, 30) // tune
	r.method(0, connectionClass, 31, []byte{0, 10, 0, 2, 0, 0, 0, 0})
	r.method(0, connectionClass, 40, []byte{1, '/', 0, 0})
	r.expect(connectionClass, 41)
	return r
}

func (r *raw) header() {
	r.Helper()
	r.bytes([]byte("AMQP\x00\x00\x09\x01"))
	r.expect(connectionClass, 10)
}

func (r *raw) startOK() {
	r.Helper()
	response := "\x00guest\x00guest"
	args := []byte{0, 0, 0, 0, 5}
	args = append(args, "PLAIN"...)
	args = binary.BigEndian.AppendUint32(args, uint32(len(response)))
	args = append(args, response...)
	args = append(args, 5)
	args = append(args, "en_US"...)
	r.method(0, connectionClass, 11, args)
}

// bytes sends bytes. That the broker hung up is for expect to find out.
func (r *raw) bytes(p []byte) { _, _ = r.Write(p) }

func (r *raw) frame(kind byte, channel uint16, payload []byte) {
	p := []byte{kind}
	p = binary.BigEndian.AppendUint16(p, channel)
	p = binary.BigEndian.AppendUint32(p, uint32(len(payload)))
	p = append(p, payload...)
	r.bytes(append(p, 0xCE))
}

func (r *raw) method(channel, class, method uint16, args []byte) {
	p := binary.BigEndian.AppendUint16(nil, class)
	p = binary.BigEndian.AppendUint16(p, method)
	r.frame(methodFrame, channel, append(p, args...))
}

// open opens a channel.
func (r *raw) open(channel uint16) {
	r.Helper()
	r.method(channel, channelClass, 10, []byte{0})
	r.expect(channelClass, 11)
}

// expect reads frames until a method comes and checks which it is.
func (r *raw) expect(class, method uint16) []byte {
	r.Helper()
	for {
		var head [7]byte
		if _, err := io.ReadFull(r, head[:]); err != nil {
			r.Fatalf("waiting for method %d of class %d: %v", method, class, err)
		}
		payload := make([]byte, binary.BigEndian.Uint32(head[3:])+1)
		_, err := io.ReadFull(r, payload)
		r.ok(err)
		if head[0] != methodFrame {
			continue
		}
		c, m := binary.BigEndian.Uint16(payload), binary.BigEndian.Uint16(payload[2:])
		args := payload[4:]
		if c != class || m != method {
			r.Fatalf("got method %d of class %d (%q), want %d of %d", m, c, args, method, class)
		}
		return args
	}
}

// closed expects connection.close with a code.
func (r *raw) closed(code uint16) {
	r.Helper()
	args := r.expect(connectionClass, 50)
	if got := binary.BigEndian.Uint16(args); got != code {
		r.Fatalf("got %d %q, want code %d", got, args[3:], code)
	}
	r.method(0, connectionClass, 51, nil)
	r.ended()
}

// ended expects the end of the connection.
func (r *raw) ended() {
	r.Helper()
	if _, err := io.Copy(io.Discard, r); err != nil {
		if ne, ok := err.(net.Error); ok && ne.Timeout() {
			r.Fatal("the connection stays open")
		}
	}
}

func publishArgs(key string) []byte {
	return append([]byte{0, 0, 0, byte(len(key))}, append([]byte(key), 0)...)
}

// contentHeader is a header frame's payload for a body of size octets.
func contentHeader(class uint16, size uint64, props ...byte) []byte {
	p := binary.BigEndian.AppendUint16(nil, class)
	p = binary.BigEndian.AppendUint16(p, 0)
	p = binary.BigEndian.AppendUint64(p, size)
	if props == nil {
		props = []byte{0, 0}
	}
	return append(p, props...)
}

func TestProtocolErrors(t *testing.T) {
	runAll(t, []behaviour{
		{"a foreign protocol is told ours", func(e *env) {
			for _, head := range []string{"GET / HTTP/1.1\r\n", "AMQP\x02\x00\x09\x01"} {
				r := e.raw()
				r.bytes([]byte(head))
				got := make([]byte, 8)
				_, err := io.ReadFull(r, got)
				e.ok(err)
				want(e, "answer", string(got[:4]), "AMQP")
				r.ended()
			}
		}},
		{"a well-behaved client", func(e *env) {
			r := e.opened()
			r.open(1)
			r.frame(heartbeatFrame, 0, nil)
			r.method(1, channelClass, 40, []byte{0, 200, 0, 0, 0, 0, 0})
			r.expect(channelClass, 41)
			r.method(0, connectionClass, 50, []byte{0, 200, 0, 0, 0, 0, 0})
			r.expect(connectionClass, 51)
		}},
		{"an unknown frame type", func(e *env) {
			r := e.opened()
			r.frame(77, 0, []byte("hello"))
			r.closed(501)
		}},
		{"a wrong frame end", func(e *env) {
			r := e.opened()
			r.bytes([]byte{heartbeatFrame, 0, 0, 0, 0, 0, 0, 'x'})
			r.closed(501)
		}},
		{"a frame beyond the limit", func(e *env) {
			r := e.opened()
			r.bytes([]byte{methodFrame, 0, 1, 0x7f, 0xff, 0xff, 0xff})
			r.closed(501)
		}},
		{"a heartbeat on a channel", func(e *env) {
			r := e.opened()
			r.frame(heartbeatFrame, 1, nil)
			r.closed(505)
		}},
		{"content on channel 0", func(e *env) {
			r := e.opened()
			r.frame(bodyFrame, 0, []byte("x"))
			r.closed(505)
		}},
		{"content without a method", func(e *env) {
			r := e.opened()
			r.open(1)
			r.frame(bodyFrame, 1, []byte("x"))
			r.closed(505)
		}},
		{"a method where a header must come", func(e *env) {
			r := e.opened()
			r.open(1)
			r.method(1, basic, 40, publishArgs("k"))
			r.method(1, basic, 40, publishArgs("k"))
			r.closed(505)
		}},
		{"a header of another class", func(e *env) {
			r := e.opened()
			r.open(1)
			r.method(1, basic, 40, publishArgs("k"))
			r.frame(headerFrame, 1, contentHeader(50, 1))
			r.closed(505)
		}},
		{"a header where a body must come", func(e *env) {
			r := e.opened()
			r.open(1)
			r.method(1, basic, 40, publishArgs("k"))
			r.frame(headerFrame, 1, contentHeader(basic, 5))
			r.frame(headerFrame, 1, contentHeader(basic, 5))
			r.closed(505)
		}},
		{"a method before its channel is open", func(e *env) {
			r := e.opened()
			r.method(1, queueClass, 30, []byte{0, 0, 1, 'q', 0})
			r.closed(504)
		}},
		{"a second channel.open", func(e *env) {
			r := e.opened()
			r.open(1)
			r.method(1, channelClass, 10, []byte{0})
			r.closed(504)
		}},
		{"a method the handshake has no place for", func(e *env) {
			r := e.opened()
			r.method(0, connectionClass, 31, []byte{0, 10, 0, 2, 0, 0, 0, 0})
			r.closed(504)
		}},
		{"a method that is cut short", func(e *env) {
			r := e.opened()
			r.open(1)
			r.method(1, basic, 40, []byte{0, 0, 9, 'x'})
			r.closed(501)
		}},
		{"a method that is too long", func(e *env) {
			r := e.opened()
			r.open(1)
			r.method(1, basic, 80, []byte{0, 0, 0, 0, 0, 0, 0, 1, 0, 99, 99})
			r.closed(501)
		}},
		{"limits out of bounds end the handshake without a word", func(e *env) {
			for _, size := range []uint32{1000, 131073, 0} {
				r := e.raw()
				r.header()
				r.startOK()
				r.expect(connectionClass, 30)
				p := append([]byte{0, 10}, 0, 0, 0, 0, 0, 0)
				binary.BigEndian.PutUint32(p[2:], size)
				r.method(0, connectionClass, 31, p)
				r.ended()
			}
		}},
		{"too many channels", func(e *env) {
			r := e.opened()
			for n := uint16(1); n <= 10; n++ {
				r.open(n)
			}
			r.method(11, channelClass, 10, []byte{0})
			r.closed(530)
		}},
		{"the end in the middle of a message leaves nothing", func(e *env) {
			q := e.queue("q", nil)
			r := e.opened()
			r.open(1)
			r.method(1, basic, 40, publishArgs(q))
			r.frame(headerFrame, 1, contentHeader(basic, 10))
			r.frame(bodyFrame, 1, []byte("half "))
			e.ok(r.Close())
			<-time.After(quiet)
			e.depth(q, 0)
		}},
		{"what follows a channel error is ignored until it is answered", func(e *env) {
			r := e.opened()
			r.open(1)
			r.method(1, basic, 80, []byte{0, 0, 0, 0, 0, 0, 0, 9, 0}) // unknown tag
			r.method(1, basic, 80, []byte{0, 0, 0, 0, 0, 0, 0, 9, 0})
			r.method(1, queueClass, 30, []byte{0, 0, 1, 'q', 0})
			args := r.expect(channelClass, 40)
			want(e, "code", binary.BigEndian.Uint16(args), uint16(406))
			r.method(1, channelClass, 41, nil)
			r.open(1)
		}},
		{"a header table nested deeper than clients read", func(e *env) {
			q := e.queue("q", nil)
			r := e.opened()
			r.open(1)
			table := []byte{}
			for range 100 {
				inner := append([]byte{1, 'p', 'F'}, binary.BigEndian.AppendUint32(nil, uint32(len(table)))...)
				table = append(inner, table...)
			}
			props := append([]byte{0x20, 0}, binary.BigEndian.AppendUint32(nil, uint32(len(table)))...)
			r.method(1, basic, 40, publishArgs(q))
			r.frame(headerFrame, 1, contentHeader(basic, 0, append(props, table...)...))
			r.method(1, channelClass, 40, []byte{0, 200, 0, 0, 0, 0, 0})
			r.expect(channelClass, 41)
			e.depth(q, 1)
		}},
	})
}
