// Package order has the messages of one key handled one after the other, also when one of them
// fails, while those of other keys are handled beside them.
//
//	cfg.Queue = "orders"
//	cfg.Consume.Order = &order.Config{}
//	…
//	bus.Send(ctx, "orders", PlaceOrder{ID: 7}, harebus.WithKey("order-7"))
//
// One instance of the service handles the messages of the queue, and the others stand by; with
// Partitions they share them. A message that has failed waits in a second queue, the parking queue,
// and so do those of its key behind it. docs/ordering.md says what is promised.
package order

import (
	"cmp"
	"errors"
	"fmt"
	"maps"

	"github.com/harebus/harebus/topology"
)

// Config makes a queue an ordered one. The zero value is good. All instances of a service need the
// same; the health check of one that sees another's says so.
type Config struct {
	// Header is the name of the header that has the key of a message. Default: the one that
	// harebus.WithKey writes, "PikaBus.Key". A value that is no text counts as it is printed. A
	// message without the header, or with an empty one, has no order.
	Header string
	// GiveUp says what becomes of a message that is not to be retried any more. Default: HoldKey.
	GiveUp GiveUp
	// MaxParked is how many messages may wait in the parking queue, at most 10,000. When there are
	// so many, those of the keys that wait there stay in the queue, and so does what fails; when the window is
	// full of them, nothing else is read: the health check then fails. This process has all of them in its
	// memory. Default: 1000.
	MaxParked int
	// Partitions is into how many queues the messages are divided by their keys, at most 64. The instances of the service
	// share them, so that as many can work at once. MaxParked and Consume.Concurrency are then those of each
	// partition. The number is fixed when the queue is first declared; an instance with another one does not start. Default: 0,
	// one instance has the whole queue. So does 1.
	Partitions int
}

// GiveUp says what becomes of a message that is not to be retried any more.
type GiveUp int8

const (
	// HoldKey keeps the message, and those of its key behind it, in the parking queue until an operator
	// has decided: see the command "harebus parked".
	HoldKey GiveUp = iota
	// SkipMessage moves the message to the error queue. The next one of its key follows.
	SkipMessage
)

const (
	// Window is how many messages of an ordered queue one instance holds. It must never change: after
	// a smaller one the broker returns messages in another order.
	Window = 200
	// most is the largest MaxParked.
	most = 10_000
)

// Complete returns a copy with the defaults; nil for nil.
func (c *Config) Complete() *Config {
	if c == nil {
		return nil
	}
	full := *c
	full.MaxParked = cmp.Or(full.MaxParked, 1000)
	return &full
}

// Prefetch is that of an ordered queue; the other one for nil.
func (c *Config) Prefetch(other int) int {
	if c == nil {
		return other
	}
	return Window
}

// ParkingQueue is the name of the parking queue of an ordered queue.
func ParkingQueue(queue string) string { return queue + ".parked" }

// Arguments are those of an ordered queue, added to others: a single active consumer, and a delivery
// limit so high that stops and lost connections never move a message away.
func (c *Config) Arguments(others map[string]any) map[string]any {
	if c == nil {
		return others
	}
	all := maps.Clone(others)
	if all == nil {
		all = map[string]any{}
	}
	all["x-single-active-consumer"] = true
	if _, own := all["x-delivery-limit"]; !own {
		all["x-delivery-limit"] = topology.LookLimit
	}
	return all
}

// Topology are the queues that an ordered queue needs beside itself and its partitions: the parking queue, and that of the members
// of a divided one. Nothing for nil.
func (c *Config) Topology(queue string) topology.Topology {
	if c == nil || queue == "" {
		return topology.Topology{}
	}
	return topology.Join(topology.Topology{Queues: []topology.Queue{{
		Name: ParkingQueue(queue), Type: topology.Quorum,
		Arguments: map[string]any{"x-single-active-consumer": true, "x-delivery-limit": topology.LookLimit, "x-overflow": "reject-publish"},
	}}}, c.members(queue))
}

// Uses is how a queue is used that is to be an ordered one. Private is one that is not shared by the
// instances of a service, and Alone one with a consumer that refuses others.
type Uses struct {
	Type           topology.QueueType
	Arguments      map[string]any
	Consumers      int
	Private, Alone bool
}

// Faults are why it cannot be one.
func (c *Config) Faults(of Uses) (faults []error) {
	if c == nil {
		return nil
	}
	fault := func(wrong bool, format string, args ...any) {
		if wrong {
			faults = append(faults, fmt.Errorf("Consume.Order: "+format, args...))
		}
	}
	fault(len(c.Header) > 255, "Header is longer than 255 bytes")
	fault(c.GiveUp < HoldKey || c.GiveUp > SkipMessage, "GiveUp %d is neither HoldKey nor SkipMessage", c.GiveUp)
	fault(c.MaxParked < 1 || c.MaxParked > most, "MaxParked %d is not between 1 and %d", c.MaxParked, most)
	fault(c.Partitions < 0 || c.Partitions > mostPartitions, "Partitions %d is not between 0 and %d", c.Partitions, mostPartitions)
	fault(of.Type != topology.Quorum, "it needs a quorum queue: leave QueueOptions.Type out")
	fault(of.Private,
		"leave QueueOptions.Exclusive, AutoDelete, PerInstance and AsFound out: the instances of a service share an ordered queue")
	fault(of.Alone, "leave Consume.Exclusive out: the other instances have to stand by")
	fault(of.Consumers != 1, "it needs one consumer, and Consume.Consumers is %d: raise Consume.Concurrency instead", of.Consumers)
	fault(of.Arguments["x-single-active-consumer"] != true, "leave x-single-active-consumer out of QueueOptions.Arguments")
	fault(of.Arguments["x-delivery-limit"] != topology.LookLimit,
		"leave x-delivery-limit out of QueueOptions.Arguments: a message that the broker moves away because of stops is missing in its order")
	for _, name := range []string{"x-max-priority", "x-expires", "x-message-ttl", "x-max-length", "x-max-length-bytes"} {
		_, there := of.Arguments[name]
		fault(there, "leave %s out of QueueOptions.Arguments: messages would overtake others, or be missing in their order", name)
	}
	return faults
}

// CheckKey says what is wrong with a key that is to be sent.
func CheckKey(key string, priority uint8) error {
	const longest = 255
	switch {
	case key == "":
		return errors.New("the key is empty; leave WithKey out for a message without an order")
	case len(key) > longest:
		return fmt.Errorf("the key has %d bytes, more than %d; use an id, or the hash of what makes it so long", len(key), longest)
	case priority > 0:
		return errors.New("a message with a key cannot have a priority: it would overtake others of its key")
	}
	return nil
}
