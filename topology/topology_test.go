package topology_test

import (
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/harebus/harebus/topology"
)

func TestValidate_accepts(t *testing.T) {
	t.Parallel()
	for name, v := range map[string]topology.Topology{
		"nothing": {},
		"a service": {
			Exchanges: []topology.Exchange{{Name: "events", Kind: topology.Topic}, {Name: "log", Kind: topology.Fanout, Internal: true}},
			Queues: []topology.Queue{
				{Name: "orders", Arguments: map[string]any{
					"x-delivery-limit": 20, "x-dead-letter-exchange": "", "x-dead-letter-routing-key": "error",
					"x-dead-letter-strategy": "at-least-once", "x-overflow": "reject-publish",
				}},
				{Name: "error", Type: topology.Classic},
				{Name: "mine", Type: topology.Classic, Exclusive: true, AutoDelete: true, Transient: true},
			},
			Bindings: []topology.Binding{
				{Exchange: "events", Key: "order.*", Queue: "orders"},
				{Exchange: "events", Key: "#", ToExchange: "log"},
				{Exchange: "amq.topic", Key: "#", Queue: "orders"},
				{Exchange: "amq.headers", Queue: "orders", Arguments: map[string]any{"x-match": "all", "n": 1}},
			},
		},
		"the same object twice": {
			Queues: []topology.Queue{{Name: "orders", Arguments: map[string]any{"x-delivery-limit": 20}}, {Name: "orders", Type: topology.Quorum, Arguments: map[string]any{"x-delivery-limit": int64(20)}}},
		},
		"classic by name": {Queues: []topology.Queue{{Name: "q", Type: topology.Classic, Arguments: map[string]any{"x-queue-type": "classic"}}}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if err := v.Validate(); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestValidate_refuses(t *testing.T) {
	t.Parallel()
	queue := func(arguments map[string]any) topology.Topology {
		return topology.Topology{Queues: []topology.Queue{{Name: "q", Arguments: arguments}}}
	}
	binding := func(b topology.Binding) topology.Topology {
		return topology.Topology{Bindings: []topology.Binding{b}}
	}
	deep := map[string]any{}
	for range 40 {
		deep = map[string]any{"d": deep}
	}
	for name, c := range map[string]struct {
		t    topology.Topology
		text string
	}{
		"exchange without name":      {topology.Topology{Exchanges: []topology.Exchange{{Kind: topology.Topic}}}, "exchange name"},
		"exchange of the broker":     {topology.Topology{Exchanges: []topology.Exchange{{Name: "amq.topic", Kind: topology.Topic}}}, "amq."},
		"exchange without kind":      {topology.Topology{Exchanges: []topology.Exchange{{Name: "e"}}}, `kind ""`},
		"exchange of a plugin":       {topology.Topology{Exchanges: []topology.Exchange{{Name: "e", Kind: "x-delayed-message"}}}, "x-delayed-message"},
		"exchange in two versions":   {topology.Topology{Exchanges: []topology.Exchange{{Name: "e", Kind: topology.Topic}, {Name: "e", Kind: topology.Direct}}}, "listed twice"},
		"queue without name":         {topology.Topology{Queues: []topology.Queue{{}}}, "queue name"},
		"queue with line break":      {topology.Topology{Queues: []topology.Queue{{Name: "a\nb"}}}, "control character"},
		"queue of unknown type":      {topology.Topology{Queues: []topology.Queue{{Name: "q", Type: "delayed"}}}, `type "delayed"`},
		"queue in two versions":      {topology.Topology{Queues: []topology.Queue{{Name: "q"}, {Name: "q", Type: topology.Classic}}}, "listed twice"},
		"quorum and exclusive":       {topology.Topology{Queues: []topology.Queue{{Name: "q", Exclusive: true}}}, "quorum queue cannot"},
		"quorum and auto-delete":     {topology.Topology{Queues: []topology.Queue{{Name: "q", Type: topology.Quorum, AutoDelete: true}}}, "quorum queue cannot"},
		"quorum and transient":       {topology.Topology{Queues: []topology.Queue{{Name: "q", Transient: true}}}, "quorum queue cannot"},
		"quorum and x-queue-type":    {queue(map[string]any{"x-queue-type": "classic"}), "set by Type"},
		"classic and quorum":         {topology.Topology{Queues: []topology.Queue{{Name: "q", Type: topology.Classic, Arguments: map[string]any{"x-queue-type": "quorum"}}}}, "contradicts"},
		"no delivery limit":          {queue(map[string]any{"x-delivery-limit": -1}), "loses messages"},
		"no delivery limit, int32":   {queue(map[string]any{"x-delivery-limit": int32(-1)}), "loses messages"},
		"limit as text":              {queue(map[string]any{"x-delivery-limit": "20"}), "not an integer"},
		"negative time":              {queue(map[string]any{"x-message-ttl": -5}), "less than 0"},
		"expires at once":            {queue(map[string]any{"x-expires": 0}), "less than 1"},
		"NaN":                        {queue(map[string]any{"x-n": math.NaN()}), "closes the connection"},
		"infinity, nested":           {queue(map[string]any{"x-n": map[string]any{"l": []any{math.Inf(1)}}}), "closes the connection"},
		"too large":                  {queue(map[string]any{"x-n": uint64(math.MaxUint64)}), "64 bits"},
		"channel":                    {queue(map[string]any{"x-n": make(chan int)}), "cannot be sent"},
		"too deep":                   {queue(deep), "nested deeper"},
		"argument name":              {queue(map[string]any{strings.Repeat("a", 256): 1}), "256 bytes"},
		"key without exchange":       {queue(map[string]any{"x-dead-letter-routing-key": "k"}), "without x-dead-letter-exchange"},
		"at-least-once alone":        {queue(map[string]any{"x-dead-letter-strategy": "at-least-once", "x-overflow": "reject-publish"}), "without x-dead-letter-exchange"},
		"at-least-once, drop":        {queue(map[string]any{"x-dead-letter-exchange": "e", "x-dead-letter-strategy": "at-least-once"}), "at-most-once"},
		"binding without source":     {binding(topology.Binding{Queue: "q"}), "no source exchange"},
		"binding without end":        {binding(topology.Binding{Exchange: "e"}), "no destination"},
		"binding with two ends":      {binding(topology.Binding{Exchange: "e", Queue: "q", ToExchange: "x"}), "two destinations"},
		"binding with long key":      {binding(topology.Binding{Exchange: "e", Queue: "q", Key: strings.Repeat("k", 256)}), "256 bytes"},
		"binding to an invalid name": {binding(topology.Binding{Exchange: "e", ToExchange: "\xff"}), "UTF-8"},
		"binding argument":           {binding(topology.Binding{Exchange: "e", Queue: "q", Arguments: map[string]any{"n": math.NaN()}}), "closes the connection"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if err := c.t.Validate(); err == nil || !strings.Contains(err.Error(), c.text) {
				t.Errorf("got %v, want an error with %q", err, c.text)
			}
		})
	}
}

func TestValidate_reports_all_faults(t *testing.T) {
	t.Parallel()
	err := topology.Topology{
		Exchanges: []topology.Exchange{{Name: "amq.x", Kind: "odd"}},
		Queues:    []topology.Queue{{Name: "q", Transient: true, Arguments: map[string]any{"x-delivery-limit": -1}}},
		Bindings:  []topology.Binding{{}},
	}.Validate()
	if err == nil {
		t.Fatal("no error")
	}
	for _, text := range []string{"amq.x", `kind "odd"`, "transient", "x-delivery-limit", "no source exchange", "no destination"} {
		if !strings.Contains(err.Error(), text) {
			t.Errorf("%q is not reported in:\n%v", text, err)
		}
	}
}

func TestJoin_keeps_each_object_once(t *testing.T) {
	t.Parallel()
	a := topology.Topology{
		Exchanges: []topology.Exchange{{Name: "e", Kind: topology.Topic}},
		Queues:    []topology.Queue{{Name: "q"}},
		Bindings:  []topology.Binding{{Exchange: "e", Key: "k", Queue: "q"}},
	}
	b := topology.Topology{
		Exchanges: []topology.Exchange{{Name: "e", Kind: topology.Topic}, {Name: "f", Kind: topology.Topic}},
		Queues:    []topology.Queue{{Name: "q", Type: topology.Quorum}, {Name: "q", Type: topology.Classic}},
		Bindings:  []topology.Binding{{Exchange: "e", Key: "k", Queue: "q"}, {Exchange: "e", Key: "k", ToExchange: "q"}},
	}
	joined := topology.Join(a, b)
	if len(joined.Exchanges) != 2 || len(joined.Queues) != 2 || len(joined.Bindings) != 2 {
		t.Errorf("joined to %+v", joined)
	}
	if err := joined.Validate(); err == nil {
		t.Error("a queue of two types is not reported")
	}
}

// TestJoin_is_linear: a service may have tens of thousands of topics.
func TestJoin_is_linear(t *testing.T) {
	t.Parallel()
	const topics = 50_000
	var many topology.Topology
	for i := range topics {
		many.Bindings = append(many.Bindings, topology.Binding{Exchange: "e", Key: fmt.Sprint("topic.", i), Queue: "q"})
	}
	start := time.Now()
	joined := topology.Join(many, many)
	if err := joined.Validate(); err != nil || len(joined.Bindings) != topics {
		t.Errorf("%d bindings, %v", len(joined.Bindings), err)
	}
	if took := time.Since(start); took > 10*time.Second { // comparing each with each takes minutes
		t.Errorf("it took %v", took)
	}
}
