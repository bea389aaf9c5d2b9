// Package routing knows the objects of a service on the broker: through which exchange a
// message goes, and the listener queue and the error queue with their arguments and
// bindings. They are those of PikaBus.
package routing

import (
	"fmt"
	"maps"
	"strings"
	"time"

	"github.com/harebus/harebus/internal/field"
	"github.com/harebus/harebus/internal/messageid"
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

// Reply is the exchange for an answer. An address that the broker has named is bound to no
// exchange but the default one.
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

// Replies is a reply queue with its binding. It is not exclusive: a PikaBus service binds the
// queue that it replies to, and the broker refuses that for the exclusive queue of another
// connection.
func (x Exchanges) Replies(queue string) topology.Topology {
	return topology.Topology{
		Queues:   []topology.Queue{{Name: queue, Type: topology.Classic, Arguments: map[string]any{"x-expires": repliesExpire.Milliseconds()}}},
		Bindings: []topology.Binding{{Exchange: x.Direct, Key: queue, Queue: queue}},
	}
}

// repliesMark stands in the name of a reply queue, between that of its owner and random
// digits.
const repliesMark = ".replies."

// ReplyQueue makes the name of a reply queue. An owner with a long name is cut.
func ReplyQueue(owner string) string {
	id := messageid.New()
	digits := repliesMark + id[len(id)-randomDigits:]
	if most := field.MaxShortString - len(digits); len(owner) > most {
		owner = strings.ToValidUTF8(owner[:most], "")
	}
	return owner + digits
}

// Owner is the owner of a reply queue. For any other address the address itself is returned.
func Owner(address string) string {
	at := strings.LastIndex(address, repliesMark)
	if at < 0 || len(address)-at-len(repliesMark) != randomDigits {
		return address
	}
	return address[:at]
}

const randomDigits = 12

// Options are the properties of a listener queue.
type Options struct {
	Type                                        topology.QueueType
	Arguments                                   map[string]any
	Exclusive, AutoDelete, AsFound, PerInstance bool
}

// ErrorQueue is where messages go that cannot be handled.
type ErrorQueue struct {
	Name      string
	Type      topology.QueueType
	Arguments map[string]any
}

// Listener is a listener queue with its error queue. An empty Name is none.
type Listener struct {
	Name       string
	Options    Options
	ErrorQueue ErrorQueue
}

const (
	// deliveryLimit is that of a quorum queue, and RabbitMQ 4 has the same default.
	deliveryLimit = 20
	// instanceExpires is how long the queue of an instance is kept after the instance has
	// ended.
	instanceExpires = 30 * time.Minute
	// exitGrace is how much longer than a listener queue with x-expires its exit lives:
	// somebody may still use the queue shortly before it expires.
	exitGrace = 5 * time.Minute
	// repliesExpire is how long a reply queue stays when nobody consumes from it.
	repliesExpire = 5 * time.Minute
)

// Topology is the listener queue with its bindings.
func (l *Listener) Topology(x Exchanges, topics []string) topology.Topology {
	if l.Name == "" {
		return topology.Topology{}
	}
	t := topology.Topology{
		Queues: []topology.Queue{{
			Name: l.Name, Type: l.Options.Type, Arguments: l.arguments(), Exclusive: l.Options.Exclusive, AutoDelete: l.Options.AutoDelete,
		}},
		Bindings: append([]topology.Binding{{Exchange: x.Direct, Key: l.Name, Queue: l.Name}}, x.Bindings(l.Name, topics, nil)...),
	}
	if l.Options.AsFound {
		t.Queues = nil
	}
	return t
}

// arguments set the delivery limit and dead-lettering of a quorum queue: after that many
// deliveries the broker moves to the error queue what the library cannot read.
func (l *Listener) arguments() map[string]any {
	args := map[string]any{}
	if l.Options.Type == topology.Quorum {
		args = map[string]any{
			"x-delivery-limit":          deliveryLimit,
			"x-dead-letter-exchange":    "",
			"x-dead-letter-routing-key": l.ErrorQueue.Name,
			"x-dead-letter-strategy":    "at-least-once",
			"x-overflow":                "reject-publish",
		}
	}
	if l.Options.PerInstance && !l.Options.Exclusive {
		args["x-expires"] = instanceExpires.Milliseconds()
	}
	return merged(args, l.Options.Arguments)
}

// merged adds the user's arguments to the defaults; a nil value removes one.
func merged(args, own map[string]any) map[string]any {
	maps.Copy(args, own)
	maps.DeleteFunc(args, func(_ string, value any) bool { return value == nil })
	return args
}

// Topology is the error queue, bound as PikaBus binds it. Its delivery limit is high,
// because a quorum queue counts each look at a message as a delivery and drops a message
// that reaches the limit.
func (q *ErrorQueue) Topology(x Exchanges) topology.Topology {
	args := map[string]any{}
	if q.Type == topology.Quorum {
		args["x-delivery-limit"] = topology.LookLimit
	}
	return topology.Topology{
		Queues:   []topology.Queue{{Name: q.Name, Type: q.Type, Arguments: merged(args, q.Arguments)}},
		Bindings: []topology.Binding{{Exchange: x.Direct, Key: q.Name, Queue: q.Name}},
	}
}

// Life is how long the listener queue stays when nobody uses it; 0 means for ever.
func (l *Listener) Life() time.Duration {
	if l.Options.Exclusive {
		return instanceExpires // it goes at once, and comes back with the next connection
	}
	var ms int64
	if _, err := fmt.Sscan(fmt.Sprint(l.arguments()["x-expires"]), &ms); err != nil {
		return 0
	}
	return time.Duration(ms) * time.Millisecond
}

// Exit is where what was delayed leaves the delay queues for a destination. The exit of a
// listener queue that expires, as the queue of an instance does, expires as well, because
// nobody would remove it.
func Exit(exchange, key string, listeners []Listener) topology.Topology {
	t := topology.Delays{}.Exit(exchange, key)
	if exchange != "" {
		return t
	}
	for _, l := range listeners {
		if life := l.Life(); life > 0 && key == l.Name {
			t.Queues[0].Arguments["x-expires"] = (life + exitGrace).Milliseconds()
		}
	}
	return t
}

// LowLimit says whether the queue is declared with a delivery limit below the number of
// attempts that its messages may have.
func (l *Listener) LowLimit(attempts int) bool {
	limit, own := l.Options.Arguments["x-delivery-limit"]
	return own && limit != nil && l.DeliveryLimit() < attempts
}

// DeliveryLimit is the number of deliveries after which the broker moves a message away, as
// far as the service knows.
func (l *Listener) DeliveryLimit() int {
	if limit, ok := l.arguments()["x-delivery-limit"]; ok {
		var n int // of any kind of number
		if _, err := fmt.Sscan(fmt.Sprint(limit), &n); err == nil {
			return n
		}
	}
	return deliveryLimit
}
