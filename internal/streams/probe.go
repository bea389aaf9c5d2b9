package streams

import (
	"context"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/harebus/harebus/internal/session"
	"github.com/harebus/harebus/internal/wire"
	"github.com/harebus/harebus/stream"
)

// silence is how long a stream is silent before a look at its end counts as complete.
const silence = 500 * time.Millisecond

// newest returns the offset of the last message. The broker can only be asked for the last piece of the stream, which
// may have many messages, so this reads until enough was seen, or until nothing comes any more. It is not known when the
// stream is empty.
func (r *Reader) newest(ctx context.Context, on *session.Session, enough int64, quiet time.Duration) (last mark, err error) {
	err = r.look(ctx, on, "last", quiet, func(offset int64) bool {
		last = mark{offset, true}
		return offset < enough
	})
	return last, err
}

// look reads offsets until seen returns false or the stream is silent. Without seen it only tries whether it may read.
func (r *Reader) look(ctx context.Context, on *session.Session, from string, quiet time.Duration, seen func(offset int64) bool) error {
	opened := make(chan *amqp.Channel, 1)
	if err := on.RPC(ctx, func() error {
		ch, err := on.Channel()
		opened <- ch
		return err
	}); err != nil {
		return err
	}
	ch := <-opened
	defer func() { _ = on.RPC(context.WithoutCancel(ctx), ch.Close) }() // what is lost with it is not needed
	found := make(chan (<-chan amqp.Delivery), 1)
	if err := on.RPC(ctx, func() error {
		if err := ch.Qos(stream.Prefetch, 0, false); err != nil {
			return err
		}
		in, err := ch.Consume(r.Name, "", false, false, false, false, amqp.Table{stream.Header: from})
		found <- in
		return err
	}); err != nil {
		return r.refused(err)
	}
	if seen == nil {
		return nil
	}
	return offsets(ctx, <-found, quiet, seen)
}

// offsets reads those of deliveries.
func offsets(ctx context.Context, in <-chan amqp.Delivery, quiet time.Duration, seen func(offset int64) bool) error {
	silent := time.NewTimer(2 * quiet) // before the first one
	defer silent.Stop()
	for {
		select {
		case d, ok := <-in:
			if !ok {
				return amqp.ErrClosed
			}
			_ = wire.Unpack(&d) // other headers may be unreadable
			offset, err := stream.Offset(d.Headers)
			if err != nil {
				return err
			}
			if !seen(offset) {
				return nil
			}
			if err := d.Ack(false); err != nil {
				return err
			}
			silent.Reset(quiet)
		case <-silent.C:
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}
