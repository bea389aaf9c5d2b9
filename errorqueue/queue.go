package errorqueue

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"regexp"
	"strconv"
	"strings"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
	"go.uber.org/zap"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/internal/access"
	"github.com/harebus/harebus/internal/queue"
	"github.com/harebus/harebus/topology"
)

// Config says which error queue, and how to reach it.
type Config struct {
	// Connect is where the broker is and who logs in. Only the addresses, the login and TLS
	// are used; there is at least one address.
	Connect harebus.ConnectConfig
	// Dial, if not nil, makes the network connection.
	Dial func(network, address string) (net.Conn, error)
	// Name is the error queue. Default: "error".
	Name string
	// HeaderPrefix starts the names of the standard headers. Default: "PikaBus.".
	HeaderPrefix string
	// Most is how many messages a look may take. A queue with more is refused, because it
	// costs memory, here and in the broker: half a gigabyte there for 100,000 in a classic
	// queue. Default: 100,000.
	Most int
	// Timeout is how long the broker may take to be there, and for each 32 messages.
	// Default: 30 s.
	Timeout time.Duration
	// Operator names who acts in the audit trail: "ann@ops1".
	Operator string
	// NoAudit writes no audit trail. Otherwise an action that cannot be written into it is
	// refused.
	NoAudit bool
	// NoLock does not keep a second operator out. It is for users who may not declare the
	// queue that is the lock.
	NoLock bool
	// Log, if not nil, reports waits.
	Log *zap.Logger
}

const (
	window = 32 // messages on their way at a time: so many may be twice after a crash
	hold   = 65_535
)

// ErrLocked says that another operator works with the error queue.
var ErrLocked = errors.New("another operator works with the error queue")

// Queue is an open error queue. It is for one goroutine.
type Queue struct {
	cfg  Config
	conn *queue.Conn
	// renewAt is the number of deliveries at which a message is put into the queue anew.
	renewAt int64
}

// Open connects, and keeps other operators out until Close: it fails with [ErrLocked] if there
// is one.
func Open(ctx context.Context, cfg Config) (*Queue, error) {
	cfg.Name = cmp.Or(cfg.Name, "error")
	cfg.HeaderPrefix = cmp.Or(cfg.HeaderPrefix, "PikaBus.")
	cfg.Most = cmp.Or(cfg.Most, 100_000)
	cfg.Timeout = cmp.Or(cfg.Timeout, 30*time.Second)
	if err := cfg.validate(); err != nil {
		return nil, fmt.Errorf("errorqueue: open: %w", err)
	}
	q := &Queue{cfg: cfg}
	if err := q.open(ctx); err != nil {
		return nil, fmt.Errorf("errorqueue: open %q: %w", cfg.Name, err)
	}
	return q, nil
}

func (c *Config) validate() error {
	var faults []error
	if len(c.Connect.URLs) == 0 {
		faults = append(faults, errors.New("Config.Connect.URLs has no address"))
	}
	if err := topology.ValidName("queue", c.Name); err != nil {
		faults = append(faults, err)
	}
	if c.Most < 0 || c.Timeout < 0 {
		faults = append(faults, errors.New("Config.Most and Config.Timeout cannot be negative"))
	}
	return errors.Join(faults...)
}

func (q *Queue) open(ctx context.Context) (err error) {
	c := q.cfg.Connect
	q.conn, err = queue.Connect(ctx, queue.Options{
		Broker: access.Broker{
			URLs: c.URLs, Username: c.Username, Password: c.Password, Credentials: c.Credentials,
			ExternalAuth: c.ExternalAuth, TLS: c.TLS, Dial: q.cfg.Dial, Log: q.cfg.Log,
		},
		Name: "errors", Queue: q.cfg.Name, Hold: hold, Window: window, Timeout: q.cfg.Timeout,
		Begin: func(ctx context.Context, c *queue.Conn) error {
			q.conn = c
			if err := q.lock(ctx); err != nil {
				return err
			}
			return q.check(ctx)
		},
	})
	return err
}

// Close ends the connection and lets other operators in.
func (q *Queue) Close() error {
	if err := q.conn.Close(); err != nil {
		return fmt.Errorf("errorqueue: %w", err)
	}
	return nil
}

