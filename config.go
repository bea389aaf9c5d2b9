package harebus

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"net"
	"slices"
	"time"
	"unicode/utf8"

	"github.com/cenkalti/backoff/v4"
	"go.uber.org/zap"

	"github.com/harebus/harebus/dialect"
	"github.com/harebus/harebus/internal/field"
	"github.com/harebus/harebus/internal/foreign"
	"github.com/harebus/harebus/internal/peer"
	"github.com/harebus/harebus/internal/program"
	"github.com/harebus/harebus/internal/routing"
	"github.com/harebus/harebus/internal/session"
	"github.com/harebus/harebus/internal/wait"
	"github.com/harebus/harebus/order"
	"github.com/harebus/harebus/stream"
	"github.com/harebus/harebus/topology"
)

// Config configures one service on the bus. The zero value of every field means the default that its comment gives.
// [New] copies it and reports every fault in it at once.
type Config struct {
	// URL is the broker's address: amqp:// or amqps://user:password@host:port/vhost, with special characters
	// percent-encoded. Default: amqp://guest:guest@localhost:5672/.
	URL string
	// Dial opens the socket (TLS runs over what it returns), for proxies and for the in-process broker of package
	// brokertest. Default: a [net.Dialer].
	Dial func(network, address string) (net.Conn, error)
	// Connect is about connections: further addresses, TLS, login, timeouts.
	Connect ConnectConfig

	// Queue is the listener queue. Without one the setup can only send.
	Queue string
	// QueueOptions are the properties of the listener queue.
	QueueOptions QueueOptions
	// Subscriptions are the topics bound to the listener queue; * stands for one word, # for any number. If you remove
	// a topic from the list, its binding stays: see [Setup.Unsubscribe].
	Subscriptions []string
	// Consume is about receiving.
	Consume ConsumeConfig
	// Handling is about what happens to a message between its delivery and its ack.
	Handling HandlingConfig
	// Retry is the policy for a message whose handler failed; [WithRetry] sets another for one handler.
	Retry RetryConfig
	// ErrorQueue receives the messages that cannot be handled.
	ErrorQueue ErrorQueueConfig

	// Publish is about sending.
	Publish PublishConfig
	// Exchanges are the two exchanges of the bus.
	Exchanges ExchangeConfig
	// Declare is about creating exchanges, queues and bindings.
	Declare DeclareConfig
	// Payload is about bodies and headers.
	Payload PayloadConfig
	// Reply is about answers to received messages.
	Reply ReplyConfig

	// Observers are told of all operations, in this order at their start and in reverse order at their end. Default:
	// none.
	Observers []Observer
	// Logger is the log; [SlogLogger] makes one from a slog.Handler. Default: nothing is logged, with one exception:
	// when the setup waits for something for more than five seconds, it says so on standard error. [zap.NewNop]
	// silences that too.
	Logger *zap.Logger
	// ShutdownTimeout is how long handlers may continue after a stop has begun. Then their contexts are cancelled, and
	// messages that they do not complete are delivered again. Default: 30 s.
	ShutdownTimeout time.Duration

	defaultAddress bool // true if the user gave no address
	ownHeartbeat   bool
}

// QueueOptions are the properties of a listener queue.
type QueueOptions struct {
	// Type is topology.Quorum by default, and topology.Classic with Exclusive or AutoDelete. Choose topology.Classic
	// without Arguments to take over a queue that a PikaBus service declared.
	Type topology.QueueType
	// Arguments are added to the queue's arguments, which for a quorum queue are a delivery limit of 20 and
	// dead-lettering to the error queue, at least once. A nil value removes an argument.
	Arguments map[string]any
	// Exclusive is for a classic queue that belongs to the setup's connection: no other connection can use it, and the
	// broker deletes it, with its messages, when the connection ends. After a reconnect it is declared again. Together
	// with PerInstance it is for answers and events that matter only while this process runs.
	Exclusive bool
	// AutoDelete is for a classic queue that the broker deletes, with its messages, when its last consumer has ended:
	// after a lost connection, a stop or a pause. It is consumed from with the whole Prefetch at once, because the
	// caution with the first message would end a consumer.
	AutoDelete bool
	// AsFound uses a queue that somebody else declares, whatever its type and arguments: it is never declared, and
	// Start fails if it does not exist. Its bindings are made. Type then only says what the queue is. Whether failed
	// messages survive depends on it: give it dead-lettering, or no delivery limit.
	AsFound bool
	// PerInstance gives each setup a listener queue of its own, for events that every instance of a service must get:
	// Queue is the beginning of its name, to which a dot and random digits are added. It keeps its name through
	// reconnects and restarts of the setup; when nobody has consumed from it for 30 minutes, the broker deletes it with
	// its messages ("x-expires" in Arguments changes the time). Default: all instances share Queue.
	PerInstance bool
}

