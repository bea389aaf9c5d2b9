package harebus_test

import (
	"bytes"
	"compress/gzip"
	"compress/zlib"
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/harebus/harebus"
)

// note is a message whose body can be long.
type note struct{ Text string }

func (note) MessageType() string { return "Note" }

var longNote = note{strings.Repeat("all work and no play ", 500)}

// upper is a compression for tests, which needs a dictionary.
type upper struct{ known bool }

func (upper) Coding() string { return "upper" }

func (upper) Compress(dst, body []byte) ([]byte, error) {
	return append(dst, body[:len(body)/2]...), nil
}

func (u upper) Decompress(body []byte, _ int) ([]byte, error) {
	if !u.known {
		return nil, harebus.ErrNoDictionary
	}
	return fmt.Appendf(nil, `{"Text":"%d bytes"}`, len(body)), nil
}

// TestCompression: what is sent compressed, and what not.
func TestCompression(t *testing.T) {
	for name, c := range map[string]struct {
		config  harebus.CompressConfig
		message note
		opts    []harebus.SendOption
		want    string
	}{
		"off":                 {message: longNote, want: "utf-8"},
		"on":                  {config: harebus.CompressConfig{With: harebus.Gzip{}}, message: longNote, want: "gzip"},
		"small":               {config: harebus.CompressConfig{With: harebus.Gzip{}}, message: note{longNote.Text[:4000]}, want: "utf-8"},
		"from":                {config: harebus.CompressConfig{With: harebus.Gzip{}, From: 100}, message: note{longNote.Text[:400]}, want: "gzip"},
		"not smaller":         {config: harebus.CompressConfig{With: harebus.Gzip{}, From: 1}, message: note{"abcdefghijklmnopqrstuvwxyz"}, want: "utf-8"},
		"type":                {config: harebus.CompressConfig{Types: map[string]harebus.Compression{"Note": harebus.Gzip{}}}, message: longNote, want: "gzip"},
		"not this type":       {config: harebus.CompressConfig{With: harebus.Gzip{}, Types: map[string]harebus.Compression{"Note": nil}}, message: longNote, want: "utf-8"},
		"this call":           {message: note{longNote.Text[:400]}, opts: []harebus.SendOption{harebus.WithCompression(harebus.Gzip{})}, want: "gzip"},
		"not this call":       {config: harebus.CompressConfig{With: harebus.Gzip{}}, message: longNote, opts: []harebus.SendOption{harebus.WithCompression(nil)}, want: "utf-8"},
		"another compression": {config: harebus.CompressConfig{With: upper{known: true}}, message: longNote, want: "upper"},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, r *rig) {
				cfg := r.config("notes")
				cfg.Payload.Compress = c.config
				s := r.setup(cfg)
				got := make(chan note, 1)
				var m *harebus.Message
				harebus.Handle(s, func(ctx context.Context, _ *harebus.Bus, n note) error {
					m = harebus.Incoming(ctx)
					got <- n
					return nil
				})
				r.start(s)
				if err := s.Bus().Send(r.ctx, "notes", c.message, c.opts...); err != nil {
					t.Fatal(err)
				}
				if n := receive(r, got); c.want != "upper" && n != c.message {
					t.Errorf("the handler got %.60q", n.Text)
				}
				if m.Properties.ContentEncoding != c.want || m.Headers[prefixed("ContentEncoding")] != c.want {
					t.Errorf("the encoding is %q and %q, want %q", m.Properties.ContentEncoding, m.Headers[prefixed("ContentEncoding")], c.want)
				}
				if m.ContentEncoding != "" && m.ContentEncoding != "utf-8" {
					t.Errorf("the handler sees the encoding %q", m.ContentEncoding)
				}
			})
		})
	}
}

