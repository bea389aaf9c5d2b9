package errorqueue

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"time"

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
	// queue that is the lock. A queue with consumers is refused all the same: also one that
	// another operator looks at in this moment.
	NoLock bool
	// Log, if not nil, reports waits.
	Log *zap.Logger
}

// window is how many messages are on their way at a time: so many may be twice after a crash.
const window = 32

// ErrLocked says that another operator works with the error queue.
var ErrLocked = queue.ErrLocked

// Queue is an open error queue. It is for one goroutine.
type Queue struct {
	cfg    Config
	conn   *queue.Conn
	opened time.Time // when the lock was taken
	// renewAt is the number of deliveries at which a message is put into the queue anew.
	renewAt int64
}

// With calls fn with an open error queue, and closes it then. An error of fn comes before one of the end.
func With(ctx context.Context, cfg Config, fn func(*Queue) error) error {
	q, err := Open(ctx, cfg)
	if err != nil {
		return err
	}
	err = fn(q)
	if closed := q.Close(); err == nil {
		err = closed
	}
	return err
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
		Name: "errors", Queue: q.cfg.Name, Window: window, Timeout: q.cfg.Timeout,
		Begin: func(ctx context.Context, c *queue.Conn) error {
			q.conn = c
			err := q.lock(ctx)
			if err != nil {
				return err
			}
			q.opened = time.Now()
			q.renewAt, err = c.Check(ctx)
			return err
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

// lock keeps a second operator out.
func (q *Queue) lock(ctx context.Context) error {
	if q.cfg.NoLock {
		return nil
	}
	return q.conn.Lock(ctx)
}

// unlock lets other operators in.
func (q *Queue) unlock(ctx context.Context) error {
	if q.cfg.NoLock {
		return nil
	}
	return q.conn.Unlock(ctx)
}
