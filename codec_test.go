package harebus_test

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"testing/quick"
	"time"

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
		"bom":              {"\xef\xbb\xbf{\"A\":1}", true, true},
		"two boms":         {"\xef\xbb\xbf\xef\xbb\xbf{\"A\":1}", false, false},
		"not UTF-8":        {"{\"A\":1,\"B\":\"\xff\"}", false, false},
		"surrogate":        {"{\"A\":1,\"B\":\"\xed\xa0\x80\"}", false, false},
		"NaN":              {`{"A":NaN}`, false, false},
		"overflow":         {`{"A":9223372036854775808}`, false, false},
		"other case":       {`{"a":1}`, true, false},
		"both cases":       {`{"a":1,"A":2}`, true, false},
		"twice":            {`{"A":1,"A":2}`, true, false},
		"twice, escaped":   {`{"A":1,"\u0041":2}`, true, false},
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

// TestJSONStrict: fields are looked at where they are, at any depth.
func TestJSONStrict(t *testing.T) {
	t.Parallel()
	type inner struct {
		Name string `json:"name"`
	}
	type outer struct {
		inner
		order
		Inner  inner
		List   []*inner
		Map    map[string]inner
		Any    any
		Raw    json.RawMessage
		At     time.Time
		Self   *json.Number `json:",omitempty"`
		hidden int
	}
	_ = outer{}.hidden
	for body, want := range map[string]bool{
		`{"name":"a","ID":1,"Inner":{"name":"b"},"List":[{"name":"c"},null],"Map":{"k":{"name":"d"},"K":{}},"Any":{"x":1,"X":2},"At":"2026-11-21T00:00:00Z"}`: true,
		`{"Name":"a"}`: false, `{"id":1}`: false, `{"Inner":{"NAME":"b"}}`: false, `{"List":[{},{"Name":"c"}]}`: false, `{"Map":{"k":{"Name":"d"}}}`: false,
		`{"Map":{"k":{},"k":{}}}`: false, `{"Any":{"x":1,"x":2}}`: false, `{"Any":[{"x":[{"y":1,"y":1}]}]}`: false, `{"Raw":{"a":1,"a":2}}`: false,
		`{"Raw":{"a":1,"A":2}}`: true, `{"inner":{"name":"b"}}`: false, `{"Self":"7"}`: true, `{"Self":1e9999}`: true,
	} {
		for _, numbers := range []bool{false, true} {
			var v outer
			if err := (harebus.JSON{Strict: true, Numbers: numbers}).Decode([]byte(body), &v); (err == nil) != want {
				t.Errorf("%s, numbers %v: %v", body, numbers, err)
			}
		}
	}
	for _, target := range []any{new(any), new(map[string]any), new(json.RawMessage), new([]any)} {
		body := `{"a":1,"a":2}`
		if _, ok := target.(*[]any); ok {
			body = `[` + body + `]`
		}
		if err := (harebus.JSON{Strict: true}).Decode([]byte(body), target); err == nil {
			t.Errorf("%T takes a field twice", target)
		}
	}
}

