package publish

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/harebus/harebus/internal/session"
	"github.com/harebus/harebus/topology"
)

// RabbitMQ 3 counts three file descriptors as used by each quorum queue, and once
// the count is above its limit it lets no new connection in, for anybody. AMQP has
// no request for the count. So before delay queues are declared, a reserve of
// unused queues is declared and a new connection is tried. If the broker does not
// answer it, the reserve is deleted, and clients can connect again.

const (
	// reserveSize is the number of queues in the reserve. It is more than roomStep,
	// so what is declared after a trial fits when the reserve has been deleted.
	reserveSize = 5
	roomStep    = 4
	// reserveAge is the x-expires of the reserve, for the case that its program
	// dies.
	reserveAge = time.Minute
)

// errNoRoom says that a broker cannot take more quorum queues.
var errNoRoom = errors.New("the broker has no file descriptors left for more quorum queues: with them it would let no new connection in;" +
	" raise its limit of open files to 65536 (LimitNOFILE in a systemd unit, ulimit -n elsewhere)")

// EstablishDelays declares delay queues on a session, or checks them. It fails
// with errNoRoom instead of taking the last file descriptors of a broker.
func (c *Config) EstablishDelays(ctx context.Context, on *session.Session, t topology.Topology) error {
	if c.CheckOnly || !strings.HasPrefix(on.Version(), "3.") || haveQueues(ctx, on, t.Queues) {
		return c.Establish(ctx, on, t)
	}
	reserve := topology.Topology{}
	for range reserveSize {
		reserve.Queues = append(reserve.Queues, topology.Queue{
			Name:      topology.DefaultDelayPrefix + ".reserve." + uuid.NewString(),
			Arguments: map[string]any{"x-expires": reserveAge.Milliseconds()},
		})
	}
	defer deleteQueues(ctx, on, reserve.Queues)
	if err := c.Establish(ctx, on, reserve); err != nil {
		return err
	}
	if err := c.Establish(ctx, on, topology.Topology{Exchanges: t.Exchanges}); err != nil {
		return err
	}
	for some := range slices.Chunk(t.Queues, roomStep) {
		if !c.Dialer.Greets(ctx, on.Address()) {
			return &finalError{session.NotSent, errNoRoom}
		}
		if err := c.Establish(ctx, on, topology.Topology{Queues: some}); err != nil {
			return err
		}
	}
	return c.Establish(ctx, on, topology.Topology{Bindings: t.Bindings})
}

// haveQueues says whether all queues exist.
func haveQueues(ctx context.Context, on *session.Session, queues []topology.Queue) bool {
	return on.WithChannel(ctx, func(ch *amqp.Channel) error {
		for _, q := range queues {
			if _, err := ch.QueueDeclarePassive(q.Name, true, false, false, false, nil); err != nil {
				return err
			}
		}
		return nil
	}) == nil
}

// deleteQueues deletes what it can. When ctx ends or has ended, that goes on without the caller. The rest expires.
func deleteQueues(ctx context.Context, on *session.Session, queues []topology.Queue) {
	_ = on.WithChannel(ctx, func(ch *amqp.Channel) error {
		for _, q := range queues {
			if _, err := ch.QueueDelete(q.Name, false, false, false); err != nil {
				return err
			}
		}
		return nil
	})
}
