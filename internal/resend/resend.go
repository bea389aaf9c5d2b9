// Package resend publishes copies of deliveries before they are acknowledged: to their own
// queue by way of the delay queues, to the error queue, or again as they came. Until a copy
// is confirmed its original must not be acknowledged. A failed message is not given back
// instead: the broker would redeliver it immediately, without a pause.
package resend

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/cenkalti/backoff/v4"
	amqp "github.com/rabbitmq/amqp091-go"
	"go.uber.org/zap"

	"github.com/harebus/harebus/dialect"
	"github.com/harebus/harebus/internal/consume"
	"github.com/harebus/harebus/internal/field"
	"github.com/harebus/harebus/internal/header"
	"github.com/harebus/harebus/internal/lanes"
	"github.com/harebus/harebus/internal/publish"
	"github.com/harebus/harebus/internal/session"
	"github.com/harebus/harebus/internal/wait"
	"github.com/harebus/harebus/order"
)

// Purpose is why a copy is sent.
type Purpose int8

// The purposes.
const (
	Retry    Purpose = iota + 1 // the message failed
	Postpone                    // it did not fail, and comes later
	Park                        // it goes to the error queue
)

// String is the purpose as a verb.
func (k Purpose) String() string { return [...]string{"", "retry", "postpone", "park"}[k] }

// Queue is a listener queue with its error queue, and what is known of both.
type Queue struct {
	Name, ErrorQueue string
	// Order is not nil if the queue is an ordered one.
	Order *lanes.Config
	// Exchange leads to both by their names, and what comes from Events is an event.
	Exchange, Events string
	Dialect          *header.Dialect
	BackOff          func() backoff.BackOff
	Publisher        func() (*publish.Publisher, error)
	// Restore declares the error queue.
	Restore func(context.Context, *session.Session) error
	// Final reports that no queue can ever store the message that err is about.
	Final func(err error) bool

	// Partitions are those of a divided queue.
	Partitions []string

	routing  routing
	parking  parking
	refusals refusals
	leases   leases
	// sending is the trouble with copies for the delay queues.
	sending    wait.Trouble
	complained atomic.Int64 // when it was last logged that a message cannot be sent on, in nanoseconds
}

// Troubles are why nothing can be parked, and why failed messages can be neither retried nor
// put off. A message that goes back to its queue for that comes again, and is tried again,
// within seconds.
func (q *Queue) Troubles() []error {
	const age = time.Minute
	since, err := q.sending.Lasts(age)
	if err != nil {
		err = fmt.Errorf("no failed message can be retried since %s, so they go back to their queue: %w", since.Format(time.RFC3339), err)
	}
	return []error{q.parking.trouble(), err, q.routing.trouble()}
}

// Case is a delivery that is to be stored somewhere else.
type Case struct {
	Queue *Queue
	On    *consume.Delivery
	// ID, SourceQueue and FirstFailed are those of the message as it came, and Failures is
	// how often it has failed before.
	ID, SourceQueue string
	FirstFailed     time.Time
	Failures        int
	// Dialect is the name of the one in which another bus has written the message; else empty.
	Dialect string
	// Notes are the headers that tools of that bus need of a parked message; nil stands for none.
	Notes func(dialect.Failure) amqp.Table
	// Fields name the message in a log.
	Fields func() []zap.Field
	// Ackable returns a context that ends when the delivery can no longer be acknowledged.
	Ackable func() context.Context
	// Begin is called before each copy is sent; end is called with the result.
	Begin func(ctx context.Context, purpose Purpose, out *publish.Message, cause error) (copying context.Context, end func(error))
	// Deadly says that a copy has ended the connection whenever it was sent. Copies that are
	// made after that have no custom headers.
	Deadly bool
}

// Later sends the message to its own queue again, after a pause. A postponement does not
// count as a failure. True means that the copy is confirmed.
func (c *Case) Later(purpose Purpose, after time.Duration, cause error) bool {
	due := time.Now().Add(after)
	if c.On.Ordered() {
		out := c.failedCopy(c.On.Order().Parking, cause)
		c.mark(out, purpose, due)
		return c.inPlace(purpose, out, cause, due, false)
	}
	out := c.failedCopy(c.Queue.Name, cause)
	out.Rough, out.Handled, out.Due = purpose == Retry, true, due
	c.mark(out, purpose, due)
	return c.send(purpose, out, cause)
}

