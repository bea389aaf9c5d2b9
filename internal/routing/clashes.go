package routing

import (
	"fmt"
	"slices"

	"github.com/harebus/harebus/internal/field"
	"github.com/harebus/harebus/order"
	"github.com/harebus/harebus/topology"
)

// Clashes are the reasons why a listener queue cannot stand beside another one of the same service.
func (l *Listener) Clashes(other *Listener) (faults []error) {
	fault := func(format string, args ...any) { faults = append(faults, fmt.Errorf(format, args...)) }
	if other.Name == "" {
		return nil
	}
	switch {
	case l.Name == other.Name:
		fault("the setup has an endpoint of the queue %s already", field.Quote(l.Name))
	case l.ErrorQueue.Name == other.Name, l.Name == other.ErrorQueue.Name:
		fault("a queue of the setup would be the error queue of another one: %s and %s", field.Quote(l.Name), field.Quote(other.Name))
	case l.parks(other.Name), other.parks(l.Name):
		fault("a queue of the setup would be the parking queue of another one: %s and %s", field.Quote(l.Name), field.Quote(other.Name))
	case l.dividesInto(other.Name): // if it is the other way round, there is an endpoint of the partition already
		fault("a queue of the setup would be a partition of another one: %s and %s", field.Quote(other.Name), field.Quote(l.Name))
	}
	if l.ErrorQueue.Name == other.ErrorQueue.Name {
		x := Exchanges{Direct: "amq.direct"}
		if err := topology.Join(l.ErrorQueue.Topology(x), other.ErrorQueue.Topology(x)).Validate(); err != nil {
			fault("the error queue is declared with other properties for the queue %s: %w", field.Quote(other.Name), err)
		}
	}
	return faults
}

// dividesInto says whether a queue is one of the partitions of this one.
func (l *Listener) dividesInto(queue string) bool {
	return slices.Contains(l.Order.PartitionQueues(l.Name), queue)
}

// parks says whether a queue is the parking queue of this one.
func (l *Listener) parks(in string) bool { return l.Order != nil && order.ParkingQueue(l.Name) == in }
