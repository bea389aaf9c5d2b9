package harebus

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/harebus/harebus/internal/consume"
	"github.com/harebus/harebus/internal/field"
	"github.com/harebus/harebus/internal/foreign"
	"github.com/harebus/harebus/internal/header"
	"github.com/harebus/harebus/internal/peer"
	"github.com/harebus/harebus/internal/publish"
	"github.com/harebus/harebus/internal/resend"
	"github.com/harebus/harebus/internal/tally"
	"github.com/harebus/harebus/topology"
)

// delivery is a received message on its way to its handler: it ends by Ack, when its message is handled or stored
// somewhere else, or goes back to its queue.
type delivery struct {
	consume.Delivery
	endpoint *endpoint
	message  *Message      // the handler's, which may change it
	came     facts         // what counts of it
	peer     *peer.Foreign // if it was written by another bus
	handler  *handler      // nil until it is chosen
	// stored is what stores it somewhere else; nil before that is needed.
	stored *resend.Case
	lease  *resend.Lease // of a handler that has one
	// plain says that it has no guard and no compression: the message of a test.
	plain bool
	// confidential says that errors must not reach anybody with their texts, and felt is the failure with its text, for
	// the user's own code.
	confidential bool
	felt         *failure
	due          time.Time // that the sender has bound to it
	// failures is how often the message has failed before.
	failures int

	shown atomic.Pointer[Message] // message, once the handler has been given it
	// receiving are the facts while Config.Handling.Receive runs.
	receiving atomic.Pointer[facts]
	returned  bool // Handle has returned
	landed    bool // it is not in flight any more

	// The attempt to handle the message, and what observers are told at its end.
	ctx                context.Context // of the attempt; before it, of the consumer
	observed           *operation
	outcome            AttemptOutcome // zero while it has none
	failure            error
	handling, critical time.Duration
	counted            *tally.Type // by counts
}

// Handle does everything that has to be done before a delivery is acknowledged. It ends without an Ack if the delivery
// must go back to its queue: because it could be neither handled nor put anywhere else.
//
// The order is always the same: publish, wait for the confirm, acknowledge. A crash in between repeats something;
// nothing is lost.
func (d *delivery) Handle() {
	s := d.endpoint.setup
	if !d.Again {
		d.endpoint.counts.Delivered.Add(1)
	}
	if d.Raw.Redelivered && !d.Again {
		d.endpoint.counts.Redelivered.Add(1)
	}
	d.endpoint.counts.InFlight.Add(1)
	defer func() {
		if d.land(); d.lease != nil {
			d.lease.End(d.ctx, d.outcome != 0)
		}
	}()
	defer d.goexit()
	d.ctx = d.Context()
	err := d.read()
	d.came = factsOf(d.message)
	switch {
	case err == nil && time.Until(d.came.deferredUntil) > 0 && !d.served():
		d.postpone(d.came.deferredUntil)
	case err == nil && d.marked():
		d.parkNow()
	default:
		d.ctx, d.observed = s.observers.start(d.Context(), Observation{
			Operation: OpHandle, Incoming: d.message, Size: len(d.message.Body), Address: d.Session().HostPort(),
		})
		d.try(err)
		d.conclude()
	}
	d.returned = true
}

// Store stores a copy in the parking queue of an ordered queue.
func (d *delivery) Store(cause error) {
	d.ctx, d.landed = d.Context(), true
	_ = d.read() // what cannot be read is not handled there either
	if d.came = factsOf(d.message); cause != nil {
		d.park(failed(d.ctx, cause))
	} else if d.elsewhere().Behind() {
		d.Delivery.Ack()
	}
}

// Handling is what a log says about the message, and the timeout of its handler.
func (d *delivery) Handling() ([]zap.Field, time.Duration, bool) {
	if d.shown.Load() != nil {
		return d.fields(), d.handler.timeout, true
	}
	if came := d.receiving.Load(); came != nil {
		return came.fields(), d.endpoint.cfg.Handling.Timeout, true
	}
	return nil, 0, false
}

