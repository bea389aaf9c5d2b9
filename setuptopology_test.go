package harebus_test

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/brokertest"
	"github.com/harebus/harebus/topology"
)

// A file for the commands "harebus topology" and "harebus doctor": what the service wants of
// the broker.
func ExampleSetup_Topology() {
	setup, err := harebus.New(harebus.Config{
		Queue: "orders", Subscriptions: []string{"payment.*"}, QueueOptions: harebus.QueueOptions{Type: topology.Classic},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	out := json.NewEncoder(os.Stdout)
	out.SetIndent("", " ")
	if err := out.Encode(setup.Topology().Queues); err != nil {
		fmt.Println(err)
	}
	// Output:
	// [
	//  {
	//   "name": "error",
	//   "type": "quorum",
	//   "arguments": {
	//    "x-delivery-limit": 1000000
	//   }
	//  },
	//  {
	//   "name": "orders",
	//   "type": "classic"
	//  }
	// ]
}

// TestSetupTopologyIsWhatStartDeclares: nothing more and nothing less, for each endpoint, and it
// is the same when it was written and read.
func TestSetupTopologyIsWhatStartDeclares(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		cfg := r.config("orders")
		cfg.Subscriptions = []string{"payment.*"}
		cfg.Declare.Topology = topology.Topology{
			Exchanges: []topology.Exchange{{Name: "audit", Kind: topology.Fanout, Arguments: map[string]any{"alternate-exchange": "PikaBusTopic"}}},
			Queues:    []topology.Queue{{Name: "audit.log", Type: topology.Classic, Arguments: map[string]any{"x-max-length": 5}}},
			Bindings:  []topology.Binding{{Exchange: "PikaBusTopic", Key: "#", ToExchange: "audit"}, {Exchange: "audit", Queue: "audit.log"}},
		}
		s := r.setup(cfg)
		ignore(s)
		second, err := s.Endpoint(harebus.EndpointConfig{Queue: "stock", ErrorQueue: harebus.ErrorQueueConfig{Name: "stock.failed"}})
		if err != nil {
			t.Fatal(err)
		}
		ignore(second)
		mine, err := s.Endpoint(harebus.EndpointConfig{Queue: "cache", QueueOptions: harebus.QueueOptions{PerInstance: true}})
		if err != nil {
			t.Fatal(err)
		}
		ignore(mine)
		r.start(s)
		got := s.Topology()
		encoded, err := json.Marshal(got)
		if err != nil {
			t.Fatal(err)
		}
		read, err := topology.Read(strings.NewReader(string(encoded)))
		if err != nil {
			t.Fatal(err)
		}
		if again, err := json.Marshal(read); err != nil || string(again) != string(encoded) {
			t.Errorf("read and written again it is\n%s\nand was\n%s\n%v", again, encoded, err)
		}
		// The broker has what it names, with these arguments, and nothing else but the queue of this instance.
		if err := read.Declare(r.channel()); err != nil {
			t.Error(err)
		}
		var names []string
		for _, q := range got.Queues {
			names = append(names, q.Name)
		}
		there := slices.DeleteFunc(r.broker.Queues(), func(q brokertest.Queue) bool { return strings.HasPrefix(q.Name, "cache.") })
		var declared []string
		for _, q := range there {
			declared = append(declared, q.Name)
		}
		slices.Sort(names)
		slices.Sort(declared)
		if !reflect.DeepEqual(names, declared) {
			t.Errorf("it names the queues %q, and Start has declared %q", names, declared)
		}
		bindings := slices.DeleteFunc(r.broker.Bindings(), func(b brokertest.Binding) bool { return strings.HasPrefix(b.Destination, "cache.") })
		if len(bindings) != len(got.Bindings) {
			t.Errorf("it names %d bindings, and Start has made %d", len(got.Bindings), len(bindings))
		}
	})
}

func ignore(on harebus.Registrar) {
	harebus.Handle(on, func(context.Context, *harebus.Bus, order) error { return nil })
}
