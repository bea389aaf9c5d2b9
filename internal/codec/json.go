package codec

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"sync"
	"unicode/utf8"

	"github.com/harebus/harebus/internal/strictjson"
)

// JSON is the codec of the library with this name, and has its fields.
type JSON struct{ Strict, Numbers bool }

// Encode is [json.Marshal] without the escaping meant for HTML.
func (JSON) Encode(value any) ([]byte, error) {
	if empty := emptyJSON(value); empty != nil {
		return empty, nil
	}
	e, _ := jsonEncoders.Get().(*jsonEncoder)
	defer jsonEncoders.Put(e)
	err := e.enc.Encode(value)
	body := bytes.TrimSuffix(e.body, []byte("\n"))
	e.body = nil
	if err != nil {
		return nil, err
	}
	if string(body) == "null" {
		return nil, fmt.Errorf("a %T became null, which no receiver takes", value)
	}
	return body, nil
}

// jsonEncoder receives what its encoder writes. The encoder writes each value in
// one piece, from a buffer that it reuses.
type jsonEncoder struct {
	body []byte
	enc  *json.Encoder
}

func (e *jsonEncoder) Write(p []byte) (int, error) {
	e.body = append(e.body, p...)
	return len(p), nil
}

var jsonEncoders = sync.Pool{New: func() any {
	e := new(jsonEncoder)
	e.enc = json.NewEncoder(e)
	e.enc.SetEscapeHTML(false)
	return e
}}

// emptyJSON returns the JSON for a nil map, slice or pointer instead of null, which
// receivers refuse. It returns nil for every other value.
func emptyJSON(value any) []byte {
	switch v := reflect.ValueOf(value); v.Kind() {
	case reflect.Invalid:
		return []byte("{}")
	case reflect.Pointer, reflect.Map:
		if v.IsNil() {
			return []byte("{}")
		}
	case reflect.Slice:
		if v.IsNil() {
			return []byte("[]")
		}
	default:
	}
	return nil
}

// Decode reads exactly one JSON value.
func (c JSON) Decode(body []byte, target any) error {
	body = withoutMark(body)
	if !utf8.Valid(body) {
		return errors.New("body is not valid UTF-8")
	}
	if string(bytes.TrimSpace(body)) == "null" {
		return errors.New("body is null")
	}
	if !c.Strict && !c.Numbers {
		return json.Unmarshal(body, target)
	}
	dec := json.NewDecoder(bytes.NewReader(body))
	if c.Numbers {
		dec.UseNumber()
	}
	if c.Strict {
		dec.DisallowUnknownFields()
	}
	if err := dec.Decode(target); err != nil {
		return err
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return errors.New("more than one value in the body")
	}
	if c.Strict {
		return strictjson.Check(body, reflect.TypeOf(target))
	}
	return nil
}

// withoutMark returns body without a byte order mark, which Windows programs write
// and JSON does not have.
func withoutMark(body []byte) []byte { return bytes.TrimPrefix(body, []byte("\xef\xbb\xbf")) }
