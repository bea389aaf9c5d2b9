package harebus

import (
	"fmt"
	"maps"
	"time"

	"github.com/harebus/harebus/topology"
)

// exchangeTopology are the two exchanges, exactly as PikaBus declares them. The
// ones that every broker has (amq.direct, amq.topic) are not declared.
func (c *Config) exchangeTopology() topology.Topology {
	var t topology.Topology
	if c.Exchanges.Direct != "amq.direct" {
		t.Exchanges = append(t.Exchanges, topology.Exchange{Name: c.Exchanges.Direct, Kind: topology.Direct})
	}
	if c.Exchanges.Topic != "amq.topic" {
		t.Exchanges = append(t.Exchanges, topology.Exchange{Name: c.Exchanges.Topic, Kind: topology.Topic})
	}
	return t
}

// errorTopology is the error queue, bound as PikaBus binds it.
func (c *Config) errorTopology() topology.Topology {
	return topology.Topology{
		Queues: []topology.Queue{{
			Name: c.ErrorQueue.Name, Type: c.ErrorQueue.Type, Arguments: c.errorArguments(),
		}},
		Bindings: []topology.Binding{{Exchange: c.Exchanges.Direct, Key: c.ErrorQueue.Name, Queue: c.ErrorQueue.Name}},
	}
}

// queueTopology is the listener queue with its bindings.
func (c *Config) queueTopology(topics []string) topology.Topology {
	if c.Queue == "" {
		return topology.Topology{}
	}
	t := topology.Topology{
		Queues:   []topology.Queue{{Name: c.Queue, Type: c.QueueOptions.Type, Arguments: c.queueArguments()}},
		Bindings: []topology.Binding{{Exchange: c.Exchanges.Direct, Key: c.Queue, Queue: c.Queue}},
	}
	for _, topic := range topics {
		t.Bindings = append(t.Bindings, topology.Binding{Exchange: c.Exchanges.Topic, Key: topic, Queue: c.Queue})
	}
	return t
}

// queueArguments sets the delivery limit and dead-lettering of a quorum queue:
// after that many deliveries the broker moves to the error queue what the library
// cannot read.
func (c *Config) queueArguments() map[string]any {
	args := map[string]any{}
	if c.QueueOptions.Type == topology.Quorum {
		args = map[string]any{
			"x-delivery-limit":          defaultDeliveryLimit,
			"x-dead-letter-exchange":    "",
			"x-dead-letter-routing-key": c.ErrorQueue.Name,
			"x-dead-letter-strategy":    "at-least-once",
			"x-overflow":                "reject-publish",
		}
	}
	if c.QueueOptions.PerInstance {
		args["x-expires"] = instanceExpires.Milliseconds()
	}
	return merged(args, c.QueueOptions.Arguments)
}

// errorArguments set a high delivery limit, because a quorum queue counts each look
// at a message as a delivery and drops a message that reaches the limit.
func (c *Config) errorArguments() map[string]any {
	args := map[string]any{}
	if c.ErrorQueue.Type == topology.Quorum {
		args["x-delivery-limit"] = topology.LookLimit
	}
	return merged(args, c.ErrorQueue.Arguments)
}

// merged adds the user's arguments to the defaults; a nil value removes one.
func merged(args, own map[string]any) map[string]any {
	maps.Copy(args, own)
	maps.DeleteFunc(args, func(_ string, value any) bool { return value == nil })
	return args
}

// instanceExpires is how long the queue of an instance is kept after the instance
// has ended.
const instanceExpires = 30 * time.Minute

// exitGrace is how much longer than a listener queue with x-expires its exit lives:
// somebody may still use the queue shortly before it expires.
const exitGrace = 5 * time.Minute

// exitTopology is the exit of a destination. If the listener queue expires, as the
// queue of an instance does, its exit expires as well, because nobody would remove
// it. Publisher.KeepExit keeps it while the queue has its consumer.
func (c *Config) exitTopology(exchange, key string) topology.Topology {
	t := topology.Delays{}.Exit(exchange, key)
	if life := c.queueLife(); life > 0 && exchange == "" && key == c.Queue {
		t.Queues[0].Arguments["x-expires"] = (life + exitGrace).Milliseconds()
	}
	return t
}

// queueLife is the x-expires of the listener queue; 0 means that it stays.
func (c *Config) queueLife() time.Duration {
	var ms int64
	if _, err := fmt.Sscan(fmt.Sprint(c.QueueOptions.Arguments["x-expires"]), &ms); err != nil {
		return 0
	}
	return time.Duration(ms) * time.Millisecond
}

// errorTopologies are the error queues of the listener queues.
func (c *Config) errorTopologies() []topology.Topology {
	if c.Queue == "" {
		return nil
	}
	return []topology.Topology{c.errorTopology()}
}

// ownTopology is everything but the delay infrastructure.
func (c *Config) ownTopology(topics []string) topology.Topology {
	return topology.Join(append([]topology.Topology{c.exchangeTopology(), c.queueTopology(topics), c.Declare.Topology}, c.errorTopologies()...)...)
}

// deliveryLimit is the number of deliveries after which the broker moves a message
// away, as far as the setup knows.
func (c *Config) deliveryLimit() int {
	if limit, ok := c.queueArguments()["x-delivery-limit"]; ok {
		if n, err := parseCount(limit); err == nil {
			return n
		}
	}
	return defaultDeliveryLimit // RabbitMQ 4 has the same default
}
