package brokertest

import (
	"bytes"
	"errors"
	"io"
	"math"
	"reflect"
	"slices"
	"testing"
)

// seedTable has a value of every type.
var seedTable = table{
	{"t", boolean(true)}, {"b", value{'b', int8(-1)}}, {"B", value{'B', uint8(1)}}, {"s", value{'s', int16(-2)}},
	{"u", value{'u', uint16(2)}}, {"I", value{'I', int32(-3)}}, {"i", value{'i', uint32(3)}}, {"l", long64(-4)},
	{"f", value{'f', float32(1.5)}}, {"d", value{'d', 2.5}}, {"D", value{'D', decimal{2, 314}}}, {"S", text("s")},
	{"x", value{'x', []byte{1, 2}}}, {"T", value{'T', uint64(1)}}, {"V", value{kind: 'V'}},
	{"F", value{'F', table{{"inner", text("v")}}}}, {"A", value{'A', []value{long64(1), text("two")}}},
}

// FuzzTable decodes tables and expects what it encodes to decode to the same.
func FuzzTable(f *testing.F) {
	for _, t := range []table{nil, seedTable, {{"", value{'F', seedTable}}}} {
		var e encoder
		e.table(&t)
		f.Add(e.buf)
	}
	f.Add([]byte{0, 0, 0, 5, 1, 'k', 'S', 0xff, 0xff})
	f.Fuzz(func(t *testing.T, p []byte) {
		d := decoder{buf: p}
		first := d.fields()
		if d.err != nil {
			return
		}
		var e encoder
		e.table(&first)
		if n := len(p) - len(d.buf); len(e.buf) != n {
			t.Fatalf("%d octets decoded, %d encoded", n, len(e.buf))
		}
		d2 := decoder{buf: e.buf}
		second := d2.fields()
		var e2 encoder
		if e2.table(&second); d2.err != nil || !bytes.Equal(e.buf, e2.buf) {
			t.Fatalf("%v became %v (%v)", first, second, d2.err)
		}
		first.public() // must not panic
		if !first.sorted().equal(second) && !hasNaN(first) {
			t.Fatalf("%v is not equal to itself", first)
		}
	})
}

// hasNaN says whether a table has a value that is not equal to itself.
func hasNaN(t table) bool {
	var odd func(v value) bool
	odd = func(v value) bool {
		switch x := v.v.(type) {
		case float32:
			return math.IsNaN(float64(x))
		case float64:
			return math.IsNaN(x)
		case table:
			return hasNaN(x)
		case []value:
			return slices.ContainsFunc(x, odd)
		}
		return false
	}
	for _, f := range t {
		if odd(f.val) {
			return true
		}
	}
	return false
}

// FuzzMethod decodes methods and expects what it encodes to decode to the same.
func FuzzMethod(f *testing.F) {
	for id, kind := range methods {
		var e encoder
		e.u32(uint32(id))
		kind.make().fields(&e)
		f.Add(e.buf)
	}
	var e encoder
	e.u32(uint32(idQueueDeclare))
	(&queueDeclare{queue: "q", durable: true, noWait: true, arguments: seedTable}).fields(&e)
	f.Add(e.buf)
	f.Fuzz(func(t *testing.T, p []byte) {
		m, err := decodeMethod(p)
		if err != nil {
			var ae *amqpError
			if !errors.As(err, &ae) || !ae.hard {
				t.Fatalf("error %v does not end the connection", err)
			}
			return
		}
		first := encodeMethod(m)
		again, err := decodeMethod(first)
		if err != nil || !bytes.Equal(first, encodeMethod(again)) {
			t.Fatalf("%#v became %#v (%v)", m, again, err)
		}
	})
}

func encodeMethod(m method) []byte {
	var e encoder
	e.u32(uint32(m.id()))
	m.fields(&e)
	return e.buf
}