// TestCompressedCopies: a compressed message that fails is retried and parked as it came.
func TestCompressedCopies(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		cfg := r.config("notes")
		cfg.Payload.Compress.With = harebus.Gzip{}
		cfg.Retry.MaxRetries = 1
		s := r.setup(cfg)
		attempts := make(chan note, 2)
		harebus.Handle(s, func(_ context.Context, _ *harebus.Bus, n note) error {
			attempts <- n
			return errors.New("no")
		})
		r.start(s)
		if err := s.Bus().Send(r.ctx, "notes", longNote); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			if receive(r, attempts) != longNote {
				t.Error("the handler got another note")
			}
		}
		parked := r.await("error", 1)[0]
		body, err := harebus.Gzip{}.Decompress(parked.Body, 1<<20)
		if err != nil || !strings.Contains(string(body), longNote.Text) || parked.ContentEncoding != "gzip" {
			t.Errorf("parked: encoding %q, body %.40q, %v", parked.ContentEncoding, body, err)
		}
	})
}

// TestCompressedReply: replies to requests are decompressed.
func TestCompressedReply(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		cfg := r.config("notes")
		cfg.Payload.Compress.With = harebus.Gzip{}
		s := r.setup(cfg)
		harebus.Handle(s, func(ctx context.Context, bus *harebus.Bus, n note) error { return bus.Reply(ctx, n) })
		r.start(s)
		reply, err := harebus.Request[note](r.ctx, s.Bus(), "notes", longNote)
		if err != nil || reply != longNote {
			t.Errorf("%.40q, %v", reply.Text, err)
		}
	})
}

// TestInvokeCompresses: a test of a handler sees what it sends as its receiver will.
func TestInvokeCompresses(t *testing.T) {
	cfg := harebus.Config{Queue: "notes"}
	cfg.Payload.Compress.With = harebus.Gzip{}
	s, err := harebus.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	harebus.Handle(s, func(ctx context.Context, bus *harebus.Bus, n note) error { return bus.Send(ctx, "other", n) })
	i, err := s.Invoke(t.Context(), longNote)
	if err != nil || i.Err != nil {
		t.Fatal(err, i)
	}
	var sent note
	if err := i.Sent[0].Decode(&sent); err != nil || sent != longNote {
		t.Errorf("sent %.40q, %v", sent.Text, err)
	}
}

// TestMissingDictionary: a body that only another instance can read is retried.
func TestMissingDictionary(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		cfg := r.config("notes")
		cfg.Payload.Compress.Accept = []harebus.Compression{upper{}}
		s := r.setup(cfg)
		harebus.Handle(s, func(context.Context, *harebus.Bus, note) error { return nil })
		r.start(s)
		r.publish(r.channel(), "notes", amqp.Publishing{Type: "Note", ContentEncoding: "upper", Body: []byte("x")})
		time.Sleep(30 * time.Second)
		if stats := s.Stats(); stats.Retried == 0 || stats.Parked != 0 {
			t.Errorf("retried %d, parked %d", stats.Retried, stats.Parked)
		}
	})
}

// TestReceiveFuncAndCompression: a ReceiveFunc sees the decompressed body, and can name a
// coding that the sender wrote elsewhere.
func TestReceiveFuncAndCompression(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		cfg := r.config("notes")
		seen := make(chan string, 1)
		cfg.Handling.Receive = func(_ context.Context, m *harebus.Message) error {
			seen <- string(m.Body)
			if m.Headers["compression"] == "application/x-gzip" { // as Celery has it
				m.ContentEncoding = "gzip"
			}
			return nil
		}
		s := r.setup(cfg)
		got := make(chan note, 1)
		harebus.Handle(s, func(_ context.Context, _ *harebus.Bus, n note) error { got <- n; return nil })
		r.start(s)
		ch := r.channel()
		body, err := harebus.Gzip{}.Compress(nil, []byte(`{"Text":"a"}`))
		if err != nil {
			t.Fatal(err)
		}
		r.publish(ch, "notes", amqp.Publishing{Type: "Note", ContentEncoding: "gzip", Body: body})
		if text := receive(r, seen); text != `{"Text":"a"}` || receive(r, got).Text != "a" {
			t.Errorf("the hook saw %q", text)
		}
		r.publish(ch, "notes", amqp.Publishing{Type: "Note", ContentEncoding: "utf-8", Headers: amqp.Table{"compression": "application/x-gzip"}, Body: body})
		if receive(r, seen); receive(r, got).Text != "a" {
			t.Error("the body was not decompressed")
		}
		celery, err := hex.DecodeString("789cab560a49ad2851b2524a54aa0500196103c1") // {"Text":"a"}
		if err != nil {
			t.Fatal(err)
		}
		r.publish(ch, "notes", amqp.Publishing{Type: "Note", ContentEncoding: "utf-8", Headers: amqp.Table{"compression": "application/x-gzip"}, Body: celery})
		if receive(r, seen); receive(r, got).Text != "a" {
			t.Error("the body of Celery was not decompressed")
		}
	})
}