// HandlingConfig is about what happens to a message between its delivery and its ack.
type HandlingConfig struct {
	// Timeout cancels the context of a handler after this time. The error that the handler then returns is a failure
	// like any other. Default: 5 minutes. Negative: none. Keep it below the broker's consumer timeout, 30 minutes by
	// default, after which the broker takes back everything that the consumer holds. A handler that has run for a
	// minute is logged, whatever the timeout.
	Timeout time.Duration
	// Receive is called with every message before its handler is chosen, and may set type, id and body of a message of
	// another bus. Default: none.
	Receive ReceiveFunc
	// Middleware is wrapped around every handler, the first one outermost.
	Middleware []Middleware
	// ErrorHandler may change the decision of Config.Retry. No limit applies to retries that it decides: it must end
	// them itself, by Message.Attempt. Default: none.
	ErrorHandler ErrorHandler
	// Unhandled says what happens to a message without a handler: UnhandledRetry by default, because a newer instance
	// of the service may have one.
	Unhandled UnhandledMode
	// GivenUp is called for every message that is about to be moved to the error queue, also one that has no handler or
	// cannot be read: as the function of [WithGivenUp], and after it. Package failed has one that publishes an event.
	// Default: none.
	GivenUp func(ctx context.Context, bus *Bus, m Failed) error
	// Transactor runs handlers inside a transaction of something else, such as a database, and publishes what they sent
	// after its commit: see package outbox. [WithoutTransaction] leaves out one handler. Start then works without a
	// Queue, to publish what was stored. Default: none.
	Transactor Transactor
}

// ExchangeConfig names the two exchanges of the bus.
type ExchangeConfig struct {
	// Direct carries commands: amq.direct, which every broker has, or an exchange of this name, which is declared.
	// Default: PikaBusDirect.
	Direct string
	// Topic carries events: amq.topic, or an exchange that is declared. Default: PikaBusTopic.
	Topic string
}

// DeclareConfig is about creating exchanges, queues and bindings.
type DeclareConfig struct {
	// Mode says whether the setup creates its objects or only checks them.
	Mode DeclareMode
	// Topology is declared, or checked, together with the setup's own objects: other queues and exchanges, bindings
	// with arguments.
	Topology topology.Topology
}

// PayloadConfig is about bodies and headers.
type PayloadConfig struct {
	// Dialects are how messages of other buses are read, in this order: see package dialect. harebus' own messages are
	// recognised first. Default: none.
	Dialects []dialect.Dialect
	// Codecs are added to JSON, Bytes and Text. One with the content type of another replaces it.
	Codecs []Codec
	// TypeCodecs are the codecs of certain message types, by their wire name.
	TypeCodecs map[string]Codec
	// MaxBody is the largest body sent or decoded, in bytes; a larger one is refused or parked. Default: 16 MiB.
	MaxBody int
	// HeaderPrefix starts the names of the standard headers. Default: "PikaBus.".
	HeaderPrefix string
	// Compress is about compressed bodies. Default: none is compressed.
	Compress CompressConfig
	// Guards encrypt or sign what is sent, in this order, and open or verify what is received, in reverse order.
	// Default: none.
	Guards []Guard
	// TimeFormat is how times are written: TimeISO by default.
	TimeFormat TimeFormat
	// Context are the context values that travel with messages, each in a header: from a call with [WithContextValue]
	// to the handler of the message, and on with all that this handler sends. Default: none.
	Context []ContextHeader
	// Environment ("production") and Build ("1.4.2") go with every message that is sent, as headers. A message that
	// names another environment is parked as "other-environment"; one that names none is taken. Default: none.
	Environment, Build string
}

