package publish

import (
	"context"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/harebus/harebus/internal/refusal"
	"github.com/harebus/harebus/internal/session"
	"github.com/harebus/harebus/topology"
)

// exchange sees to it that the exchange of a message that names one exists. One of another kind, or
// one that may not be declared, is used as it is.
func (c *Config) exchange(ctx context.Context, s *session.Session, out *Message) error {
	check := func() error {
		return s.WithChannel(ctx, func(ch *amqp.Channel) error {
			return ch.ExchangeDeclarePassive(out.Exchange, string(topology.Direct), true, false, false, false, nil)
		})
	}
	if !out.Fanout || c.CheckOnly {
		return check()
	}
	err := s.WithChannel(ctx, func(ch *amqp.Channel) error {
		return ch.ExchangeDeclare(out.Exchange, string(topology.Fanout), true, false, false, false, nil)
	})
	if refusal.Differs(err) || refusal.Forbidden(err) {
		return check()
	}
	return err
}
