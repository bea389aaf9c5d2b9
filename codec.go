package harebus

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"reflect"
	"strings"
	"sync"
	"unicode/utf8"
)

// Codec turns values into bodies and back. Codecs are safe for concurrent use.
type Codec interface {
	// ContentType is the media type the codec writes and is chosen by when
	// reading, without parameters: "application/json".
	ContentType() string
	// Encode returns the body for value. It must not change any more: it is still
	// on its way when a call whose context ended has returned.
	Encode(value any) ([]byte, error)
	// Decode reads body into the value that target points to.
	Decode(body []byte, target any) error
}

// ValueCodec is a [Codec] that some Go values prefer: it is used for a value it
// accepts when neither the call nor the message type names another.
type ValueCodec interface {
	Codec
	// Accepts reports whether value is one of the codec's own.
	Accepts(value any) bool
}

// JSON is the default codec. A nil or nil map is written as {}, as PikaBus does,
// and a nil slice as []. Another value that would become null is an error.
// When reading, a body that is not valid UTF-8, has more than one value, or is
// null where a value is expected is an error.
type JSON struct {
	// Strict refuses fields that the target does not have.
	Strict bool
}

// ContentType is application/json.
func (JSON) ContentType() string { return "application/json" }

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

// jsonEncoder takes what its encoder writes: in one piece, out of a buffer that
// the encoder keeps.
type jsonEncoder struct {
	body []byte
	enc  *json.Encoder
}

func (e *jsonEncoder) Write(p []byte) (int, error) {
	e.body = append(e.body, p...)
	return len(p), nil
}

// rawJSON is the one defined type that means no type in particular.
var rawJSON = reflect.TypeFor[json.RawMessage]()

var jsonEncoders = sync.Pool{New: func() any {
	e := new(jsonEncoder)
	e.enc = json.NewEncoder(e)
	e.enc.SetEscapeHTML(false)
	return e
}}

// emptyJSON is what is written for a nil of any type instead of null, which
// receivers refuse; it is nil for every other value.
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
	if !utf8.Valid(body) {
		return errors.New("body is not valid UTF-8")
	}
	if string(bytes.TrimSpace(body)) == "null" {
		return errors.New("body is null")
	}
	if !c.Strict {
		return json.Unmarshal(body, target)
	}
	dec := json.NewDecoder(bytes.NewReader(body))
	dec.DisallowUnknownFields()
	if err := dec.Decode(target); err != nil {
		return err
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return errors.New("more than one value in the body")
	}
	return nil
}

// Bytes passes []byte through unchanged.
type Bytes struct{}

// ContentType is application/octet-stream.
func (Bytes) ContentType() string { return "application/octet-stream" }

// Accepts []byte, but not [json.RawMessage].
func (Bytes) Accepts(value any) bool {
	_, ok := value.([]byte)
	return ok
}

// Encode takes a []byte.
func (Bytes) Encode(value any) ([]byte, error) {
	b, ok := value.([]byte)
	if !ok {
		return nil, fmt.Errorf("a %T is not a []byte", value)
	}
	return bytes.Clone(b), nil
}

// Decode fills a *[]byte.
func (Bytes) Decode(body []byte, target any) error {
	b, ok := target.(*[]byte)
	if !ok {
		return fmt.Errorf("a handler of %T cannot take application/octet-stream", target)
	}
	*b = bytes.Clone(body)
	return nil
}

// Text passes strings through as UTF-8. A string is sent as JSON, which every
// PikaBus peer reads, unless the call says WithContentType("text/plain").
type Text struct{}

// ContentType is text/plain.
func (Text) ContentType() string { return "text/plain" }

// Encode takes a string.
func (Text) Encode(value any) ([]byte, error) {
	s, ok := value.(string)
	if !ok {
		return nil, fmt.Errorf("a %T is not a string", value)
	}
	return []byte(s), nil
}

// Decode fills a *string.
func (Text) Decode(body []byte, target any) error {
	s, ok := target.(*string)
	if !ok {
		return fmt.Errorf("a handler of %T cannot take text/plain", target)
	}
	if !utf8.Valid(body) {
		return errors.New("body is not valid UTF-8")
	}
	*s = string(body)
	return nil
}