// mark says in a copy when it is due, and whether it counts as a failure.
func (c *Case) mark(out *publish.Message, purpose Purpose, due time.Time) {
	names := &c.Queue.Dialect.Names
	out.Publishing.Headers[names.DeferredTime] = c.Queue.Dialect.Time(due)
	if purpose == Postpone {
		out.Publishing.Headers[names.ErrorRetries] = field.SmallestInt(c.Failures)
	} else {
		c.Queue.Dialect.NoteAttempt(out.Publishing.Headers, time.Now(), c.Failures == 0)
	}
}

// Until puts a message that came before its time into the delay queues.
func (c *Case) Until(due time.Time) bool {
	before := c.Deadly
	out := c.copyTo(c.Queue.Name)
	out.Due = due
	if c.send(Postpone, out, nil) {
		return true
	}
	return c.Deadly != before && c.Until(due) // without the headers that may have ended the connection
}

// send publishes a copy and tries again for some time.
func (c *Case) send(purpose Purpose, out *publish.Message, cause error) bool {
	const tries = 5
	d := c.On
	ctx, end := c.Begin(c.Ackable(), purpose, out, cause)
	publisher, err := c.Queue.Publisher()
	if err != nil {
		end(err)
		return false
	}
	c.stripRefused(out)
	pauses := wait.NewPauses(d.Log(), c.Queue.BackOff)
	for try := 1; ; try++ {
		err = publisher.Publish(ctx, out)
		if err == nil || !errors.Is(err, session.ErrRefused) && !c.Queue.Final(err) && d.Connected() && d.Context().Err() == nil {
			c.Queue.sending.Note(err) // else it is the message, or the delivery is lost
		}
		if err == nil || try == tries || c.Queue.Final(err) || ctx.Err() != nil || !d.Connected() {
			break
		}
		c.complain("cannot "+purpose.String()+" a message; trying again", err)
		if !wait.Sleep(d.Stopping(), wait.Next(pauses)) {
			break
		}
	}
	end(err)
	switch {
	case err == nil:
		c.Queue.refusals.forget(c.ID)
	case c.Queue.Final(err) && !c.Deadly:
		c.Deadly = true
		c.warnDeadly(err)
		return false
	case errors.Is(err, session.ErrRefused): // it is the message
		c.refused(err)
		c.RepublishWorn()
	default:
		c.complain("cannot "+purpose.String()+" a message; it goes back to its queue", err)
		// Not at once: the broker would deliver it again at once.
		wait.Sleep(d.Stopping(), wait.Next(pauses))
		c.RepublishWorn()
	}
	return err == nil
}

func (c *Case) warnDeadly(err error) {
	c.On.Log().Error("a copy of a message ended the connection whenever it was sent; parking one without its custom headers",
		append(c.Fields(), zap.Error(err))...)
}

// complain logs an error that many messages can have at the same time, at most once
// in a certain time.
func (c *Case) complain(text string, err error) {
	now := time.Now().UnixNano()
	last := c.Queue.complained.Load()
	if now-last < int64(quiet) || !c.Queue.complained.CompareAndSwap(last, now) {
		return
	}
	c.On.Log().Error(text, append(c.Fields(), zap.Error(err))...)
}

// RepublishWorn is for a message that goes back to its queue: it failed and can be neither retried nor
// parked now, for example because a declaration is refused, or it has waited in vain. If its
// delivery count is so high that this would use up the limit, it is published to the
// queue again instead.
func (c *Case) RepublishWorn() {
	if !c.On.WornOut() {
		return
	}
	ctx, cancel := context.WithTimeout(c.On.Context(), consume.Grace)
	defer cancel()
	if err := c.Queue.Republish(ctx, []*consume.Delivery{c.On})[0]; err != nil {
		c.On.Log().Warn("cannot publish a message again to reset its delivery count; giving it back", append(c.Fields(), zap.Error(err))...)
		return
	}
	c.On.Ack()
}

// Republish publishes deliveries to their queue again, as they came, and returns an error for
// each.
func (q *Queue) Republish(ctx context.Context, ds []*consume.Delivery) []error {
	errs := make([]error, len(ds))
	var outs []*publish.Message
	var places []int
	for i, d := range ds {
		p, err := AsItCame(d.Packed)
		if err != nil {
			errs[i] = err
			continue
		}
		outs, places = append(outs, &publish.Message{Exchange: q.Exchange, Key: q.Name, Mandatory: true, ViaDefault: true, Publishing: p}), append(places, i)
	}
	publisher, err := q.Publisher()
	if err != nil {
		for _, i := range places {
			errs[i] = err
		}
		return errs
	}
	for k, err := range publisher.PublishAll(ctx, outs) {
		errs[places[k]] = err
	}
	return errs
}

