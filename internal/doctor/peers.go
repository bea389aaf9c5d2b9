package doctor

import (
	"context"
	"fmt"
	"slices"

	"github.com/harebus/harebus/internal/survey"
	"github.com/harebus/harebus/topology"
)

// Services on other buses declare the queues that they send to, as classic queues without arguments. The broker refuses that (406) for a queue of harebus; and where
// such a peer comes first, the service finds a queue that is not as it wants it.

// peers notes how other buses have to address the queues that the topology opens to them.
func (e *examination) peers(context.Context) error {
	for _, b := range e.Want.Bindings {
		if text := how(b, e.kind(b.Exchange)); text != "" && !slices.Contains(e.report.Notes, text) {
			e.report.Notes = append(e.report.Notes, text)
		}
	}
	return nil
}

// kind is that of an exchange of the topology; empty for another one.
func (e *examination) kind(exchange string) topology.Kind {
	for _, x := range e.Want.Exchanges {
		if x.Name == exchange {
			return x.Kind
		}
	}
	return ""
}

// how is the note for a binding that one of the dialects makes; empty for any other one.
func how(b topology.Binding, kind topology.Kind) string {
	const because = " would declare the queue with other arguments, which the broker refuses (406)"
	switch {
	case b.Queue == "":
	case b.Exchange == b.Queue && kind == topology.Fanout:
		return fmt.Sprintf("MassTransit has to send to exchange:%s, as NServiceBus does by itself; queue:%s%s, and its send would neither return nor fail", b.Queue, b.Queue, because)
	case b.Exchange == b.Queue && kind == topology.Direct:
		return fmt.Sprintf("a client of Celery has to publish with exchange=%q, routing_key=%q; queue=%q without no_declare%s", b.Queue, b.Queue, b.Queue, because)
	case kind == topology.Fanout && b.Key == b.Queue:
		return fmt.Sprintf("Wolverine has to send with ToRabbitRoutingKey(\"\", %q); ToRabbitQueue(%q) with AutoProvision%s", b.Queue, b.Queue, because)
	}
	return ""
}

// byPeer says of a queue that is not as wanted how a peer on another bus reaches it without declaring it; empty if the queue is not as such a peer makes it.
func (e *examination) byPeer(found survey.Queue) string {
	if found.Type != topology.Classic || len(found.Arguments) > 0 || found.Transient || found.Exclusive || found.AutoDelete {
		return ""
	}
	exchange := ""
	for _, b := range e.Want.Bindings {
		if b.Queue == found.Name && b.Key == b.Queue && b.Exchange != b.Queue && e.kind(b.Exchange) == topology.Direct {
			exchange = b.Exchange
		}
	}
	if exchange == "" {
		return ""
	}
	return fmt.Sprintf("if a service on another bus has declared it, it has to address it otherwise: MassTransit by exchange:%s?type=direct with SetRoutingKey(%q), Wolverine by ToRabbitRoutingKey(\"\", %q), Celery with no_declare",
		exchange, found.Name, found.Name)
}