// mostOnTheWire is the largest body that is received. Guards add to it.
func (c *PayloadConfig) mostOnTheWire() int {
	if len(c.Guards) == 0 {
		return c.MaxBody
	}
	const roomForGuards = 64 << 10
	return c.MaxBody + roomForGuards
}

// ReplyConfig is about answers to received messages.
type ReplyConfig struct {
	// Policy restricts where replies may go. Default: any queue except the broker's own (amq.…) and the error queue,
	// which no policy can allow.
	Policy ReplyPolicy
	// Reserved allows replies to the addresses that the broker creates for requesters: amq.rabbitmq.reply-to.… (direct
	// reply-to) and amq.gen-…. Policy is called for them, too. A reply to the former is lost without an error when the
	// requester has gone. Default: refused.
	Reserved bool
	// MaxHops is how many replies in a row may answer a reply before the message is parked as a loop. Default: 32.
	MaxHops int
}

// DeclareMode says whether a setup declares exchanges, queues and bindings or only checks them.
type DeclareMode int8

const (
	// DeclareAll creates missing objects, also those that somebody deletes later.
	DeclareAll DeclareMode = iota
	// CheckOnly creates nothing and fails if an object is missing: for brokers where services may not create objects.
	// It needs no configure permission. A passive check sees neither bindings nor arguments.
	CheckOnly
)

// UnhandledMode says what happens to messages that have no handler: those of an unknown type, and those without a type.
type UnhandledMode int8

const (
	// UnhandledRetry treats such a message as one that has failed: it is retried by Config.Retry and then parked. While
	// a service is replaced by a newer version, a message of a new type can then reach an instance that knows it.
	UnhandledRetry UnhandledMode = iota
	// UnhandledPark moves it to the error queue at once.
	UnhandledPark
	// UnhandledIgnore drops it, counts it in Stats.Ignored and logs it at debug level. It is for a queue that is bound
	// to more topics than it has handlers for. A message whose type is misspelt is lost.
	UnhandledIgnore
)

// ErrorQueueConfig describes the queue for messages that cannot be handled.
type ErrorQueueConfig struct {
	// Name is "error" by default, the queue all PikaBus services share.
	Name string
	// Type is topology.Quorum by default. Set topology.Classic where PikaBus services share the queue. They declare it
	// as a classic queue, so a quorum queue makes them fail to park, and they retry each failed message without end. A
	// queue that exists is used as it is, whatever its type.
	Type topology.QueueType
	// Arguments are added to the queue's arguments, which for a quorum queue are a delivery limit of topology.LookLimit
	// and for a classic queue none. A nil value removes an argument.
	Arguments map[string]any
}

// ConsumeConfig is about receiving.
type ConsumeConfig struct {
	// Concurrency is how many messages each consumer handles at once. Default:
	// 10. With 1 (and one consumer) messages are handled in the order of the queue,
	//     also across a Stop, except after failures and lost connections. To keep
	//     that order on a quorum queue, a connection uses the whole prefetch from
	//     its start. So if a message kills the process, the delivery counts of all
	//     prefetched messages rise, unless Prefetch is 1.
	Concurrency int
	// Prefetch is how many unacknowledged messages each consumer may hold: at least Concurrency. Default: 5 ×
	// Concurrency. A new connection starts with one consumer and a prefetch of 1, until a message that is not a
	// redelivery has been handled or 5 s have passed. So if a message kills the process, only its own delivery count
	// rises.
	Prefetch int
	// Consumers is the number of consumers, each on its own channel. Default: 1.
	Consumers int
	// Arguments are those of basic.consume, such as "x-priority": 10 for a consumer that gets messages before others.
	Arguments map[string]any
	// Order has the messages of one key handled one after the other, also after failures: see package order. Prefetch
	// is then [order.Window]. Default: none.
	Order *order.Config
	// Stream reads the queue, which somebody else declares, as a stream: see package stream. Prefetch is then 1,000 or
	// more. Default: none.
	Stream *stream.Config
	// Exclusive refuses other consumers on the queue, and fails while there are some. After a lost connection the
	// broker may take a while to notice that the old consumer is gone; until then consuming is tried again. It needs
	// one consumer.
	Exclusive bool
}

