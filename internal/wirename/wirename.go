// Package wirename reads what the Go type of a message says about it: its wire name, its topic, and whether it needs a
// subscriber. The methods of the types are foreign code, which may panic.
package wirename

import (
	"encoding/json"
	"errors"
	"fmt"
	"reflect"

	"github.com/harebus/harebus/internal/foreign"
	"github.com/harebus/harebus/topology"
)

// named is implemented by message types.
type named interface{ MessageType() string }

// rawJSON is the only defined type that may be sent without a wire name.
var rawJSON = reflect.TypeFor[json.RawMessage]()

var errNoName = errors.New("the type has no wire name, so no handler would take it: give it a method MessageType() string, or pass WithType; WithType(NoType) sends it without a name")

// ErrNone is about a type that cannot have a handler.
var ErrNone = errors.New("the type has no wire name; give it a method MessageType() string, or pass WithType")

// Of returns the wire name of value's type. Values of Go's own types (maps, slices, strings, []byte) need none, because
// peers send messages without a type.
func Of(value any) (string, error) {
	if one, ok := as[named](value); ok {
		return call(one)
	}
	if value == nil {
		return "", nil // an empty object, as PikaBus sends for a None
	}
	if t := pointedTo(value).Type(); t.PkgPath() != "" && t != rawJSON {
		return "", fmt.Errorf("a %s cannot be sent: %w", t, errNoName)
	}
	return "", nil
}

// Handled returns the wire name of the type that target, a result of [Target], is of.
func Handled(target any) (string, error) {
	if one, ok := target.(named); ok {
		return call(one)
	}
	return "", ErrNone
}

// Target returns what a T is decoded into: a *T, or a new T if T is a pointer, as with generated protobuf types.
func Target[T any]() any {
	if t := reflect.TypeFor[T](); t.Kind() == reflect.Pointer {
		return reflect.New(t.Elem()).Interface()
	}
	return new(T)
}

// as returns value as an I when its type implements I, or the pointer to its type, or what it points to. A nil pointer must
// have been refused before.
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

// call asks a value for its wire name. The method may panic, for instance where it is promoted from an embedded nil pointer.
func call(one named) (name string, err error) {
	if err := foreign.Call(func() error { name = one.MessageType(); return nil }); err != nil {
		return "", fmt.Errorf("the method MessageType of %T: %w", one, err)
	}
	if name == "" {
		return "", fmt.Errorf("the method MessageType of %T returned an empty name; WithType(NoType) sends a message without one", one)
	}
	return name, nil
}

// CheckNil refuses nil pointers, because for a receiver they look like a message whose fields are all zero.
func CheckNil(value any) error {
	for v := reflect.ValueOf(value); v.Kind() == reflect.Pointer || v.Kind() == reflect.Interface; v = v.Elem() {
		if v.IsNil() {
			return fmt.Errorf("the message is a nil %T", value)
		}
	}
	return nil
}

// ErrNoTopic says that an event does not name its topic.
var ErrNoTopic = errors.New("the type has no topic: give it a method Topic() string, or use Publish and Config.Subscriptions")

// Topic returns the topic of an event, which its method Topic names. The method may be on the type or on the pointer to it,
// and must not depend on the value.
func Topic(event any) (topic string, err error) {
	if err := CheckNil(event); err != nil {
		return "", err
	}
	e, ok := as[interface{ Topic() string }](event)
	if !ok {
		return "", ErrNoTopic
	}
	if err := foreign.Call(func() error { topic = e.Topic(); return nil }); err != nil {
		return "", fmt.Errorf("the method Topic: %w", err)
	}
	return topic, topology.ValidRoutingKey(topic)
}

// Optional says whether an event may be published without a subscriber: its method OptionalEvent decides, if it has one,
// else otherwise.
func Optional(event any, otherwise bool) (may bool, err error) {
	e, ok := as[interface{ OptionalEvent() bool }](event)
	if !ok {
		return otherwise, nil
	}
	if err := foreign.Call(func() error { may = e.OptionalEvent(); return nil }); err != nil {
		return false, fmt.Errorf("the method OptionalEvent: %w", err)
	}
	return may, nil
}
