package brokertest

import (
	"slices"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

// VHost is a view of one virtual host.
type VHost struct {
	broker *Broker
	name   string
}

// VHost returns a view of a virtual host. The view of one that does not exist is
// empty.
func (b *Broker) VHost(name string) *VHost { return &VHost{b, name} }

// Queue describes a queue at one moment.
type Queue struct {
	Name          string
	Type          string // "classic", "quorum" or "stream"
	Durable       bool
	AutoDelete    bool
	Exclusive     bool
	Arguments     amqp.Table
	Ready         int // messages that wait for a consumer, or that a stream keeps
	Unacked       int // messages consumers have
	DeadLettering int // messages at-least-once dead-lettering could not pass on yet
	Consumers     []Consumer
}

// Consumer describes a subscription.
type Consumer struct {
	Tag       string
	Channel   int
	NoAck     bool
	Exclusive bool
	Active    bool // false for those waiting behind a single active consumer
	Prefetch  int  // 0: no limit
	Priority  int
	Unacked   int
}

// Message is a message in a queue. Publishing holds its properties and body,
// which must not be changed.
type Message struct {
	amqp.Publishing
	Exchange      string // it was published to, last
	RoutingKey    string
	Unacked       bool
	Redelivered   bool
	DeliveryCount int       // failed deliveries, of quorum queues
	Offset        int64     // in a stream
	Expires       time.Time // zero: never
}

// Exchange describes an exchange.
type Exchange struct {
	Name       string
	Type       string
	Durable    bool
	AutoDelete bool
	Internal   bool
	Arguments  amqp.Table
}

// Binding describes a binding. Bindings to the default exchange are not listed.
type Binding struct {
	Source          string
	Destination     string
	DestinationType string // "queue" or "exchange"
	RoutingKey      string
	Arguments       amqp.Table
}

// Connection describes a client.
type Connection struct {
	Name       string // the name the client gave it
	User       string
	VHost      string
	Channels   int
	Blocked    bool
	Properties amqp.Table
}

// Queue describes a queue of the virtual host "/"; ok is false when there is none.
func (b *Broker) Queue(name string) (q Queue, ok bool) { return b.VHost("/").Queue(name) }

// Queues describes the queues of the virtual host "/", by name.
func (b *Broker) Queues() []Queue { return b.VHost("/").Queues() }

// Messages returns the messages in a queue of the virtual host "/": first the
// unacknowledged ones, in the order of their arrival, then the ready ones, in the
// order of their delivery.
func (b *Broker) Messages(queue string) []Message { return b.VHost("/").Messages(queue) }

// Exchanges describes the exchanges of the virtual host "/", by name.
func (b *Broker) Exchanges() []Exchange { return b.VHost("/").Exchanges() }

// Bindings describes the bindings of the virtual host "/", in the order in which
// they were made.
func (b *Broker) Bindings() []Binding { return b.VHost("/").Bindings() }

// Queue describes a queue; ok is false when there is none.
func (v *VHost) Queue(name string) (q Queue, ok bool) {
	ok = v.with(name, func(found *queue) { q = found.describe() }) == nil
	return q, ok
}

// Queues describes the queues by name.
func (v *VHost) Queues() []Queue {
	var out []Queue
	v.read(func(vh *vhost) {
		for _, name := range slices.Sorted(mapKeys(vh.queues)) {
			out = append(out, vh.queues[name].describe())
		}
	})
	return out
}

// Messages returns what is in a queue; see Broker.Messages.
func (v *VHost) Messages(queueName string) []Message {
	var out []Message
	_ = v.with(queueName, func(q *queue) { out = q.messages() }) // no queue has no messages
	return out
}

// Exchanges describes the exchanges by name.
func (v *VHost) Exchanges() []Exchange {
	var out []Exchange
	v.read(func(vh *vhost) {
		for _, name := range slices.Sorted(mapKeys(vh.exchanges)) {
			x := vh.exchanges[name]
			out = append(out, Exchange{
				Name: x.name, Type: x.kind, Durable: x.durable, AutoDelete: x.autoDelete,
				Internal: x.internal, Arguments: x.args.public(),
			})
		}
	})
	return out
}

// Bindings describes the bindings in the order in which they were made.
func (v *VHost) Bindings() []Binding {
	var out []Binding
	v.read(func(vh *vhost) {
		for _, b := range vh.bindings {
			d := Binding{Source: b.source.name, RoutingKey: b.key, Arguments: b.args.public()}
			if b.queue != nil {
				d.Destination, d.DestinationType = b.queue.name, "queue"
			} else {
				d.Destination, d.DestinationType = b.target.name, "exchange"
			}
			out = append(out, d)
		}
	})
	return out
}

// Connections describes the clients, the oldest first.
func (b *Broker) Connections() []Connection {
	b.mu.Lock()
	defer b.mu.Unlock()
	var out []Connection
	for _, c := range b.conns {
		if c.state != connRunning {
			continue
		}
		out = append(out, Connection{
			Name: c.props.str("connection_name"), User: c.user, VHost: c.vhost.name,
			Channels: len(c.channels), Blocked: c.valve != nil, Properties: c.props.public(),
		})
	}
	return out
}

// read runs f on the virtual host when there is one.
func (v *VHost) read(f func(*vhost)) {
	v.broker.mu.Lock()
	defer v.broker.mu.Unlock()
	if vh, ok := v.broker.vhosts[v.name]; ok {
		f(vh)
	}
}

func (q *queue) describe() Queue {
	d := Queue{
		Name: q.name, Type: "classic", Durable: q.durable, AutoDelete: q.autoDelete, Exclusive: q.exclusive,
		Arguments: q.args.public(), Ready: q.depth(), Unacked: len(q.unacked), DeadLettering: q.dead.count(),
	}
	switch {
	case q.limits.quorum:
		d.Type = "quorum"
	case q.log != nil:
		d.Type = "stream"
	}
	for _, c := range q.consumers {
		d.Consumers = append(d.Consumers, Consumer{
			Tag: c.tag, Channel: int(c.channel.num), NoAck: c.noAck, Exclusive: c.exclusive,
			Active: !q.limits.singleActive || q.active == c, Prefetch: c.prefetch,
			Priority: int(c.priority), Unacked: c.unacked,
		})
	}
	return d
}

func (e *entry) describe(unacked bool) Message {
	p := &e.msg.props
	m := Message{
		Exchange: e.msg.exchange, RoutingKey: e.msg.keys[0], Unacked: unacked,
		Redelivered: e.redelivered, DeliveryCount: e.deliveries, Expires: e.expires,
		Publishing: amqp.Publishing{
			Headers: p.headers.public(), ContentType: p.contentType, ContentEncoding: p.contentEncoding,
			DeliveryMode: p.deliveryMode, Priority: p.priority, CorrelationId: p.correlationID,
			ReplyTo: p.replyTo, Expiration: p.expiration, MessageId: p.messageID,
			Type: p.kind, UserId: p.userID, AppId: p.appID, Body: e.msg.body,
		},
	}
	if p.has(flagTimestamp) {
		m.Timestamp, _ = value{'T', p.timestamp}.public().(time.Time)
	}
	return m
}
