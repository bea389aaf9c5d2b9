package harebus

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"

	"github.com/harebus/harebus/internal/foreign"
	"github.com/harebus/harebus/topology"
)

// rawJSON is the only defined type that may be sent without a wire name.
var rawJSON = reflect.TypeFor[json.RawMessage]()

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
	if err := foreign.Call(func() error { name = named.MessageType(); return nil }); err != nil {
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

// topical is implemented by events that have a topic, and optional by events that
// can say that they need no subscriber. Both methods may be on the type or on the
// pointer to it, and must not depend on the value.
type (
	topical  interface{ Topic() string }
	optional interface{ OptionalEvent() bool }
)

var errNoTopic = errors.New("the type has no topic: give it a method Topic() string, or use Publish and Config.Subscriptions")

// PublishEvent publishes an event to the topic that its method Topic() string
// returns, as [Bus.Publish] does. An event without that method is refused.
func (s *sender) PublishEvent(ctx context.Context, event any, opts ...SendOption) error {
	topic, err := topicOf(event)
	if err != nil {
		return refuse(OpPublish.String(), "event %T: %w", event, err)
	}
	return s.Publish(ctx, topic, event, opts...)
}

// HandleEvent registers a handler for an event, as [Handle] does, and subscribes
// the listener queue to the event's topic, which T's method Topic() string returns.
// It is called on a zero T. The topic is bound when the setup starts. A handler that
// is registered after that has its topic bound soon after the call, and gets the events
// that are published from then on; [Setup.Subscribe] returns when the broker has bound it.
//
// Faults, such as a T without a topic, are reported by Start.
func HandleEvent[T any](on Registrar, fn func(ctx context.Context, bus *Bus, event T) error, opts ...HandlerOption) {
	topic, err := topicOf(fresh[T]())
	if err != nil {
		on.registrar().addHandler(nil, fmt.Errorf("handler of event %v: %w", reflect.TypeFor[T](), err))
		return
	}
	on.registrar().keepTopic(topic)
	Handle(on, fn, opts...)
}

// keepTopic adds a topic to the list; the next declaration binds it. A setup that has started
// declares at once.
func (e *endpoint) keepTopic(topic string) {
	s := e.setup
	s.mu.Lock()
	defer s.mu.Unlock()
	if slices.Contains(e.subs, topic) {
		return
	}
	e.subs = append(e.subs, topic)
	if s.started {
		s.declarer.Soon()
	}
}

func topicOf(event any) (topic string, err error) {
	if err := checkNil(event); err != nil {
		return "", err
	}
	e, ok := as[topical](event)
	if !ok {
		return "", errNoTopic
	}
	if err := foreign.Call(func() error { topic = e.Topic(); return nil }); err != nil {
		return "", fmt.Errorf("the method Topic: %w", err)
	}
	return topic, topology.ValidRoutingKey(topic)
}

// needless says whether an event may be published without a subscriber: the type's
// method OptionalEvent decides, else Config.Publish.OptionalEvents.
func (c *Config) needless(event any) (needless bool, err error) {
	e, ok := as[optional](event)
	if !ok {
		return c.Publish.OptionalEvents, nil
	}
	if err := foreign.Call(func() error { needless = e.OptionalEvent(); return nil }); err != nil {
		return false, fmt.Errorf("the method OptionalEvent: %w", err)
	}
	return needless, nil
}
