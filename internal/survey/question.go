package survey

import (
	"cmp"
	"maps"
	"regexp"
	"strconv"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/harebus/harebus/topology"
)

// question is what the broker is asked to agree with: a declaration of an object that exists.
// The broker changes nothing; when a property differs it answers 406 with the current value
// of the first that does.
type question struct {
	kind      string // of an exchange
	flags     map[string]bool
	arguments amqp.Table
}

const queueType = "x-queue-type"

func ask(like topology.Queue) *question {
	q := &question{
		flags:     map[string]bool{"durable": !like.Transient, "auto_delete": like.AutoDelete, "exclusive": like.Exclusive},
		arguments: table(like.Arguments),
	}
	// Classic too: a virtual host may have another default.
	q.arguments[queueType] = string(cmp.Or(like.Type, topology.Quorum))
	return q
}

func askExchange(like topology.Exchange) *question {
	return &question{
		kind:      string(like.Kind),
		flags:     map[string]bool{"durable": !like.Transient, "auto_delete": like.AutoDelete, "internal": like.Internal},
		arguments: table(like.Arguments),
	}
}

// table copies arguments with every integer as the client can send it.
func table(arguments map[string]any) amqp.Table {
	t := make(amqp.Table, len(arguments)+1)
	for key, value := range arguments {
		if n, ok := value.(int); ok {
			value = int64(n)
		}
		t[key] = value
	}
	return t
}

var (
	difference = regexp.MustCompile(`(?s)inequivalent arg '([^']+)' for .*: received .*? but current is (.*)$`)
	unknown    = regexp.MustCompile(`invalid arg '([^']+)' for `)
	typed      = regexp.MustCompile(`(?s)^the value '(.*)' of type '(\w+)'$`)
	untyped    = regexp.MustCompile(`(?s)^'(.*)'$`)
)

// correct changes the question to the value that an answer names. It is false if the answer
// names none.
func (q *question) correct(answer string) bool {
	if match := unknown.FindStringSubmatch(answer); match != nil { // a queue of this type has no such argument
		return q.forget(match[1])
	}
	match := difference.FindStringSubmatch(answer)
	if match == nil {
		return false
	}
	name, current := match[1], match[2]
	if current == "none" {
		return q.forget(name)
	}
	if with := typed.FindStringSubmatch(current); with != nil {
		value, ok := read(with[1], with[2])
		q.arguments[name] = value
		return ok
	}
	without := untyped.FindStringSubmatch(current)
	if without == nil {
		return false
	}
	if _, ok := q.flags[name]; ok {
		q.flags[name] = without[1] == "true"
		return true
	}
	if name == "type" && q.kind != "" {
		q.kind = without[1]
		return true
	}
	if name == queueType { // always text; asked without it, RabbitMQ 4 puts the default in its place
		q.arguments[name] = without[1]
		return true
	}
	// Two values of an argument are compared without their types. Asked without the argument,
	// the broker names the type of its own.
	return q.forget(name)
}

// forget asks without an argument. It is false if that was so before.
func (q *question) forget(name string) bool {
	_, asked := q.arguments[name]
	delete(q.arguments, name)
	return asked
}

// read makes a value of the broker's text of it.
func read(text, kind string) (any, bool) {
	switch kind {
	case "longstr":
		return text, true
	case "bool":
		return text == "true", true
	}
	n, err := strconv.ParseInt(text, 10, 64)
	return n, err == nil
}

func (q *question) queue(name string) topology.Queue {
	arguments := maps.Clone(q.arguments)
	kind := topology.Classic
	if named, ok := arguments[queueType].(string); ok {
		kind = topology.QueueType(named)
	}
	delete(arguments, queueType)
	return topology.Queue{
		Name: name, Type: kind, Transient: !q.flags["durable"], AutoDelete: q.flags["auto_delete"], Exclusive: q.flags["exclusive"],
		Arguments: arguments,
	}
}

func (q *question) exchange(name string) topology.Exchange {
	return topology.Exchange{
		Name: name, Kind: topology.Kind(q.kind), Transient: !q.flags["durable"], AutoDelete: q.flags["auto_delete"], Internal: q.flags["internal"],
		Arguments: q.arguments,
	}
}