// try is an attempt to handle the message. unreadable is why it cannot be read.
func (d *delivery) try(unreadable error) {
	if unreadable != nil {
		d.fail(unreadable)
		return
	}
	err := d.work()
	switch {
	case err == nil:
		d.counts().Handled.Add(1)
		d.end(AttemptHandled)
	case d.ignored(err):
		d.answer(failed(d.Context(), d.told(err)))
		d.counts().Ignored.Add(1)
		d.Log().Debug("message without a handler ignored", append(d.fields(), zap.Error(d.told(err)))...)
		d.end(AttemptIgnored)
	case err == errEarly: //nolint:errorlint // it is returned as it is, and others are foreign code
		d.failure = nil
		d.postpone(d.due)
	case err == ErrMoved: //nolint:errorlint // likewise
		d.failure = nil
		d.counts().Postponed.Add(1)
		d.end(AttemptPostponed)
	case d.hold(err):
		d.outcome, d.failure = AttemptHeld, nil
	case err == errWaited || d.Context().Err() != nil || !d.Connected(): //nolint:errorlint // likewise
		// Whatever the error is, it may come from being cut off. The broker delivers the message again, as if this
		// attempt had not been.
	default:
		d.fail(err)
	}
}

// hold says whether the error is a [Hold] that keeps the message here.
func (d *delivery) hold(err error) bool {
	f, ok := err.(*failure) //nolint:errorlint // work returns it as it is
	return ok && f.hold != nil && d.Hold(f.hold.keep)
}

// work chooses the handler and runs it.
func (d *delivery) work() error {
	err := d.choose()
	if err == nil {
		err = d.pass()
	}
	d.failure = d.told(err)
	return err
}

// handleTimed runs the handler and notes how long it took.
func (d *delivery) handleTimed() error {
	if d.handler.leased {
		var err error
		if d.lease, err = d.elsewhere().Lend(d.ackable(), d.handler.lease, d.message.LastAttempt); err == resend.ErrHeld { //nolint:errorlint // returned as it is
			return ErrMoved
		} else if err != nil {
			return failed(d.Context(), err)
		}
		d.AckEarly()
	}
	err := d.handle(d.handler)
	d.clock(err)
	return err
}

// told is an error for everybody but the user's own code of this process.
func (d *delivery) told(err error) error {
	if err == nil || !d.confidential {
		return err
	}
	return failed(d.Context(), err).withheld()
}

// end acknowledges the delivery: this has become of its message. Observers are told before that, because afterwards the
// process may die without telling them.
func (d *delivery) end(outcome AttemptOutcome) {
	d.outcome = outcome
	d.conclude()
	d.Ack()
}

// Ack acknowledges the delivery. Whoever sees the ack sees that it is not in flight.
func (d *delivery) Ack() {
	d.land()
	d.Delivery.Ack()
}

// land counts the delivery as one that is not in flight any more.
func (d *delivery) land() {
	if !d.landed {
		d.landed = true
		d.endpoint.counts.InFlight.Add(-1)
	}
}

// clock measures how long a handler took.
func (d *delivery) clock(err error) {
	now := time.Now()
	d.handling = now.Sub(d.Began)
	d.counts().HandlingTime.Add(d.handling)
	if sent := d.came.timeSent; err == nil && !sent.IsZero() && now.After(sent) {
		d.critical = now.Sub(sent)
		d.counts().CriticalTime.Add(d.critical)
	}
}

// counts are those of the message's type.
func (d *delivery) counts() *tally.Type {
	if d.counted == nil {
		d.counted = d.endpoint.counts.Type(d.came.messageType)
	}
	return d.counted
}

// goexit is deferred. If a handler, or other code of the user, has ended the goroutine, the attempt has failed, and
// goexit finishes the work on the message.
func (d *delivery) goexit() {
	if d.returned || d.message == nil {
		return
	}
	defer d.conclude()
	if d.Ended() && d.lease == nil {
		return
	}
	if d.failure = ErrGoexit; d.Context().Err() != nil || !d.Connected() {
		return
	}
	d.returned = true
	d.fail(ErrGoexit)
}

