package streams

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/harebus/harebus/internal/field"
	"github.com/harebus/harebus/internal/session"
	"github.com/harebus/harebus/internal/wire"
	"github.com/harebus/harebus/stream"
)

const (
	// silence is how long a stream is silent before it counts as one in which nothing is to be read, if its broker says so, too.
	silence = time.Second
	// slow is how long a broker may take to deliver what it says is there.
	slow = 30 * time.Second
	// glance is how many messages a look at the end takes at once.
	glance = 10_000
)

// newest returns the offset of the last message, or of one that is enough. It is not known when the stream is empty. The broker can only
// be asked for the last piece of the stream, which may have many messages. It writes all that it has, up to the prefetch, before it
// reads on what the client says: what has come when basic.cancel is answered was the end at that time.
func (r *Reader) newest(ctx context.Context, on *session.Session, enough int64) (last mark, err error) {
	for from := any("last"); ; from = last.offset {
		count := 0
		err := r.tail(ctx, on, from, func(offset int64) {
			last = mark{max(offset, last.offset), true}
			count++
		})
		if err != nil || count < glance || last.offset >= enough {
			return last, err
		}
	}
}

// tail reads the offsets that come at once. None come from an empty stream.
func (r *Reader) tail(ctx context.Context, on *session.Session, from any, seen func(offset int64)) error {
	ch, in, err := Open(ctx, on, r.Name, glance, from)
	if err != nil {
		return r.refused(err)
	}
	defer func() { _ = on.RPC(context.WithoutCancel(ctx), ch.Close) }() // what is lost with it is not needed
	first, err := r.first(ctx, on, ch, in)
	if err != nil || first == nil {
		return err
	}
	if err := on.RPC(ctx, func() error { return ch.Cancel(reading, false) }); err != nil {
		return err
	}
	for d, ok := *first, true; ok; d, ok = <-in {
		offset, err := Unpack(&d)
		if err != nil {
			return err
		}
		seen(offset)
	}
	if ch.IsClosed() { // then the client drops what it has not handed over
		return amqp.ErrClosed
	}
	return nil
}

