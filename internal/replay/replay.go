// Package replay publishes a part of a stream to a queue again.
package replay

import (
	"context"
	"errors"
	"fmt"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/harebus/harebus/internal/access"
	"github.com/harebus/harebus/internal/header"
	"github.com/harebus/harebus/internal/messageid"
	"github.com/harebus/harebus/internal/queue"
	"github.com/harebus/harebus/internal/resend"
	"github.com/harebus/harebus/internal/session"
	"github.com/harebus/harebus/internal/streams"
	"github.com/harebus/harebus/stream"
)

// Options say what is replayed, and where to.
type Options struct {
	Broker access.Broker
	// Stream is read, and Queue gets what matches one of Topics; none stand for all.
	Stream, Queue string
	Topics        []string
	// From is where reading begins; Until, if not zero, is a time: nothing that came at it or later is replayed.
	From  stream.From
	Until time.Time
	// Run is a part of the ids: the same run of the same messages has the same ids. KeepIDs leaves ids as they are.
	Run     string
	KeepIDs bool
	// DryRun only counts.
	DryRun bool
	// HeaderPrefix starts the names of the standard headers.
	HeaderPrefix string
	// Timeout is how long the broker may take to be there, or to deliver something.
	Timeout time.Duration
}

// Report is what was done.
type Report struct {
	Replayed, Passed int
	// Next is the offset to go on from; everything before it is done. It is -1 when nothing was read.
	Next int64
	// Past is the offset behind what was in the way and cannot be replayed, if everything else before that is done; otherwise it is 0.
	Past int64
	// Done says that everything that was there at the beginning is done.
	Done bool
}

const (
	// batch is how many messages are published before their confirms are awaited, and ahead how many are fetched.
	batch, ahead = 1000, 4000
	// pause is how long a batch waits for more.
	pause = 20 * time.Millisecond
)

// run is one replay.
type run struct {
	Options

	conn   *queue.Conn
	names  header.Names
	report Report
	last   int64 // the offset to end with
	exact  int64 // the offset to begin with; -1 for none
}

// Run replays. What was there when it began is its end. When ctx ends, it finishes the messages in hand; the report says where to go on,
// also with an error.
func Run(ctx context.Context, o Options) (Report, error) {
	r := &run{Options: o, names: header.NamesOf(o.HeaderPrefix), report: Report{Next: -1}, exact: -1}
	if n, ok := o.From.Offset(); ok {
		r.exact, r.report.Next = n, n
	}
	var err error
	r.conn, err = queue.Connect(ctx, queue.Options{Broker: o.Broker, Name: "replay", Queue: o.Queue, Window: batch, Timeout: o.Timeout})
	if err != nil {
		return r.report, err
	}
	err = r.all(ctx)
	if closed := r.conn.Close(); err == nil && !r.report.Done {
		err = closed
	}
	return r.report, err
}

// all finds the end and reads up to it.
func (r *run) all(ctx context.Context) error {
	on := r.conn.Session()
	newest, known, err := streams.Newest(ctx, on, r.Stream)
	if err != nil {
		return err
	}
	r.last = newest
	if at, is := r.From.Argument().(time.Time); known && is { // else what does not come would be awaited
		if _, known, err = streams.FirstAt(ctx, on, r.Stream, at); err != nil {
			return err
		}
	}
	if known && !r.Until.IsZero() {
		first, some, err := streams.FirstAt(ctx, on, r.Stream, r.Until)
		if err != nil {
			return err
		}
		if some {
			r.last = min(r.last, first-1)
		}
	}
	switch {
	case r.exact > newest+1 || r.exact > 0 && !known:
		return fmt.Errorf("the stream %q ends at offset %d, before %d", r.Stream, newest, r.exact)
	case !known || r.last < max(r.exact, 0):
		r.report.Done = true
		return nil
	}
	return r.read(ctx, on)
}

// read reads batches until the end.
func (r *run) read(ctx context.Context, on *session.Session) error {
	ch, in, err := streams.Open(ctx, on, r.Stream, ahead, r.From.Argument())
	if err != nil {
		return err
	}
	for !r.report.Done {
		deliveries, err := r.fetch(ctx, on, in)
		if err == nil && len(deliveries) > 0 {
			err = r.handle(ctx, on, deliveries)
		}
		if err != nil {
			return err
		}
		if n := len(deliveries); n > 0 && !r.report.Done {
			if err := ch.Ack(deliveries[n-1].DeliveryTag, true); err != nil {
				return err
			}
		}
	}
	return nil
}

