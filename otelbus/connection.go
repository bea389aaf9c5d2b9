package otelbus

import (
	"go.opentelemetry.io/otel/attribute"

	"github.com/harebus/harebus"
)

// connecting is a kind of connection, and how an attempt to make one has failed.
type connecting struct{ connection, failure string }

func (c connecting) folded() connecting { return connecting{c.connection, OtherName} }

// connectionName is that of the link. A message that is suspected of ending connections has
// one of its own.
func connectionName(name string) string {
	switch name {
	case "publish", "consume", "init":
		return name
	default:
		return OtherName
	}
}

// connection is what is known of one kind of connection.
type connection struct{ up, blocked *count }

func (m *metrics) newConnection(name string) connection {
	of := keyConnection.String(name)
	return connection{m.connections.with(of), m.blocked.with(of)}
}

func (m *metrics) newConnect(c connecting) *count {
	of := []attribute.KeyValue{keyConnection.String(c.connection)}
	if c.failure != "" {
		of = append(of, keyError.String(c.failure))
	}
	return m.connects.with(of...)
}

func (m *metrics) newConsumer(queue string) *count {
	return m.consumers.with(system, keyDestination.String(queue))
}

// foreseen are outcomes that are 0 when a queue is first consumed from. Prometheus sees no increase
// when a series begins with 1.
var foreseen = []harebus.AttemptOutcome{harebus.AttemptHandled, harebus.AttemptRetried, harebus.AttemptParked, harebus.AttemptDiscarded}

// lasts counts what begins or ends with an operation that lasts.
func (o *Observer) lasts(e *harebus.Observation, by int64) {
	switch e.Operation {
	case harebus.OpConnection:
		o.connections.get(connectionName(e.Connection)).up.Add(by)
	case harebus.OpBlocked:
		o.connections.get(connectionName(e.Connection)).blocked.Add(by)
	case harebus.OpConsume:
		queue := o.queueName(harebus.OpConsume, e.Queue)
		o.consumers.get(queue).Add(by)
		for _, outcome := range foreseen {
			o.attempts.get(ended{queue, outcome})
		}
	case harebus.OpConnect:
		o.connections.get(connectionName(e.Connection)) // so that it is 0 before the first connection
	default: // an operation of a later version
	}
}

// connected counts an attempt to connect.
func (o *Observer) connected(e *harebus.Observation, err error) {
	if e.Operation == harebus.OpConnect {
		o.connects.get(connecting{connectionName(e.Connection), errorType(err)}).Add(1)
	}
}