// read reads everything except the body. Its error is a *RejectError.
func (d *delivery) read() error {
	s := d.endpoint.setup
	m, err := readMessage(s.peers, s.routing.Topic, d.endpoint.queue, &d.Raw)
	d.message, d.peer = m, m.peer
	m.codecs, m.packed = s.codecs, d.Packed
	if d.marked() { // it is only to be parked, whatever else is in its headers
		return nil
	}
	unread := err
	if err != nil && !rejection(err).curable {
		return err
	}
	if d.Unreadable != nil {
		return reject("bad-header", "the headers cannot be read: %w", d.Unreadable)
	}
	if d.failures, err = d.endpoint.failuresOf(m); err != nil {
		return err
	}
	d.failures += d.Failures
	if m.Attempt = d.failures + 1; unread != nil {
		return unread
	}
	if d.peer == nil && d.Log().Core().Enabled(zap.DebugLevel) {
		if differing := d.differences(); differing != nil {
			came := factsOf(m)
			d.Log().Debug("headers and properties of a message differ; the headers count", append(came.fields(), zap.Strings("differing", differing))...)
		}
	}
	switch {
	case len(m.Body) > s.cfg.Payload.mostOnTheWire():
		return reject("too-large", "the body has %d bytes, more than %d", len(m.Body), s.cfg.Payload.MaxBody)
	case m.hops > s.cfg.Reply.MaxHops:
		return reject("loop", "the message answers %d replies in a row", m.hops)
	case time.Until(m.DeferredUntil) > topology.MaxDelay && !d.served():
		return reject("bad-time", "deferred until %v, longer than %v", m.DeferredUntil, topology.MaxDelay)
	case d.failures == 0 && s.peers.Late(d.peer, &d.Raw):
		return reject("expired", "its sender wanted it handled until %v", d.peer.Expires)
	}
	return nil
}

// differences lists where headers and properties differ.
func (d *delivery) differences() []string {
	m := d.message
	return d.endpoint.setup.dialect.Differences(&header.Head{
		ID: m.ID, CorrelationID: m.CorrelationID, Type: m.Type, ReplyTo: m.ReplyTo, ContentType: m.ContentType, ContentEncoding: m.ContentEncoding,
	}, &d.Raw)
}

// served says whether the message comes out of the delay queues, a parking queue or a stream. Then the broker has kept
// it for as long as its sender wanted, whatever the clock of this process says about the time in its header. A copy in a
// partition came out of them on its way to the queue.
func (d *delivery) served() bool {
	var t topology.Delays
	return d.Reads() || d.Parked() || d.ExpiredIn(t.Exit(d.Raw.Exchange, d.Raw.RoutingKey).Queues[0].Name) || d.ExpiredIn(t.Exit("", d.endpoint.queue).Queues[0].Name)
}

// choose finds the handler, and says whether its retry policy allows no further attempt.
func (d *delivery) choose() error {
	if err := d.open(); err != nil {
		return err
	}
	if err := d.translate(); err != nil {
		return err
	}
	if err := d.carry(); err != nil {
		return err
	}
	h, err := d.endpoint.handlerFor(d.message)
	if err != nil {
		return err
	}
	d.handler = h
	d.message.LastAttempt = d.policy().ends(d.message)
	d.came.lastAttempt = d.message.LastAttempt
	return nil
}

// open undoes what the sender's guards and compression have done.
func (d *delivery) open() error {
	if d.plain {
		return nil
	}
	o, err := d.endpoint.open(d.ctx, d.message, &d.Raw, d.endpoint.queue)
	d.confidential = o.confidential
	if err != nil {
		return failed(d.Context(), err)
	}
	if d.due = o.dueAt; !d.due.IsZero() && d.early() {
		return errEarly
	}
	return nil
}

// early says whether the message came before the time that its sender has bound to it. If it comes out of the delay
// queues, the broker has kept it until the time in its header.
func (d *delivery) early() bool {
	return time.Until(d.due) > 0 && (d.came.deferredUntil.Before(d.due) || !d.served())
}

var errEarly = errors.New("the message came before the time that its sender has bound to it")

// policy is the retry policy of the handler, or the setup's.
func (d *delivery) policy() *RetryConfig {
	if d.handler != nil && d.handler.retry != nil {
		return d.handler.retry
	}
	return &d.endpoint.cfg.Retry
}

