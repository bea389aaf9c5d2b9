package wire_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"math"
	"net"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/harebus/harebus/brokertest"
	"github.com/harebus/harebus/internal/wire"
)

// injector is a connection to a broker whose reads can be added to, between two frames.
type injector struct {
	net.Conn
	out *io.PipeReader
	in  *io.PipeWriter
}

func inject(raw net.Conn) *injector {
	i := &injector{Conn: raw}
	i.out, i.in = io.Pipe()
	go func() {
		_, err := io.Copy(i.in, raw)
		_ = i.in.CloseWithError(errors.Join(err, io.EOF))
	}()
	return i
}

func (i *injector) Read(p []byte) (int, error) { return i.out.Read(p) }

func (i *injector) Close() error {
	_ = i.in.Close()
	_ = i.out.Close()
	return i.Conn.Close()
}

// reader is a consumer that is told what it reads.
type reader struct {
	conn       *amqp.Connection
	injector   *injector
	deliveries <-chan amqp.Delivery
	packed     bool
	tag        uint64
}

const readerQueue = "reader"

func newReader(t testing.TB, b *brokertest.Broker, packed bool) *reader {
	t.Helper()
	r := &reader{packed: packed}
	conn, err := amqp.DialConfig(b.URL(), amqp.Config{Heartbeat: time.Hour, Dial: func(network, address string) (net.Conn, error) {
		raw, err := b.Dial(network, address)
		if err != nil {
			return nil, err
		}
		r.injector = inject(raw)
		if packed {
			return wire.Pack(r.injector), nil
		}
		return r.injector, nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	r.conn = conn
	ch, err := conn.Channel()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ch.QueueDeclare(readerQueue, true, false, false, false, nil); err != nil {
		t.Fatal(err)
	}
	if r.deliveries, err = ch.Consume(readerQueue, "tag", true, false, false, false, nil); err != nil {
		t.Fatal(err)
	}
	return r
}

func (r *reader) close() {
	_ = r.injector.Close()
	_ = r.conn.Close()
}

// read gives r the frames of a delivery and returns what it makes of it: nothing if its
// connection ends.
func (r *reader) read(t testing.TB, properties, body []byte) *amqp.Delivery {
	t.Helper()
	r.tag++
	go func() { _, _ = r.injector.in.Write(deliver(r.tag, properties, body)) }()
	select {
	case d, ok := <-r.deliveries:
		if !ok {
			return nil
		}
		if r.packed {
			if err := wire.Unpack(&d); err != nil {
				if !errors.As(err, new(*wire.UnreadableError)) || !bytes.Equal(d.Body, body) {
					t.Errorf("not unpacked: %v, body %q", err, d.Body)
				}
				return nil
			}
		}
		d.Acknowledger = nil
		return &d
	case <-time.After(10 * time.Second):
		t.Fatal("neither a delivery nor the end of the connection")
		return nil
	}
}

// deliver makes the frames of a delivery.
func deliver(tag uint64, properties, body []byte) []byte {
	method := []byte{0, 60, 0, 60, 3, 't', 'a', 'g'}
	method = binary.BigEndian.AppendUint64(method, tag)
	method = append(method, 1, 2, 'e', 'x', 3, 'k', 'e', 'y')
	out := frame(nil, 1, method)
	out = frame(out, 2, append(binary.BigEndian.AppendUint64([]byte{0, 60, 0, 0}, uint64(len(body))), properties...))
	for len(body) > 0 {
		n := min(len(body), 4000)
		out = frame(out, 3, body[:n])
		body = body[n:]
	}
	return out
}

func frame(out []byte, kind byte, payload []byte) []byte {
	out = append(out, kind, 0, 1)
	out = binary.BigEndian.AppendUint32(out, uint32(len(payload)))
	return append(append(out, payload...), 0xCE)
}

// encoded is how the client writes properties.
func encoded(t testing.TB, c *client, p amqp.Publishing) []byte {
	t.Helper()
	p.Body = nil
	if err := c.ch.Publish("", "", false, false, p); err != nil {
		t.Fatal(err)
	}
	written := c.rec.take(0)
	method := 7 + int(binary.BigEndian.Uint32(written[3:])) + 1
	header := written[method:]
	return header[7+12 : len(header)-1]
}

// pair is the client alone, and the client with packed deliveries.
type pair struct {
	broker        *brokertest.Broker
	plain, packed *reader
}

func (p *pair) close() {
	if p.plain != nil {
		p.plain.close()
		p.packed.close()
		p.plain = nil
	}
}

// compare has both read a delivery and says who could.
func (p *pair) compare(t testing.TB, properties, body []byte) (client, packed bool) {
	t.Helper()
	if p.plain == nil {
		p.plain, p.packed = newReader(t, p.broker, false), newReader(t, p.broker, true)
	}
	want, got := p.plain.read(t, properties, body), p.packed.read(t, properties, body)
	if want == nil || got == nil {
		if p.packed.conn.IsClosed() {
			t.Errorf("%q ended the connection", properties)
		}
		p.close()
		return want != nil, got != nil
	}
	want.DeliveryTag = got.DeliveryTag
	if !same(got, want) {
		t.Errorf("%q\nread as %+v\nthe client's %+v", properties, got, want)
	}
	return true, true
}

// same is reflect.DeepEqual for which a NaN is one.
func same(a, b *amqp.Delivery) bool {
	return reflect.DeepEqual(exact(a.Headers), exact(b.Headers)) && func(a, b amqp.Delivery) bool {
		a.Headers, b.Headers = nil, nil
		return reflect.DeepEqual(a, b)
	}(*a, *b)
}

func exact(value any) any {
	switch v := value.(type) {
	case float32:
		return [2]any{"float32", math.Float32bits(v)}
	case float64:
		return [2]any{"float64", math.Float64bits(v)}
	case amqp.Table:
		if v == nil {
			return v
		}
		out := amqp.Table{}
		for key, value := range v {
			out[key] = exact(value)
		}
		return out
	case []any:
		if v == nil {
			return v
		}
		out := []any{}
		for _, value := range v {
			out = append(out, exact(value))
		}
		return out
	}
	return value
}

// What is read must be what the client reads, and what the client cannot read must be reported.
func FuzzUnpack(f *testing.F) {
	for kind := range uint8(19) {
		f.Add(kind, int64(kind)*7-50, "key", "text/plain", []byte("body"), uint16(0), byte(0))
		f.Add(kind, int64(kind), "key", "text/plain", []byte(nil), 20+uint16(kind), kind+1)
	}
	f.Add(uint8(12), int64(-1), "", "", []byte{}, uint16(0), byte(0))
	f.Add(uint8(12), int64(-1), "", "", []byte{}, uint16(0), byte(7)) // flags that mean nothing
	f.Add(uint8(15), int64(1<<40), strings.Repeat("k", 255), "a", bytes.Repeat([]byte("0123456789abcdef"), 2000), uint16(0), byte(0))
	b := brokertest.New()
	writer := dial(f, b, true)
	writer.rec.mute()
	p := pair{broker: b}
	f.Cleanup(func() {
		p.close()
		b.Close()
	})
	f.Fuzz(func(t *testing.T, kind uint8, n int64, name, text string, body []byte, at uint16, change byte) {
		if len(name) > 255 || len(text) > 255 || len(body) > 100<<10 {
			return
		}
		message := amqp.Publishing{
			ContentType: text, ContentEncoding: name, DeliveryMode: kind % 3, Priority: uint8(n), CorrelationId: text,
			ReplyTo: text, Expiration: name, MessageId: text, Type: text, UserId: text, AppId: name,
			Headers: amqp.Table{name: value(kind, n, name), "another": value(kind+1, n+1, text)},
		}
		if n%2 == 0 {
			message.Timestamp = time.Unix(n%1e12, 0)
		}
		properties := encoded(t, writer, message)
		properties[int(at)%len(properties)] ^= change
		client, packed := p.compare(t, properties, body)
		if client == packed && (client || change != 0) {
			return
		}
		// The client takes a list that ends in the middle of an element.
		if client && !packed && change != 0 && bytes.Contains(properties, []byte{'A'}) {
			return
		}
		t.Errorf("%q is read by the client: %t, packed: %t", properties, client, packed)
	})
}

// stream is a connection that can only be read from.
type stream struct {
	net.Conn
	io.Reader
}

func (s stream) Read(p []byte) (int, error) { return s.Reader.Read(p) }

// pack is what comes out of a connection that in is read from.
func pack(in io.Reader) ([]byte, error) { return io.ReadAll(wire.Pack(stream{Reader: in})) }

var somewhere = amqp.Table{"key": "value"}

// However the stream is cut into pieces, only the properties of deliveries change their place.
func TestPackWhateverThePieces(t *testing.T) {
	t.Parallel()
	b := brokertest.New()
	defer b.Close()
	writer := dial(t, b, true)
	writer.rec.mute()
	properties := encoded(t, writer, amqp.Publishing{Headers: somewhere, MessageId: "id"})
	long := encoded(t, writer, amqp.Publishing{Headers: amqp.Table{"long": strings.Repeat("x", 120<<10)}})
	content := binary.BigEndian.AppendUint64([]byte{0, 60, 0, 0}, 3)

	var in, want []byte
	both := func(kind byte, payload []byte) { in, want = frame(in, kind, payload), frame(want, kind, payload) }
	other := func(method byte) { // what also comes with a header frame: a return, the answer to a get
		both(1, []byte{0, 60, 0, method, 0})
		both(2, append(bytes.Clone(content), properties...))
		both(3, []byte("abc"))
	}
	both(8, nil)
	other(50)
	for n, m := range []struct{ properties, body []byte }{
		{properties, []byte("small")}, {properties, nil}, {long, nil}, {properties, bytes.Repeat([]byte("large"), 50_000)},
	} {
		in = append(in, deliver(uint64(n), m.properties, m.body)...)
		packed := append(binary.BigEndian.AppendUint32(nil, uint32(len(m.properties))), m.properties...)
		whole := deliver(uint64(n), []byte{0, 0}, m.body)
		method := 7 + int(binary.BigEndian.Uint32(whole[3:])) + 1
		const header = 7 + 14 + 1
		binary.BigEndian.PutUint64(whole[method+7+4:], uint64(len(packed)+len(m.body)))
		want = append(want, whole[:method+header]...)
		for piece := range slices.Chunk(packed, 4096-8) { // the smallest frames there are
			want = frame(want, 3, piece)
		}
		want = append(want, whole[method+header:]...)
		other(71)
		both(1, []byte{0, 60, 0, 80, 0, 0, 0, 0, 0, 0, 0, 1, 0})
	}
	both('A', []byte("no frame at all"))

	for name, pieces := range map[string]func(io.Reader) io.Reader{
		"all": func(r io.Reader) io.Reader { return r }, "bytes": iotest.OneByteReader, "halves": iotest.HalfReader,
		"the end with the last": iotest.DataErrReader,
	} {
		got, err := pack(pieces(bytes.NewReader(in)))
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: %d bytes instead of %d: %v", name, len(got), len(want), err)
		}
		if err := iotest.TestReader(wire.Pack(stream{Reader: pieces(bytes.NewReader(in))}), want); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

var errCut = errors.New("the cable was cut")

// Where the connection ends, what came before its end goes through, and then the reason.
func TestPackToTheEnd(t *testing.T) {
	t.Parallel()
	b := brokertest.New()
	defer b.Close()
	writer := dial(t, b, true)
	writer.rec.mute()
	first := deliver(1, encoded(t, writer, amqp.Publishing{Headers: somewhere}), []byte("body"))
	whole, err := pack(bytes.NewReader(first))
	if err != nil {
		t.Fatal(err)
	}
	for n := range first {
		in := append(bytes.Clone(first), first[:n]...)
		got, err := pack(io.MultiReader(bytes.NewReader(in), iotest.ErrReader(errCut)))
		if !errors.Is(err, errCut) || !bytes.HasPrefix(got, whole) || len(got) < len(whole)+min(n, 20) {
			t.Errorf("cut after %d bytes: read %d, %v", n, len(got)-len(whole), err)
		}
	}
}

// all is a reader that gives everything and its error at once, as a TLS connection may.
type all struct {
	data []byte
	err  error
}

func (a *all) Read(p []byte) (int, error) {
	n := copy(p, a.data)
	if a.data = a.data[n:]; len(a.data) > 0 {
		return n, nil
	}
	return n, a.err
}

// What comes together with the end is packed like everything else.
func TestPackWithTheEnd(t *testing.T) {
	t.Parallel()
	first := deliver(1, []byte{0, 0}, []byte("body"))
	for n := range first {
		in := append(bytes.Clone(first), first[:n]...)
		want, err := pack(io.MultiReader(bytes.NewReader(in), iotest.ErrReader(errCut)))
		if !errors.Is(err, errCut) {
			t.Fatal(err)
		}
		got, err := pack(&all{in, errCut})
		if !errors.Is(err, errCut) || !bytes.Equal(got, want) {
			t.Errorf("cut after %d bytes: %q instead of %q, %v", n, got, want, err)
		}
	}
}

// What somebody keeps of a delivery must not keep all of it.
func TestUnpackedStringsKeepLittle(t *testing.T) {
	b := brokertest.New()
	defer b.Close()
	writer := dial(t, b, true)
	writer.rec.mute()
	const messages, size = 200, 100 << 10
	properties := encoded(t, writer, amqp.Publishing{MessageId: "id", Headers: amqp.Table{"long": strings.Repeat("x", size)}})
	packed := append(binary.BigEndian.AppendUint32(nil, uint32(len(properties))), properties...)
	before := heap()
	var kept []string
	for range messages {
		d := amqp.Delivery{Body: bytes.Clone(packed)}
		if err := wire.Unpack(&d); err != nil {
			t.Fatal(err)
		}
		kept = append(kept, d.MessageId)
	}
	if grown := heap() - before; grown > messages*size/4 {
		t.Errorf("%d ids keep %d bytes", len(kept), grown)
	}
	runtime.KeepAlive(kept)
}

func heap() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// nest makes a table in so many tables or lists.
func nest(depth int, list bool) amqp.Table {
	var inner any = "x"
	for range depth {
		if list {
			inner = []any{inner}
		} else {
			inner = amqp.Table{"k": inner}
		}
	}
	return amqp.Table{"k": inner}
}

func TestUnpackRefusesWhatTheClientWould(t *testing.T) {
	t.Parallel()
	b := brokertest.New()
	defer b.Close()
	writer := dial(t, b, true)
	writer.rec.mute()
	p := pair{broker: b}
	defer p.close()
	many := make(amqp.Table)
	for n := range 8193 {
		many[string(rune('\u4e00'+n))] = nil
	}
	headers := func(table amqp.Table) []byte { return encoded(t, writer, amqp.Publishing{Headers: table}) }
	cut := func(n int) []byte { return headers(somewhere)[:n] }
	for name, c := range map[string]struct {
		properties []byte
		read       bool
	}{
		"tables in tables": {headers(nest(32, false)), true}, "too many tables in tables": {headers(nest(33, false)), false},
		"lists in lists": {headers(nest(32, true)), true}, "too many lists in lists": {headers(nest(33, true)), false},
		"long list": {headers(amqp.Table{"k": make([]any, 8192)}), true}, "too long a list": {headers(amqp.Table{"k": make([]any, 8193)}), false},
		"too many headers": {headers(many), false},
		"nothing":          {nil, false}, "half the flags": {cut(1), false}, "no table": {cut(2), false}, "half a table": {cut(12), false},
		"unknown kind":                         {[]byte{0x20, 0, 0, 0, 0, 4, 1, 'k', 'L', 0}, false},
		"a key that is longer than the table":  {[]byte{0x20, 0, 0, 0, 0, 2, 9, 'k', 'V', 0, 0, 0, 0, 0, 0, 0}, false},
		"a text that is longer than the table": {[]byte{0x20, 0, 0, 0, 0, 8, 1, 'k', 'S', 0, 0, 0, 9, 'a', 0, 0, 0, 0, 0, 0, 0, 0, 0}, false},
		"a text of four gigabytes":             {[]byte{0x20, 0, 0, 0, 0, 8, 1, 'k', 'S', 255, 255, 255, 255, 'a'}, false},
		"more than there are flags for":        {append(headers(somewhere), "more"...), true},
		"a cluster id":                         {[]byte{0, 4, 1, 'x'}, true},
		"half a cluster id":                    {[]byte{0, 4, 2, 'x'}, false},
		"unknown flags":                        {[]byte{0, 3}, true},
	} {
		if client, packed := p.compare(t, c.properties, []byte("body")); client != c.read || packed != c.read {
			t.Errorf("%s: read by the client: %t, packed: %t", name, client, packed)
		}
	}
	delete(many, "\u4e00")
	if client, packed := p.compare(t, headers(many), nil); !client || !packed {
		t.Error("8,192 headers were not read")
	}
	repeated := bytes.Repeat([]byte{0, 'V'}, 8193)
	repeated = append(binary.BigEndian.AppendUint32([]byte{0x20, 0}, uint32(len(repeated))), repeated...)
	if client, packed := p.compare(t, repeated, nil); !client || packed {
		t.Errorf("one key 8,193 times: read by the client: %t, packed: %t", client, packed)
	}
	method := frame(nil, 1, []byte{0, 60, 0, 60})
	for name, header := range map[string][]byte{
		"no end":    append(frame(nil, 2, make([]byte, 14))[:7+14], 0),
		"too short": frame(nil, 2, []byte{0, 60, 0, 0}),
		"too long":  frame(nil, 2, make([]byte, 2<<20)),
	} {
		got, err := pack(bytes.NewReader(append(bytes.Clone(method), header...)))
		if err == nil || !bytes.Equal(got, method) {
			t.Errorf("%s: after the method frame %d bytes, error %v", name, len(got)-len(method), err)
		}
	}
}

// What was not packed is not unpacked.
func TestUnpackNothing(t *testing.T) {
	t.Parallel()
	for _, body := range []string{"", "abc", "abcdef", "\x00\x00\x00\x01a", "\x00\x00\x00\x02\x80\x00"} {
		if err := wire.Unpack(&amqp.Delivery{Body: []byte(body)}); err == nil {
			t.Errorf("unpacked %q", body)
		}
	}
}
