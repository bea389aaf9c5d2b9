package celery

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"
)

// Since kombu 5.3, Celery writes values that JSON has no form for as {"__type__": "datetime", "__value__": "2026-11-28T07:25:56"}; before, as
// text. Either way a handler gets text.
const (
	typeMark  = `"__type__"`
	valueMark = `"__value__"`
)

// opened is an object or an array whose end is not reached.
type opened struct {
	start, commas int  // start is in what is written
	typed, valued bool // it has the members __type__ and __value__
	holds         bool // one of its values was typed
}

// is says whether it is a typed value: it has these two members and no other.
func (o *opened) is() bool { return o.typed && o.valued && o.commas == 1 }

// key notes a member.
func (o *opened) key(name string) {
	o.typed, o.valued = o.typed || name == typeMark, o.valued || name == valueMark
}

// untyped is JSON with text in the place of typed values. raw is valid. Each value is looked at once: what is nested deeply takes no longer.
func untyped(raw []byte) ([]byte, error) {
	if !bytes.Contains(raw, []byte(typeMark)) {
		return raw, nil
	}
	out := make([]byte, 0, len(raw))
	var open []opened
	for i := 0; i < len(raw); i++ {
		switch raw[i] {
		case '"':
			end := quote(raw, i)
			if next := trimmed(raw[end+1 : min(end+16, len(raw))]); len(open) > 0 && len(next) > 0 && next[0] == ':' {
				open[len(open)-1].key(string(raw[i : end+1]))
			}
			out, i = append(out, raw[i:end+1]...), end
			continue
		case '{', '[':
			open = append(open, opened{start: len(out)})
		case ',':
			open[len(open)-1].commas++
		}
		out = append(out, raw[i])
		if raw[i] != '}' && raw[i] != ']' {
			continue
		}
		last := open[len(open)-1]
		if open = open[:len(open)-1]; !last.is() {
			continue
		}
		value, err := textOf(out[last.start:], last.holds)
		if err != nil {
			return nil, err
		}
		out = append(out[:last.start], value...)
		if len(open) > 0 {
			open[len(open)-1].holds = true
		}
	}
	return out, nil
}

// textOf is the text for a typed value.
func textOf(object []byte, nested bool) (text []byte, err error) {
	var kind string
	var value []byte
	each(object, func(key, v []byte) {
		switch string(key) {
		case typeMark:
			_ = json.Unmarshal(v, &kind) // what is no text is no kind
		case valueMark:
			value = v
		}
	})
	if nested {
		err = errors.New("it has another one inside")
	} else {
		text, err = convert(kind, value)
	}
	if err != nil {
		return nil, fmt.Errorf("it has a value of the type %.40q: %w", kind, err)
	}
	return json.Marshal(string(text))
}

// convert makes what a Go type is decoded from: bytes are base64, and a time without a zone is UTC, as in the header eta.
func convert(kind string, value []byte) ([]byte, error) {
	if kind == "uuid" {
		return uuid(value)
	}
	var text string
	if err := json.Unmarshal(value, &text); err != nil || value[0] != '"' {
		return nil, fmt.Errorf("%.40s is not text", value)
	}
	switch kind {
	case "date", "time", "decimal", "base64":
		return []byte(text), nil
	case "bytes":
		return []byte(base64.StdEncoding.EncodeToString([]byte(text))), nil
	case "datetime":
		if _, err := time.Parse(time.RFC3339, text); err == nil {
			return []byte(text), nil
		}
		if _, err := time.Parse("2006-01-02T15:04:05", text); err != nil {
			return nil, fmt.Errorf("%.40q is no time", text)
		}
		return []byte(text + "Z"), nil
	}
	return nil, errors.New("harebus does not know it: have the client send plain JSON")
}

// uuid is {"hex": 32 digits, "version": 4}.
func uuid(value []byte) ([]byte, error) {
	var id struct {
		Hex string `json:"hex"`
	}
	const bytesOfUUID = 16
	if err := json.Unmarshal(value, &id); err != nil || len(id.Hex) != hex.EncodedLen(bytesOfUUID) || strings.ContainsFunc(id.Hex, func(r rune) bool { return !strings.ContainsRune("0123456789abcdefABCDEF", r) }) {
		return nil, fmt.Errorf("%.80s has no 32 digits", value)
	}
	h := id.Hex
	return []byte(strings.Join([]string{h[:8], h[8:12], h[12:16], h[16:20], h[20:]}, "-")), nil
}