// fetch takes a batch.
func (r *run) fetch(ctx context.Context, on *session.Session, in <-chan amqp.Delivery) (ds []amqp.Delivery, err error) {
	patience := time.NewTimer(r.Timeout)
	defer patience.Stop()
	for len(ds) < batch {
		select {
		case d, ok := <-in:
			if !ok {
				return nil, fmt.Errorf("reading the stream %q has ended: %w", r.Stream, on.Cause())
			}
			if ds = append(ds, d); len(ds) == 1 {
				patience.Reset(pause)
			}
		case <-patience.C:
			if len(ds) == 0 {
				return nil, fmt.Errorf("the stream %q has given nothing for %v, and offset %d is not reached", r.Stream, r.Timeout, r.last)
			}
			return ds, nil
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
	return ds, nil
}

// handle publishes what is to be replayed of a batch, and notes what is done.
func (r *run) handle(ctx context.Context, on *session.Session, ds []amqp.Delivery) error {
	var out []session.Publishing
	var offsets []int64
	next, passed, done := r.report.Next, 0, false
	for _, d := range ds {
		packed := d.Body
		offset, err := streams.Unpack(&d)
		if err != nil {
			return fmt.Errorf("the queue %q is no stream: %w", r.Stream, err)
		}
		if offset < r.exact { // of the piece in which it lies
			continue
		}
		if past, err := r.follows(ctx, on, next, offset); err != nil {
			return errors.Join(r.stop(out, offsets, next, passed, past), err)
		}
		switch {
		case offset > r.last:
			done = true
		case !stream.Wants(r.Topics, d.RoutingKey):
			passed++
		default:
			p, err := r.copy(packed, offset)
			if err != nil {
				return errors.Join(r.stop(out, offsets, offset, passed, offset+1), err)
			}
			out, offsets = append(out, p), append(offsets, offset)
		}
		if done {
			break
		}
		if next = offset + 1; offset == r.last {
			done = true
			break
		}
	}
	return r.note(out, offsets, next, passed, done)
}

// stop publishes the copies of what is before something that cannot be replayed. Only if all of them are stored, the report says how to go on behind
// that.
func (r *run) stop(out []session.Publishing, offsets []int64, next int64, passed int, past int64) error {
	err := r.note(out, offsets, next, passed, false)
	if err == nil {
		r.report.Past = past
	}
	return err
}

// follows fails if messages are gone that were to be replayed, and returns the offset behind them: the broker goes on there without a word. One offset
// is left out where a segment of the stream ends.
func (r *run) follows(ctx context.Context, on *session.Session, next, offset int64) (past int64, err error) {
	if next < 0 || offset-next <= 1 {
		return 0, nil
	}
	if nothing, err := streams.Keeps(ctx, on, r.Stream, next); nothing || err != nil {
		return 0, err
	}
	return offset, fmt.Errorf("the offsets %d to %d of the stream %q were deleted before they were replayed", next, offset-1, r.Stream)
}

// note publishes copies, and says what is done then.
func (r *run) note(out []session.Publishing, offsets []int64, next int64, passed int, done bool) error {
	if err := r.store(out, offsets); err != nil {
		return err
	}
	r.report.Next, r.report.Passed, r.report.Done = next, r.report.Passed+passed, done
	return nil
}

// store publishes copies, and counts them. After an error the first one that is not confirmed is the next.
func (r *run) store(out []session.Publishing, offsets []int64) error {
	if r.DryRun || len(out) == 0 {
		r.report.Replayed += len(out)
		return nil
	}
	for i, err := range r.conn.Store(out) {
		if err != nil {
			r.report.Next = offsets[i]
			return fmt.Errorf("offset %d: %w", offsets[i], err)
		}
		r.report.Replayed++
	}
	return nil
}

// copy makes the message that is published.
func (r *run) copy(packed []byte, offset int64) (session.Publishing, error) {
	m, err := resend.AsItCame(packed)
	if err != nil {
		return session.Publishing{}, fmt.Errorf("the message at offset %d has headers that cannot be read, so it is not replayed: %w", offset, err)
	}
	r.mark(&m, offset)
	return session.Publishing{Key: r.Queue, Mandatory: true, Message: m}, nil
}

// mark says in the headers that the message is replayed, and gives it an id of its own: an inbox, or a log of handled ids, would swallow the
// old one.
func (r *run) mark(m *amqp.Publishing, offset int64) {
	if m.Headers == nil {
		m.Headers = amqp.Table{}
	}
	delete(m.Headers, stream.Header)
	m.Expiration, m.DeliveryMode = "", amqp.Persistent
	m.Headers[r.names.Replayed], m.Headers[r.names.StreamOffset] = r.Run, offset
	id, _ := m.Headers[r.names.MessageID].(string)
	if id == "" {
		id = m.MessageId
	}
	if r.KeepIDs {
		return
	}
	if id == "" {
		id = fmt.Sprintf("%s@%d", r.Stream, offset)
	}
	m.Headers[r.names.OriginalMessageID] = id
	m.MessageId = messageid.Derive(id, r.Run)
	m.Headers[r.names.MessageID] = m.MessageId
}
