package main

import (
	"context"
	"time"
)

// library is one contender. A function it lacks is nil.
type library struct {
	name string
	// publisher connects something that publishes, for many goroutines at once.
	publisher func(ctx context.Context, p *place) (publisher, error)
	// consume starts one consumer with the given prefetch that decodes each
	// message, calls seen and acknowledges.
	consume func(ctx context.Context, p *place, queue string, seen func(j *job)) (stopper, error)
	// transform starts one consumer that decodes each message, calls seen,
	// publishes another message to the queue to, waits for its confirm and
	// acknowledges.
	transform func(ctx context.Context, p *place, from, to string, seen func(j *job)) (stopper, error)
	// retry is consume, but every message fails once and comes again after a
	// short delay; seen is called the second time.
	retry func(ctx context.Context, p *place, queue string, after time.Duration, seen func(j *job)) (stopper, error)
	// requester starts a service that answers what comes to a queue, and connects something
	// that asks: its publish returns when the reply is decoded.
	requester func(ctx context.Context, p *place, queue string) (publisher, error)
	// keeper connects something that changes a database and sends messages about it. With relay it also publishes what
	// was stored, by this keeper or by an earlier one.
	keeper func(ctx context.Context, p *place, relay bool) (keeper, error)
	// way is how it consumes in the rows that compare ways to consume; nil for those that take no part.
	way *way
	// handle is transform, with a change of the database for each message.
	handle func(ctx context.Context, p *place, from, to string) (stopper, error)
}

// publisher publishes persistent, mandatory messages and waits for confirms.
type publisher interface {
	// publish returns when the message is confirmed.
	publish(ctx context.Context, queue string, j job) error
	// batch publishes jobs in order and returns when all are confirmed.
	batch(ctx context.Context, queue string, jobs []job) error
	close() error
}

// keeper changes a database and sends messages, for many goroutines at once.
type keeper interface {
	// transact changes the database in a transaction, and sends n messages to the queue. It returns when the
	// transaction is committed and, if nothing else publishes the messages, they are confirmed.
	transact(ctx context.Context, queue string, n int, text string) error
	close() error
}

// stopper ends what was started and waits for it.
type stopper func() error

const (
	// prefetch is everybody's.
	prefetch = 100
	// workers is the concurrency of those that have one: harebus's default.
	workers = 10
)

// libraries are all contenders, ours first.
func libraries() []*library {
	return append([]*library{
		harebusLibrary(), harebusSealed(), rawLibrary(), rawCoalesced(), rawMultiple(),
		watermillLibrary("watermill", 1), watermillLibrary("watermill-x10", workers), wagslaneLibrary(),
		bareLibrary(), commitPublishLibrary(), joinLibrary(),
	}, ways()...)
}