// TestJSONNumbers: no digit of a number is lost.
func TestJSONNumbers(t *testing.T) {
	t.Parallel()
	var v any
	if err := (harebus.JSON{Numbers: true}).Decode([]byte(`{"n":9007199254740993,"x":0.10}`), &v); err != nil {
		t.Fatal(err)
	}
	if m, _ := v.(map[string]any); m["n"] != json.Number("9007199254740993") || m["x"] != json.Number("0.10") {
		t.Errorf("got %v", v)
	}
	for _, bad := range []string{``, `null`, `1 2`, `{"n":1},`, `{"n":1}]`, "\xff"} {
		if err := (harebus.JSON{Numbers: true}).Decode([]byte(bad), &v); err == nil {
			t.Errorf("%q was decoded", bad)
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
				cfg.Payload.Codecs, cfg.Payload.TypeCodecs = []harebus.Codec{shout{}}, map[string]harebus.Codec{"Shouted": shout{}}
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
				cfg.Payload.Codecs = []harebus.Codec{shout{}}
				s := r.setup(cfg)
				got := make(chan string, 1)
				harebus.Handle(s, func(_ context.Context, _ *harebus.Bus, text string) error {
					got <- text
					return nil
				}, harebus.WithType("Text"))
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

// TestJSONByOtherNames: what peers call their JSON does not matter where no other
// reading makes sense.
func TestJSONByOtherNames(t *testing.T) {
	const good = `{"ID":7}`
	for name, c := range map[string]struct {
		contentType, encoding, body string
		want                        int // the order's ID, or 0 for parked
	}{
		"text":                     {"text/plain", "", good, 7},
		"text with charset":        {"text/plain; charset=us-ascii", "", good, 7},
		"text/json":                {"text/json", "", good, 7},
		"bytes":                    {"application/octet-stream", "", good, 7},
		"x-json":                   {"application/x-json", "", good, 7},
		"json":                     {"JSON", "", good, 7},
		"suffix":                   {"application/vnd.shop.order+json; v=2", "", good, 7},
		"cloud event":              {"application/cloudevents+json; charset=UTF-8", "", good, 7},
		"quoted":                   {`application/json; charset="UTF-8"`, "", good, 7},
		"mark":                     {"application/json", "", "\xef\xbb\xbf" + good, 7},
		"mark in text":             {"text/plain", "", "\xef\xbb\xbf" + good, 7},
		"ascii":                    {"application/json", "ascii", good, 7},
		"utf_8":                    {"application/json", "utf_8", good, 7},
		"UTF-8":                    {"application/json", "UTF-8", good, 7},
		"quoted encoding":          {"application/json", `"utf-8"`, good, 7},
		"latin1, pure ASCII":       {"application/json; charset=iso-8859-1", "", good, 7},
		"latin1 encoding":          {"application/json", "ISO_8859-1", good, 7},
		"windows":                  {"application/json", "windows-1252", good, 7},
		"latin1, not ASCII":        {"application/json; charset=iso-8859-1", "", "{\"ID\":7,\"x\":\"\xfc\"}", 0},
		"latin1, UTF-8 in truth":   {"application/json", "latin1", `{"ID":7,"x":"ü"}`, 0},
		"text that is no JSON":     {"text/plain", "", "7 orders", 0},
		"bytes that are no JSON":   {"application/octet-stream", "", "\x00\x01", 0},
		"another format":           {"application/xml", "", good, 0},
		"compressed":               {"application/json", "gzip", good, 0},
		"utf-16":                   {"application/json; charset=utf-16", "", good, 0},
		"text of the wrong shape":  {"text/plain", "", `[1]`, 0},
		"no JSON in spite of name": {"text/json", "", "?", 0},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, r *rig) {
				s := r.setup(r.config("orders"))
				got := 0
				harebus.Handle(s, func(_ context.Context, _ *harebus.Bus, o order) error {
					got = o.ID
					return nil
				})
				r.start(s)
				r.publish(r.channel(), "orders", amqp.Publishing{
					Type: "Order", ContentType: c.contentType, ContentEncoding: c.encoding, Body: []byte(c.body),
				})
				r.quiet("error")
				if parked := len(r.broker.Messages("error")) == 1; got != c.want || parked != (c.want == 0) {
					t.Errorf("got order %d, parked %v", got, parked)
				}
			})
		})
	}
}

// TestTextStaysText: a handler of text or bytes gets them as they are, also when they
// are JSON.
func TestTextStaysText(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		s := r.setup(r.config("orders"))
		texts, raws := make(chan string, 1), make(chan []byte, 1)
		harebus.Handle(s, heard(texts), harebus.WithType("Text"))
		harebus.Handle(s, heard(raws), harebus.WithType("Bytes"))
		r.start(s)
		const body = `"x"`
		r.publish(r.channel(), "orders", amqp.Publishing{Type: "Text", ContentType: "text/plain", Body: []byte(body)},
			amqp.Publishing{Type: "Bytes", ContentType: "application/octet-stream", Body: []byte(body)})
		if text, raw := receive(r, texts), receive(r, raws); text != body || string(raw) != body {
			t.Errorf("got %s and %s", text, raw)
		}
	})
}

// TestMessageDecode: whoever gets the whole message can decode it as a typed handler
// would.
func TestMessageDecode(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		cfg := r.config("orders")
		cfg.Payload.Codecs = []harebus.Codec{shout{}, harebus.JSON{Strict: true}}
		s := r.setup(cfg)
		var got []any
		s.HandleMessage(harebus.AnyType, func(_ context.Context, _ *harebus.Bus, m *harebus.Message) error {
			var o order
			var p pointed
			var text string
			got = append(got, m.Decode(&o), o.ID, m.Decode(&p) != nil, m.Decode(&text) != nil, m.Decode(o) != nil, m.Decode(nil) != nil)
			return m.Decode(&o)
		})
		r.start(s)
		r.publish(r.channel(), "orders", plain(`{"ID":7}`), plain(`{"ID":0}`), plain(`{"id":1}`))
		contains(t, r.details(), "bad-payload", "another case")
		if len(got) != 18 || got[0] != nil || got[1] != 7 || got[2] != false || got[8] != true || got[3] != true || got[4] != true || got[5] != true {
			t.Errorf("got %v", got)
		}
	})
	var o order
	if err := (&harebus.Message{Body: []byte(`{"ID":3}`)}).Decode(&o); err != nil || o.ID != 3 {
		t.Errorf("a message of nobody's: %v, %v", o, err)
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
