package harebus

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"

	"github.com/harebus/harebus/contract"
	"github.com/harebus/harebus/internal/wirename"
	"github.com/harebus/harebus/topology"
)

// Sends declares that the service sends commands of type T to a queue. It is for [Setup.Contract], and changes nothing about
// sending: the handlers of a setup are known, and what they send is not. T needs a method MessageType. Start reports faults.
func Sends[T any](on Registrar, queue string) {
	declareSent[T](on.registrar(), contract.Message{Queue: queue}, topology.ValidRoutingKey(queue))
}

// Publishes declares that the service publishes events of type T to a topic, as [Sends] does for commands. The empty topic
// stands for the one that T's method Topic() string returns.
func Publishes[T any](on Registrar, topic string) {
	err := topology.ValidRoutingKey(topic)
	if topic == "" {
		topic, err = wirename.Topic(wirename.Target[T]())
	}
	declareSent[T](on.registrar(), contract.Message{Topic: topic}, err)
}

func declareSent[T any](e *endpoint, m contract.Message, err error) {
	m.Value = reflect.TypeFor[T]()
	var unnamed error
	m.Type, unnamed = wirename.Handled(wirename.Target[T]())
	if err := errors.Join(err, unnamed); err != nil {
		e.addHandler(nil, fmt.Errorf("declare that %v is sent: %w", m.Value, err))
		return
	}
	m.ContentType = e.setup.codecs.Media(m.Type, m.Value)
	e.setup.mu.Lock()
	defer e.setup.mu.Unlock()
	e.sent = append(e.sent, m)
}

// Upcast has messages of the older type Old handled by the handler of New, after convert has made a New of them: for a type
// whose new version has a wire name of its own, while messages of the old version still come. The handler of New may be
// an upcast itself. Both types need a method MessageType. If Old is an event, with a method Topic() string, its topic is bound
// as [HandleEvent] does. What convert returns is validated as a received message is ([Validator]).
//
// The options of the handler of New apply. An error of convert is one of the handler; return [NoRetry] for an Old that no
// New can be made of. [Incoming] is the message as it came. What the handler sends has the ids that a handler of Old gives
// it, also when a deployment comes between two attempts. Start reports a missing handler of New, and circles.
func Upcast[Old, New any](on Registrar, convert func(ctx context.Context, old Old) (New, error)) {
	e, value := on.registrar(), reflect.TypeFor[New]()
	to, err := wirename.Handled(wirename.Target[New]())
	if err == nil && convert == nil {
		err = errors.New("convert is nil")
	}
	if err != nil {
		e.addHandler(nil, fmt.Errorf("upcast of %v to %v: %w", reflect.TypeFor[Old](), value, err))
		return
	}
	handle := Handle[Old]
	if _, err := wirename.Topic(wirename.Target[Old]()); !errors.Is(err, wirename.ErrNoTopic) {
		handle = HandleEvent[Old]
	}
	handle(on, func(ctx context.Context, bus *Bus, old Old) error {
		newer, err := convert(ctx, old)
		if err == nil {
			err = valid(&newer, newer)
		}
		if err != nil {
			return err
		}
		h := (*e.handlers.Load())[to]
		if h == nil || h.value != value {
			return e.unhandled("unknown-type", "upcast to %q: no handler of a %v", to, value)
		}
		return h.take(ctx, bus, newer)
	}, handlerOption(func(h *handler) { h.to, h.made = to, value }))
}

// settle makes the registered handlers those that messages find, each upcast with the options of the handler to which it
// leads. setup.mu is held. Nothing changes if one of them leads nowhere.
func (e *endpoint) settle() error {
	all, faults := maps.Clone(e.known), []error(nil)
	for name, h := range e.known {
		end, err := h.end(e.known)
		if err != nil {
			faults = append(faults, err)
		} else if end != h {
			upcast := *h
			upcast.handlerOptions = end.handlerOptions
			all[name] = &upcast
		}
	}
	if len(faults) == 0 {
		e.handlers.Store(&all)
	}
	slices.SortFunc(faults, func(a, b error) int { return strings.Compare(a.Error(), b.Error()) })
	return errors.Join(faults...)
}

// end is the handler to which an upcast leads; another handler leads to itself.
func (h *handler) end(all map[string]*handler) (*handler, error) {
	at := h
	for range len(all) {
		if at.to == "" {
			return at, nil
		}
		next := all[at.to]
		if next == nil || next.value != at.made {
			return nil, fmt.Errorf("upcast of %q: there is no handler of %q that takes a %v; register one with Handle", h.messageType, at.to, at.made)
		}
		at = next
	}
	return nil, fmt.Errorf("upcast of %q: it leads in a circle over %q", h.messageType, at.messageType)
}
