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

// errorTopology is the error queue, bound as PikaBus binds it.
func (c *EndpointConfig) errorTopology(x ExchangeConfig) topology.Topology {
	return topology.Topology{
		Queues: []topology.Queue{{
			Name: c.ErrorQueue.Name, Type: c.ErrorQueue.Type, Arguments: c.errorArguments(),
		}},
		Bindings: []topology.Binding{{Exchange: x.Direct, Key: c.ErrorQueue.Name, Queue: c.ErrorQueue.Name}},
	}
}

// queueTopology is the listener queue with its bindings.
func (c *EndpointConfig) queueTopology(x ExchangeConfig, topics []string) topology.Topology {
	if c.Queue == "" {
		return topology.Topology{}
	}
	t := topology.Topology{
		Queues:   []topology.Queue{{Name: c.Queue, Type: c.QueueOptions.Type, Arguments: c.queueArguments()}},
		Bindings: []topology.Binding{{Exchange: x.Direct, Key: c.Queue, Queue: c.Queue}},
	}
	for _, topic := range topics {
		t.Bindings = append(t.Bindings, topology.Binding{Exchange: x.Topic, Key: topic, Queue: c.Queue})
	}
	return t
}

// queueArguments sets the delivery limit and dead-lettering of a quorum queue:
// after that many deliveries the broker moves to the error queue what the library
// cannot read.
func (c *EndpointConfig) queueArguments() map[string]any {
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
func (c *EndpointConfig) errorArguments() map[string]any {
	args := map[string]any{}
	if c.ErrorQueue.Type == topology.Quorum {
		args["x-delivery-limit"] = topology.LookLimit
	}
	return merged(args, c.ErrorQueue.Arguments)
}

// exitTopology is the exit of a destination. If the listener queue expires, as the
// queue of an instance does, its exit expires as well, because nobody would remove
// it. Publisher.KeepExit keeps it while the queue has its consumer.
func (s *Setup) exitTopology(exchange, key string) topology.Topology {
	t := topology.Delays{}.Exit(exchange, key)
	if exchange != "" {
		return t
	}
	for _, e := range s.all() {
		if life := e.cfg.queueLife(); life > 0 && key == e.queue {
			t.Queues[0].Arguments["x-expires"] = (life + exitGrace).Milliseconds()
		}
	}
	return t
}

// queueLife is the x-expires of the listener queue; 0 means that it stays.
func (c *EndpointConfig) queueLife() time.Duration {
	var ms int64
	if _, err := fmt.Sscan(fmt.Sprint(c.QueueOptions.Arguments["x-expires"]), &ms); err != nil {
		return 0
	}
	return time.Duration(ms) * time.Millisecond
}

// deliveryLimit is the number of deliveries after which the broker moves a message
// away, as far as the setup knows.
func (c *EndpointConfig) deliveryLimit() int {
	if limit, ok := c.queueArguments()["x-delivery-limit"]; ok {
		if n, err := parseCount(limit); err == nil {
			return n
		}
	}
	return defaultDeliveryLimit // RabbitMQ 4 has the same default
}
