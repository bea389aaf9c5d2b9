package nservicebus

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/harebus/harebus/topology"
)

// topicExchange is where events go in the direct routing topology.
const topicExchange = "amq.topic"

// Topology is for harebus.Config.Declare.Topology: what the routing topology of the peers needs so that they can send to a queue, and
// the bindings by which it gets the events of some types, by their wire names. In the conventional topology the exchanges of
// base types are bound to those of the types too, as a publisher does it. A type that is not in Config.Types is left out;
// harebus.New says so.
func (d *Dialect) Topology(queue string, types ...string) topology.Topology {
	var t topology.Topology
	if !d.direct {
		t.Exchanges = append(t.Exchanges, topology.Exchange{Name: queue, Kind: topology.Fanout})
		t.Bindings = append(t.Bindings, topology.Binding{Exchange: queue, Queue: queue})
	}
	for _, name := range types {
		if _, err := d.written.Foreign(name); err != nil {
			d.mu.Lock()
			d.err = errors.Join(d.err, fmt.Errorf("topology of %q: %w", queue, err))
			d.mu.Unlock()
			continue
		}
		if d.direct {
			t.Bindings = append(t.Bindings, topology.Binding{Exchange: topicExchange, Key: d.key(name) + ".#", Queue: queue})
			continue
		}
		exchange := exchangeOf(d.types[name][0])
		t.Bindings = append(t.Bindings, topology.Binding{Exchange: exchange, ToExchange: queue})
		for i, one := range d.types[name] {
			base := exchangeOf(one)
			t.Exchanges = append(t.Exchanges, topology.Exchange{Name: base, Kind: topology.Fanout})
			if i > 0 {
				t.Bindings = append(t.Bindings, topology.Binding{Exchange: exchange, ToExchange: base})
			}
		}
	}
	return topology.Join(t)
}

// exchangeOf is the exchange of a type: its namespace and its name, without types around it.
func exchangeOf(full string) string {
	bare, _, _ := strings.Cut(full, "[")
	namespace, name := "", bare
	if dot := strings.LastIndexByte(bare, '.'); dot >= 0 {
		namespace, name = bare[:dot], bare[dot+1:]
	}
	if plus := strings.LastIndexByte(name, '+'); plus >= 0 {
		name = name[plus+1:]
	}
	return namespace + ":" + name
}

// key is the routing key of a type in the direct topology: those of its base types come first.
func (d *Dialect) key(name string) string {
	all := slices.Clone(d.types[name])
	slices.Reverse(all)
	for i, one := range all {
		all[i] = strings.ReplaceAll(one, ".", "-")
	}
	return strings.Join(all, ".")
}
