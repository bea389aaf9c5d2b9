package harebus

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/harebus/harebus/topology"
)

// RabbitMQ 3 counts three file descriptors as used by each quorum queue, and
// once the count is above its limit it lets no new connection in, for anybody.
// It cannot be asked for the count. So before delay queues are declared, a
// reserve of queues is, which take as much room, and a connection is tried: if
// that hangs, the reserve goes, and with it the trouble.

const (
	// reserveSize is the number of queues in the reserve. As it is more than
	// roomStep, what is declared after a trial fits when the reserve has gone.
	reserveSize = 5
	roomStep    = 4
	// trialTime is how long the broker may take to greet a new connection.
	trialTime = 3 * time.Second
	// reserveAge removes a reserve whose program has died.
	reserveAge = time.Minute
)

// errNoRoom says that a broker cannot take more quorum queues.
var errNoRoom = errors.New("the broker has no file descriptors left for more quorum queues: with them it would let no new connection in;" +
	" raise its limit of open files to 65536 (LimitNOFILE in a systemd unit, ulimit -n elsewhere)")

// establishDelays declares delay queues on a session, or checks them. It fails
// with errNoRoom instead of taking the last file descriptors of a broker.
func (s *Setup) establishDelays(ctx context.Context, on *session, t topology.Topology) error {
	version, _ := on.conn.Properties["version"].(string)
	if s.cfg.Declare == CheckOnly || !strings.HasPrefix(version, "3.") || on.hasQueues(ctx, t.Queues) {
		return s.establish(ctx, on, t)
	}
	reserve := topology.Topology{}
	for range reserveSize {
		reserve.Queues = append(reserve.Queues, topology.Queue{
			Name:      topology.DefaultDelayPrefix + ".reserve." + NewMessageID(),
			Arguments: map[string]any{"x-expires": reserveAge.Milliseconds()},
		})
	}
	defer on.deleteQueues(ctx, reserve.Queues)
	if err := declare(ctx, on, reserve); err != nil {
		return err
	}
	if err := declare(ctx, on, topology.Topology{Exchanges: t.Exchanges}); err != nil {
		return err
	}
	for some := range slices.Chunk(t.Queues, roomStep) {
		if !s.dialer.greets(ctx, on.address) {
			return &PublishError{Outcome: NotSent, Err: errNoRoom}
		}
		if err := declare(ctx, on, topology.Topology{Queues: some}); err != nil {
			return err
		}
	}
	return declare(ctx, on, topology.Topology{Bindings: t.Bindings})
}

// hasQueues says whether all queues exist.
func (s *session) hasQueues(ctx context.Context, queues []topology.Queue) bool {
	return s.withChannel(ctx, func(ch *amqp.Channel) error {
		for _, q := range queues {
			if _, err := ch.QueueDeclarePassive(q.Name, true, false, false, false, nil); err != nil {
				return err
			}
		}
		return nil
	}) == nil
}

// deleteQueues deletes what it can, also when ctx has ended. The rest expires.
func (s *session) deleteQueues(ctx context.Context, queues []topology.Queue) {
	_ = s.withChannel(context.WithoutCancel(ctx), func(ch *amqp.Channel) error {
		for _, q := range queues {
			if _, err := ch.QueueDelete(q.Name, false, false, false); err != nil {
				return err
			}
		}
		return nil
	})
}

// greets says whether a broker answers a new connection. It is false only if the
// broker takes the connection and then says nothing.
func (d *dialer) greets(ctx context.Context, address int) bool {
	ctx, cancel := context.WithTimeoutCause(ctx, trialTime, fmt.Errorf("no connection within %v", trialTime))
	defer cancel()
	conn, err := d.socket(ctx, hostPort(d.addresses[address]))
	if err != nil {
		return true // which says nothing about file descriptors
	}
	defer func() { _ = conn.Close() }()
	if err := conn.SetDeadline(time.Now().Add(trialTime)); err != nil {
		return true
	}
	if _, err := conn.Write([]byte("AMQP\x00\x00\x09\x01")); err != nil {
		return true
	}
	_, err = conn.Read(make([]byte, 1)) // a broker that wants TLS answers as well
	var late net.Error
	return !errors.Is(err, os.ErrDeadlineExceeded) && (!errors.As(err, &late) || !late.Timeout())
}
