// Package contract says what a service takes from the bus and gives to it, and which changes of that break the services on
// the other side.
//
// [github.com/harebus/harebus.Setup.Contract] describes a service as Go types. The module asyncapi writes that as an AsyncAPI
// document, which is kept in version control. [Read] and [Diff] compare two versions of such a document, as the command
// harebus contract diff does.
package contract

import (
	"reflect"
	"slices"
	"strings"
)

// Service is what a service takes and gives.
type Service struct {
	// Direct and Topic are the exchanges of commands and events.
	Direct, Topic string
	// HeaderPrefix starts the names of the standard headers.
	HeaderPrefix string
	// Queues are the listener queues.
	Queues []Queue
	// Receives are the messages that the service has handlers for. Handlers without a wire name, those of NoType and AnyType,
	// are left out.
	Receives []Message
	// Sends are the messages that it is said to send.
	Sends []Message
}

// Public is the service without the messages that the library sends to itself, and without queues for nothing else.
func (s Service) Public() Service {
	own := func(m Message) bool { return strings.HasPrefix(m.Type, "harebus.") }
	s.Queues = slices.DeleteFunc(s.Queues, func(q Queue) bool {
		elsewhere := func(m Message) bool { return m.Queue != q.Name }
		here := slices.DeleteFunc(slices.Clone(s.Receives), elsewhere)
		return len(q.Topics) == 0 && len(here) > 0 && !slices.ContainsFunc(here, func(m Message) bool { return !own(m) })
	})
	s.Receives = slices.DeleteFunc(s.Receives, own)
	return s
}

// Queue is a listener queue.
type Queue struct {
	Name string
	// PerInstance says that Name is the beginning of the names of several queues, one for each instance.
	PerInstance bool
	// Topics are the subscriptions; * stands for one word, # for any number.
	Topics []string
}

// Message is one type of message in one direction.
type Message struct {
	// Type is the wire name.
	Type string
	// Value is the Go type of the body; nil for a handler that gets the message undecoded.
	Value reflect.Type
	// ContentType is that of the codec that writes the body.
	ContentType string
	// Queue is the queue that it is received from, or that it is sent to. It is empty for an event that is published.
	Queue string
	// Topic is that of an event; empty for a command.
	Topic string
}
