// Package codec chooses the codec of a message, and has the default one.
package codec

import (
	"bytes"
	"encoding/json"
	"fmt"
	"mime"
	"reflect"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/harebus/harebus/internal/field"
	"github.com/harebus/harebus/internal/media"
)

// Codec is what a registry has to know of a codec.
type Codec interface{ ContentType() string }

// Registry chooses among the codecs of a setup. It never changes after it was made.
type Registry[C Codec] struct {
	byContent map[string]C
	byType    map[string]C
	byValue   []valueCodec[C]
	fallback  C
	takes     func(c C, target any) bool
}

// valueCodec is a codec for the values that it accepts.
type valueCodec[C Codec] struct {
	codec C
	of    interface{ Accepts(value any) bool }
}

// NewRegistry returns a registry of the default codec, the other codecs of the library,
// and the configured ones, which replace those with their content type. byType are the
// codecs of certain message types. takes says whether a codec can decode into target at
// all.
func NewRegistry[C Codec](fallback C, others, configured []C, byType map[string]C, takes func(c C, target any) bool) *Registry[C] {
	r := &Registry[C]{byContent: map[string]C{}, byType: byType, fallback: fallback, takes: takes}
	for _, codec := range append(append([]C{fallback}, others...), configured...) {
		if codec.ContentType() == r.fallback.ContentType() {
			r.fallback = codec
		}
		r.byContent[codec.ContentType()] = codec
	}
	for _, codec := range append(slices.Clip(others), configured...) {
		if v, ok := any(codec).(interface{ Accepts(value any) bool }); ok {
			r.byValue = append(r.byValue, valueCodec[C]{codec, v})
		}
	}
	return r
}

// ForSending chooses by the content type of the call, else by the message type,
// else by the value; the default is JSON.
func (r *Registry[C]) ForSending(contentType, messageType string, value any) (C, error) {
	if contentType != "" {
		codec, ok := r.byContent[contentType]
		if !ok {
			return codec, fmt.Errorf("no codec for content type %s; add one to Config.Payload.Codecs", field.Quote(contentType))
		}
		return codec, nil
	}
	if codec, ok := r.byType[messageType]; ok {
		return codec, nil
	}
	for _, v := range r.byValue {
		if v.of.Accepts(value) {
			return v.codec, nil
		}
	}
	return r.fallback, nil
}

// Media is the content type of the bodies of a message type whose values are of a Go type; nil stands for an unknown one.
func (r *Registry[C]) Media(messageType string, of reflect.Type) string {
	var value any
	switch {
	case of == nil:
	case of.Kind() == reflect.Pointer:
		value = reflect.New(of.Elem()).Interface()
	default:
		value = reflect.Zero(of).Interface()
	}
	codec, err := r.ForSending("", messageType, value)
	if err != nil { // only a content type that is asked for can be unknown
		return ""
	}
	return codec.ContentType()
}

// ForReading chooses by message type, else by content type. A message without a
// content type is JSON, and so is one with another name for JSON. Text and bytes
// are read as JSON if the target can take neither and the body looks like JSON.
func (r *Registry[C]) ForReading(messageType, contentType, encoding string, body []byte, target any) (C, error) {
	if !readable(encoding, body) {
		return r.fallback, fmt.Errorf("content encoding %s", field.Quote(encoding))
	}
	if codec, ok := r.byType[messageType]; ok {
		return codec, nil
	}
	if contentType == "" {
		return r.fallback, nil
	}
	codec, err := r.forContent(contentType, body)
	if err == nil && !r.takes(codec, target) && json.Valid(withoutMark(body)) {
		return r.fallback, nil
	}
	return codec, err
}

// forContent chooses by content type.
func (r *Registry[C]) forContent(contentType string, body []byte) (C, error) {
	if codec, ok := r.byContent[contentType]; ok {
		return codec, nil
	}
	kind, params, err := mime.ParseMediaType(contentType)
	if err == mime.ErrInvalidMediaParameter && media.IsJSON(kind) { //nolint:errorlint // returned as it is
		err = nil // "application/json; systemjson" of NServiceBus; JSON says by itself how it is encoded
	}
	if err != nil {
		return r.fallback, fmt.Errorf("content type %s", field.Quote(contentType))
	}
	codec, ok := r.byContent[kind]
	if !ok && media.IsJSON(kind) {
		codec, ok = r.fallback, true
	}
	if !ok || !readable(params["charset"], body) {
		return r.fallback, fmt.Errorf("no codec for content type %s", field.Quote(contentType))
	}
	return codec, nil
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
