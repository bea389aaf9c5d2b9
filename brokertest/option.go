package brokertest

import "time"

// Option changes a broker's defaults; see New.
type Option func(*config)

// config is what options set.
type config struct {
	users           map[string]string
	vhosts          []string
	seed            uint64
	log             func(format string, args ...any)
	maxMessage      int
	deliveryLimit   int
	modernStreams   bool
	consumerTimeout time.Duration
	settleTimeout   time.Duration
	writeTimeout    time.Duration
	outboxSoft      int
	outboxHard      int
	heartbeat       time.Duration
	frameMax        uint32
	channelMax      uint16
}

func newConfig(opts []Option) config {
	c := config{
		users:           map[string]string{"guest": "guest"},
		vhosts:          []string{"/"},
		seed:            1,
		maxMessage:      128 << 20,
		deliveryLimit:   -1,
		consumerTimeout: 30 * time.Minute,
		settleTimeout:   3 * time.Minute,
		writeTimeout:    30 * time.Second,
		outboxSoft:      1 << 20,
		outboxHard:      256 << 20,
		heartbeat:       -1,
		frameMax:        frameMax,
		channelMax:      channelMax,
	}
	for _, opt := range opts {
		opt(&c)
	}
	return c
}

// WithUser adds a user who may do everything in every virtual host. The first
// WithUser or WithVHost does not remove the defaults, guest and "/".
func WithUser(name, password string) Option {
	return func(c *config) { c.users[name] = password }
}

// WithVHost adds a virtual host.
func WithVHost(name string) Option {
	return func(c *config) { c.vhosts = append(c.vhosts, name) }
}

// WithSeed sets the seed of the broker's random numbers: for generated names and
// for faults with a Chance. The default is 1: two brokers that get the same
// requests in the same order do the same.
func WithSeed(seed uint64) Option {
	return func(c *config) { c.seed = seed }
}

// WithLog makes the broker report what happens: connections, errors it raises,
// faults it injects. f is called with the broker's lock held and must not call
// the broker; testing.T.Logf and log.Printf are fine.
func WithLog(f func(format string, args ...any)) Option {
	return func(c *config) { c.log = f }
}

// WithMaxMessageSize sets the largest body accepted, in bytes. The default is
// RabbitMQ 3.10's, 128 MiB.
func WithMaxMessageSize(n int) Option {
	return func(c *config) { c.maxMessage = n }
}

// WithDeliveryLimit sets the delivery limit of quorum queues declared without
// x-delivery-limit. The default is none, as in RabbitMQ 3.x; 4.x has 20.
func WithDeliveryLimit(n int) Option {
	return func(c *config) { c.deliveryLimit = n }
}

// WithModernStreams has streams behave as in RabbitMQ 4.0 and later: a message that is given back or rejected gives
// credit instead of ending the connection, a prefetch is never exceeded, CC and headers named x-… keep arrays and
// tables, and a message without a delivery mode has mode 1. The default is RabbitMQ 3.10.
func WithModernStreams() Option {
	return func(c *config) { c.modernStreams = true }
}

// WithConsumerTimeout sets how long a delivery may stay unacknowledged before its
// channel is closed; 0 means without limit. The default is 30 minutes, as in
// RabbitMQ.
func WithConsumerTimeout(d time.Duration) Option {
	return func(c *config) { c.consumerTimeout = d }
}

// WithHeartbeat sets the heartbeat interval the broker suggests; if the client asks
// for a shorter one, that is used. The default is a minute over TCP, as in
// RabbitMQ, and none for clients of Dial: neither side of a connection in memory
// can vanish, and heartbeats would make tests in virtual time slow.
func WithHeartbeat(d time.Duration) Option {
	return func(c *config) { c.heartbeat = d }
}

// WithFrameMax sets the largest frame the broker takes, in bytes, from 4,096 to the
// default, RabbitMQ's 131,072. A header frame that is longer because the broker
// added headers is still delivered, as RabbitMQ does.
func WithFrameMax(n int) Option {
	return func(c *config) { c.frameMax = uint32(min(max(n, frameMin), frameMax)) } //nolint:gosec // bounded
}

// WithChannelMax sets how many channels a connection may have, from 1 to the
// default, RabbitMQ's 2,047.
func WithChannelMax(n int) Option {
	return func(c *config) { c.channelMax = uint16(min(max(n, 1), channelMax)) } //nolint:gosec // bounded
}

// WithDeadLetterRetry sets after how long at-least-once dead-lettering sends a
// message again that found no queue or was rejected. The default is three minutes,
// as in RabbitMQ.
func WithDeadLetterRetry(d time.Duration) Option {
	return func(c *config) { c.settleTimeout = d }
}