// ignored says whether the message has no handler and is to be dropped for that.
func (d *delivery) ignored(err error) bool {
	if d.handler != nil || d.endpoint.cfg.Handling.Unhandled != UnhandledIgnore {
		return false
	}
	rejected := rejection(err)
	return rejected != nil && rejected.curable && rejected.Reason != peer.UnknownDialect
}

// maxFailures is the largest count of failures with which a message is handled again.
const maxFailures = 1000

// failuresOf reads how often a message has failed before. If the count is higher than a retried message can have,
// somebody has moved the message back from the error queue, and it starts again.
func (e *endpoint) failuresOf(m *Message) (int, error) {
	name := e.setup.dialect.Names.ErrorRetries
	value, ok := m.Headers[name]
	if !ok {
		return 0, nil
	}
	n, err := field.ParseCount(value)
	switch {
	case err != nil:
		return 0, reject("bad-retry-count", "header %s: %w", name, err)
	case n <= e.mostFailures():
		return n, nil
	case n <= maxFailures+1 && m.SourceQueue != "":
		m.FirstFailed = time.Time{}
		return 0, nil
	default:
		return 0, reject("bad-retry-count", "header %s: %d failures, more than a message can have", name, n)
	}
}

// mostFailures is the largest failure count a retried message can carry. An ErrorHandler knows no limit but
// maxFailures.
func (e *endpoint) mostFailures() int {
	if e.cfg.Handling.ErrorHandler != nil {
		return maxFailures
	}
	return int(e.retries.Load())
}

// handle runs the handler and publishes what it sent.
func (d *delivery) handle(h *handler) error {
	if t := h.transactor(&d.endpoint.cfg); t != nil {
		return d.handleIn(t, h)
	}
	scope := &scope{Incoming: d.message, ID: d.came.id, Origin: h.origin}
	defer func() { _, _ = scope.End() }()
	d.shown.Store(d.message)
	if err := h.invoke(d.ctx, &Bus{sender{d.endpoint, scope}}, d.message); err != nil {
		return failed(d.Context(), err)
	}
	outs, err := scope.End()
	if err != nil || len(outs) == 0 {
		return err
	}
	if !d.Connected() {
		// The broker gives the message to another consumer, which would send all of it again.
		return errors.New("the connection was lost while the handler ran")
	}
	return d.endpoint.commit(d.ackable(), outs)
}

// ackable is the context of what is published before the ack. It has the values of the attempt, which observers have
// put there.
func (d *delivery) ackable() context.Context {
	if d.ctx == d.Context() {
		return d.Ackable()
	}
	return consume.WithValues(d.Ackable(), d.ctx)
}

// fail carries out what the retry policy and the error handler decide.
func (d *delivery) fail(err error) {
	d.counts().Failed.Add(1)
	f := failed(d.Context(), err)
	decision := d.decide(f)
	d.felt = f
	if d.confidential {
		f = f.withheld()
	}
	d.failure = f
	if d.Context().Err() != nil { // its end may have interrupted the decision
		return
	}
	switch decision.action {
	case actionRetry, actionPostpone:
		d.retry(f, decision)
	case actionDiscard:
		d.answer(f)
		d.counts().Discarded.Add(1)
		d.Log().Error("message discarded by the error handler", append(d.fields(), zap.Error(f))...)
		d.end(AttemptDiscarded)
	default:
		d.park(f)
	}
}

// decide asks the retry policy and the error handler; when one of them panics or does not answer, the message is
// parked.
func (d *delivery) decide(f *failure) Decision {
	ctx, cancel := context.WithTimeoutCause(d.Context(), patience, errImpatient)
	defer cancel()
	m, replyBy := d.seen(), d.replyBy()
	decision, err := foreign.Apart(ctx, func() (Decision, error) {
		d.Enter()
		proposed := inTime(d.policy().decide(m, f), replyBy)
		if ask := d.endpoint.cfg.Handling.ErrorHandler; ask != nil {
			return ask(m, f.shown(), proposed), nil
		}
		return proposed, nil
	})
	if err != nil && d.Context().Err() == nil {
		d.Log().Error("the retry policy or the error handler failed; parking the message",
			append(d.fields(), zap.Error(d.told(failed(d.Context(), err))))...) // a panic may hold an error that hangs
	}
	return decision
}