// TestLargeBeforeCompression: the limit of bodies is that of what is decoded.
func TestLargeBeforeCompression(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		cfg := r.config("notes")
		cfg.Payload.Compress.With = harebus.Gzip{}
		cfg.Payload.MaxBody = 5000
		s := r.setup(cfg)
		if err := s.Bus().Send(r.ctx, "notes", longNote); !errors.Is(err, harebus.ErrRefused) {
			t.Errorf("the error is %v", err)
		}
	})
}

// gzipBomb is a gibibyte of zeros. A mebibyte of them is compressed twice; the second one is repeated.
func gzipBomb(t *testing.T) []byte {
	t.Helper()
	var bomb bytes.Buffer
	w := gzip.NewWriter(&bomb)
	zeros := make([]byte, 1<<20)
	var marks [2]int
	for i := range marks {
		if _, err := w.Write(zeros); err != nil {
			t.Fatal(err)
		}
		if err := w.Flush(); err != nil {
			t.Fatal(err)
		}
		marks[i] = bomb.Len()
	}
	second := bytes.Clone(bomb.Bytes()[marks[0]:marks[1]])
	for range 1022 {
		bomb.Write(second)
	}
	end := []byte{1, 0, 0, 0xff, 0xff, 0, 0, 0, 0} // the last block, which is empty, and a sum that nobody comes to
	return append(bomb.Bytes(), binary.LittleEndian.AppendUint32(end, 1<<30)...)
}

// TestGzipBomb: a bomb is refused before it fills the memory.
func TestGzipBomb(t *testing.T) {
	bomb := gzipBomb(t)
	const limit = 16 << 20
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	_, err := harebus.Gzip{}.Decompress(bomb, limit)
	runtime.ReadMemStats(&after)
	if !errors.Is(err, harebus.ErrBodyTooLarge) {
		t.Errorf("the error is %v", err)
	}
	lying := append(bytes.Clone(bomb[:len(bomb)-4]), 0, 0, 1, 0)
	if _, err := (harebus.Gzip{}).Decompress(lying, limit); err == nil {
		t.Error("a body that is longer than it says was accepted")
	}
	if used := after.TotalAlloc - before.TotalAlloc; used > limit/2 {
		t.Errorf("%d MiB were allocated", used>>20)
	}
}

