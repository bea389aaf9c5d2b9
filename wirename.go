package harebus

import (
	"errors"
	"fmt"
	"reflect"

	"github.com/harebus/harebus/internal/guard"
)

var errNoName = errors.New("the type has no wire name, so no handler would take it: give it a method MessageType() string, or pass WithType; WithType(NoType) sends it without a name")

// wireName returns the wire name of value's type. Values of Go's own types (maps,
// slices, strings, []byte) need none, because peers send messages without a type.
func wireName(value any) (string, error) {
	if named, ok := as[Named](value); ok {
		return messageType(named)
	}
	if value == nil {
		return NoType, nil // an empty object, as PikaBus sends for a None
	}
	if t := pointedTo(value).Type(); t.PkgPath() != "" && t != rawJSON {
		return NoType, fmt.Errorf("a %s cannot be sent: %w", t, errNoName)
	}
	return NoType, nil
}

// as returns value as an I when its type implements I, or the pointer to its type,
// or what it points to. A nil pointer must have been refused before.
func as[I any](value any) (one I, ok bool) {
	if one, ok = value.(I); ok || value == nil {
		return one, ok
	}
	v := pointedTo(value)
	if !reflect.PointerTo(v.Type()).Implements(reflect.TypeFor[I]()) {
		return one, false
	}
	p := reflect.New(v.Type())
	p.Elem().Set(v)
	return reflect.TypeAssert[I](p)
}

// pointedTo follows pointers.
func pointedTo(value any) reflect.Value {
	v := reflect.ValueOf(value)
	for v.Kind() == reflect.Pointer || v.Kind() == reflect.Interface {
		v = v.Elem()
	}
	return v
}

// messageType asks a value for its wire name. The method may panic, for instance
// where it is promoted from an embedded nil pointer.
func messageType(named Named) (name string, err error) {
	if err := guard.Call(func() error { name = named.MessageType(); return nil }); err != nil {
		return NoType, fmt.Errorf("the method MessageType of %T: %w", named, err)
	}
	if name == NoType {
		return NoType, fmt.Errorf("the method MessageType of %T returned an empty name; WithType(NoType) sends a message without one", named)
	}
	return name, nil
}

// checkNil refuses nil pointers, because for a receiver they look like a message
// whose fields are all zero.
func checkNil(value any) error {
	for v := reflect.ValueOf(value); v.Kind() == reflect.Pointer || v.Kind() == reflect.Interface; v = v.Elem() {
		if v.IsNil() {
			return fmt.Errorf("the message is a nil %T", value)
		}
	}
	return nil
}
