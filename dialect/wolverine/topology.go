package wolverine

import (
	"errors"
	"fmt"

	"github.com/harebus/harebus/topology"
)

// Topology is for harebus.Config.Declare.Topology: the exchanges that Wolverine's conventional routing has for types of messages,
// by their wire names, bound to a queue, so that the queue gets what peers publish. A type that is not in
// Config.Types is left out; harebus.New says so.
func (d *Dialect) Topology(queue string, types ...string) topology.Topology {
	var t topology.Topology
	for _, name := range types {
		exchange, err := d.types.Foreign(name)
		if err != nil {
			d.mu.Lock()
			d.err = errors.Join(d.err, fmt.Errorf("topology of %q: %w", queue, err))
			d.mu.Unlock()
			continue
		}
		t.Exchanges = append(t.Exchanges, topology.Exchange{Name: exchange, Kind: topology.Fanout})
		t.Bindings = append(t.Bindings, topology.Binding{Exchange: exchange, Key: queue, Queue: queue})
	}
	return t
}
