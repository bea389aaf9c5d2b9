package harebus

import (
	"bytes"
	"errors"
	"fmt"
	"unicode/utf8"

	"github.com/harebus/harebus/internal/codec"
	"github.com/harebus/harebus/internal/wirename"
)

// Codec turns values into bodies and back. Codecs are safe for concurrent use.
type Codec interface {
	// ContentType is the media type of the bodies that the codec writes. A received message with this content type is
	// read by the codec. It has no parameters: "application/json".
	ContentType() string
	// Encode returns the body for value. The bus keeps the returned slice and may still be writing it after the call
	// has returned; do not reuse or change it.
	Encode(value any) ([]byte, error)
	// Decode reads body into the value that target points to.
	Decode(body []byte, target any) error
}

// ValueCodec is a [Codec] for certain Go values: it is used for a value that it accepts if neither the call nor the
// message type chooses another.
type ValueCodec interface {
	Codec
	// Accepts reports whether the codec is the one for value.
	Accepts(value any) bool
}

// JSON is the default codec. A nil or nil map is written as {}, as PikaBus does, and a nil slice as []. Another value
// that would become null is an error. When reading, a body that is not valid UTF-8, has more than one value, or is null
// where a value is expected is an error. A byte order mark is skipped.
type JSON struct {
	// Strict refuses fields that the target does not have or whose names differ from it in case, and objects that have
	// a field twice.
	Strict bool
	// Numbers decodes numbers into an any as [json.Number], which keeps every digit. Without it they are float64, which
	// is exact up to 2^53.
	Numbers bool
}

// ContentType is application/json.
func (JSON) ContentType() string { return "application/json" }

// Encode is [json.Marshal] without the escaping meant for HTML.
func (c JSON) Encode(value any) ([]byte, error) { return codec.JSON(c).Encode(value) }

// Decode reads exactly one JSON value.
func (c JSON) Decode(body []byte, target any) error { return codec.JSON(c).Decode(body, target) }

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

// Text passes strings through as UTF-8. A string is sent as JSON, which every PikaBus peer reads, unless the call says
// WithContentType("text/plain").
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

// codecs is the registry of one setup.
type codecs = codec.Registry[Codec]

func newCodecs(configured []Codec, byType map[string]Codec) *codecs {
	return codec.NewRegistry[Codec](JSON{}, []Codec{Bytes{}, Text{}}, configured, byType, takes)
}

// takes says whether a codec of this package can decode into target at all.
func takes(c Codec, target any) bool {
	switch c.(type) {
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

// Validator is implemented by message types that can check a decoded value. If Validate returns an error, the message
// is parked at once.
type Validator interface{ Validate() error }

// decode reads m into a new T.
func decode[T any](c *codecs, m *Message) (T, error) {
	var zero T
	target := wirename.Target[T]()
	if err := decodeInto(c, m, target); err != nil {
		return zero, err
	}
	if value, ok := target.(*T); ok {
		return *value, nil
	}
	return target.(T), nil //nolint:forcetypeassert // Target returns one or the other
}

// decodeInto reads m into what target points to. An error is a *RejectError.
func decodeInto(c *codecs, m *Message, target any) error {
	chosen, err := c.ForReading(m.Type, m.ContentType, m.ContentEncoding, m.Body, target)
	if err != nil {
		return reject("unsupported-content", "%w", err)
	}
	if err := chosen.Decode(m.Body, target); err != nil {
		return reject("bad-payload", "decode %T from %s: %w", target, chosen.ContentType(), err)
	}
	return valid(target)
}

// valid asks the first one that can tell whether it is valid.
func valid(targets ...any) error {
	for _, target := range targets {
		if v, ok := target.(Validator); ok {
			if err := v.Validate(); err != nil {
				return reject("bad-payload", "validate %T: %w", target, err)
			}
			return nil
		}
	}
	return nil
}