// PublishConfig is about sending.
type PublishConfig struct {
	// Channels is how many channels share the messages. Default: 1.
	Channels int
	// Window is how many messages may be unconfirmed on each. Default: 1000.
	Window int
	// ConfirmTimeout is how long the broker may take to confirm a message before its channel is replaced and it is sent
	// again, under the same id. Default: 30 s. A value shorter than a leader election only makes duplicates. If the
	// broker answers nothing at all on the channel, the connection is replaced after five sixths of this time.
	ConfirmTimeout time.Duration
	// OptionalEvents allows events to which nobody has subscribed, as [NonMandatory] does for one call. The method
	// OptionalEvent() bool of an event's type decides for that type. Default: each event must have a subscriber, and
	// Publish returns an error when it has none.
	OptionalEvents bool
	// Peers are how messages to certain queues and exchanges are written, by their names; [As] is for one call. Replies
	// to them are read as by Payload.Dialects. Default: as harebus writes them.
	Peers map[string]dialect.Dialect
	// Middleware is called for every outgoing message, the first one outermost.
	Middleware []SendMiddleware
}

// ConnectConfig is about connections.
type ConnectConfig struct {
	// URLs are the addresses of a cluster's nodes, beside or instead of Config.URL. Every connect tries them in random
	// order; those that failed in the last three minutes come last.
	URLs []string
	// Username and Password replace those of the addresses.
	Username, Password string
	// Credentials is called before every connect and returns user name and password, for passwords that expire. It
	// replaces Username, Password and those in the addresses.
	Credentials func(ctx context.Context) (username, password string, err error)
	// ExternalAuth logs in with the client certificate in TLS (SASL EXTERNAL).
	ExternalAuth bool
	// TLS is for amqps addresses: roots, client certificate. The bus uses a clone of it. The lowest version is TLS 1.2,
	// also if MinVersion is lower. Default: the system's roots, and the address as server name.
	TLS *tls.Config
	// Name is what the broker shows of the connections. Default: the program's name and the queue.
	Name string
	// Timeout is for connecting, TLS and login included. Default: 10 s.
	Timeout time.Duration
	// RequestTimeout is how long the broker may take to answer a request before the connection is closed and replaced.
	// Default: 30 s.
	RequestTimeout time.Duration
	// WriteTimeout is how long the socket may accept no data before the connection is closed and replaced. Default: 15
	// s.
	WriteTimeout time.Duration
	// Heartbeat is the interval asked for. Default: 5 s; a dead peer is noticed after about one and a half times that.
	// On a connection of package brokertest the default is the broker's: no heartbeats, unless its option sets an
	// interval, because heartbeats would make tests of virtual days slow.
	Heartbeat time.Duration
	// BackOff makes the policy for the pauses between attempts to connect. Default: from 50 ms, doubling to 1.5 s, ± 20
	// %, without a limit for the number of attempts.
	BackOff func() backoff.BackOff
	// RefusedLimit makes [Setup.Live] fail once the broker has refused every connection for this long, for example
	// because the password was changed. Then the orchestrator can restart the process, which reads the new password.
	// Default: never. Without it, a setup with Credentials recovers by itself.
	RefusedLimit time.Duration
}

const (
	defaultURL            = "amqp://guest:guest@localhost:5672/"
	defaultDirectExchange = "PikaBusDirect"
	defaultTopicExchange  = "PikaBusTopic"
	defaultErrorQueue     = "error"
	defaultHeaderPrefix   = "PikaBus."
	defaultDeliveryLimit  = 20
	maxPrefetch           = math.MaxUint16
)

