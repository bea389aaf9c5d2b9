package harebus

import (
	"fmt"

	"github.com/harebus/harebus/topology"
)

// ReplyPolicy decides whether a reply to m may go to m.ReplyTo. The address
// comes from the network and the reply is sent with this service's rights, so
// whoever can write to the listener queue could otherwise borrow them. An error
// refuses.
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

// allowReply applies the rules that always hold, then the configured policy.
func (c *Config) allowReply(m *Message) error {
	if err := topology.ValidName("queue", m.ReplyTo); err != nil {
		return err
	}
	if m.ReplyTo == c.ErrorQueue.Name {
		return fmt.Errorf("%q is the error queue", m.ReplyTo)
	}
	if c.ReplyPolicy == nil {
		return nil
	}
	return guard(func() error { return c.ReplyPolicy(m) })
}
