package session

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"slices"
	"strconv"
	"sync"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/harebus/harebus/internal/wire"
)

// silentClose is how long RabbitMQ waits before it drops a connection with bad
// credentials, when the client does not ask for a reason. A connection dropped
// sooner was dropped by a broker that is going down or coming up.
const silentClose = 2500 * time.Millisecond

// Dialer opens connections to any of the configured addresses.
type Dialer struct {
	// UnderClient, if any, wraps what the AMQP client writes to. It is for tests, before the first connection.
	UnderClient func(net.Conn) net.Conn

	cfg Config

	mu       sync.Mutex // guards what follows
	troubles []trouble  // the latest with each address
}

// NewDialer makes a dialer; cfg has at least one address.
func NewDialer(cfg Config) *Dialer {
	return &Dialer{cfg: cfg, troubles: make([]trouble, len(cfg.Addresses))}
}

// distrust is how long an address that has failed is tried after the others,
// because each attempt at a frozen node takes the whole timeout.
const distrust = 3 * time.Minute

// dial tries every address once, so that a dead node of a cluster costs one attempt
// and not the connection.
func (d *Dialer) dial(ctx context.Context, name string) (*Session, error) {
	var errs []error
	for _, i := range d.order() {
		attempt, end := d.cfg.connecting(ctx, name, HostPort(d.cfg.Addresses[i]))
		s, err := d.dialOne(attempt, d.cfg.Addresses[i], name)
		end(err)
		if err == nil {
			s.address = i
			d.had(i, trouble{})
			return s, nil
		}
		d.had(i, trouble{unreachable: true, at: time.Now()})
		errs = append(errs, fmt.Errorf("connect to %s: %w", d.name(i), err))
		if ctx.Err() != nil {
			break
		}
	}
	return nil, errors.Join(errs...)
}

// name of an address for a person, who may not know that it is a default.
func (d *Dialer) name(address int) string {
	return HostPort(d.cfg.Addresses[address]) + d.cfg.AddressNote
}

// trouble is the latest failure of an address.
type trouble struct {
	unreachable bool // connecting failed; else a connection was lost
	at          time.Time
}

// order is the order in which the addresses are tried. It is random, except that
// addresses whose connection was lost lately come later, and those that could not be
// reached come last; in both groups the oldest failure comes first.
func (d *Dialer) order() []int {
	d.mu.Lock()
	defer d.mu.Unlock()
	order := rand.Perm(len(d.cfg.Addresses))
	slices.SortStableFunc(order, func(a, b int) int {
		one, other := d.lately(a), d.lately(b)
		if one.unreachable != other.unreachable {
			if one.unreachable {
				return 1
			}
			return -1
		}
		return one.at.Compare(other.at)
	})
	return order
}

// lately is the latest failure of an address, or none if that is long ago. d.mu is
// held.
func (d *Dialer) lately(address int) trouble {
	if had := d.troubles[address]; time.Since(had.at) < distrust {
		return had
	}
	return trouble{}
}

// had notes the latest failure of an address.
func (d *Dialer) had(address int, t trouble) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.troubles[address] = t
}

// below is what the client writes to.
func (d *Dialer) below(sock net.Conn) net.Conn {
	if d.UnderClient == nil {
		return sock
	}
	return d.UnderClient(sock)
}

// HostPort is the host and port of an address, without the rest.
func HostPort(uri amqp.URI) string {
	return net.JoinHostPort(uri.Host, strconv.Itoa(uri.Port))
}

func (d *Dialer) dialOne(ctx context.Context, uri amqp.URI, name string) (*Session, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, d.cfg.Timeout,
		fmt.Errorf("no connection within %v", d.cfg.Timeout))
	defer cancel()
	sasl, err := d.authentication(ctx, uri)
	if err != nil {
		return nil, err
	}
	raw, err := d.open(ctx, uri)
	if err != nil {
		return nil, err
	}
	// The handshake has no context of its own: ctx ends it by closing the socket.
	stop := context.AfterFunc(ctx, func() { _ = raw.Close() })
	defer stop()

	sock := wire.New(raw, d.cfg.WriteTimeout)
	started := time.Now()
	properties := amqp.NewConnectionProperties()
	properties["product"] = d.cfg.Product
	properties["version"] = d.cfg.Version
	properties.SetClientConnectionName(d.cfg.Name + " " + name)
	server := &greeting{Conn: sock}
	conn, err := amqp.Open(d.below(wire.Pack(server)), amqp.Config{
		SASL:       sasl,
		Vhost:      uri.Vhost,
		FrameSize:  MaxFrame,
		Heartbeat:  d.heartbeat(raw),
		Properties: properties,
		Locale:     "en_US",
	})
	if err != nil {
		_ = sock.Close()
		if fault := server.fault(); fault != nil {
			return nil, fault
		}
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		if errors.Is(err, amqp.ErrCredentials) && time.Since(started) < silentClose {
			return nil, errors.New("connection dropped during the handshake")
		}
		return nil, loginFault(err)
	}
	s := newSession(conn, sock, d.cfg.RequestTimeout, d.cfg.Waits)
	s.name, s.hostPort = name, HostPort(uri)
	if login, ok := sasl[0].(*amqp.PlainAuth); ok {
		s.user = login.Username
	}
	return s, nil
}

// heartbeat is the interval to ask for; 0 takes the broker's. A connection in
// memory needs none, because its other end cannot vanish.
func (d *Dialer) heartbeat(conn net.Conn) time.Duration {
	if at := conn.RemoteAddr(); at != nil && at.Network() == "brokertest" && !d.cfg.HeartbeatAlways {
		return 0
	}
	return d.cfg.Heartbeat
}