// lockPrefix is how the names of the locks begin. A lock is an exclusive queue: no other
// connection can declare it, and it is gone with the one that has.
const lockPrefix = "harebus.operator."

// lock keeps a second operator out. The broker takes a moment to notice that a process was
// killed.
func (q *Queue) lock(ctx context.Context) error {
	if q.cfg.NoLock {
		return nil
	}
	const tries, pause = 10, 100 * time.Millisecond
	name := lockPrefix + q.cfg.Name
	for try := 1; ; try++ {
		err := q.conn.Session().WithChannel(ctx, func(ch *amqp.Channel) error {
			_, err := ch.QueueDeclare(name, false, false, true, false, nil)
			return err
		})
		var refused *amqp.Error
		if !errors.As(err, &refused) || refused.Code != amqp.ResourceLocked {
			if err != nil {
				return fmt.Errorf("declare the lock %q: %w", name, err)
			}
			return nil
		}
		if try == tries {
			return fmt.Errorf("%w: it holds the queue %q; wait until it has ended", ErrLocked, name)
		}
		if err := sleep(ctx, pause); err != nil {
			return err
		}
	}
}

// unlock lets other operators in.
func (q *Queue) unlock(ctx context.Context) error {
	if q.cfg.NoLock {
		return nil
	}
	return q.conn.Session().WithChannel(ctx, func(ch *amqp.Channel) error {
		_, err := ch.QueueDelete(lockPrefix+q.cfg.Name, false, false, false)
		return err
	})
}

// check refuses a queue that is no error queue, and finds out how often it can be looked at.
func (q *Queue) check(ctx context.Context) error {
	if err := q.unused(ctx); err != nil {
		return err
	}
	limit, deadLetters := q.learn(ctx)
	if deadLetters {
		return errors.New("it dead-letters into another queue, so it is no error queue; a look would use up deliveries of its messages")
	}
	q.renewAt = max(fewLooks, limit/2)
	return nil
}

// unused waits until the queue has no consumers: that of an operator who was killed is there for
// a moment, and so long the broker has not taken back what it held.
func (q *Queue) unused(ctx context.Context) error {
	const tries, pause = 20, 100 * time.Millisecond
	for try := 1; ; try++ {
		state, err := q.conn.Settled(ctx)
		if err != nil || state.Consumers == 0 || q.cfg.NoLock {
			return err
		}
		if try == tries {
			return fmt.Errorf("it has %d consumers, so it is no error queue; a look would take messages from them", state.Consumers)
		}
		if err := sleep(ctx, pause); err != nil {
			return err
		}
	}
}

// sleep waits for d, or until ctx ends.
func sleep(ctx context.Context, d time.Duration) error {
	rest := time.NewTimer(d)
	defer rest.Stop()
	select {
	case <-rest.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// fewLooks is well below any delivery limit in use: a quorum queue of RabbitMQ 4 that was
// declared without one drops a message at its twenty-first delivery.
const fewLooks = 10

// asIs is what the broker says about a declaration that differs from the queue.
var asIs = regexp.MustCompile(`inequivalent arg '([^']*)' .*(?:current is|received) .*'(\d+)'`)

// learn asks how often a quorum queue may be looked at, and whether it dead-letters. The question
// is a declaration with a delivery limit that is no number. The broker refuses it, also when
// the queue is gone, and says how the queue differs. 0 means unknown.
func (q *Queue) learn(ctx context.Context) (limit int64, deadLetters bool) {
	err := q.conn.Session().WithChannel(ctx, func(ch *amqp.Channel) error {
		_, err := ch.QueueDeclare(q.cfg.Name, true, false, false, false, amqp.Table{"x-queue-type": "quorum", "x-delivery-limit": "?"})
		return err
	})
	var refused *amqp.Error
	if !errors.As(err, &refused) || refused.Code != amqp.PreconditionFailed {
		return 0, false
	}
	if strings.Contains(refused.Reason, "'x-dead-letter-") {
		return 0, true
	}
	if found := asIs.FindStringSubmatch(refused.Reason); found != nil && found[1] == "x-delivery-limit" {
		limit, _ = strconv.ParseInt(found[2], 10, 64) // digits; one that is too long is as good as none
	}
	return limit, false
}
