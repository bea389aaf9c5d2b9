package harebus

import (
	"maps"
	"time"

	"github.com/harebus/harebus/dialect"
	"github.com/harebus/harebus/internal/wirename"
)

// SendOption changes one call of Send, Publish, Defer or Reply. The functions of this package make them.
type SendOption interface{ forSending(o *sendOptions) }

type sendOption func(*sendOptions)

func (f sendOption) forSending(o *sendOptions) { f(o) }

type sendOptions struct {
	headers       map[string]any
	messageID     string
	messageType   string
	typed         bool // WithType was given
	correlationID string
	contentType   string
	replyTo       string
	appID         string
	exchange      string
	priority      uint8
	key           string
	keyed         bool // WithKey was given
	expiration    time.Duration
	optional      bool
	now           bool
	compression   Compression
	compressing   bool      // WithCompression was given
	replyBy       time.Time // until when a request waits
	ticket        *Ticket   // to be filled in
	fault         *failure  // of a reply that says that a request was given up
	as            dialect.Dialect
	spoken        bool     // As was given
	accepts       []string // the wire names of the answers to a request
	observed      *operation
}

// givesUp says whether the message tells that a request was given up.
func (o *sendOptions) givesUp() bool { return o.fault != nil }

func newSendOptions(opts []SendOption) sendOptions {
	if len(opts) == 0 {
		return sendOptions{} // does not escape, as o below does
	}
	var o sendOptions
	for _, opt := range opts {
		if opt != nil {
			opt.forSending(&o)
		}
	}
	return o
}

// WithHeaders adds headers to the message; the map is copied. Values are what AMQP can carry: bool, integers, floats,
// string, bytes (also [16]byte and types such as uuid.UUID), the text of an [encoding.TextMarshaler], [time.Time], and
// slices and maps of these. A time with a fraction of a second is sent as text, because AMQP's timestamps have none.
// The standard headers have options of their own. They are refused here, as are CC, BCC and the broker's own x-
// headers.
func WithHeaders(headers map[string]any) SendOption {
	return sendOption(func(o *sendOptions) {
		merged := make(map[string]any, len(o.headers)+len(headers))
		maps.Copy(merged, o.headers)
		maps.Copy(merged, headers)
		o.headers = merged
	})
}

// WithHeader adds one header, as [WithHeaders] does.
func WithHeader(key string, value any) SendOption {
	return WithHeaders(map[string]any{key: value})
}

// WithMessageID sets the id: any text of up to 255 bytes. Without it the message gets a new id, or, in a handler, one
// derived from the incoming message.
func WithMessageID(id string) SendOption {
	return sendOption(func(o *sendOptions) { o.messageID = id })
}

// TypeOption is the option [WithType], for a call as for a handler.
type TypeOption struct{ name string }

// WithType sets the wire name of the type of a message: of one that is sent, or of those that a typed handler handles.
// It stands for the one that the MessageType method of the Go type gives. With [NoType] a message is sent without a
// type, for receivers that do not look at types, or a handler gets those that have none.
func WithType(name string) TypeOption { return TypeOption{name} }

func (t TypeOption) forSending(o *sendOptions) { o.messageType, o.typed = t.name, true }
func (t TypeOption) forHandling(h *handler)    { h.messageType, h.named = t.name, true }

// typeOf returns the wire name to send value under.
func (o *sendOptions) typeOf(value any) (string, error) {
	if err := wirename.CheckNil(value); err != nil {
		return NoType, err
	}
	if o.typed {
		return o.messageType, nil
	}
	return wirename.Of(value)
}

// WithCorrelationID sets the correlation id. Without it a handler's messages inherit the incoming one and others get a
// new one.
func WithCorrelationID(id string) SendOption {
	return sendOption(func(o *sendOptions) { o.correlationID = id })
}

// WithContentType chooses the codec by its content type.
func WithContentType(contentType string) SendOption {
	return sendOption(func(o *sendOptions) { o.contentType = contentType })
}

// WithReplyTo names the queue that replies go to, instead of the listener queue.
func WithReplyTo(queue string) SendOption {
	return sendOption(func(o *sendOptions) { o.replyTo = queue })
}

// WithAppID sets the app_id property.
func WithAppID(id string) SendOption {
	return sendOption(func(o *sendOptions) { o.appID = id })
}

// WithExchange publishes to another exchange than the setup's direct or topic exchange. It must exist. The bus checks
// that once for each connection, and refuses a message for a missing one. With fanout and headers exchanges, which
// ignore the routing key, the queue or topic of the call may be empty. The empty name is that of the default exchange,
// which Send uses by itself if necessary.
func WithExchange(name string) SendOption {
	return sendOption(func(o *sendOptions) { o.exchange = name })
}

// As writes the message as another bus does: see package dialect. As(nil) writes it as harebus does, also to one of
// Config.Publish.Peers and in a reply to a message of another bus.
func As(d dialect.Dialect) SendOption {
	return sendOption(func(o *sendOptions) { o.as, o.spoken = d, true })
}

// WithPriority sets the priority. Classic queues that are declared with x-max-priority heed it, and quorum queues since
// RabbitMQ 4.0: there above 4 or not, and since 4.3 each step, where a message without a priority counts as one of 4.
func WithPriority(priority uint8) SendOption {
	return sendOption(func(o *sendOptions) { o.priority = priority })
}

// WithKey sets the key of a message to a queue with Consume.Order: those with the same key are handled one after the
// other. A key has 1 to 255 bytes, and the message no priority.
func WithKey(key string) SendOption {
	return sendOption(func(o *sendOptions) { o.key, o.keyed = key, true })
}

// WithExpiration lets the broker drop the message (or dead-letter it, where its queue does that) when it has waited in
// a queue for d, in whole milliseconds. A dropped message is lost without an error. Defer refuses this option.
func WithExpiration(d time.Duration) SendOption {
	return sendOption(func(o *sendOptions) { o.expiration = d })
}

// WithTicket has Defer and DeferUntil fill in the ticket of the message, for [Bus.Cancel] and [Bus.Reschedule]. Other
// calls ignore it. The ticket names the message by its id: do not give the id of a cancelled message to another one
// with [WithMessageID]. A message with a ticket goes through the delay queues also when it is due: see [Bus.Cancel].
func WithTicket(ticket *Ticket) SendOption {
	return sendOption(func(o *sendOptions) { o.ticket = ticket })
}

// NonMandatory lets the broker drop the message if no queue is bound for it. Use it for events to which perhaps nobody
// has subscribed yet; any other message would be lost without an error. If there is a queue, it gets the message as
// without the option. An exchange that does not exist, and a deferral to a queue that does not exist, are still errors.
func NonMandatory() SendOption {
	return sendOption(func(o *sendOptions) { o.optional = true })
}

// Immediately sends the message at once, as [Setup.Bus] does outside handlers. The message does not wait for the others
// of the handler or transaction, and it stays sent when they are discarded. Correlation id and message id are the same
// as without the option, so receivers can recognise the copies of several attempts.
func Immediately() SendOption {
	return sendOption(func(o *sendOptions) { o.now = true })
}
