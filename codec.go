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

	"github.com/harebus/harebus/internal/strictjson"
)

// Codec turns values into bodies and back. Codecs are safe for concurrent use.
type Codec interface {
	// ContentType is the media type of the bodies that the codec writes. A received
	// message with this content type is read by the codec. It has no parameters:
	// "application/json".
	ContentType() string
	// Encode returns the body for value. The bus keeps the returned slice and may
	// still be writing it after the call has returned; do not reuse or change it.
	Encode(value any) ([]byte, error)
	// Decode reads body into the value that target points to.
	Decode(body []byte, target any) error
}

// ValueCodec is a [Codec] for certain Go values: it is used for a value that it
// accepts if neither the call nor the message type chooses another.
type ValueCodec interface {
	Codec
	// Accepts reports whether the codec is the one for value.
	Accepts(value any) bool
}

// JSON is the default codec. A nil or nil map is written as {}, as PikaBus does,
// and a nil slice as []. Another value that would become null is an error.
// When reading, a body that is not valid UTF-8, has more than one value, or is
// null where a value is expected is an error. A byte order mark is skipped.
type JSON struct {
	// Strict refuses fields that the target does not have or whose names differ from
	// it in case, and objects that have a field twice.
	Strict bool
	// Numbers decodes numbers into an any as [json.Number], which keeps every digit.
	// Without it they are float64, which is exact up to 2^53.
	Numbers bool
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

// rawJSON is the only defined type that may be sent without a wire name.
var rawJSON = reflect.TypeFor[json.RawMessage]()

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

// forSending chooses by the content type of the call, else by the message type,
// else by the value; the default is JSON.
func (c *codecs) forSending(contentType, messageType string, value any) (Codec, error) {
	if contentType != "" {
		codec, ok := c.byContent[contentType]
		if !ok {
			return nil, fmt.Errorf("no codec for content type %s; add one to Config.Payload.Codecs", quote(contentType))
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

// forReading chooses by message type, else by content type. A message without a
// content type is JSON, and so is one with another name for JSON. Text and bytes
// are read as JSON if the target can take neither and the body looks like JSON.
func (c *codecs) forReading(m *Message, target any) (Codec, error) {
	if !readable(m.ContentEncoding, m.Body) {
		return nil, reject("unsupported-content", "content encoding %s", quote(m.ContentEncoding))
	}
	if codec, ok := c.byType[m.Type]; ok {
		return codec, nil
	}
	if m.ContentType == "" {
		return c.fallback, nil
	}
	codec, err := c.forContent(m)
	if err != nil {
		return nil, err
	}
	if !takes(codec, target) && json.Valid(withoutMark(m.Body)) {
		return c.fallback, nil
	}
	return codec, nil
}

// forContent chooses by content type.
func (c *codecs) forContent(m *Message) (Codec, error) {
	if codec, ok := c.byContent[m.ContentType]; ok {
		return codec, nil
	}
	media, params, err := mime.ParseMediaType(m.ContentType)
	if err != nil {
		return nil, reject("unsupported-content", "content type %s", quote(m.ContentType))
	}
	codec, ok := c.byContent[media]
	if !ok && isJSON(media) {
		codec, ok = c.fallback, true
	}
	if !ok || !readable(params["charset"], m.Body) {
		return nil, reject("unsupported-content", "no codec for content type %s", quote(m.ContentType))
	}
	return codec, nil
}

// isJSON knows the other names of JSON.
func isJSON(media string) bool {
	switch media {
	case "text/json", "application/x-json", "text/x-json", "json":
		return true
	}
	return strings.HasSuffix(media, "+json")
}

// takes says whether a codec of this package can decode into target at all.
func takes(codec Codec, target any) bool {
	switch codec.(type) {
	case Text:
		_, ok := target.(*string)
		return ok
	case Bytes:
		_, ok := target.(*[]byte)
		return ok
	default:
		return true
	}
}

// readable says whether a body in the charset called name, which PikaBus calls
// content encoding, can be read as it is. Python writes "utf_8" and "ascii"; a body
// of ASCII only means the same in every charset that extends ASCII.
func readable(name string, body []byte) bool {
	if name == "" || name == "utf-8" {
		return true
	}
	name = strings.ReplaceAll(strings.ToLower(strings.Trim(name, `"' `)), "_", "-")
	switch name {
	case "", "utf-8", "utf8", "utf-8-sig", "us-ascii", "ascii", "binary", "identity", "7bit", "8bit":
		return true
	}
	for _, family := range []string{"iso-8859-", "iso8859-", "latin", "windows-125", "cp125"} {
		if strings.HasPrefix(name, family) {
			return !bytes.ContainsFunc(body, func(r rune) bool { return r >= utf8.RuneSelf })
		}
	}
	return false
}

// Validator is implemented by message types that can check a decoded value. If
// Validate returns an error, the message is parked at once.
type Validator interface{ Validate() error }

// decode reads m into a new T.
func decode[T any](c *codecs, m *Message) (T, error) {
	var zero T
	target := fresh[T]()
	if err := c.decode(m, target); err != nil {
		return zero, err
	}
	if value, ok := target.(*T); ok {
		return *value, nil
	}
	return target.(T), nil //nolint:forcetypeassert // fresh returns one or the other
}

// decode reads m into what target points to. An error is a *RejectError.
func (c *codecs) decode(m *Message, target any) error {
	codec, err := c.forReading(m, target)
	if err != nil {
		return err
	}
	if err := codec.Decode(m.Body, target); err != nil {
		return reject("bad-payload", "decode %T from %s: %w", target, codec.ContentType(), err)
	}
	if v, ok := target.(Validator); ok {
		if err := v.Validate(); err != nil {
			return reject("bad-payload", "validate %T: %w", target, err)
		}
	}
	return nil
}

// fresh returns the target for decoding a T: a *T, or a new T if T is a pointer, as
// with generated protobuf types.
func fresh[T any]() any {
	if t := reflect.TypeFor[T](); t.Kind() == reflect.Pointer {
		return reflect.New(t.Elem()).Interface()
	}
	return new(T)
}
