package routing

import (
	"errors"
	"fmt"
	"maps"
	"strings"
	"time"

	"github.com/harebus/harebus/order"
	"github.com/harebus/harebus/stream"
	"github.com/harebus/harebus/topology"
)

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
	// Order is that of an ordered queue, else nil.
	Order *order.Config
	// Stream is that of a queue that is read as a stream, else nil.
	Stream *stream.Config
}

const (
	// deliveryLimit is that of a quorum queue, and RabbitMQ 4 has the same default.
	deliveryLimit = 20
	// instanceExpires is how long the queue of an instance is kept after the instance has
	// ended.
	instanceExpires = 30 * time.Minute
	// exitGrace is how much later than its listener queue with x-expires an exit expires:
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
	switch {
	case l.Stream != nil:
		return l.Stream.Topology(l.Name) // the stream is somebody else's
	case l.Options.AsFound:
		t.Queues = nil
	}
	return topology.Join(t, l.Order.Topology(l.Name))
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

// Exit is the last delay queue on the way to a destination, its exchange and its bindings. The exit of a
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

// instanceDigits is how many random digits end the name of the queue of an instance.
const instanceDigits = 12

// Instance is the name of a queue for one instance of a service alone, with the last digits of a new id.
func Instance(queue, id string) string { return queue + "." + id[len(id)-instanceDigits:] }

// IsInstance says whether a queue is that of an instance of another one.
func IsInstance(queue, of string) bool {
	return strings.HasPrefix(queue, of+".") && len(queue) == len(of)+1+instanceDigits
}

// Shared is the name of a queue without what makes it that of one instance, if it is.
func Shared(queue string, ofInstance bool) string {
	if !ofInstance {
		return queue
	}
	return queue[:len(queue)-instanceDigits-1]
}

// The shortest and the longest lease of a handler.
const shortestLease, longestLease = 10 * time.Second, 24 * time.Hour

// LeaseFault says what is wrong with a lease of a handler of the queue. What is acknowledged before it is handled
// does not keep the order for which a queue has a single active consumer.
func (l *Listener) LeaseFault(lease time.Duration) error {
	if lease < shortestLease || lease > longestLease {
		return fmt.Errorf("the lease of %v is not between %v and %v", lease, shortestLease, longestLease)
	}
	if l.Stream != nil {
		return errors.New("a handler with a lease needs a queue, and not a stream, which has no acknowledgements")
	}
	if single, _ := l.Options.Arguments["x-single-active-consumer"].(bool); single {
		return errors.New("a handler with a lease does not keep the order of its queue, which has a single active consumer: give it a queue of its own")
	}
	return nil
}
