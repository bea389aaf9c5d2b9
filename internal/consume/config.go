// Package consume keeps the consumers of one queue: it begins a basic.consume on one
// session after the other, hands deliveries to workers, and gives back what no worker
// has begun. What is done with a delivery is the Task of its user.
package consume

import (
	"context"
	"errors"
	"time"

	"github.com/cenkalti/backoff/v4"
	amqp "github.com/rabbitmq/amqp091-go"
	"go.uber.org/zap"

	"github.com/harebus/harebus/internal/lanes"
	"github.com/harebus/harebus/internal/session"
	"github.com/harebus/harebus/internal/streams"
	"github.com/harebus/harebus/internal/wait"
)

// Config is what the consumers of a queue need. No field is optional, unless it says so.
type Config struct {
	// Queue is consumed from, with Arguments of basic.consume (may be nil), as its only
	// consumer if Exclusive.
	Queue     string
	Arguments amqp.Table
	Exclusive bool
	// AutoDelete says that the queue goes with its last consumer.
	AutoDelete bool
	// Queues is from how many queues the session consumes, this one included.
	Queues int

	// Consumers is how many there are, each on its own channel. Each has Workers, and
	// holds at most Prefetch deliveries.
	Consumers, Workers, Prefetch int
	// OneByOne says that the broker keeps the order of the queue for a consumer that
	// handles one message at a time: the queue is a quorum queue. Single says that it is a
	// single active consumer, whose order is kept whatever the number of its workers.
	OneByOne, Single bool
	// DeliveryLimit is the number of deliveries after which the broker moves a message away.
	DeliveryLimit int

	Link    *session.Link
	BackOff func() backoff.BackOff
	Log     *zap.Logger
	Waits   wait.Teller
	// Stopped is the error of what a stop has ended.
	Stopped error

	// Order is that of an ordered queue, else nil. Note then sends a note to a queue, and Answer an
	// answer to an operator.
	Order  *lanes.Config
	Note   func(ctx context.Context, to string, note amqp.Table) error
	Answer func(ctx context.Context, to, correlationID string, body []byte) error

	// Shares are the partitions of a divided queue: nil for a queue that is none. Members is then, for the queue that is divided, the queue
	// in which the instances are counted, and else empty.
	Shares  *Shares
	Members string

	// Stream reads the queue as a stream; nil for one that is none.
	Stream *streams.Reader

	// Declare is called before each attempt to consume. First says that the consumer has not
	// consumed yet; since is when it last stopped.
	Declare func(ctx context.Context, on *session.Session, since time.Time, first bool) error
	// Doubt is called when the queue may have been deleted, and Undeclared is why it could
	// not be declared again; nil when it could.
	Doubt      func()
	Undeclared func() error
	// Republish publishes deliveries to the queue again and returns an error for each.
	Republish func(ctx context.Context, ds []*Delivery) []error
	// Consuming, if any, is called when a consumer has begun to consume on a session, and
	// end when it no longer does, with the reason; nil if it was asked to stop.
	Consuming func(on *session.Session) (end func(error))
	// Task makes the work for a delivery, and Unread that for one of an ordered queue whose headers cannot be read.
	Task, Unread func() Task
}

func (c *Config) consuming(on *session.Session) (end func(error)) {
	if c.Consuming == nil {
		return func(error) {}
	}
	return c.Consuming(on)
}

// inOrder says whether the order of the queue is promised when each consumer has so many
// workers. Then the prefetch must not change while it consumes, and a stop must not cancel
// the consumer, because its deliveries could come back behind later ones. Closing the
// channel gives all of them back in order.
func (c *Config) inOrder(workers int) bool {
	return c.Single || c.Stream != nil || c.OneByOne && workers == 1 && c.Consumers == 1
}

// Grace is how long a stop waits for handlers after it has cancelled their contexts.
const Grace = 2 * time.Second

// errChanging is why a consumer that keeps the order of its queue has no feed.
var errChanging = errors.New("pausing, or changing how many messages are handled at once; a handler still runs")