// Result is what has become of a message that is to be parked.
type Result int8

// The results.
const (
	Stuck  Result = iota // it goes back to its queue
	Parked               // it is in the error queue
	PutOff               // it waits in the delay queues and will be parked later
	Held                 // it holds its key, in the parking queue
)

// Park moves the message to the error queue. While that takes nothing (its node is down, it
// is full, or it is missing and cannot be declared), the copy waits in the delay queues,
// because a delivery that is held would keep others from being handled.
func (c *Case) Park(cause error) Result {
	if c.On.Ordered() && c.On.Order().GiveUp == order.HoldKey {
		return c.hold(cause)
	}
	out := c.failedCopy(c.Queue.ErrorQueue, cause)
	c.note(out, c.describe(out.Publishing.Headers, cause), cause)
	if c.On.Order() != nil {
		c.On.Order().Names.Strip(out.Publishing.Headers)
	}
	return c.bury(out, cause)
}

// ParkNow parks a message that waited in the delay queues because the error queue took none.
func (c *Case) ParkNow(cause error) Result {
	out := c.copyTo(c.Queue.ErrorQueue)
	delete(out.Publishing.Headers, c.Queue.Dialect.Names.Parking)
	return c.bury(out, cause)
}

func (c *Case) bury(out *publish.Message, cause error) Result {
	d := c.On
	if !c.Queue.parking.closed() {
		err := c.tryParking(out, cause)
		if err == nil {
			c.Queue.parking.open()
			c.Queue.refusals.forget(c.ID)
			return Parked
		}
		if d.Context().Err() != nil || !d.Connected() {
			return Stuck
		}
		if errors.Is(err, session.ErrRefused) { // it is the message, not the error queue
			c.refused(err)
			return Stuck
		}
		c.Queue.parking.close(err)
	}
	if c.On.Reads() {
		return c.stay(out, cause)
	}
	return c.putOff(out, cause)
}

// stay tries again until the error queue takes the copy. A stream has no delay queues: what is published to it would be read
// by everybody.
func (c *Case) stay(out *publish.Message, cause error) Result {
	if _, _, say := c.Queue.parking.putOff(); say {
		c.On.Log().Error("the error queue takes no messages; the stream is not read on until it does",
			append(c.Fields(), zap.Error(c.Queue.parking.trouble()), zap.NamedError("failure", cause))...)
	}
	if !wait.Sleep(c.On.Stopping(), quiet) || !c.On.Connected() {
		return Stuck
	}
	return c.bury(out, cause)
}

// putOff sends the copy to the delay queues, with the header Parking. It is parked
// when it comes back.
func (c *Case) putOff(out *publish.Message, cause error) Result {
	wait, count, say := c.Queue.parking.putOff()
	if say {
		c.On.Log().Error("the error queue takes no messages; they wait in a delay and will be parked later",
			append(c.Fields(), zap.Int("put_off", count), zap.Error(c.Queue.parking.trouble()), zap.NamedError("failure", cause))...)
	}
	out.Key, out.Single, out.ViaDefault = c.Queue.Name, false, true
	out.Due = time.Now().Add(wait)
	out.Publishing.Headers[c.Queue.Dialect.Names.Parking] = true
	out.Publishing.Headers[c.Queue.Dialect.Names.DeferredTime] = c.Queue.Dialect.Time(out.Due)
	before := c.Deadly
	sent := c.send(Postpone, out, cause)
	if !sent && c.Deadly != before {
		c.strip(out)
		sent = c.send(Postpone, out, cause)
	}
	if !sent {
		return Stuck
	}
	return PutOff
}

// tryParking publishes the copy, and once more if the error queue could be declared
// again.
func (c *Case) tryParking(out *publish.Message, cause error) (err error) {
	ctx, end := c.Begin(c.Ackable(), Park, out, cause)
	defer func() { end(err) }()
	publisher, err := c.Queue.Publisher()
	if err != nil {
		return err
	}
	c.stripRefused(out)
	err = publisher.Publish(ctx, out)
	if err != nil && c.Queue.Final(err) && !c.Deadly {
		c.strip(out)
		c.warnDeadly(err)
		err = publisher.Publish(ctx, out)
	}
	if err == nil || errors.Is(err, session.ErrRefused) || ctx.Err() != nil || !c.On.Connected() {
		return err
	}
	if restored := c.Queue.Restore(ctx, c.On.Session()); restored != nil {
		return errors.Join(err, restored)
	}
	return publisher.Publish(ctx, out)
}
