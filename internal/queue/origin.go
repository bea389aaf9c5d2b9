package queue

import (
	"errors"
	"fmt"
	"strings"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/internal/field"
	"github.com/harebus/harebus/internal/header"
	"github.com/harebus/harebus/internal/session"
	"github.com/harebus/harebus/internal/wire"
	"github.com/harebus/harebus/topology"
)

// Source is the queue that a parked message came from: what it says itself, or the broker's
// note. Anybody may have written it, so it must be a valid name, and not that of the error
// queue.
func (m *Message) Source(prefix, errorQueue string) (string, error) {
	if m.Broken {
		return "", errors.New("its properties are not AMQP, so nobody can read it or send it again; remove it with the management page")
	}
	value, ok := m.Headers[prefix+harebus.HeaderSourceQueue]
	if !ok {
		value, ok = m.Death()["queue"]
	}
	if !ok {
		return "", errors.New("it does not say where it came from")
	}
	source, ok := field.Text(value)
	if !ok {
		return "", errors.New("its source queue is not text")
	}
	if err := topology.ValidName("queue", source); err != nil {
		return "", err
	}
	if source == errorQueue {
		return "", errors.New("its source queue is the error queue itself")
	}
	if strings.HasPrefix(source, delayQueues) {
		return "", fmt.Errorf("its source queue %q is a delay queue: somebody deferred it to the error queue", source)
	}
	return source, nil
}

// delayQueues is how the names of the queues begin that deferred messages wait in.
const delayQueues = topology.DefaultDelayPrefix + "."

// Cleaned is a parked message as it was before it failed: what the bus and the
// broker wrote about the failure is gone, and so are CC and BCC, which would make
// this program write to any queue that a stranger names. Everything else is as it
// came.
func (m *Message) Cleaned(prefix, login string) session.Publishing {
	failure := map[string]bool{}
	for _, name := range []string{
		harebus.HeaderErrorRetries, harebus.HeaderErrorDetails, harebus.HeaderSourceQueue, harebus.HeaderDeferredTime, harebus.HeaderFirstFailed,
		header.ErrorID, header.ErrorKind, header.ErrorGroup, header.Attempts, header.Host, header.ServiceVersion,
	} {
		failure[prefix+name] = true
	}
	return m.Without(login, func(key string) bool {
		return failure[key] || wire.OfOneDelivery(key) ||
			key == "x-death" || strings.HasPrefix(key, "x-first-death-") || strings.HasPrefix(key, "x-last-death-")
	})
}
