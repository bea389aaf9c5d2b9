// Package routing knows the objects of a service on the broker: the two exchanges and the
// bindings to them (exchanges.go), the listener queue and the error queue with their arguments
// (listener.go), and the queue for replies (replyqueue.go). They are those of PikaBus.
package routing

import (
	"strings"

	"github.com/harebus/harebus/topology"
)

// Exchanges are the two exchanges of the bus: Direct leads to a queue by its name, Topic to
// every queue that is bound with a pattern.
type Exchanges struct{ Direct, Topic string }

const (
	// DirectReplyTo starts the addresses that RabbitMQ makes for requesters who have no
	// queue: those of the RPC clients of Spring, Nest and others.
	DirectReplyTo = "amq.rabbitmq.reply-to."
	// serverNamed starts the names of queues that were declared without one.
	serverNamed = "amq.gen-"
)

// Reserved says whether an address is one that the broker has named for a requester.
func Reserved(address string) bool {
	return strings.HasPrefix(address, DirectReplyTo) || strings.HasPrefix(address, serverNamed)
}

// Reply is the exchange for an answer. An address that the broker has named can be
// reached only through the default exchange.
func (x Exchanges) Reply(address string) string {
	if Reserved(address) {
		return ""
	}
	return x.Direct
}

// Topology are the two exchanges, exactly as PikaBus declares them. The ones that every
// broker has (amq.direct, amq.topic) are not declared.
func (x Exchanges) Topology() topology.Topology {
	var t topology.Topology
	if x.Direct != "amq.direct" {
		t.Exchanges = append(t.Exchanges, topology.Exchange{Name: x.Direct, Kind: topology.Direct})
	}
	if x.Topic != "amq.topic" {
		t.Exchanges = append(t.Exchanges, topology.Exchange{Name: x.Topic, Kind: topology.Topic})
	}
	return t
}

// Bindings bind a queue to topics.
func (x Exchanges) Bindings(queue string, topics []string, arguments map[string]any) []topology.Binding {
	bindings := make([]topology.Binding, len(topics))
	for i, topic := range topics {
		bindings[i] = topology.Binding{Exchange: x.Topic, Key: topic, Queue: queue, Arguments: arguments}
	}
	return bindings
}
