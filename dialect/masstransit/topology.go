package masstransit

import (
	"fmt"
	"strings"

	"github.com/harebus/harebus/topology"
)

// Topology is for harebus.Config.Declare.Topology. It makes a queue of harebus an endpoint for MassTransit: there is a fanout exchange
// of the queue's name, which is bound to it. The exchanges of the types, by their wire names, are bound to that one, so that the queue gets
// what peers publish. All this is what MassTransit declares itself for an endpoint of its own. A type that is not in Config.Types is
// left out; harebus.New says so.
func (d *Dialect) Topology(queue string, types ...string) topology.Topology {
	t := topology.Topology{
		Exchanges: []topology.Exchange{{Name: queue, Kind: topology.Fanout}},
		Bindings:  []topology.Binding{{Exchange: queue, Queue: queue}},
	}
	for _, name := range types {
		foreign, err := d.cfg.Types.Foreign(name)
		if err != nil {
			d.fault(fmt.Errorf("topology of %q: %w", queue, err))
			continue
		}
		exchange := exchangeOf(foreign)
		t.Exchanges = append(t.Exchanges, topology.Exchange{Name: exchange, Kind: topology.Fanout})
		t.Bindings = append(t.Bindings, topology.Binding{Exchange: exchange, ToExchange: queue})
	}
	return t
}

// Publishes is for harebus.Config.Declare.Topology, too: the exchanges of types that this service publishes, with those of their Interfaces, which are
// bound to them. Without it the exchange of a type alone is declared when it is published first, and consumers of an interface that have declared nothing yet miss it.
func (d *Dialect) Publishes(types ...string) (t topology.Topology) {
	for _, name := range types {
		foreign, err := d.cfg.Types.Foreign(name)
		if err != nil {
			d.fault(fmt.Errorf("topology of %q: %w", name, err))
			continue
		}
		exchange := exchangeOf(foreign)
		t.Exchanges = append(t.Exchanges, topology.Exchange{Name: exchange, Kind: topology.Fanout})
		for _, one := range d.cfg.Interfaces[name] {
			t.Exchanges = append(t.Exchanges, topology.Exchange{Name: exchangeOf(one), Kind: topology.Fanout})
			t.Bindings = append(t.Bindings, topology.Binding{Exchange: exchange, ToExchange: exchangeOf(one)})
		}
	}
	return t
}

// exchangeOf is the exchange of a type: Ns:Outer+Inner has Ns:Outer-Inner, and Ns:G[[Ns:A],[Other:B]] has Ns:G--A::Other:B--, where an argument
// of the same namespace goes without it.
func exchangeOf(foreign string) string {
	base, arguments, generic := strings.Cut(foreign, "[[")
	base = strings.ReplaceAll(base, "+", "-")
	if !generic {
		return base
	}
	namespace, _, _ := strings.Cut(base, ":")
	var list []string
	for _, one := range split(strings.TrimSuffix(arguments, "]]")) {
		list = append(list, strings.TrimPrefix(exchangeOf(one), namespace+":"))
	}
	return base + "--" + strings.Join(list, "::") + "--"
}

// split separates the arguments of a generic type: A],[B.
func split(arguments string) (list []string) {
	depth, start := 0, 0
	for i := range len(arguments) {
		switch arguments[i] {
		case '[':
			depth++
		case ']':
			depth--
		}
		if depth < 0 && strings.HasPrefix(arguments[i:], "],[") {
			list = append(list, arguments[start:i])
			start, depth = i+len("],["), 0
		}
	}
	return append(list, arguments[start:])
}