// FuzzHeader decodes content headers.
func FuzzHeader(f *testing.F) {
	p := properties{
		flags: 0xfffc, contentType: "a", headers: seedTable, deliveryMode: 2, priority: 1, correlationID: "c",
		replyTo: "r", expiration: "1", messageID: "m", timestamp: 5, kind: "k", userID: "u", appID: "ap", clusterID: "cl",
	}
	f.Add(append(make([]byte, 12), p.encode()...))
	f.Add(append(make([]byte, 12), 0, 0))
	f.Add(append(make([]byte, 12), 0, 1, 0, 0))
	f.Fuzz(func(t *testing.T, raw []byte) {
		h, err := decodeHeader(raw)
		if err != nil {
			return
		}
		var back properties
		d := decoder{buf: h.props.encode()}
		if back.decode(&d); d.err != nil || !bytes.Equal(back.encode(), h.props.encode()) {
			t.Fatalf("%+v became %+v (%v)", h.props, back, d.err)
		}
	})
}

// FuzzFrames reads frames from a stream; every fault has a code, and what comes
// out goes in again.
func FuzzFrames(f *testing.F) {
	var e encoder
	e.method(1, &queueDeclare{queue: "q"})
	e.content(1, []byte{0, 0}, []byte("body"), frameMax)
	f.Add(e.buf)
	f.Add([]byte{8, 0, 0, 0, 0, 0, 0, frameEnd})
	f.Add([]byte{8, 0, 0, 0, 0, 0, 0, 0})
	f.Add([]byte{1, 0, 0, 0xff, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, p []byte) {
		r := bytes.NewReader(p)
		for {
			got, err := readFrame(r, frameMin)
			var ae *amqpError
			switch {
			case err == nil:
			case errors.As(err, &ae) && ae.code == 501, err == io.EOF, err == io.ErrUnexpectedEOF:
				return
			default:
				t.Fatal(err)
			}
			var e encoder
			e.frame(got.kind, got.channel, func() { e.buf = append(e.buf, got.payload...) })
			again, err := readFrame(bytes.NewReader(e.buf), frameMin)
			if err != nil || !reflect.DeepEqual(got, again) {
				t.Fatalf("%v became %v (%v)", got, again, err)
			}
		}
	})
}

// FuzzConversation sends frames of a hostile client to a running broker, which
// must end that connection or go on, and serve the next one.
func FuzzConversation(f *testing.F) {
	var e encoder
	e.method(1, &channelOpenMethod{})
	e.method(1, &queueDeclare{queue: "q", arguments: table{{"x-max-length", long64(1)}}})
	e.method(1, &confirmSelect{})
	e.method(1, &basicPublish{key: "q", mandatory: true})
	e.content(1, (&properties{flags: flagHeaders, headers: seedTable}).encode(), []byte("body"), frameMax)
	e.method(1, &basicConsume{queue: "q", tag: "t"})
	e.method(1, &basicNack{deliveryTag: 1, requeue: true})
	e.method(1, &basicReject{deliveryTag: 2})
	e.method(1, &txSelect{})
	f.Add(e.buf)
	f.Add([]byte{8, 0, 0, 0, 0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, p []byte) {
		b := New()
		t.Cleanup(b.Close)
		c, err := b.Dial("", "")
		if err != nil {
			t.Fatal(err)
		}
		var e encoder
		e.buf = append(e.buf, protocolHeader...)
		e.method(0, &connectionStartOk{mechanism: "PLAIN", response: "\x00guest\x00guest", locale: "en_US"})
		e.method(0, &connectionTuneOk{channelMax: 10, frameMax: frameMax})
		e.method(0, &connectionOpen{vhost: "/"})
		e.buf = append(e.buf, p...)
		done := make(chan struct{})
		go func() {
			defer close(done)
			_, _ = io.Copy(io.Discard, c) // until the broker closes it
		}()
		_, _ = c.Write(e.buf) // the broker may have closed it by then
		c.(*pipeConn).out.closeWrite()
		<-done // everything was handled
		b.mu.Lock()
		defer b.mu.Unlock()
		if b.holding != 0 || len(b.dirty)+len(b.doomed) != 0 {
			t.Fatal("work is left over")
		}
		for _, q := range b.vhosts["/"].queues {
			if len(q.consumers) != 0 || len(q.unacked) != 0 {
				t.Fatalf("%s belongs to a client that is gone", q)
			}
		}
	})
}
