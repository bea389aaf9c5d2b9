package routing

import (
	"errors"
	"fmt"

	"github.com/harebus/harebus/internal/field"
	"github.com/harebus/harebus/order"
	"github.com/harebus/harebus/stream"
	"github.com/harebus/harebus/topology"
)

// Use is how a service uses its listener queue.
type Use struct {
	Consumers int
	// Exclusive consumers refuse others.
	Exclusive bool
	Arguments map[string]any // of basic.consume
	Topics    []string
	// Declared says that the service declares its objects.
	Declared bool
}

// Faults are properties of the queue and of its consumers that exclude each other.
func (l *Listener) Faults(u Use) (faults []error) {
	fault := func(wrong bool, format string, args ...any) {
		if wrong {
			faults = append(faults, fmt.Errorf(format, args...))
		}
	}
	o := &l.Options
	fault(l.Stream == nil && o.AsFound && (o.Exclusive || o.AutoDelete || o.PerInstance || len(o.Arguments) > 0),
		"QueueOptions.AsFound uses the queue as it is: leave Exclusive, AutoDelete, PerInstance and Arguments out")
	fault(o.Exclusive && !u.Declared, "QueueOptions.Exclusive needs Declare.Mode DeclareAll: only the connection that consumes can declare the queue")
	faults = append(append(faults, l.orderFaults(u)...), l.streamFaults(u)...)
	fault(l.dividesInto(l.ErrorQueue.Name), "ErrorQueue.Name %s would be a partition of the queue %s", field.Quote(l.ErrorQueue.Name), field.Quote(l.Name))
	fault(u.Exclusive && o.AutoDelete,
		"QueueOptions.AutoDelete excludes Consume.Exclusive: a change of the prefetch would leave the queue without a consumer, and the broker would delete it")
	fault(u.Exclusive && u.Consumers > 1, "Consume.Exclusive allows one consumer, and Consume.Consumers is %d", u.Consumers)
	return faults
}

// orderFaults are why the queue cannot be an ordered one.
func (l *Listener) orderFaults(u Use) []error {
	o := l.Options
	return l.Order.Faults(order.Uses{
		Type: o.Type, Arguments: o.Arguments, Consumers: u.Consumers,
		Private: o.Exclusive || o.AutoDelete || o.PerInstance || o.AsFound, Alone: u.Exclusive,
	})
}

// streamFaults are why the queue cannot be read as a stream, or is one that is not.
func (l *Listener) streamFaults(u Use) []error {
	o := l.Options
	if l.ErrorQueue.Type == topology.Stream || (o.Type == topology.Stream && l.Stream == nil) {
		return []error{errors.New("QueueOptions.Type and ErrorQueue.Type cannot be topology.Stream: a stream gives no message to one consumer" +
			" alone; Consume.Stream reads one")}
	}
	return l.Stream.Faults(stream.Uses{
		Name: l.Name, Arguments: o.Arguments, Consume: u.Arguments, Consumers: u.Consumers, Ordered: l.Order != nil, Bound: len(u.Topics) > 0,
		Private: o.Exclusive || o.AutoDelete || o.PerInstance || len(o.Arguments) > 0 || o.Type != topology.Stream, Alone: u.Exclusive,
	})
}

// Unroutable finds names of queues that no message can be sent to.
func Unroutable(names ...string) (faults []error) {
	for _, name := range names {
		if err := topology.ValidRoutingKey(name); name != "" && err != nil {
			faults = append(faults, fmt.Errorf("queue %s: no message can be sent to it: %w", field.Quote(name), err))
		}
	}
	return faults
}