// inTime gives a request up whose next attempt would come when its sender no longer waits, until replyBy. It is zero
// for other messages.
func inTime(proposed Decision, replyBy time.Time) Decision {
	after, retries := proposed.Retries()
	if retries && !replyBy.IsZero() && time.Until(replyBy) < after {
		return Park()
	}
	return proposed
}

// retry sends the message to its own queue again, by way of the delay queues.
func (d *delivery) retry(cause *failure, decision Decision) {
	purpose := resend.Retry
	if decision.action == actionPostpone {
		purpose = resend.Postpone
	}
	if !d.Repeat(decision.after, purpose == resend.Retry) && !d.elsewhere().Later(purpose, decision.after, cause) {
		if d.elsewhere().Deadly {
			d.park(cause)
		}
		return
	}
	fields := append(d.fields(), zap.Duration("after", decision.after), zap.Error(cause))
	if purpose == resend.Postpone {
		d.counts().Postponed.Add(1)
		d.Log().Info("message postponed by its handler", fields...)
		d.end(AttemptPostponed)
		return
	}
	d.counts().Retried.Add(1)
	d.Log().Warn("message failed; will be handled again", fields...)
	d.end(AttemptRetried)
}

// postpone puts a message that comes before its time into the delay queues. A PikaBus service sends deferred messages
// at once and leaves the waiting to the receiver.
func (d *delivery) postpone(until time.Time) {
	if d.elsewhere().Until(until) {
		d.counts().Postponed.Add(1)
		d.end(AttemptPostponed)
	}
}

// park moves the message to the error queue.
func (d *delivery) park(cause *failure) {
	if d.giveUp(cause) {
		result := d.elsewhere().Park(cause)
		if result != resend.Stuck {
			d.answer(cause) // not before: a message that goes back to its queue can still be handled
		}
		d.parked(result, cause)
	}
}

// parkNow moves a message to the error queue that could not be moved there when it had failed. No handler sees it
// again.
func (d *delivery) parkNow() {
	cause := errors.New(d.came.errorDetails)
	d.parked(d.elsewhere().ParkNow(cause), cause)
}

func (d *delivery) parked(result resend.Result, cause error) {
	if result == resend.Stuck {
		return
	}
	if result == resend.Parked {
		d.counts().Parked.Add(1)
		d.Log().Error("message moved to the error queue",
			append(d.fields(), zap.String("error_queue", d.endpoint.cfg.ErrorQueue.Name), zap.Error(cause))...)
	}
	d.end(AttemptParked)
}

// marked says whether the message has the header Parking.
func (d *delivery) marked() bool {
	_, ok := d.message.Headers[d.endpoint.setup.dialect.Names.Parking]
	return ok
}

// elsewhere is what stores the message somewhere else than here.
func (d *delivery) elsewhere() *resend.Case {
	if d.stored == nil {
		d.stored = &resend.Case{
			Queue: d.endpoint.copies, On: &d.Delivery, ID: d.came.id, SourceQueue: d.came.sourceQueue, FirstFailed: d.came.firstFailed,
			Failures: d.failures, Dialect: d.peer.Name(), Notes: d.peer.Parked, Fields: d.fields, Ackable: d.ackable, Begin: d.copying,
		}
	}
	return d.stored
}

// copying tells the observers of a copy, and takes over their headers.
func (d *delivery) copying(ctx context.Context, purpose resend.Purpose, out *publish.Message, cause error) (context.Context, func(error)) {
	op := [...]Operation{resend.Retry: OpRetry, resend.Postpone: OpPostpone, resend.Park: OpPark}[purpose]
	out.Op = int8(op)
	observers := d.endpoint.setup.observers
	ctx, observed := observers.start(ctx, Observation{Operation: op, Incoming: d.seen(), Size: len(out.Publishing.Body), Exchange: out.Exchange, RoutingKey: out.Key, Err: cause})
	observers.carry(observed, out)
	return ctx, func(err error) {
		reached(observed, out)
		observed.End(err)
	}
}

// fields identify the message in a log.
func (d *delivery) fields() []zap.Field { return d.came.fields() }
