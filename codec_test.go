package harebus_test

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"testing/quick"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/harebus/harebus"
)

func TestJSONDecode(t *testing.T) {
	t.Parallel()
	type target struct{ A int }
	for name, c := range map[string]struct {
		body            string
		lenient, strict bool // is it accepted
	}{
		"object":           {`{"A":1}`, true, true},
		"space around":     {" \n{\"A\":1}\t ", true, true},
		"unknown field":    {`{"A":1,"B":2}`, true, false},
		"empty object":     {`{}`, true, true},
		"empty":            {``, false, false},
		"space only":       {` `, false, false},
		"null":             {`null`, false, false},
		"null in space":    {"\tnull ", false, false},
		"array":            {`[]`, false, false},
		"text":             {`"A"`, false, false},
		"two values":       {`{"A":1}{"A":2}`, false, false},
		"trailing brace":   {`{"A":1}}`, false, false},
		"trailing bracket": {`{"A":1}]`, false, false},
		"trailing comma":   {`{"A":1},`, false, false},
		"trailing nul":     {"{\"A\":1}\x00", false, false},
		"bom":              {"\xef\xbb\xbf{\"A\":1}", false, false},
		"not UTF-8":        {"{\"A\":1,\"B\":\"\xff\"}", false, false},
		"surrogate":        {"{\"A\":1,\"B\":\"\xed\xa0\x80\"}", false, false},
		"NaN":              {`{"A":NaN}`, false, false},
		"overflow":         {`{"A":9223372036854775808}`, false, false},
		"other case":       {`{"a":1}`, true, true},
	} {
		for _, strict := range []bool{false, true} {
			want := c.lenient
			if strict {
				want = c.strict
			}
			var v target
			if err := (harebus.JSON{Strict: strict}).Decode([]byte(c.body), &v); (err == nil) != want {
				t.Errorf("%s, strict %v: %v", name, strict, err)
			}
		}
	}
}

func TestJSONEncode(t *testing.T) {
	t.Parallel()
	for want, value := range map[string]any{
		`{}`: nil, `{"ID":1}`: order{1}, `"a<b>&"`: "a<b>&", `[1,2]`: []int{1, 2}, `{"x":1}`: json.RawMessage(`{"x":1}`), `"ü"`: "ü",
	} {
		got, err := harebus.JSON{}.Encode(value)
		if err != nil || string(got) != want {
			t.Errorf("%v is %s, want %s: %v", value, got, want, err)
		}
	}
	if _, err := (harebus.JSON{}).Encode(make(chan int)); err == nil {
		t.Error("a chan was encoded")
	}
}

// TestJSONEncodeNil: null would be parked by every reader, so it never leaves.
func TestJSONEncodeNil(t *testing.T) {
	t.Parallel()
	for _, value := range []any{(*order)(nil), map[string]int(nil), []int(nil), json.RawMessage(nil)} {
		if got, err := (harebus.JSON{}).Encode(value); err == nil && string(got) == "null" {
			t.Errorf("%T(nil) is sent as null", value)
		}
	}
}

func TestJSONRoundTrip(t *testing.T) {
	t.Parallel()
	type value struct {
		S string
		N int64
		B []byte
		M map[string]float64
	}
	same := func(in value) bool {
		body, err := harebus.JSON{}.Encode(in)
		if err != nil {
			return false
		}
		var out value
		if err := (harebus.JSON{Strict: true}).Decode(body, &out); err != nil {
			t.Log(err)
			return false
		}
		again, err := harebus.JSON{}.Encode(out)
		return err == nil && string(again) == string(body)
	}
	if err := quick.Check(same, nil); err != nil {
		t.Error(err)
	}
}

func TestBytesAndText(t *testing.T) {
	t.Parallel()
	in := []byte("abc")
	out, err := harebus.Bytes{}.Encode(in)
	in[0] = 'x'
	if err != nil || string(out) != "abc" {
		t.Errorf("bytes: %q, %v; the body must not change with the caller's slice", out, err)
	}
	var b []byte
	if err := (harebus.Bytes{}).Decode(out, &b); err != nil || string(b) != "abc" {
		t.Errorf("bytes: %q, %v", b, err)
	}
	out[0] = 'y'
	if string(b) != "abc" {
		t.Error("decoded bytes change with the body")
	}
	var s string
	if err := (harebus.Text{}).Decode([]byte("äb"), &s); err != nil || s != "äb" {
		t.Errorf("text: %q, %v", s, err)
	}
	if err := (harebus.Text{}).Decode([]byte("\xff"), &s); err == nil {
		t.Error("text that is not UTF-8 was decoded")
	}
	if body, err := (harebus.Text{}).Encode("äb"); err != nil || string(body) != "äb" {
		t.Errorf("text: %q, %v", body, err)
	}
	for name, err := range map[string]error{
		"bytes of int": second(harebus.Bytes{}.Encode(1)), "text of int": second(harebus.Text{}.Encode(1)),
		"bytes into int": harebus.Bytes{}.Decode(nil, new(int)), "text into int": harebus.Text{}.Decode(nil, new(int)),
	} {
		if err == nil {
			t.Errorf("%s was accepted", name)
		}
	}
	if (harebus.Bytes{}).Accepts(json.RawMessage("1")) || !(harebus.Bytes{}).Accepts([]byte{}) {
		t.Error("Bytes must accept []byte and leave json.RawMessage to JSON")
	}
}

func second[T any](_ T, err error) error { return err }

// shout is a codec of its own content type.
type shout struct{}

