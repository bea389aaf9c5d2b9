package resend

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/harebus/harebus/internal/header"
	"github.com/harebus/harebus/internal/messageid"
	"github.com/harebus/harebus/internal/publish"
	"github.com/harebus/harebus/topology"
)

var (
	// errEnded is in the copy of a message that is taken up again.
	errEnded = errors.New("the lease of the handler ended: its process has ended, stood still, or could not reach the broker")
	// ErrHeld says that this process handles the message already, under a lease that lasts.
	ErrHeld = errors.New("another copy of the message is being handled in this process")
)

// Lease is a retry that is sent before the attempt, instead of after it: a deferred copy, which comes when
// the attempt should have ended or been extended. Whoever ends the attempt cancels the copy. So
// the message is in the broker's hands although its delivery has been acknowledged, and whoever is there
// when the lease ends handles it, as the next attempt. After the last attempt the copy is to be parked.
type Lease struct {
	of     *Case
	id     identity
	length time.Duration
	last   bool
	stop   context.CancelFunc // it is not extended any more
	cut    context.CancelFunc // nor is an extension under way finished
	over   sync.WaitGroup

	extending chan struct{} // has an element while a copy is sent and the one before it is cancelled
	decided   bool          // something has become of the message, and no copy may be sent; extending guards it

	mu     sync.Mutex // guards ticket
	ticket topology.Ticket
}

// leases are those of a queue, by message.
type leases struct {
	mu   sync.Mutex // guards what follows
	held map[identity]*Lease
}

// identity tells a message and its copies from other messages. An id does not: other programs give the same one to many.
type identity [sha256.Size]byte

// identity has what a copy of the message keeps.
func (c *Case) identity() (i identity) {
	in, h := &c.On.Raw, sha256.New()
	fmt.Fprintf(h, "%q %q %q %q %q ", c.ID, in.Type, in.CorrelationId, in.ReplyTo, in.Body)
	names, headers := &c.Queue.Dialect.Names, c.originalHeaders()
	for _, key := range slices.Sorted(maps.Keys(headers)) {
		own := strings.HasPrefix(key, c.Queue.Dialect.Prefix)
		if !header.OfBroker(key) && (!own || key == names.MessageType || key == names.CorrelationID || key == names.ReplyTo) {
			fmt.Fprintf(h, "%q %#v ", key, headers[key])
		}
	}
	h.Sum(i[:0])
	return i
}

// take notes a lease, unless the message has one already, which it returns.
func (l *leases) take(id identity, lease *Lease) (other *Lease) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if other := l.held[id]; other != nil {
		return other
	}
	if l.held == nil {
		l.held = map[identity]*Lease{}
	}
	l.held[id] = lease
	return nil
}

func (l *leases) leave(id identity, lease *Lease) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.held[id] == lease {
		delete(l.held, id)
	}
}

// Lend sends the first copy and extends the lease from then on. last says that there is no attempt after
// this one. After an error there is no lease.
func (c *Case) Lend(ctx context.Context, length time.Duration, last bool) (*Lease, error) {
	l := &Lease{of: c, id: c.identity(), length: length, last: last, extending: make(chan struct{}, 1)}
	if other := c.Queue.leases.take(l.id, l); other != nil {
		// This may be the copy of its lease, which could not be extended in time.
		if err := other.outlast(ctx); err != nil {
			return nil, fmt.Errorf("extend the lease of the message: %w", err)
		}
		return nil, ErrHeld
	}
	if err := l.extend(ctx); err != nil {
		c.Queue.leases.leave(l.id, l)
		return nil, fmt.Errorf("lend the message to its handler: %w", err)
	}
	working, cut := context.WithCancel(context.WithoutCancel(ctx))
	waiting, stop := context.WithCancel(working)
	l.stop, l.cut = stop, cut
	l.over.Go(func() { l.keep(waiting, working) })
	return l, nil
}

// outlast extends the lease if it does not last.
func (l *Lease) outlast(ctx context.Context) error {
	l.mu.Lock()
	lasts := time.Until(l.ticket.Due) > publish.Margin
	l.mu.Unlock()
	if lasts {
		return nil
	}
	return l.extend(ctx)
}

// extend sends a further copy, and cancels the one before it.
func (l *Lease) extend(ctx context.Context) error {
	select {
	case l.extending <- struct{}{}:
		defer func() { <-l.extending }()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	if l.decided {
		return nil
	}
	publisher, err := l.of.Queue.Publisher()
	if err != nil {
		return err
	}
	out := l.copy()
	if err := publisher.Publish(ctx, out); err != nil {
		return err
	}
	l.mu.Lock()
	old := l.ticket
	l.ticket = topology.Ticket{ID: out.Publishing.MessageId, Due: out.Due}
	l.mu.Unlock()
	l.cancel(ctx, publisher, old)
	return nil
}

// copy is the message as its next attempt. Its property message_id is that of the lease, because
// what is cancelled is cancelled by its id; the id of the message is in its header, which counts.
func (l *Lease) copy() *publish.Message {
	c := l.of
	names, now := &c.Queue.Dialect.Names, time.Now()
	out := c.failedCopy(c.Queue.Name, errEnded)
	headers := out.Publishing.Headers
	if out.Due = now.Add(l.length); l.last {
		c.describe(headers, errEnded)
		headers[names.Parking] = true
	} else {
		c.Queue.Dialect.NoteAttempt(headers, now, c.Failures == 0)
	}
	headers[names.DeferredTime] = c.Queue.Dialect.Time(out.Due)
	out.Publishing.MessageId, out.Ticket = messageid.New(), true
	return out
}

// cancel cancels a copy. One that is too late is handled as the next attempt.
func (l *Lease) cancel(ctx context.Context, publisher *publish.Publisher, t topology.Ticket) {
	if t.ID == "" {
		return
	}
	if err := publisher.Publish(ctx, publish.Cancellation(0, t)); err != nil {
		l.of.On.Log().Warn("cannot cancel a lease of a handler; its message may be handled again", append(l.of.Fields(), zap.Error(err))...)
	}
}

// keep extends the lease until it ends. While that fails, it is tried again three times in each length.
func (l *Lease) keep(waiting, working context.Context) {
	every := time.NewTicker(l.length / 3)
	defer every.Stop()
	for {
		select {
		case <-waiting.Done():
			return
		case <-every.C:
		}
		trying, end := context.WithTimeout(working, l.length/3)
		if err := l.extend(trying); err != nil && waiting.Err() == nil {
			l.of.On.Log().Warn("cannot extend the lease of a handler; when it ends, another instance may begin with the message",
				append(l.of.Fields(), zap.Error(err))...)
		}
		end()
	}
}

// End ends the lease. If something has become of the message, the copy is cancelled; otherwise it comes
// when it is due.
func (l *Lease) End(ctx context.Context, decided bool) {
	const moment = time.Second // so that an extension under way does not leave two copies
	l.stop()
	if !decided {
		defer time.AfterFunc(moment, l.cut).Stop()
	}
	l.over.Wait()
	l.cut()
	defer l.of.Queue.leases.leave(l.id, l)
	if !decided {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), l.length/3)
	defer cancel()
	l.extending <- struct{}{} // a copy that has come here may extend it, for a bounded time
	defer func() { <-l.extending }()
	l.decided = true
	if publisher, err := l.of.Queue.Publisher(); err == nil { // else the setup has stopped
		l.cancel(ctx, publisher, l.ticket)
	}
}
