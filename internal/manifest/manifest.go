// Package manifest writes a topology for other programs that declare one: as definitions for
// RabbitMQ (rabbitmqctl import_definitions) and as manifests for RabbitMQ's Messaging Topology
// Operator on Kubernetes.
package manifest

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"regexp"
	"strings"

	"github.com/harebus/harebus/topology"
)

type object = map[string]any

// Definitions writes a definitions.json for one virtual host, which has to exist.
func Definitions(w io.Writer, t topology.Topology, vhost string) error {
	exchanges, queues, bindings := []object{}, []object{}, []object{}
	for _, e := range t.Exchanges {
		exchanges = append(exchanges, object{
			"vhost": vhost, "name": e.Name, "type": e.Kind, "durable": !e.Transient, "auto_delete": e.AutoDelete, "internal": e.Internal,
			"arguments": table(e.Arguments),
		})
	}
	for _, q := range t.Queues {
		queues = append(queues, object{
			"vhost": vhost, "name": q.Name, "durable": !q.Transient, "auto_delete": q.AutoDelete, "arguments": arguments(q),
		})
	}
	for _, b := range t.Bindings {
		to, kind := destination(b)
		bindings = append(bindings, object{
			"vhost": vhost, "source": b.Exchange, "destination": to, "destination_type": kind, "routing_key": b.Key, "arguments": table(b.Arguments),
		})
	}
	out := json.NewEncoder(w)
	out.SetIndent("", "  ")
	return out.Encode(object{"exchanges": exchanges, "queues": queues, "bindings": bindings})
}

// Cluster is the RabbitmqCluster that manifests name.
type Cluster struct{ Name, Namespace string }

// Kubernetes writes one manifest for each object. The operator has no field for internal
// exchanges, so one is an error.
func Kubernetes(w io.Writer, t topology.Topology, vhost string, on Cluster) error {
	reference := object{"name": on.Name}
	if on.Namespace != "" {
		reference["namespace"] = on.Namespace
	}
	write := func(kind, name string, spec object) error {
		spec["vhost"], spec["rabbitmqClusterReference"] = vhost, reference
		maps.DeleteFunc(spec, func(_ string, value any) bool {
			empty, ok := value.(object)
			return ok && len(empty) == 0
		})
		encoded, err := json.MarshalIndent(object{
			"apiVersion": "rabbitmq.com/v1beta1", "kind": kind, "metadata": object{"name": resource(kind, name)}, "spec": spec,
		}, "", "  ")
		if err != nil {
			return err
		}
		_, err = fmt.Fprintf(w, "---\n%s\n", encoded) // YAML takes JSON
		return err
	}
	for _, e := range t.Exchanges {
		if e.Internal {
			return fmt.Errorf("exchange %q is internal, and the operator cannot declare such an exchange; declare it with harebus topology apply", e.Name)
		}
		if err := write("Exchange", e.Name, object{
			"name": e.Name, "type": e.Kind, "durable": !e.Transient, "autoDelete": e.AutoDelete, "arguments": table(e.Arguments),
		}); err != nil {
			return err
		}
	}
	for _, q := range t.Queues {
		more := arguments(q)
		delete(more, "x-queue-type")
		if err := write("Queue", q.Name, object{
			"name": q.Name, "type": cmp.Or(q.Type, topology.Quorum), "durable": !q.Transient, "autoDelete": q.AutoDelete, "arguments": more,
		}); err != nil {
			return err
		}
	}
	for _, b := range t.Bindings {
		to, kind := destination(b)
		if err := write("Binding", strings.Join([]string{b.Exchange, kind, to, b.Key, fmt.Sprint(b.Arguments)}, "\x00"), object{
			"source": b.Exchange, "destination": to, "destinationType": kind, "routingKey": b.Key, "arguments": table(b.Arguments),
		}); err != nil {
			return err
		}
	}
	return nil
}

// arguments of a queue with its type, as they are declared.
func arguments(q topology.Queue) object {
	all := table(q.Arguments)
	if q.Type != topology.Classic {
		all["x-queue-type"] = cmp.Or(q.Type, topology.Quorum)
	}
	return all
}

func table(arguments map[string]any) object {
	all := object{}
	maps.Copy(all, arguments)
	return all
}

func destination(b topology.Binding) (name, kind string) {
	if b.ToExchange != "" {
		return b.ToExchange, "exchange"
	}
	return b.Queue, "queue"
}

var unfit = regexp.MustCompile(`[^a-z0-9]+`)

// resource is a name that Kubernetes takes, and that differs for different objects.
func resource(kind, name string) string {
	const readable, digits = 40, 10
	sum := sha256.Sum256([]byte(kind + "\x00" + name))
	text := unfit.ReplaceAllString(strings.ToLower(name), "-")
	return strings.Trim(strings.ToLower(kind)+"-"+strings.Trim(text[:min(len(text), readable)], "-"), "-") + "-" + hex.EncodeToString(sum[:])[:digits]
}
