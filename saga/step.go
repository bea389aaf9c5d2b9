package saga

import (
	"context"
	"errors"
	"fmt"
	"reflect"

	"github.com/harebus/harebus"
)

// Step is what a saga does with messages of one type. [Start], [On] and [OnTimeout] make
// steps, for [Register].
type Step[S any] struct {
	kind     kind
	message  reflect.Type
	name     string // the wire name; empty if an option has it
	fault    error
	register func(s *saga, on harebus.Registrar)
}

// kind is what the messages of a step do to an instance.
type kind int8

const (
	start kind = iota + 1 // start it, or continue it
	goes                  // continue it
	times                 // continue the run that sent it: a timeout
)

func (k kind) String() string {
	return map[kind]string{start: "Start", goes: "On", times: "OnTimeout"}[k]
}

// Start makes the step for messages that can start an instance. If no instance with the key
// runs, the message starts one, and Instance.New is true; otherwise the message continues the
// one that runs. So a saga can have several Start steps, and whichever message comes first
// starts it. A second copy of the message that started the latest instance is dropped.
//
// The wire name is that of M's method MessageType, or of [harebus.WithType]; a type with a
// method Topic() string is an event, and the queue subscribes to it, as with
// [harebus.HandleEvent]. The function key makes the key of a message. It must give the same for the
// same message; a key that is empty, or has more than 255 bytes, parks the message.
func Start[S, M any](key func(m M) string, fn func(ctx context.Context, i *Instance[S], m M) error, opts ...harebus.HandlerOption) Step[S] {
	return newStep(start, key, fn, opts)
}

// On makes the step for messages that continue an instance. When there is none, Config.Unknown
// decides; when it is completed, the message is dropped. For the rest see [Start].
func On[S, M any](key func(m M) string, fn func(ctx context.Context, i *Instance[S], m M) error, opts ...harebus.HandlerOption) Step[S] {
	return newStep(goes, key, fn, opts)
}

// OnTimeout makes the step for messages that [Instance.Timeout] has sent. It has no function
// for the key, because the message carries it. A message of the type that was sent in another
// way is parked.
func OnTimeout[S, M any](fn func(ctx context.Context, i *Instance[S], m M) error, opts ...harebus.HandlerOption) Step[S] {
	return newStep(times, func(M) string { return "" }, fn, opts)
}

func newStep[S, M any](k kind, key func(m M) string, fn func(ctx context.Context, i *Instance[S], m M) error, opts []harebus.HandlerOption) Step[S] {
	step := Step[S]{kind: k, message: reflect.TypeFor[M]()}
	if key == nil || fn == nil {
		step.fault = fmt.Errorf("a function of the %v for %v is nil", k, step.message)
		return step
	}
	for step.message.Kind() == reflect.Pointer {
		step.message = step.message.Elem()
	}
	step.name, step.fault = wireName(reflect.New(step.message).Interface(), opts)
	step.register = func(s *saga, on harebus.Registrar) {
		handle := harebus.Handle[M]
		if isEvent(reflect.New(step.message).Interface()) && k != times {
			handle = harebus.HandleEvent[M]
		}
		handle(on, func(ctx context.Context, bus *harebus.Bus, m M) error {
			r := &handling[S]{saga: s, bus: bus, kind: k, message: harebus.Incoming(ctx), step: func(ctx context.Context, i *Instance[S]) error { return fn(ctx, i, m) }}
			if k == times {
				return r.timeout(ctx)
			}
			r.key = key(m)
			return r.handle(ctx)
		}, append([]harebus.HandlerOption{harebus.WithTransaction()}, opts...)...)
	}
	return step
}

// wireName is the name of the messages that a step is for, if no option gives it.
func wireName(zero any, opts []harebus.HandlerOption) (name string, err error) {
	for _, opt := range opts {
		if _, ok := opt.(harebus.TypeOption); ok {
			return "", nil
		}
	}
	named, ok := zero.(harebus.Named)
	if !ok {
		return "", nil // Handle has a text for that
	}
	defer func() {
		if r := recover(); r != nil {
			err = errors.New("the method MessageType panics on a zero value")
		}
	}()
	return named.MessageType(), nil
}

// isEvent says whether a type has a topic.
func isEvent(zero any) bool {
	_, ok := zero.(interface{ Topic() string })
	return ok
}
