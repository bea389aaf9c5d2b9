// Package jsontext takes JSON documents apart without decoding them: an envelope of another bus is looked at for each message, and its payload is decoded by
// a handler later.
package jsontext

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"
)

// Value is one JSON value as it stands in a document. A nil Value is absent.
type Value []byte

// Object calls each with the members of an object, in their order. What is inside a value is not checked, but for strings and brackets: whoever
// decodes it does that. A key without escapes is a part of doc.
func Object(doc []byte, each func(key []byte, value Value) error) error {
	s := scanner{b: doc}
	if !s.next('{') {
		return errors.New("it is no JSON object")
	}
	for first := true; !s.next('}'); first = false {
		if !first && !s.next(',') {
			return s.wrong("a comma")
		}
		key, ok := s.value()
		if !ok || key[0] != '"' || !s.next(':') {
			return s.wrong("a name and a colon")
		}
		name := key[1 : len(key)-1]
		if !simple(name) {
			text, err := key.Text()
			if err != nil {
				return err
			}
			name = []byte(text)
		}
		value, ok := s.value()
		if !ok {
			return s.wrong("a value")
		}
		if err := each(name, value); err != nil {
			return err
		}
	}
	if s.skip(); s.at < len(doc) {
		return s.wrong("the end")
	}
	return nil
}

// Array calls each with the elements of an array.
func Array(doc Value, each func(value Value) error) error {
	s := scanner{b: doc}
	if !s.next('[') {
		return errors.New("it is no JSON array")
	}
	for first := true; !s.next(']'); first = false {
		if !first && !s.next(',') {
			return s.wrong("a comma")
		}
		value, ok := s.value()
		if !ok {
			return s.wrong("a value")
		}
		if err := each(value); err != nil {
			return err
		}
	}
	return nil
}

// Nothing says whether a JSON body is white space, or null: no handler can tell that from a message without content. A byte order mark counts as white
// space.
func Nothing(body []byte) bool {
	s := scanner{b: bytes.TrimPrefix(body, []byte("\uFEFF"))}
	s.skip()
	if bytes.HasPrefix(s.b[s.at:], []byte("null")) {
		s.at += len("null")
		s.skip()
	}
	return s.at == len(s.b)
}

// Encoded is why a body cannot be JSON as it stands, for whoever has failed to read it: its content encoding says that it is compressed, or in another charset. It
// is nil for what begins as an object or an array, whatever the content encoding says.
func Encoded(body []byte, contentEncoding string) error {
	switch strings.ToLower(strings.TrimSpace(contentEncoding)) {
	case "", "utf-8", "utf8", "utf_8", "ascii", "us-ascii", "binary", "identity":
		return nil
	}
	text := bytes.TrimLeft(bytes.TrimPrefix(body, []byte("\uFEFF")), " \n\r\t")
	if len(text) == 0 || (text[0] == '{' || text[0] == '[') && !bytes.HasPrefix(text[1:], []byte{0}) { // UTF-16 has a NUL there
		return nil
	}
	return fmt.Errorf("its content encoding is %.40q, and it is read as plain JSON only: have the sender leave that encoding out", contentEncoding)
}

// Null says whether the value is absent or null.
func (v Value) Null() bool { return len(v) == 0 || string(v) == "null" }

// IsObject says whether the value is an object.
func (v Value) IsObject() bool { return len(v) > 0 && v[0] == '{' }

// Text decodes a string.
func (v Value) Text() (string, error) {
	if len(v) < 2 || v[0] != '"' { //nolint:mnd // the quotes
		return "", fmt.Errorf("%.40s is not text", v)
	}
	if inner := v[1 : len(v)-1]; simple(inner) {
		return string(inner), nil
	}
	var s string
	if err := json.Unmarshal(v, &s); err != nil {
		return "", err
	}
	return s, nil
}

// simple says whether a string stands for itself.
func simple(inner []byte) bool {
	for _, c := range inner {
		if c == '\\' || c < ' ' || c >= utf8.RuneSelf {
			return false
		}
	}
	return true
}

// Inner is what stands between the quotes of a string that stands for itself; nil for any other value.
func (v Value) Inner() []byte {
	if len(v) < 2 || v[0] != '"' || !simple(v[1:len(v)-1]) { //nolint:mnd // the quotes
		return nil
	}
	return v[1 : len(v)-1]
}

// scanner goes through a document.
type scanner struct {
	b  []byte
	at int
}

func (s *scanner) wrong(want string) error {
	return fmt.Errorf("it is no JSON: %s is missing at byte %d", want, s.at)
}

// skip passes over white space.
func (s *scanner) skip() {
	for s.at < len(s.b) {
		switch s.b[s.at] {
		case ' ', '\n', '\r', '\t':
			s.at++
		default:
			return
		}
	}
}

// next passes over one character, if it comes next.
func (s *scanner) next(c byte) bool {
	s.skip()
	if s.at < len(s.b) && s.b[s.at] == c {
		s.at++
		return true
	}
	return false
}

// value passes over a value.
func (s *scanner) value() (Value, bool) {
	s.skip()
	start := s.at
	if start == len(s.b) {
		return nil, false
	}
	switch s.b[start] {
	case '"':
		if !s.text() {
			return nil, false
		}
	case '{', '[':
		if !s.nested() {
			return nil, false
		}
	case '}', ']', ',', ':':
		return nil, false
	default:
		for s.at < len(s.b) && plain(s.b[s.at]) {
			s.at++
		}
	}
	return s.b[start:s.at], s.at > start
}

// plain says whether a character can be in a number, or in true, false and null.
func plain(c byte) bool {
	return c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c == '-' || c == '+' || c == '.'
}

// text passes over a string.
func (s *scanner) text() bool {
	b, i := s.b, s.at+1
	end := bytes.IndexByte(b[i:], '"')
	if end >= 0 && b[i+end-1] != '\\' {
		s.at = i + end + 1
		return true
	}
	for i < len(b) { // the first one may be escaped
		switch b[i] {
		case '"':
			s.at = i + 1
			return true
		case '\\':
			i++
		}
		i++
	}
	return false
}

// marks are the characters at which nested has to look.
var marks = [256]bool{'"': true, '{': true, '}': true, '[': true, ']': true}

// nested passes over an object or an array.
func (s *scanner) nested() bool {
	depth := 0
	for {
		b, i := s.b, s.at
		for i < len(b) && !marks[b[i]] {
			i++
		}
		if s.at = i; i == len(b) {
			return false
		}
		switch b[i] {
		case '"':
			if !s.text() {
				return false
			}
			continue
		case '{', '[':
			depth++
		default:
			depth--
		}
		if s.at++; depth == 0 {
			return true
		}
	}
}
