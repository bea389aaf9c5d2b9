// Package strictjson finds what encoding/json accepts and a careful reader does not.
package strictjson

import (
	"bytes"
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
)

// Check finds what encoding/json accepts: a field that an object has twice, of
// which the last would count, and a field whose name differs in case from that of
// the target's struct. body has been decoded into target without an error before.
func Check(body []byte, target reflect.Type) error {
	w := fieldWalk{json.NewDecoder(bytes.NewReader(body)), map[reflect.Type]map[string]reflect.Type{}}
	w.dec.UseNumber() // a json.Number may be too large for a float64
	return w.value(target)
}

type fieldWalk struct {
	dec   *json.Decoder
	known map[reflect.Type]map[string]reflect.Type // what fieldsOf has returned
}

// value reads one value that is decoded into t; t is nil where the type decides by
// itself, or nothing is known.
func (w fieldWalk) value(t reflect.Type) error {
	token, err := w.dec.Token()
	if err != nil {
		return err
	}
	switch token {
	case json.Delim('{'):
		return w.object(plain(t))
	case json.Delim('['):
		return w.list(plain(t))
	}
	return nil
}

func (w fieldWalk) object(t reflect.Type) error {
	seen := map[string]bool{}
	fields, ok := w.known[t]
	if !ok {
		fields = fieldsOf(t)
		w.known[t] = fields
	}
	for w.dec.More() {
		token, err := w.dec.Token()
		if err != nil {
			return err
		}
		key, _ := token.(string)
		if seen[key] {
			return fmt.Errorf("the field %.80q is there twice", key)
		}
		seen[key] = true
		inner, ok := fields[key]
		if fields != nil && !ok {
			return fmt.Errorf("the field %.80q is written in another case in %s", key, t)
		}
		if t != nil && t.Kind() == reflect.Map {
			inner = t.Elem()
		}
		if err := w.value(inner); err != nil {
			return err
		}
	}
	_, err := w.dec.Token() // the end
	return err
}

func (w fieldWalk) list(t reflect.Type) error {
	var inner reflect.Type
	if t != nil && (t.Kind() == reflect.Slice || t.Kind() == reflect.Array) {
		inner = t.Elem()
	}
	for w.dec.More() {
		if err := w.value(inner); err != nil {
			return err
		}
	}
	_, err := w.dec.Token() // the end
	return err
}

var unmarshaler = reflect.TypeFor[json.Unmarshaler]()

// plain follows pointers; it returns nil for a type that decodes itself.
func plain(t reflect.Type) reflect.Type {
	for t != nil && t.Kind() == reflect.Pointer {
		if t.Implements(unmarshaler) {
			return nil
		}
		t = t.Elem()
	}
	if t == nil || t.Implements(unmarshaler) || reflect.PointerTo(t).Implements(unmarshaler) {
		return nil
	}
	return t
}

// fieldsOf returns the names that a struct has in JSON, with their types; nil for
// what is no struct. That each has been decoded is known, so it may return more
// names than encoding/json would take.
func fieldsOf(t reflect.Type) map[string]reflect.Type {
	if t == nil || t.Kind() != reflect.Struct {
		return nil
	}
	fields := map[string]reflect.Type{}
	for _, f := range reflect.VisibleFields(t) { // those of embedded structs, too
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		if name == "" && (f.Anonymous || !f.IsExported()) {
			continue // its fields are listed for it, or it is none
		}
		if name == "" {
			name = f.Name
		}
		if _, ok := fields[name]; !ok {
			fields[name] = f.Type
		}
	}
	return fields
}