// withDefaults returns a copy with every zero field filled in.
func (c Config) withDefaults() Config {
	if c.URL == "" && len(c.Connect.URLs) == 0 {
		c.URL, c.defaultAddress = defaultURL, true
	}
	if c.URL != "" {
		c.Connect.URLs = append([]string{c.URL}, c.Connect.URLs...)
	}
	c.Connect.URLs = slices.Clone(c.Connect.URLs)
	e := c.first().withDefaults()
	c.Queue, c.QueueOptions, c.Subscriptions, c.Consume, c.Handling, c.Retry, c.ErrorQueue =
		e.Queue, e.QueueOptions, e.Subscriptions, e.Consume, e.Handling, e.Retry, e.ErrorQueue
	c.Payload.TypeCodecs = maps.Clone(c.Payload.TypeCodecs)
	fill(&c.Exchanges.Direct, defaultDirectExchange)
	fill(&c.Exchanges.Topic, defaultTopicExchange)
	fill(&c.Payload.HeaderPrefix, defaultHeaderPrefix)
	fill(&c.Connect.Name, program.Connection(c.Queue, maxShortString))
	fill(&c.Publish.Channels, 1)
	fill(&c.Publish.Window, 1000)
	fill(&c.Publish.ConfirmTimeout, 30*time.Second)
	fill(&c.Connect.Timeout, 10*time.Second)
	fill(&c.Connect.RequestTimeout, 30*time.Second)
	fill(&c.Connect.WriteTimeout, 15*time.Second)
	c.ownHeartbeat = c.Connect.Heartbeat != 0
	fill(&c.Connect.Heartbeat, 5*time.Second)
	fill(&c.Payload.MaxBody, 16<<20)
	fill(&c.Payload.Compress.From, 4096)
	c.Payload.Compress.Types = maps.Clone(c.Payload.Compress.Types)
	c.Payload.Guards = slices.Clone(c.Payload.Guards)
	fill(&c.Reply.MaxHops, 32)
	fill(&c.ShutdownTimeout, 30*time.Second)
	if c.Connect.BackOff == nil {
		c.Connect.BackOff = wait.Default
	}
	if c.Logger == nil {
		c.Logger = zap.NewNop()
	}
	return c
}

// first is the endpoint of Config.Queue.
func (c *Config) first() EndpointConfig {
	return EndpointConfig{c.Queue, c.QueueOptions, c.Subscriptions, c.Consume, c.Handling, c.Retry, c.ErrorQueue}
}

// String names what the config is for: the hosts of its addresses, its queue and its exchanges. Everything that may be
// a secret is left out.
func (c Config) String() string {
	c = c.withDefaults()
	hosts := make([]string, len(c.Connect.URLs))
	for i := range c.Connect.URLs {
		hosts[i] = "(not valid)"
		one := Config{Connect: ConnectConfig{URLs: c.Connect.URLs[i : i+1]}}
		if uris, err := one.addresses(); err == nil {
			hosts[i] = session.HostPort(uris[0])
		}
	}
	return fmt.Sprintf("harebus.Config{hosts: %q, queue: %q, error queue: %q, exchanges: %q, subscriptions: %q}",
		hosts, c.Queue, c.ErrorQueue.Name, []string{c.Exchanges.Direct, c.Exchanges.Topic}, c.Subscriptions)
}

// Format writes String for every verb, so that no way of printing a config shows a password.
func (c Config) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, c.String()) }

// nameInstance gives the listener queue of an instance its name.
func (c *Config) nameInstance() { c.Queue = c.first().instance() }

