package contract

import (
	"fmt"
	"slices"

	"github.com/harebus/harebus/internal/topics"
)

// Extension is the field of a channel in which a document says how a queue is bound, because the bindings of AsyncAPI for AMQP have
// no place for it: {"exchange": "PikaBusDirect", "topics": ["order.*"], "topicExchange": "PikaBusTopic"}.
const Extension = "x-harebus"

// bindings are those of a queue.
type bindings struct {
	exchange      string // of commands
	topicExchange string // of events
	topics        []string
}

// readQueues reads how the queues of the document are bound, as far as it says so.
func (d *Document) readQueues() error {
	channels, err := object(d.root, "channels")
	if err != nil {
		return err
	}
	for key, value := range channels {
		channel, err := d.resolved(value)
		if err != nil {
			continue //nolint:nilerr // an operation that needs the channel says so
		}
		bound, err := object(channel, Extension)
		if err != nil {
			return fmt.Errorf("channel %.100q: %w", key, err)
		}
		if bound == nil || text(amqpOf(channel), "is") != "queue" {
			continue
		}
		b := bindings{exchange: text(bound, "exchange"), topicExchange: text(bound, "topicExchange")}
		for _, one := range list(bound["topics"]) {
			topic, ok := one.(string)
			if !ok {
				return fmt.Errorf("channel %.100q: %s.topics has a %T, and not only texts", key, Extension, one)
			}
			b.topics = append(b.topics, topic)
		}
		d.queues[addressOf(channel, key)] = b
	}
	return nil
}

// rebound compares how the queues of two documents are bound, where both say it.
func rebound(before, after *Document) (changes []Change) {
	for name, was := range before.queues {
		is, both := after.queues[name]
		if !both {
			continue // its operations are gone, too
		}
		change := func(breaking bool, format string, args ...any) {
			changes = append(changes, Change{breaking, fmt.Sprintf("queue %q", name), "", fmt.Sprintf(format, args...)})
		}
		if was.exchange != is.exchange {
			change(true, "exchange of commands %q → %q", was.exchange, is.exchange)
		}
		moved := was.topicExchange != is.topicExchange && len(was.topics) > 0
		if moved {
			change(true, "exchange of events %q → %q", was.topicExchange, is.topicExchange)
		}
		for _, topic := range was.topics {
			if !moved && !before.receives(was.topicExchange, topic) && !slices.ContainsFunc(is.topics, func(one string) bool { return topics.Covers(one, topic) }) {
				change(true, "topic %q is not bound any more", topic)
			}
		}
		for _, topic := range is.topics {
			if !after.receives(is.topicExchange, topic) && !slices.ContainsFunc(was.topics, func(one string) bool { return topics.Covers(one, topic) }) {
				change(false, "topic %q is bound", topic)
			}
		}
	}
	return changes
}

// receives says whether a message of a topic is received: then the operation is compared.
func (d *Document) receives(exchange, topic string) bool {
	place := topicOf(exchange, topic)
	return slices.ContainsFunc(d.operations, func(o operation) bool { return o.action == "receive" && o.place == place })
}
