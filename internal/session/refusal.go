package session

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	amqp "github.com/rabbitmq/amqp091-go"
)

// Permanent says whether trying again cannot help: the broker was there and
// refused, what was asked for contradicts what exists, or there is no broker but
// something else. The end of a connection proves nothing.
func Permanent(err error) bool {
	if errors.Is(err, amqp.ErrCredentials) || errors.Is(err, amqp.ErrSASL) || errors.As(err, new(*channelsError)) {
		return true
	}
	var broker *amqp.Error
	if errors.As(err, &broker) {
		return broker.Server && slices.Contains(refusals, broker.Code) && !Unreachable(err) && !full(broker) && !strings.Contains(broker.Reason, noReplica)
	}
	return misdirected(err)
}

// noReplica are the broker's words for a stream that this node has no replica of, or none that runs yet: another node has.
const noReplica = "replica on the local node"

// full says whether the broker has refused a connection because it has too many.
// Waiting helps then: others end, for example those of the instances that this one
// replaces.
func full(err *amqp.Error) bool {
	return err.Code == amqp.NotAllowed && strings.Contains(err.Reason, "connection") && strings.Contains(err.Reason, "limit")
}

// channelsError says that the broker allows a connection fewer channels than the
// setup needs.
type channelsError struct{ needed, allowed int }

func (e *channelsError) Error() string {
	return fmt.Sprintf("the broker allows %d channels on a connection and this one needs %d:"+
		" raise the broker's channel_max, or lower Consume.Consumers or Publish.Channels", e.allowed, e.needed)
}

// refusals are the reply codes of refusals that waiting cannot cure.
var refusals = []int{amqp.AccessRefused, amqp.NotFound, amqp.ResourceLocked, amqp.PreconditionFailed, amqp.NotAllowed, amqp.NotImplemented, amqp.CommandInvalid}

// Unreachable says whether err is nothing but queues that exist and cannot be
// used at the moment. The broker answers with the code it has for those that do
// not exist; only the text differs.
func Unreachable(err error) bool {
	var several interface{ Unwrap() []error }
	if errors.As(err, &several) {
		return !slices.ContainsFunc(several.Unwrap(), func(one error) bool { return !Unreachable(one) })
	}
	var broker *amqp.Error
	if !errors.As(err, &broker) || broker.Code != amqp.NotFound {
		return false
	}
	return slices.ContainsFunc(outOfReach, func(text string) bool { return strings.Contains(broker.Reason, text) })
}

// outOfReach are the broker's words for it: the node is down, the queue is being
// restarted, or it does not answer.
var outOfReach = []string{"is down or inaccessible", "stopped by supervisor", "due to timeout"}