// codecs is the registry of one setup. It never changes after it was made.
type codecs struct {
	byContent map[string]Codec
	byType    map[string]Codec
	byValue   []ValueCodec
	fallback  Codec
}

func newCodecs(configured []Codec, byType map[string]Codec) *codecs {
	c := &codecs{byContent: map[string]Codec{}, byType: byType, fallback: JSON{}}
	for _, codec := range append([]Codec{JSON{}, Bytes{}, Text{}}, configured...) {
		if codec.ContentType() == c.fallback.ContentType() {
			c.fallback = codec
		}
		c.byContent[codec.ContentType()] = codec
	}
	for _, codec := range append([]Codec{Bytes{}}, configured...) {
		if v, ok := codec.(ValueCodec); ok {
			c.byValue = append(c.byValue, v)
		}
	}
	return c
}

// forSending chooses by the content type the call names, by the message type,
// by the value, and takes JSON otherwise.
func (c *codecs) forSending(contentType, messageType string, value any) (Codec, error) {
	if contentType != "" {
		codec, ok := c.byContent[contentType]
		if !ok {
			return nil, fmt.Errorf("no codec for content type %s; add one to Config.Codecs", quote(contentType))
		}
		return codec, nil
	}
	if codec, ok := c.byType[messageType]; ok {
		return codec, nil
	}
	for _, codec := range c.byValue {
		if codec.Accepts(value) {
			return codec, nil
		}
	}
	return c.fallback, nil
}

// forReading chooses by message type, else by content type; a message without
// one is JSON.
func (c *codecs) forReading(m *Message) (Codec, error) {
	if !plainEncoding(m.ContentEncoding) {
		return nil, reject("unsupported-content", "content encoding %s", quote(m.ContentEncoding))
	}
	if codec, ok := c.byType[m.Type]; ok {
		return codec, nil
	}
	if m.ContentType == "" {
		return c.fallback, nil
	}
	if codec, ok := c.byContent[m.ContentType]; ok {
		return codec, nil
	}
	media, params, err := mime.ParseMediaType(m.ContentType)
	if err != nil {
		return nil, reject("unsupported-content", "content type %s", quote(m.ContentType))
	}
	codec, ok := c.byContent[media]
	if !ok || !plainEncoding(params["charset"]) {
		return nil, reject("unsupported-content", "no codec for content type %s", quote(m.ContentType))
	}
	return codec, nil
}

// plainEncoding says whether name, a charset where PikaBus puts one, leaves the
// bytes as they are.
func plainEncoding(name string) bool {
	switch strings.ToLower(name) {
	case "", "utf-8", "utf8", "us-ascii", "binary", "identity":
		return true
	}
	return false
}

// Validator is implemented by message types that can tell whether a decoded
// value makes sense. A message whose Validate fails is parked at once.
type Validator interface{ Validate() error }

// decode reads m into a new T.
func decode[T any](c *codecs, m *Message) (T, error) {
	var zero T
	codec, err := c.forReading(m)
	if err != nil {
		return zero, err
	}
	target := fresh[T]()
	if err := codec.Decode(m.Body, target); err != nil {
		return zero, reject("bad-payload", "decode %T from %s: %w", zero, codec.ContentType(), err)
	}
	if v, ok := target.(Validator); ok {
		if err := v.Validate(); err != nil {
			return zero, reject("bad-payload", "validate %T: %w", zero, err)
		}
	}
	if value, ok := target.(*T); ok {
		return *value, nil
	}
	return target.(T), nil //nolint:forcetypeassert // fresh returns one or the other
}

// fresh returns what a T is decoded into: a *T, or, where T is a pointer, as
// generated protobuf types are, a new T.
func fresh[T any]() any {
	if t := reflect.TypeFor[T](); t.Kind() == reflect.Pointer {
		return reflect.New(t.Elem()).Interface()
	}
	return new(T)
}