// TestStrangeCodings: what a message can say of its coding, right or wrong. It is handled, or parked at once with the reason.
func TestStrangeCodings(t *testing.T) {
	pack := func(body []byte) []byte {
		out, err := harebus.Gzip{}.Compress(nil, body)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	plain := []byte(`{"Text":"a"}`)
	packed := pack(plain)
	var named bytes.Buffer
	w := gzip.NewWriter(&named)
	w.Name, w.Comment, w.Extra = "note.json", strings.Repeat("c", 500), make([]byte, 60000)
	if _, err := w.Write(plain); err != nil || w.Close() != nil {
		t.Fatal(err)
	}
	cases := map[string]struct {
		encoding string
		header   any // PikaBus.ContentEncoding; nil is none
		body     []byte
		want     string // how the error details begin; "" is handled
	}{
		"capitals": {"GZIP", nil, packed, ""}, "blanks": {" gzip ", nil, packed, ""},
		"spring": {"gzip, utf-8", nil, packed, ""}, "old spring": {"gzip:UTF-8", nil, packed, ""},
		"name and comment": {"gzip", nil, named.Bytes(), ""}, "zlib": {"gzip", nil, deflated(t, plain), ""},
		"header only": {"", "gzip", packed, ""}, "header first": {"utf-8", "gzip", packed, ""}, "bytes": {"", []byte("gzip"), packed, ""},
		"number": {"gzip", int32(7), packed, "bad-header"}, "table": {"gzip", amqp.Table{"a": "b"}, packed, "bad-header"},
		"charset first": {"utf-8, gzip", nil, packed, "unsupported-content"}, "unknown": {"br", nil, packed, "unsupported-content"},
		"twice": {"gzip", nil, pack(packed), "bad-payload"}, "twice, said": {"gzip, gzip", nil, pack(packed), "unsupported-content"},
		"not compressed": {"gzip", nil, plain, "bad-payload"}, "empty": {"gzip", nil, nil, "bad-payload"}, "of nothing": {"gzip", nil, pack(nil), "bad-payload"},
		"two members": {"gzip", nil, append(bytes.Clone(packed), packed...), "bad-payload"}, "empty member behind": {"gzip", nil, append(bytes.Clone(packed), pack(nil)...), "bad-payload"},
		"long name": {strings.Repeat("g", 255), nil, packed, "unsupported-content"}, "no UTF-8": {"gzip\xff", nil, packed, "unsupported-content"},
	}
	bubble(t, func(t *testing.T, r *rig) {
		s := r.setup(r.config("notes"))
		var handled sync.Map
		harebus.Handle(s, func(ctx context.Context, _ *harebus.Bus, n note) error {
			handled.Store(harebus.Incoming(ctx).ID, n.Text == "a")
			return nil
		})
		r.start(s)
		ch := r.channel()
		for name, c := range cases {
			headers := amqp.Table{}
			if c.header != nil {
				headers["PikaBus.ContentEncoding"] = c.header
			}
			r.publish(ch, "notes", amqp.Publishing{MessageId: name, Type: "Note", ContentEncoding: c.encoding, Headers: headers, Body: c.body})
		}
		r.quiet("error")
		parked := map[string]string{}
		for _, m := range r.broker.Messages("error") {
			parked[m.MessageId] = fmt.Sprint(m.Headers["PikaBus.ErrorDetails"])
			if !bytes.Equal(m.Body, cases[m.MessageId].body) {
				t.Errorf("%s: the parked body differs", m.MessageId)
			}
		}
		for name, c := range cases {
			value, _ := handled.Load(name)
			right, _ := value.(bool)
			if details := parked[name]; right != (c.want == "") || (details == "") != (c.want == "") || !strings.HasPrefix(details, c.want) {
				t.Errorf("%s: handled %t, parked for %.100q; want %q", name, right, details, c.want)
			}
		}
		if stats := s.Stats(); stats.Retried != 0 {
			t.Errorf("%d attempts were repeated", stats.Retried)
		}
	})
}

// TestZlib: what Celery calls gzip is read as strictly as gzip.
func TestZlib(t *testing.T) {
	text := []byte(longNote.Text)
	body := deflated(t, text)
	bomb := deflated(t, make([]byte, 16<<20))
	for name, c := range map[string]struct {
		body []byte
		want error
	}{
		"right": {body, nil}, "empty": {deflated(t, nil), nil},
		"bomb": {bomb, harebus.ErrBodyTooLarge}, "one byte too many": {deflated(t, make([]byte, 16<<10+1)), harebus.ErrBodyTooLarge},
		"cut": {body[:len(body)-1], io.ErrUnexpectedEOF}, "without an end": {body[:len(body)-5], io.ErrUnexpectedEOF}, "header only": {body[:2], io.ErrUnexpectedEOF},
		"other sum": {append(bytes.Clone(body[:len(body)-1]), body[len(body)-1]^1), zlib.ErrChecksum},
		"followed":  {append(bytes.Clone(body), 0), errAny}, "twice": {append(bytes.Clone(body), body...), errAny},
		"dictionary": {[]byte{0x78, 0xbb, 0, 0, 0, 2, 3, 0, 0, 0, 0, 1}, zlib.ErrDictionary},
	} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		got, err := harebus.Gzip{}.Decompress(c.body, 16<<10)
		runtime.ReadMemStats(&after)
		if c.want == errAny && err == nil || c.want != errAny && !errors.Is(err, c.want) || err != nil && got != nil {
			t.Errorf("%s: %d bytes, %v; want %v", name, len(got), err, c.want)
		}
		if used := after.TotalAlloc - before.TotalAlloc; used > 1<<20 {
			t.Errorf("%s: %d KiB were allocated", name, used>>10)
		}
	}
	if got, err := (harebus.Gzip{}).Decompress(body, 16<<10); err != nil || !bytes.Equal(got, text) {
		t.Errorf("%.20q, %v", got, err)
	}
}

