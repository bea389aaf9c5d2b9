package harebus

import (
	"errors"
	"fmt"
	"strings"

	"github.com/harebus/harebus/internal/guard"
	"github.com/harebus/harebus/topology"
)

// ReplyPolicy decides whether a reply to m may go to m.ReplyTo. The address comes
// from the network, and the reply is sent with this service's permissions. Without
// a policy anybody who can write to the listener queue can make this service send
// to any queue. If it returns an error, the reply is refused.
type ReplyPolicy func(m *Message) error

// RepliesTo is a policy that allows the given queues only.
func RepliesTo(queues ...string) ReplyPolicy {
	allowed := make(map[string]struct{}, len(queues))
	for _, q := range queues {
		allowed[q] = struct{}{}
	}
	return func(m *Message) error {
		if _, ok := allowed[m.ReplyTo]; !ok {
			return fmt.Errorf("%s is not one of the allowed reply addresses", quote(m.ReplyTo))
		}
		return nil
	}
}

const (
	// directReplyTo starts the addresses that RabbitMQ makes for requesters who have
	// no queue: those of the RPC clients of Spring, Nest and others.
	directReplyTo = "amq.rabbitmq.reply-to."
	// serverNamed starts the names of queues that were declared without one.
	serverNamed = "amq.gen-"
)

// reservedAddress says whether an address is one that the broker has named for a
// requester.
func reservedAddress(address string) bool {
	return strings.HasPrefix(address, directReplyTo) || strings.HasPrefix(address, serverNamed)
}

// allowReply applies the rules that always hold, then the configured policy.
func (s *sender) allowReply(m *Message) error {
	policy := &s.endpoint.setup.cfg.Reply
	switch err := topology.ValidName("queue", m.ReplyTo); {
	case s.endpoint.setup.parksIn(m.ReplyTo):
		return fmt.Errorf("%q is the error queue", m.ReplyTo)
	case reservedAddress(m.ReplyTo):
		if !policy.Reserved {
			return errors.New("the broker has named it; Config.Reply.Reserved allows such addresses")
		}
	case err != nil:
		return err
	}
	if policy.Policy == nil {
		return nil
	}
	return guard.Call(func() error { return policy.Policy(m) })
}
