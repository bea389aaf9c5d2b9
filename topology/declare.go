package topology

import (
	"errors"
	"fmt"
	"strings"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/harebus/harebus/internal/refusal"
)

// Channel is the part of [*amqp.Channel] that declaring and checking need. Do not
// publish on the same channel: the broker closes it with every error that it
// returns.
type Channel interface {
	ExchangeDeclare(name, kind string, durable, autoDelete, internal, noWait bool, args amqp.Table) error
	ExchangeDeclarePassive(name, kind string, durable, autoDelete, internal, noWait bool, args amqp.Table) error
	ExchangeBind(destination, key, source string, noWait bool, args amqp.Table) error
	QueueDeclare(name string, durable, autoDelete, exclusive, noWait bool, args amqp.Table) (amqp.Queue, error)
	QueueDeclarePassive(name string, durable, autoDelete, exclusive, noWait bool, args amqp.Table) (amqp.Queue, error)
	QueueBind(name, key, exchange string, noWait bool, args amqp.Table) error
	QueueUnbind(name, key, exchange string, args amqp.Table) error
	Close() error
}

var _ Channel = (*amqp.Channel)(nil)

// Declare creates missing objects: exchanges, then queues, then bindings, each
// group in its order. Declaring again what exists with the same properties changes
// nothing, so Declare may run at every start and from several processes at once.
//
// It stops at the first error, an [*Error]: the broker has closed ch by then. What
// was declared before it stays. Call [Topology.Validate] first; Declare itself only
// refuses values that cannot be encoded.
func (t Topology) Declare(ch Channel) error {
	for _, e := range t.Exchanges {
		if err := e.declare(ch); err != nil {
			return err
		}
	}
	for _, q := range t.Queues {
		if err := q.declare(ch); err != nil {
			return err
		}
	}
	for _, b := range t.Bindings {
		if err := b.declare(ch); err != nil {
			return err
		}
	}
	return nil
}

func (e Exchange) declare(ch Channel) error {
	args, err := table(e.Arguments)
	if err == nil {
		err = ch.ExchangeDeclare(e.Name, string(e.Kind), !e.Transient, e.AutoDelete, e.Internal, false, args)
	}
	return failed("declare", e.object(), e.asked(), err)
}

func (q Queue) declare(ch Channel) error {
	args, err := table(q.declareArguments())
	if err == nil {
		_, err = ch.QueueDeclare(q.Name, !q.Transient, q.AutoDelete, q.Exclusive, false, args)
	}
	return failed("declare", q.object(), q.asked(), err)
}

func (b Binding) declare(ch Channel) error {
	args, err := table(b.Arguments)
	switch {
	case err != nil:
	case b.ToExchange != "":
		err = ch.ExchangeBind(b.ToExchange, b.Key, b.Exchange, false, args)
	default:
		err = ch.QueueBind(b.Queue, b.Key, b.Exchange, false, args)
	}
	return failed("declare", b.object(), describeArguments(b.Arguments), err)
}

func (e Exchange) asked() string {
	words := []string{"durable"}
	if e.Transient {
		words[0] = "transient"
	}
	words = append(words, string(e.Kind))
	if e.Internal {
		words = append(words, "internal")
	}
	if e.AutoDelete {
		words = append(words, "auto-delete")
	}
	return withArguments(words, e.Arguments)
}

func (q Queue) asked() string {
	words := []string{"durable"}
	if q.Transient {
		words[0] = "transient"
	}
	if q.quorum() {
		words = append(words, "quorum")
	} else {
		words = append(words, string(q.Type))
	}
	if q.Exclusive {
		words = append(words, "exclusive")
	}
	if q.AutoDelete {
		words = append(words, "auto-delete")
	}
	return withArguments(words, q.Arguments)
}

func withArguments(words []string, arguments map[string]any) string {
	if len(arguments) > 0 {
		words = append(words, describeArguments(arguments))
	}
	return strings.Join(words, " ")
}

// Check reports which exchanges and queues do not exist on the broker, those that
// bindings name included: one [*Error] for each, joined by [errors.Join]. It
// changes nothing and needs no configure permission.
//
// If the broker does not let the user check an object (403), the object is not
// reported, because it may exist. RabbitMQ from 4.2.6 on answers so if the user has
// no permission at all on the name; older versions let every user check.
//
// open returns a new channel; the broker closes a channel with every answer that
// is an error, so Check opens another one after each. Check closes the channels
// it opened.
//
// A passive check sees names only. It does not notice a queue or an exchange
// declared with another type or other arguments, nor a binding that is missing or
// superfluous, because AMQP 0-9-1 has no request for that. Declaring does compare
// types and arguments, and a mandatory publish notices a missing binding.
func (t Topology) Check(open func() (Channel, error)) error {
	c := checker{open: open}
	defer c.close()
	for _, e := range t.referencedExchanges() {
		if !c.check(e.object(), func(ch Channel) error {
			return ch.ExchangeDeclarePassive(e.Name, string(e.Kind), !e.Transient, e.AutoDelete, e.Internal, false, nil)
		}) {
			return c.faults()
		}
	}
	for _, q := range t.referencedQueues() {
		if !c.check(q.object(), func(ch Channel) error {
			_, err := ch.QueueDeclarePassive(q.Name, !q.Transient, q.AutoDelete, q.Exclusive, false, nil)
			return err
		}) {
			return c.faults()
		}
	}
	return c.faults()
}

// referencedExchanges returns the exchanges of t and those its bindings name.
func (t Topology) referencedExchanges() []Exchange {
	known := make(map[string]bool)
	var exchanges []Exchange
	add := func(e Exchange) {
		if e.Name != "" && !known[e.Name] {
			known[e.Name] = true
			exchanges = append(exchanges, e)
		}
	}
	for _, e := range t.Exchanges {
		add(e)
	}
	for _, b := range t.Bindings {
		// A passive declare has to name some kind, and the broker ignores it.
		add(Exchange{Name: b.Exchange, Kind: Direct})
		add(Exchange{Name: b.ToExchange, Kind: Direct})
	}
	return exchanges
}

// referencedQueues returns the queues of t and those its bindings name.
func (t Topology) referencedQueues() []Queue {
	known := make(map[string]bool)
	var queues []Queue
	add := func(q Queue) {
		if q.Name != "" && !known[q.Name] {
			known[q.Name] = true
			queues = append(queues, q)
		}
	}
	for _, q := range t.Queues {
		add(q)
	}
	for _, b := range t.Bindings {
		add(Queue{Name: b.Queue})
	}
	return queues
}

// checker asks one question after the other and replaces its channel after
// each answer that closed it.
type checker struct {
	open    func() (Channel, error)
	channel Channel
	found   []error
}

// check reports whether it makes sense to go on.
func (c *checker) check(object string, ask func(Channel) error) bool {
	if c.channel == nil {
		channel, err := c.open()
		if err != nil {
			c.found = append(c.found, fmt.Errorf("topology: check %s: open channel: %w", object, err))
			return false
		}
		c.channel = channel
	}
	if err := ask(c.channel); err != nil {
		if !refusal.Forbidden(err) {
			c.found = append(c.found, failed("check", object, "to exist", err))
		}
		c.close()
	}
	return true
}

// close gives the channel back. Its error says nothing the caller could act
// on: the channel is either dead already or about to be.
func (c *checker) close() {
	if c.channel != nil {
		_ = c.channel.Close()
		c.channel = nil
	}
}

func (c *checker) faults() error { return errors.Join(c.found...) }
