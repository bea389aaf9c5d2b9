package queue

import (
	"cmp"
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
// note, or that of another bus. Anybody may have written it, so it must be a valid name, and not that of the error
// queue.
func (m *Message) Source(prefix, errorQueue string) (string, error) {
	if m.Broken {
		return "", errors.New("its properties are not AMQP, so nobody can read it or send it again; remove it with the management page")
	}
	value, ok := m.Headers[prefix+harebus.HeaderSourceQueue]
	theirs := m.Theirs(prefix, errorQueue)
	switch {
	case ok:
	case theirs != nil && theirs.Queue != "":
		value, ok = theirs.Queue, true
	default:
		value, ok = m.Death()["queue"]
	}
	if !ok && theirs != nil && theirs.Exchange != "" {
		return "", fmt.Errorf("%s says that it came by the exchange %q with the key %q, which may lead to other queues too: name the queue (redirect -to)", theirs.Bus, theirs.Exchange, theirs.Key)
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

// Back is the queue to which a parked message goes back: its [Message.Source], but not a stream, where every reader would get it.
func (m *Message) Back(prefix, errorQueue string) (string, error) {
	source, err := m.Source(prefix, errorQueue)
	if offset, streamed := m.Headers[prefix+harebus.HeaderStreamOffset]; err == nil && streamed && !m.replayed(prefix) {
		return "", fmt.Errorf("it was read from the stream %s at offset %.20s, and every reader would get it from there: redirect it to the queue of one service, with -to QUEUE",
			field.Quote(source), fmt.Sprint(offset))
	}
	return source, err
}

// replayed says whether harebus replay has put the message into a queue: then that is where it came from.
func (m *Message) replayed(prefix string) bool {
	_, yes := m.Headers[prefix+harebus.HeaderReplayed]
	return yes
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
	if !m.replayed(prefix) { // else it was there before
		failure[prefix+harebus.HeaderStreamOffset] = true
	}
	theirs := cmp.Or(m.Theirs(prefix, ""), m.parkedFor(prefix))
	return m.Without(login, func(key string) bool {
		return failure[key] || theirs.added(key) || wire.OfOneDelivery(key) ||
			key == "x-death" || strings.HasPrefix(key, "x-first-death-") || strings.HasPrefix(key, "x-last-death-")
	})
}
