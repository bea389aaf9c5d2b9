package harebus

import (
	"context"
	"errors"
	"fmt"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/harebus/harebus/internal/session"
	"github.com/harebus/harebus/topology"
)

// exitGrace is how much longer than a listener queue with x-expires its exit
// lives: somebody may still use the queue shortly before it goes.
const exitGrace = 5 * time.Minute

// exitTopology is the exit of a destination. That of a listener queue that
// expires, such as one for each instance of a service, expires as well: nobody
// would remove it. keepExit keeps it while the queue has its consumer.
func (c *Config) exitTopology(exchange, key string) topology.Topology {
	t := topology.Delays{}.Exit(exchange, key)
	if life := c.queueLife(); life > 0 && exchange == "" && key == c.Queue {
		t.Queues[0].Arguments["x-expires"] = (life + exitGrace).Milliseconds()
	}
	return t
}

// queueLife is the x-expires of the listener queue; 0 means that it stays.
func (c *Config) queueLife() time.Duration {
	var ms int64
	if _, err := fmt.Sscan(fmt.Sprint(c.QueueArguments["x-expires"]), &ms); err != nil {
		return 0
	}
	return time.Duration(ms) * time.Millisecond
}

// keepExit starts the clock of x-expires of the setup's own exit anew. For a
// quorum queue only a consumer or basic.get does that. An exit is nearly always
// empty; a message that is in it is given back.
func (d *delayer) keepExit(ctx context.Context, s *session.Session) error {
	if d.setup.cfg.queueLife() == 0 || !d.ownExit.Load() {
		return nil
	}
	t := d.setup.cfg.exitTopology("", d.setup.cfg.Queue)
	err := s.WithChannel(ctx, func(ch *amqp.Channel) error {
		m, ok, err := ch.Get(t.Queues[0].Name, false)
		if ok {
			err = m.Nack(false, true)
		}
		return err
	})
	if missing(err) && !session.Unreachable(err) {
		return d.setup.establish(ctx, s, t)
	}
	return err
}

// differs says whether something exists with other properties.
func differs(err error) bool {
	var broker *amqp.Error
	return errors.As(err, &broker) && broker.Code == amqp.PreconditionFailed
}