func (shout) ContentType() string { return "application/x-shout" }

func (shout) Encode(v any) ([]byte, error) {
	s, ok := v.(string)
	if !ok {
		return nil, errors.New("not a string")
	}
	return []byte(strings.ToUpper(s)), nil
}

func (shout) Decode(body []byte, target any) error {
	*target.(*string) = strings.ToLower(string(body))
	return nil
}

// TestCodecChoice checks which codec a call takes and what the peer sees of it.
func TestCodecChoice(t *testing.T) {
	for name, c := range map[string]struct {
		value any
		opts  []harebus.SendOption
		// content type, content encoding and body on the wire
		want [3]string
	}{
		"json":          {order{1}, nil, [3]string{"application/json", "utf-8", `{"ID":1}`}},
		"nil":           {nil, nil, [3]string{"application/json", "utf-8", `{}`}},
		"string":        {"x", nil, [3]string{"application/json", "utf-8", `"x"`}},
		"raw json":      {json.RawMessage(`{"a": 1}`), nil, [3]string{"application/json", "utf-8", `{"a":1}`}},
		"bytes":         {[]byte("\xff"), nil, [3]string{"application/octet-stream", "", "\xff"}},
		"bytes json":    {[]byte("ab"), []harebus.SendOption{harebus.WithContentType("application/json")}, [3]string{"application/json", "utf-8", `"YWI="`}},
		"text":          {"x", []harebus.SendOption{harebus.WithContentType("text/plain")}, [3]string{"text/plain", "utf-8", "x"}},
		"own":           {"x", []harebus.SendOption{harebus.WithContentType("application/x-shout")}, [3]string{"application/x-shout", "", "X"}},
		"own by type":   {"x", []harebus.SendOption{harebus.WithType("Shouted")}, [3]string{"application/x-shout", "", "X"}},
		"call beats it": {"x", []harebus.SendOption{harebus.WithType("Shouted"), harebus.WithContentType("text/plain")}, [3]string{"text/plain", "utf-8", "x"}},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, r *rig) {
				r.declare(r.channel(), "out")
				cfg := r.config("")
				cfg.Codecs, cfg.TypeCodecs = []harebus.Codec{shout{}}, map[string]harebus.Codec{"Shouted": shout{}}
				if err := r.setup(cfg).Bus().Send(r.ctx, "out", c.value, c.opts...); err != nil {
					t.Fatal(err)
				}
				m := r.await("out", 1)[0]
				if got := [3]string{m.ContentType, m.ContentEncoding, string(m.Body)}; got != c.want {
					t.Errorf("got %q, want %q", got, c.want)
				}
				if m.Headers[prefixed("ContentType")] != m.ContentType {
					t.Errorf("the header says %v", m.Headers[prefixed("ContentType")])
				}
				if encoding, _ := m.Headers[prefixed("ContentEncoding")].(string); encoding != m.ContentEncoding {
					t.Errorf("the header says %q", encoding)
				}
			})
		})
	}
}

// TestCodecReading checks which codec a typed handler's message is read with.
func TestCodecReading(t *testing.T) {
	for name, c := range map[string]struct{ contentType, body, want string }{
		"json":           {"application/json", `"x"`, "x"},
		"none is json":   {"", `"x"`, "x"},
		"text":           {"text/plain", "x", "x"},
		"text with utf8": {"Text/Plain; Charset=UTF-8", "x", "x"},
		"own":            {"application/x-shout", "X", "x"},
		"own, parameter": {"application/x-shout;v=1", "X", "x"},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, r *rig) {
				cfg := r.config("orders")
				cfg.Codecs = []harebus.Codec{shout{}}
				s := r.setup(cfg)
				got := make(chan string, 1)
				harebus.Handle(s, func(_ context.Context, _ *harebus.Bus, text string) error {
					got <- text
					return nil
				}, harebus.WithMessageType("Text"))
				r.start(s)
				r.publish(r.channel(), "orders", amqp.Publishing{Type: "Text", ContentType: c.contentType, Body: []byte(c.body)})
				if text := receive(r, got); text != c.want {
					t.Errorf("got %q", text)
				}
				r.quiet()
			})
		})
	}
}

// pointed has its methods on the pointer, as generated protobuf types do.
type pointed struct{ ID int }

func (p *pointed) MessageType() string { return "Pointed" }

func (p *pointed) Validate() error {
	if p.ID == 0 {
		return errors.New("no id")
	}
	return nil
}

// TestPointerHandlers: T and *T are handled alike, whichever has the methods.
func TestPointerHandlers(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		s := r.setup(r.config("orders"))
		got := make(chan int, 2)
		harebus.Handle(s, func(_ context.Context, _ *harebus.Bus, p *pointed) error {
			got <- p.ID
			return nil
		})
		harebus.Handle(s, func(_ context.Context, _ *harebus.Bus, o *order) error {
			got <- o.ID
			return nil
		})
		r.start(s)
		for _, err := range []error{
			s.Bus().Send(r.ctx, "orders", &pointed{3}), s.Bus().Send(r.ctx, "orders", &order{4}), s.Bus().Send(r.ctx, "orders", &pointed{}),
		} {
			if err != nil {
				t.Fatal(err)
			}
		}
		if sum := receive(r, got) + receive(r, got); sum != 7 {
			t.Errorf("ids sum up to %d", sum)
		}
		r.quiet("error")
		details, _ := r.await("error", 1)[0].Headers[prefixed("ErrorDetails")].(string)
		contains(t, details, "bad-payload", "no id")
	})
}
