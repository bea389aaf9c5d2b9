package topology

import (
	"fmt"
	"strings"
	"time"
)

// DefaultDelayPrefix starts the names of all delay objects when
// [Delays.Prefix] is empty.
const DefaultDelayPrefix = "harebus.delay"

// LookLimit is the x-delivery-limit of the delay queues and of the error queue,
// whose messages wait without being consumed. Each look at a message (by the
// management page, by basic.get, by a consumer that ends) counts as a delivery.
// RabbitMQ 4 allows 20 for a queue without a limit; after that the message leaves a
// delay queue early, and a queue without a dead-letter exchange drops it. A limit
// of -1 does not help: RabbitMQ 3.10 then drops the message at the first look.
const LookLimit = 1_000_000

// maxPrefix is the longest Prefix in bytes. It leaves room for what follows it
// in the longest name.
const maxPrefix = 150

// Delays is the infrastructure that holds messages until they are due, made of
// ordinary quorum queues: no plugin, no database.
//
// Each of a fixed number of queues keeps a message for one fixed time and passes it
// on. A message passes through a few of them, chosen so that their times add up to
// its delay, through a gate where it can be cancelled ([Delays.Cancellation]), and then
// through the exit queue of its destination. Its route is in
// its CC header, so nothing is declared or bound for a single message. A
// destination that takes nothing holds up only its own messages.
//
// To use it, call [Delays.Route] for the route of a message, declare what is on the
// route – [Delays.Base] once per broker, [Delays.Queue] for each of Route.Queues,
// [Delays.Exit] for the destination – and publish as the route says.
// [Delays.Topology] has the objects for every delay.
//
// The zero value is ready to use. docs/delays.md has the guarantees and figures.
type Delays struct {
	// Prefix starts the name of every exchange and queue, so that one pattern
	// grants the permissions. At most 150 bytes. Defaults to
	// DefaultDelayPrefix. Two prefixes on one virtual host are two independent
	// sets of queues.
	Prefix string
}

func (d Delays) name(suffix string) string {
	if d.Prefix == "" {
		return DefaultDelayPrefix + "." + suffix
	}
	return d.Prefix + "." + suffix
}

func (d Delays) validate() error {
	if len(d.Prefix) > maxPrefix {
		return fmt.Errorf("topology: validate delay prefix %s: %w: it has %d bytes, more than %d", quoted(d.Prefix), ErrInvalidName, len(d.Prefix), maxPrefix)
	}
	return ValidName("delay prefix", d.name(""))
}

// Topology returns the base and every delay queue: what a broker needs if programs
// may not declare delay queues themselves. It is the same for every service and
// never grows. Its 142 quorum queues cost a broker some 10 MB of memory, and
// RabbitMQ 3 reserves 426 file descriptors for them.
func (d Delays) Topology() Topology {
	parts := []Topology{d.Base()}
	for k, l := range levels {
		for digit := 1; digit <= l.digits; digit++ {
			parts = append(parts, d.queue(step{k, digit}))
		}
	}
	return Join(parts...)
}

// Base returns what every route needs: the exchanges with the bindings between
// them, and the queue "<prefix>.lost".
//
// A delay queue is bound to the entry exchange, to start a route, and to the
// exchange of its level, to continue one. It passes expired messages to the
// exchange of the next finer level. That exchange routes them to one of its queues,
// to the exchange of the level below it, or to the exits. If the next queue was
// deleted, the message goes to the queue "<prefix>.lost". The entry exchange does
// not lead there, so that the broker returns the message to its publisher.
func (d Delays) Base() Topology {
	caught := map[string]any{"alternate-exchange": d.name("lost")}
	out := d.name("out")
	t := Topology{
		Exchanges: []Exchange{
			{Name: d.name("lost"), Kind: Fanout},
			{Name: out, Kind: Direct, Arguments: caught},
			{Name: d.name("in"), Kind: Direct},
		},
		Queues:   []Queue{{Name: d.name("lost"), Arguments: map[string]any{"x-delivery-limit": LookLimit}}},
		Bindings: []Binding{{Exchange: d.name("lost"), Queue: d.name("lost")}},
	}
	gate := d.gateTopology()
	t.Exchanges, t.Bindings = append(t.Exchanges, gate.Exchanges...), append(t.Bindings, gate.Bindings...)
	for k := range len(levels) - 1 { // nothing passes on to the coarsest level
		exchange := d.exchange(k)
		t.Exchanges = append(t.Exchanges, Exchange{Name: exchange, Kind: Direct, Arguments: caught})
		if k > 0 {
			t.Bindings = append(t.Bindings, Binding{Exchange: exchange, Key: step{k, 0}.key(), ToExchange: d.exchange(k - 1)})
		}
		t.Bindings = append(t.Bindings, Binding{Exchange: exchange, Key: end(k), ToExchange: out})
	}
	return t
}

// Queue returns one of the delay queues, with its bindings, by its name in
// [Route.Queues]. It is empty for a name that no route has.
func (d Delays) Queue(name string) Topology {
	s, ok := stepsByName[name]
	if !ok {
		return Topology{}
	}
	return d.queue(s)
}

func (d Delays) queue(s step) Topology {
	below := d.name("out")
	if s.level > 0 {
		below = d.exchange(s.level - 1)
	}
	queue := Queue{Name: d.name(s.name()), Arguments: passingOn(s.wait(), below)}
	t := Topology{
		Queues:   []Queue{queue},
		Bindings: []Binding{{Exchange: d.name("in"), Key: s.first(), Queue: queue.Name}},
	}
	if s.level < len(levels)-1 {
		t.Bindings = append(t.Bindings, Binding{Exchange: d.exchange(s.level), Key: s.key(), Queue: queue.Name})
	}
	return t
}

// exchange names the exchange of a level.
func (d Delays) exchange(level int) string { return d.name("level." + levels[level].name()) }

// Exit returns the queue through which due messages reach one destination, and its
// binding: the queue named key when exchange is empty (the default exchange),
// otherwise the queues to which exchange routes key. Due messages wait in it for as
// long as the destination does not take them, and do not hold up others.
//
// Exit queues are not removed: each new key makes a new queue, for which RabbitMQ 3
// reserves three file descriptors.
func (d Delays) Exit(exchange, key string) Topology {
	queue := Queue{Name: d.exit(exchange, key), Arguments: passingOn(0, exchange)}
	queue.Arguments["x-dead-letter-routing-key"] = key
	return Topology{
		Queues: []Queue{queue},
		Bindings: []Binding{
			{Exchange: d.name("out"), Key: queue.Name, Queue: queue.Name},
			{Exchange: d.name("exits"), Key: d.dueLabel(exchange, key), Queue: queue.Name},
		},
	}
}

// passingOn are the arguments of a queue that keeps a message for ttl and then
// passes it on, forgetting it only when the next queue has it.
func passingOn(ttl time.Duration, exchange string) map[string]any {
	return map[string]any{
		"x-message-ttl":          ttl.Milliseconds(),
		"x-dead-letter-exchange": exchange,
		"x-dead-letter-strategy": "at-least-once",
		"x-overflow":             "reject-publish", // at-least-once requires it
		"x-delivery-limit":       LookLimit,
	}
}

// escape makes the names of exchanges distinct in those of exits.
var escape = strings.NewReplacer("%", "%25", "/", "%2F")

// exit names an exit queue; messages that cannot be cancelled travel under this name as their routing
// key. No label of a step can equal it, for it has a "/" or "#".
func (d Delays) exit(exchange, key string) string { return d.name(d.dueLabel(exchange, key)) }