func fill[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

// validate reports everything that is wrong with a filled in config.
func (c *Config) validate() error {
	var faults []error
	fault := func(format string, args ...any) { faults = append(faults, fmt.Errorf(format, args...)) }

	if _, err := c.addresses(); err != nil {
		faults = append(faults, err)
	}
	if c.Connect.ExternalAuth && (c.Connect.TLS == nil || (len(c.Connect.TLS.Certificates) == 0 && c.Connect.TLS.GetClientCertificate == nil)) {
		fault("Connect.ExternalAuth needs a client certificate in Connect.TLS")
	}
	if c.Connect.Username == "" && c.Connect.Password != "" {
		fault("Connect.Password is set without Connect.Username")
	}
	faults = append(faults, c.validateQueues()...)
	first := c.first()
	faults = append(faults, first.validate(c)...)
	faults = append(faults, c.validateValues()...)
	faults = append(faults, c.validateNumbers()...)
	return errors.Join(append(faults, c.validateParts()...)...)
}

// validateValues finds values outside of what their fields may have.
func (c *Config) validateValues() []error {
	var faults []error
	fault := func(format string, args ...any) { faults = append(faults, fmt.Errorf(format, args...)) }
	if len(c.Connect.Name) > maxShortString {
		fault("Connect.Name is longer than %d bytes", maxShortString)
	}
	const longestName = 32
	if len(c.Payload.HeaderPrefix) > maxShortString-longestName || !utf8.ValidString(c.Payload.HeaderPrefix) {
		fault("Payload.HeaderPrefix is longer than %d bytes or not valid UTF-8", maxShortString-longestName)
	}
	if c.Payload.TimeFormat != TimeISO && c.Payload.TimeFormat != TimeLegacy {
		fault("Payload.TimeFormat %d is neither TimeISO nor TimeLegacy", c.Payload.TimeFormat)
	}
	if c.Declare.Mode != DeclareAll && c.Declare.Mode != CheckOnly {
		fault("Declare.Mode %d is neither DeclareAll nor CheckOnly", c.Declare.Mode)
	}
	if err := wait.TryBackOff(c.Connect.BackOff); err != nil {
		fault("Connect.BackOff %w", err)
	}
	return faults
}

// validateQueues finds names that Send cannot use, and queues that belong to one connection only.
func (c *Config) validateQueues() []error {
	var faults []error
	var names []string
	for _, q := range c.Declare.Topology.Queues {
		names = append(names, q.Name)
		if q.Exclusive {
			faults = append(faults, fmt.Errorf("exclusive queue %s in Declare.Topology: it would belong to one of the setup's connections, and the others could not use it; "+
				"let it end by x-expires instead, or give each instance a listener queue of its own with QueueOptions.PerInstance", field.Quote(q.Name)))
		}
	}
	return append(faults, routing.Unroutable(names...)...)
}

func (c *Config) validateNumbers() []error {
	var faults []error
	faults = append(faults, c.Payload.contextFaults()...)
	for _, text := range []string{c.Payload.Environment, c.Payload.Build} {
		if err := field.CheckShort("the text of Payload.Environment or Build", text); err != nil {
			faults = append(faults, err)
		}
	}
	return slices.Concat(faults,
		field.Outside("Publish.Channels", c.Publish.Channels, 1, 100),
		field.Outside("Publish.Window", c.Publish.Window, 1, 100_000),
		field.Outside("Payload.MaxBody", c.Payload.MaxBody, 1, 512<<20),
		field.Outside("Reply.MaxHops", c.Reply.MaxHops, 1, 1_000_000),
		field.TooShort("Publish.ConfirmTimeout", c.Publish.ConfirmTimeout, 10*time.Millisecond),
		field.TooShort("Connect.Timeout", c.Connect.Timeout, time.Millisecond),
		field.TooShort("Connect.RequestTimeout", c.Connect.RequestTimeout, time.Millisecond),
		field.TooShort("Connect.WriteTimeout", c.Connect.WriteTimeout, time.Millisecond),
		field.TooShort("Connect.RefusedLimit", c.Connect.RefusedLimit, 0),
		field.TooShort("Connect.Heartbeat", c.Connect.Heartbeat, time.Second),
		field.TooShort("ShutdownTimeout", c.ShutdownTimeout, time.Millisecond))
}

// validateParts finds missing pieces in the lists.
func (c *Config) validateParts() []error {
	var faults []error
	missing := func(list string, at any) {
		faults = append(faults, fmt.Errorf("%s[%v] is nil", list, at))
	}
	for i, codec := range c.Payload.Codecs {
		if codec == nil {
			missing("Payload.Codecs", i)
		}
	}
	for name, codec := range c.Payload.TypeCodecs {
		if codec == nil {
			missing("Payload.TypeCodecs", name)
		}
	}
	faults = append(faults, peer.Validate(c.Payload.Dialects, c.Publish.Peers)...)
	for i, g := range c.Payload.Guards {
		if g == nil {
			missing("Payload.Guards", i)
		}
	}
	if err := foreign.Call(func() error { return errors.Join(c.Payload.Compress.validate()...) }); err != nil {
		faults = append(faults, err)
	}
	for i, m := range c.Publish.Middleware {
		if m == nil {
			missing("Publish.Middleware", i)
		}
	}
	for i, o := range c.Observers {
		if o == nil {
			missing("Observers", i)
		}
	}
	return faults
}

// addresses parses the URLs.
func (c *Config) addresses() ([]session.Address, error) {
	return session.ParseAddresses(c.Connect.URLs)
}
