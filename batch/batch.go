// Package batch handles the messages of one type in batches: a handler gets up to Size of them at
// once, and returns a result for each.
//
//	err := batch.Handle(setup, func(ctx context.Context, rows []batch.Item[Row]) []error {
//		return insert(ctx, rows)
//	}, batch.Config{Size: 100, Wait: 50 * time.Millisecond})
//
// Each message of a batch is in a handler of its own, which waits for the batch. So everything
// that holds for a message holds here: its retry policy, its attempts, the error handler,
// middleware, observers, a stop and a pause. docs/batches.md says what is promised.
package batch

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"time"

	"github.com/harebus/harebus"
)

const (
	defaultWait = 50 * time.Millisecond
	longestWait = time.Minute
	largest     = 10_000
	mostAtOnce  = 1000
)

// Config says when a batch is full, and how many are handled at once.
type Config struct {
	// Size is the largest number of messages in a batch, at most 10,000. Default: as many as the
	// endpoint handles at once (Consume.Concurrency × Consume.Consumers; Consume.Concurrency, if the
	// queue has a single active consumer), divided by Parallel.
	Size int
	// Wait is how long the first message of a batch waits for others, at most a minute.
	// Default: 50 ms. A stop or a pause takes this long, too, if a batch waits; when Config.ShutdownTimeout
	// is less, the messages go back to their queue instead, uncounted.
	Wait time.Duration
	// Parallel is how many calls of the handler run at once, at most 1,000. Default: 1. While that
	// many run, a batch that is not full goes on taking messages.
	Parallel int
}

// Item is one message of a batch.
type Item[T any] struct {
	// Message is the decoded message.
	Message T
	// Bus sends on behalf of this message: what it sends is published when the result of this
	// message is nil, and has ids that are derived from the id of this message.
	Bus *harebus.Bus

	ctx context.Context
}

// Context is that of the handler of this message alone. It has what observers have put into it,
// and its [harebus.Incoming] is this message.
func (i Item[T]) Context() context.Context { return i.ctx }

// Incoming is the message with its headers and its id.
func (i Item[T]) Incoming() *harebus.Message { return harebus.Incoming(i.ctx) }

// HandlerFunc handles a batch, and returns a result for each message, in the order of the batch.
// A result decides about its message as the error of a [harebus.HandlerFunc] does: nil means
// done, and [harebus.NoRetry], [harebus.RetryAfter] and [harebus.Postpone] are for this message
// alone. Too few or too many results, a panic, and the end of the goroutine are a failure of all.
//
// ctx ends with the context of the message that has the shortest time limit. It has no values,
// because those would be of one message: see [Item.Context].
type HandlerFunc[T any] func(ctx context.Context, batch []Item[T]) []error

// Handle registers a handler for batches of the messages of one type, as [harebus.Handle] does for
// single ones, with the same options. A message that cannot be decoded is parked alone. One that has
// failed before, or that the broker has delivered three times (quorum queues count that), is handled
// in a batch of its own at once, so that a bad message never spoils the second attempt of others.
//
// A batch runs without Config.Handling.Transactor, because its transaction would be that of one
// message. An error says what is wrong with cfg; what is wrong with the registration is reported
// by Start.
func Handle[T any](on harebus.Registrar, fn HandlerFunc[T], cfg Config, opts ...harebus.HandlerOption) error {
	cfg, err := cfg.complete(on.Consumption(), on.SingleActive())
	if fn == nil {
		err = errors.Join(err, errors.New("the function is nil"))
	}
	if err != nil {
		return fmt.Errorf("batch: handle batches of %v: %w", reflect.TypeFor[T](), err)
	}
	g := &gatherer[T]{size: cfg.Size, wait: cfg.Wait, turns: make(chan struct{}, cfg.Parallel), fn: fn}
	harebus.Handle(on, g.handle, append([]harebus.HandlerOption{harebus.WithoutTransaction()}, opts...)...)
	return nil
}

// complete fills in the defaults and reports every fault. A message of a batch takes a place in
// the concurrency of its endpoint, so a batch for which there is no room would never be full.
// Of the consumers of a queue with a single active one, the others have no messages.
func (c Config) complete(of harebus.ConsumeConfig, single bool) (Config, error) {
	if single {
		of.Consumers = 1
	}
	room := of.Concurrency * of.Consumers
	if c.Wait == 0 {
		c.Wait = defaultWait
	}
	if c.Parallel == 0 {
		c.Parallel = 1
	}
	if c.Size == 0 && c.Parallel > 0 {
		c.Size = min(max(room/c.Parallel, 1), largest)
	}
	var faults []error
	fault := func(format string, args ...any) { faults = append(faults, fmt.Errorf(format, args...)) }
	if c.Size < 1 || c.Size > largest {
		fault("Size %d is not between 1 and %d", c.Size, largest)
	}
	if c.Parallel < 1 || c.Parallel > mostAtOnce {
		fault("Parallel %d is not between 1 and %d", c.Parallel, mostAtOnce)
	}
	if c.Wait < 0 || c.Wait > longestWait {
		fault("Wait %v is not between 0 and %v", c.Wait, longestWait)
	}
	if need := c.Size * c.Parallel; len(faults) == 0 && need > room {
		fault("Size %d × Parallel %d needs %d messages in hand, and the endpoint handles %d at once"+
			" (Consume.Concurrency %d × Consume.Consumers %d): raise Consume.Concurrency to %d, or lower Size",
			c.Size, c.Parallel, need, room, of.Concurrency, of.Consumers, (need+of.Consumers-1)/of.Consumers)
	}
	return c, errors.Join(faults...)
}
