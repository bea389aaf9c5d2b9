// Package answers has two forms of answers beside the plain reply: a request that several types may answer ([Of]), and an
// acknowledgement that a command can ask for ([WhenHandled]). It uses the exported API of harebus only.
package answers

import (
	"context"
	"errors"
	"fmt"
	"reflect"

	"github.com/harebus/harebus"
)

// Types are the types that may answer a request.
type Types struct {
	byName map[string]reflect.Type
	fault  error
}

// Of returns the types of some zero values: Of(Reserved{}, SoldOut{}). Each needs a method MessageType. Faults are returned by
// Request.
func Of(values ...any) Types {
	t := Types{byName: map[string]reflect.Type{}}
	for _, value := range values {
		named, ok := value.(harebus.Named)
		if v := reflect.ValueOf(value); !ok || v.Kind() == reflect.Pointer && v.IsNil() {
			t.fault = errors.Join(t.fault, fmt.Errorf("a %T has no method MessageType; pass a zero value of each type", value))
			continue
		}
		name := named.MessageType()
		if t.byName[name] != nil {
			t.fault = errors.Join(t.fault, fmt.Errorf("two types have the wire name %q", name))
		}
		t.byName[name] = reflect.TypeOf(value)
	}
	if len(values) == 0 {
		t.fault = errors.New("there are no types; pass a zero value of each")
	}
	return t
}

// Request is [harebus.Request] for a reply of any of the types: the result is a value of one of them, for a type switch. A
// reply of another type, or without one, is a [*harebus.RequestError] that matches [harebus.ErrUnexpectedReply] and has the
// reply; one that cannot be decoded, such an error with a [*harebus.RejectError].
func (t Types) Request(ctx context.Context, bus *harebus.Bus, queue string, message any, opts ...harebus.SendOption) (any, error) {
	if t.fault != nil {
		return nil, fmt.Errorf("answers: request: %w", t.fault)
	}
	reply, err := harebus.Request[*harebus.Message](ctx, bus, queue, message, opts...)
	if err != nil {
		return nil, err
	}
	unusable := &harebus.RequestError{Queue: queue, MessageID: reply.CausationID, Reply: reply}
	of := t.byName[reply.Type]
	if of == nil {
		unusable.Err = fmt.Errorf("%w: %.100q is none of the types that were asked for", harebus.ErrUnexpectedReply, reply.Type)
		return nil, unusable
	}
	target := reflect.New(of)
	into := target
	if of.Kind() == reflect.Pointer {
		target.Elem().Set(reflect.New(of.Elem()))
		into = target.Elem()
	}
	if err := reply.Decode(into.Interface()); err != nil {
		unusable.Err = err
		return nil, unusable
	}
	return target.Elem().Interface(), nil
}