// errAny stands for an error of any kind.
var errAny = errors.New("any error")

func deflated(t *testing.T, body []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	w := zlib.NewWriter(&out)
	if _, err := w.Write(body); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// TestCompressionFaults: New names what is wrong.
func TestCompressionFaults(t *testing.T) {
	cfg := harebus.Config{}
	cfg.Payload.Compress = harebus.CompressConfig{From: -1, With: codingNamed("Gzip"), Accept: []harebus.Compression{nil, codingNamed("utf-8")}, Types: map[string]harebus.Compression{"A": codingNamed("")}}
	cfg.Payload.Guards = []harebus.Guard{nil}
	_, err := harebus.New(cfg)
	cfg.Payload.Compress.Types["B"] = upper{known: true}
	cfg.Payload.Compress.Types["C"] = upper{}
	if _, err := harebus.New(cfg); !strings.Contains(fmt.Sprint(err), "another Compression for \"upper\"") {
		t.Errorf("two compressions of one name: %v", err)
	}
	contains(t, fmt.Sprint(err), "Payload.Compress.From -1", `Payload.Compress.With: "Gzip"`, "Accept[0] is nil", `Accept[1]: "utf-8"`, `Types["A"]`, "Payload.Guards[0] is nil")
}

type codingNamed string

func (n codingNamed) Coding() string                              { return string(n) }
func (codingNamed) Compress(_, body []byte) ([]byte, error)       { return body, nil }
func (codingNamed) Decompress(body []byte, _ int) ([]byte, error) { return body, nil }

// TestCompressionPanics: foreign code costs one message.
func TestCompressionPanics(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		cfg := r.config("notes")
		cfg.Payload.Compress.With = panickingCoding{}
		cfg.Retry.MaxRetries = -1
		s := r.setup(cfg)
		harebus.Handle(s, func(context.Context, *harebus.Bus, note) error { return nil })
		r.start(s)
		if err := s.Bus().Send(r.ctx, "notes", longNote); !errors.Is(err, harebus.ErrRefused) {
			t.Errorf("the error is %v", err)
		}
		r.publish(r.channel(), "notes", amqp.Publishing{Type: "Note", ContentEncoding: "panicking", Body: []byte("x")})
		r.await("error", 1)
	})
}

type panickingCoding struct{}

func (panickingCoding) Coding() string                             { return "panicking" }
func (panickingCoding) Compress(_, _ []byte) ([]byte, error)       { panic("no") }
func (panickingCoding) Decompress(_ []byte, _ int) ([]byte, error) { panic("no") }