// first waits for a delivery; nil if the stream is empty. RabbitMQ 3.10 says for some seconds that a new stream is.
func (r *Reader) first(ctx context.Context, on *session.Session, ch *amqp.Channel, in <-chan amqp.Delivery) (*amqp.Delivery, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, slow, fmt.Errorf("the stream %s has messages, and the broker has delivered none within %v", field.Quote(r.Name), slow))
	defer cancel()
	silent := time.NewTicker(silence)
	defer silent.Stop()
	for {
		select {
		case d, ok := <-in:
			if !ok {
				return nil, amqp.ErrClosed
			}
			return &d, nil
		case <-silent.C:
			var q amqp.Queue
			err := on.RPC(ctx, func() (err error) {
				q, err = ch.QueueDeclarePassive(r.Name, true, false, false, false, nil)
				return err
			})
			if err != nil || q.Messages == 0 {
				return nil, err
			}
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// look reads offsets until seen returns false or the stream is silent. Without seen it only tries whether it may read.
func (r *Reader) look(ctx context.Context, on *session.Session, from any, quiet time.Duration, seen func(offset int64) bool) error {
	ch, in, err := Open(ctx, on, r.Name, stream.Prefetch, from)
	if err != nil {
		return r.refused(err)
	}
	defer func() { _ = on.RPC(context.WithoutCancel(ctx), ch.Close) }() // what is lost with it is not needed
	if seen == nil {
		return nil
	}
	return offsets(ctx, in, quiet, seen)
}

// reading is the name of a consumer.
const reading = "reading"

// Open begins to read a stream, on a channel of its own.
func Open(ctx context.Context, on *session.Session, name string, prefetch int, from any) (*amqp.Channel, <-chan amqp.Delivery, error) {
	opened := make(chan *amqp.Channel, 1)
	err := on.RPC(ctx, func() error {
		ch, err := on.Channel()
		if err != nil {
			return err
		}
		opened <- ch
		return ch.Qos(prefetch, 0, false)
	})
	if err != nil {
		return nil, nil, err
	}
	ch := <-opened
	in, err := named(name).consume(ctx, on, ch, reading, from)
	return ch, in, err
}

// consume begins to read the stream.
func (r *Reader) consume(ctx context.Context, on *session.Session, ch *amqp.Channel, tag string, from any) (<-chan amqp.Delivery, error) {
	begun := make(chan (<-chan amqp.Delivery), 1)
	err := on.RPC(ctx, func() error {
		in, err := ch.Consume(r.Name, tag, false, false, false, false, amqp.Table{stream.Header: from})
		begun <- in
		return err
	})
	if err != nil {
		return nil, err
	}
	return <-begun, nil
}

// Newest is the offset of the last message of a stream; it is not known when the stream is empty.
func Newest(ctx context.Context, on *session.Session, name string) (offset int64, known bool, err error) {
	last, err := named(name).newest(ctx, on, math.MaxInt64)
	return last.offset, last.known, err
}

// FirstAt is the offset of the first piece of a stream that came at a time or later, if there is one. The broker does not say that there
// is none, so it is asked for the last piece as well, on the same channel. It serves the readers of a channel in the order in which they came: when the last
// piece comes, the one that was asked for before has come, too, or is not there.
func FirstAt(ctx context.Context, on *session.Session, name string, at time.Time) (offset int64, known bool, err error) {
	r := named(name)
	ch, in, err := Open(ctx, on, name, 1, at.Truncate(time.Second))
	if err != nil {
		return 0, false, r.refused(err)
	}
	defer func() { _ = on.RPC(context.WithoutCancel(ctx), ch.Close) }() // what is lost with it is not needed
	last, err := r.consume(ctx, on, ch, "end", "last")
	if err != nil {
		return 0, false, err
	}
	if end, err := r.first(ctx, on, ch, last); err != nil || end == nil {
		return 0, false, err
	}
	if err := on.RPC(ctx, func() error { return ch.Cancel(reading, false) }); err != nil {
		return 0, false, err
	}
	d, some := <-in
	if ch.IsClosed() { // then the client drops what it has not handed over
		return 0, false, amqp.ErrClosed
	}
	if !some {
		return 0, false, nil
	}
	offset, err = Unpack(&d)
	return offset, err == nil, err
}

// Keeps says whether missing offsets, from next on, are no gap: see keeps.
func Keeps(ctx context.Context, on *session.Session, name string, next int64) (yes bool, err error) {
	return named(name).keeps(ctx, on, next)
}

// keeps says whether a message before an offset is still there. Then no other one behind it was deleted, because retention begins at
// the oldest: the broker has used the offsets itself, for the places of clients of the stream protocol.
func (r *Reader) keeps(ctx context.Context, on *session.Session, next int64) (yes bool, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, 10*time.Second, errors.New("the broker does not say what the oldest message of the stream is"))
	defer cancel()
	err = r.look(ctx, on, "first", slow, func(oldest int64) bool { // there is one: silence says nothing
		yes = oldest < next
		return false
	})
	return yes, err
}

func named(name string) *Reader { return &Reader{Config: Config{Name: name}} }

// OffsetOf is the offset of a delivery, also when other headers are unreadable: that is no reason to stop at it for ever.
func OffsetOf(d *amqp.Delivery, unreadable *wire.UnreadableError) (int64, error) {
	headers := d.Headers
	if unreadable != nil {
		headers, _ = wire.RawTable(unreadable.Raw).Readable()
	}
	return stream.Offset(headers)
}

// Unpack decodes the properties of a delivery, as far as they can be read, and says its offset.
func Unpack(d *amqp.Delivery) (offset int64, err error) {
	var unreadable *wire.UnreadableError
	if err := wire.Unpack(d); err != nil && !errors.As(err, &unreadable) {
		return 0, err
	}
	return OffsetOf(d, unreadable)
}

// offsets reads those of deliveries.
func offsets(ctx context.Context, in <-chan amqp.Delivery, quiet time.Duration, seen func(offset int64) bool) error {
	silent := time.NewTimer(quiet)
	defer silent.Stop()
	for {
		select {
		case d, ok := <-in:
			if !ok {
				return amqp.ErrClosed
			}
			offset, err := Unpack(&d)
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
