package harebus

import (
	"context"
	"errors"
	"slices"
	"sync/atomic"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
	"go.uber.org/zap"

	"github.com/harebus/harebus/internal/field"
	"github.com/harebus/harebus/internal/guard"
	"github.com/harebus/harebus/internal/publish"
	"github.com/harebus/harebus/internal/tally"
	"github.com/harebus/harebus/internal/wait"
	"github.com/harebus/harebus/internal/wire"
	"github.com/harebus/harebus/topology"
)

// receipt is one delivery that is being handled, with its message, handler and
// result.
type receipt struct {
	consumer *consumer
	setup    *Setup
	feed     *feed
	delivery *amqp.Delivery
	packed   []byte // the properties and the body of the delivery, as they came
	// unreadable is set when the headers cannot be read.
	unreadable *wire.UnreadableError
	message    *Message
	handler    *handler // nil until it is chosen
	// deadly says that a copy of the message ended the connection whenever it was sent.
	deadly bool
	// failures is how often the message has failed before.
	failures int

	began    time.Time
	shown    atomic.Pointer[Message] // message, once the handler has been given it
	returned bool                    // handleDelivery has returned
	settled  bool                    // the delivery can be acknowledged

	// The attempt to handle the message, and what observers are told at its end.
	ctx                context.Context // of the attempt; before it, of the consumer
	observed           *operation
	outcome            AttemptOutcome // zero while it has none
	failure            error
	handling, critical time.Duration
	counted            *tally.Type // by counts
}

// handleDelivery does everything that has to be done before a delivery is
// acknowledged. It returns false if the delivery must go back to its queue:
// because it could be neither handled nor put anywhere else.
//
// The order is always the same: publish, wait for the confirm, acknowledge. A
// crash in between repeats something; nothing is lost.
func (c *consumer) handleDelivery(r *receipt) bool {
	s, f, d := c.setup, r.feed, r.delivery
	r.packed = d.Body
	err := wire.Unpack(d)
	if !errors.As(err, &r.unreadable) && err != nil { // it was never packed
		c.log.Error("a delivery cannot be read; reconnecting", zap.Error(err))
		f.session.Abort()
		return false
	}
	s.counters.queue.Delivered.Add(1)
	if d.Redelivered {
		s.counters.queue.Redelivered.Add(1)
	}
	s.counters.queue.InFlight.Add(1)
	defer s.counters.queue.InFlight.Add(-1)

	r.ctx = c.hard
	err = r.read()
	switch {
	case err != nil:
	case time.Until(r.message.DeferredUntil) > 0 && !r.served():
		return r.postpone()
	case r.marked():
		return r.parkNow()
	}
	r.ctx, r.observed = s.observers.start(c.hard, Observation{Operation: OpHandle, Incoming: r.message, Size: len(r.message.Body)})
	settled := r.try(err)
	r.conclude()
	return settled
}

// try is an attempt to handle the message. unreadable is why it cannot be read.
func (r *receipt) try(unreadable error) bool {
	if unreadable != nil {
		return r.fail(unreadable)
	}
	err := r.choose()
	r.counts() // before a handler can change the type
	if err == nil {
		err = r.handle(r.handler)
		r.clock(err)
	}
	r.failure = err
	switch {
	case err == nil:
		r.counts().Handled.Add(1)
		r.outcome = AttemptHandled
		return true
	case r.ignored(err):
		r.counts().Ignored.Add(1)
		r.outcome = AttemptIgnored
		r.consumer.log.Debug("message without a handler ignored", append(r.fields(), zap.Error(err))...)
		return true
	case r.consumer.hard.Err() != nil || !r.connected():
		// Whatever the error is, it may come from being cut off. The broker
		// delivers the message again, as if this attempt had not been.
		return false
	default:
		return r.fail(err)
	}
}

// clock measures how long a handler took.
func (r *receipt) clock(err error) {
	now := time.Now()
	r.handling = now.Sub(r.began)
	r.counts().HandlingTime.Add(r.handling)
	if sent := r.message.TimeSent; err == nil && !sent.IsZero() && now.After(sent) {
		r.critical = now.Sub(sent)
		r.counts().CriticalTime.Add(r.critical)
	}
}

// counts are those of the message's type.
func (r *receipt) counts() *tally.Type {
	if r.counted == nil {
		r.counted = r.setup.counters.queue.Type(r.message.Type)
	}
	return r.counted
}

// goexit is deferred. If a handler, or other code of the user, has ended the
// goroutine, the attempt has failed, and goexit finishes the work on the message.
func (r *receipt) goexit() {
	if r.returned || r.message == nil {
		return
	}
	defer r.conclude()
	if r.failure = ErrGoexit; r.consumer.hard.Err() != nil || !r.connected() {
		return
	}
	r.returned = true
	r.settled = r.fail(ErrGoexit)
}

// read reads everything except the body. Its error is a *RejectError.
func (r *receipt) read() error {
	s := r.setup
	var err error
	r.message, err = s.dialect.readMessage(s.cfg.Queue, s.cfg.Exchanges.Topic, r.delivery)
	m := r.message
	m.codecs, m.packed = s.codecs, r.packed
	if err != nil {
		return err
	}
	if r.unreadable != nil {
		return reject("bad-header", "the headers cannot be read: %w", r.unreadable)
	}
	if r.marked() {
		return nil
	}
	if r.failures, err = s.failuresOf(m); err != nil {
		return err
	}
	m.Attempt = r.failures + 1
	if r.consumer.log.Core().Enabled(zap.DebugLevel) {
		if differing := s.dialect.differences(m); differing != nil {
			r.consumer.log.Debug("headers and properties of a message differ; the headers count", append(r.fields(), zap.Strings("differing", differing))...)
		}
	}
	switch {
	case len(m.Body) > s.cfg.Payload.MaxBody:
		return reject("too-large", "the body has %d bytes, more than %d", len(m.Body), s.cfg.Payload.MaxBody)
	case m.hops > s.cfg.Reply.MaxHops:
		return reject("loop", "the message answers %d replies in a row", m.hops)
	case time.Until(m.DeferredUntil) > topology.MaxDelay && !r.served():
		return reject("bad-time", "deferred until %v, longer than %v", m.DeferredUntil, topology.MaxDelay)
	}
	return nil
}

// served says whether the message comes out of the delay queues. Then the broker
// has kept it for as long as its sender wanted, whatever the clock of this
// process says about the time in its header.
func (r *receipt) served() bool {
	exit := topology.Delays{}.Exit(r.delivery.Exchange, r.delivery.RoutingKey).Queues[0].Name
	deaths, _ := r.delivery.Headers["x-death"].([]any)
	return slices.ContainsFunc(deaths, func(death any) bool {
		entry, _ := death.(amqp.Table)
		return entry["queue"] == exit && entry["reason"] == "expired"
	})
}

// choose finds the handler, and says whether its retry policy allows no further
// attempt.
func (r *receipt) choose() error {
	if err := r.translate(); err != nil {
		return err
	}
	h, err := r.setup.handlerFor(r.message)
	if err != nil {
		return err
	}
	r.handler = h
	r.message.LastAttempt = r.policy().ends(r.message)
	return nil
}

// policy is the retry policy of the handler, or the setup's.
func (r *receipt) policy() *RetryConfig {
	if r.handler != nil && r.handler.retry != nil {
		return r.handler.retry
	}
	return &r.setup.cfg.Retry
}

// ignored says whether the message has no handler and is to be dropped for that.
func (r *receipt) ignored(err error) bool {
	if r.handler != nil || r.setup.cfg.Handling.Unhandled != UnhandledIgnore {
		return false
	}
	rejected := rejection(err)
	return rejected != nil && rejected.curable
}

// maxFailures is the largest count of failures with which a message is handled
// again.
const maxFailures = 1000

// failuresOf reads how often a message has failed before. If the count is higher
// than a retried message can have, somebody has moved the message back from the
// error queue, and it starts again.
func (s *Setup) failuresOf(m *Message) (int, error) {
	name := s.dialect.names.errorRetries
	value, ok := m.Headers[name]
	if !ok {
		return 0, nil
	}
	n, err := parseCount(value)
	switch {
	case err != nil:
		return 0, reject("bad-retry-count", "header %s: %w", name, err)
	case n <= s.mostFailures():
		return n, nil
	case n <= maxFailures+1 && m.SourceQueue != "":
		m.FirstFailed = time.Time{}
		return 0, nil
	default:
		return 0, reject("bad-retry-count", "header %s: %d failures, more than a message can have", name, n)
	}
}

// mostFailures is the largest failure count a retried message can carry. An
// ErrorHandler knows no limit but maxFailures.
func (s *Setup) mostFailures() int {
	if s.cfg.Handling.ErrorHandler != nil {
		return maxFailures
	}
	return int(s.retries.Load())
}

// connected says whether the delivery can still be acknowledged.
func (r *receipt) connected() bool {
	return r.feed.session.Alive() && !r.feed.ch.IsClosed()
}

// handle runs the handler and publishes what it sent.
func (r *receipt) handle(h *handler) error {
	s := r.setup
	if t := h.transactor(&s.cfg); t != nil {
		return r.handleIn(t, h)
	}
	scope := &scope{incoming: r.message, origin: h.origin}
	defer func() { _, _ = scope.end() }()
	r.shown.Store(r.message)
	if err := h.invoke(r.ctx, &Bus{sender{s, scope}}, r.message); err != nil {
		return failed(r.consumer.hard, err)
	}
	outs, err := scope.end()
	if err != nil || len(outs) == 0 {
		return err
	}
	if !r.connected() {
		// The broker gives the message to another consumer, which would send all of
		// it again.
		return errors.New("the connection was lost while the handler ran")
	}
	eng, err := s.engine()
	if err != nil {
		return err
	}
	return eng.commit(r.ctx, outs)
}

// fail carries out what the retry policy and the error handler decide.
func (r *receipt) fail(err error) bool {
	r.counts().Failed.Add(1)
	f := failed(r.consumer.hard, err)
	r.failure = f
	decision := r.decide(f)
	if r.consumer.hard.Err() != nil { // its end may have interrupted the decision
		return false
	}
	switch decision.action {
	case actionRetry, actionPostpone:
		return r.retry(f, decision)
	case actionDiscard:
		r.counts().Discarded.Add(1)
		r.outcome = AttemptDiscarded
		r.consumer.log.Error("message discarded by the error handler", append(r.fields(), zap.Error(f))...)
		return true
	default:
		return r.park(f)
	}
}

// decide asks the retry policy and the error handler; when one of them panics or
// does not answer, the message is parked.
func (r *receipt) decide(f *failure) Decision {
	ctx, cancel := context.WithTimeoutCause(r.consumer.hard, patience, errImpatient)
	defer cancel()
	decision, err := guard.Apart(ctx, func() (Decision, error) {
		proposed := r.policy().decide(r.message, f)
		if ask := r.setup.cfg.Handling.ErrorHandler; ask != nil {
			return ask(r.message, f.shown(), proposed), nil
		}
		return proposed, nil
	})
	if err != nil && r.consumer.hard.Err() == nil {
		r.consumer.log.Error("the retry policy or the error handler failed; parking the message", append(r.fields(), zap.Error(err))...)
	}
	return decision
}

// retry sends the message to its own queue again, by way of the delay queues.
func (r *receipt) retry(cause *failure, decision Decision) bool {
	s := r.setup
	op, after := OpRetry, decision.after
	if decision.action == actionPostpone {
		op = OpPostpone
	}
	out := r.copyFor(op, s.cfg.Queue, cause)
	out.Due = time.Now().Add(after)
	out.Publishing.Headers[s.dialect.names.deferredTime] = s.dialect.time(out.Due)
	if op == OpPostpone {
		out.Publishing.Headers[s.dialect.names.errorRetries] = field.SmallestInt(r.failures)
	}
	if !r.resend(out, cause) {
		return r.deadly && r.park(cause)
	}
	fields := append(r.fields(), zap.Duration("after", after), zap.Error(cause))
	if op == OpPostpone {
		r.counts().Postponed.Add(1)
		r.outcome = AttemptPostponed
		r.consumer.log.Info("message postponed by its handler", fields...)
		return true
	}
	r.counts().Retried.Add(1)
	r.outcome = AttemptRetried
	r.consumer.log.Warn("message failed; will be handled again", fields...)
	return true
}

// postpone puts a message that comes before its time into the delay queues. A
// PikaBus service sends deferred messages at once and leaves the waiting to the
// receiver.
func (r *receipt) postpone() bool {
	before := r.deadly
	out := r.copyOf(OpPostpone, r.setup.cfg.Queue)
	out.Due = r.message.DeferredUntil
	if !r.resend(out, nil) {
		return r.deadly != before && r.postpone() // without the headers that may have ended the connection
	}
	r.counts().Postponed.Add(1)
	return true
}

// resend publishes a copy of the message and tries again for some time. Until the
// copy is confirmed the original must not be acknowledged, and if it were given
// back, the broker would deliver it again at once.
func (r *receipt) resend(out *publish.Message, cause error) bool {
	const tries = 5
	s := r.setup
	ctx, op := s.observers.start(r.ctx, Observation{Operation: Operation(out.Op), Incoming: r.message, Size: len(out.Publishing.Body), Exchange: out.Exchange, RoutingKey: out.Key, Err: cause})
	s.observers.carry(op, out)
	eng, err := s.engine()
	if err != nil {
		op.End(err)
		return false
	}
	pauses := wait.NewPauses(r.consumer.log, s.cfg.Connect.BackOff)
	for try := 1; ; try++ {
		err = eng.publisher.Publish(ctx, out)
		if err == nil || try == tries || endsConnections(err) || ctx.Err() != nil || !r.connected() {
			break
		}
		r.complain("cannot "+Operation(out.Op).String()+" a message; trying again", err)
		if !wait.Sleep(r.consumer.soft, wait.Next(pauses)) {
			break
		}
	}
	op.End(err)
	switch {
	case endsConnections(err) && !r.deadly:
		r.deadly = true
		r.consumer.log.Error("a copy of a message ended the connection whenever it was sent; parking one without its custom headers",
			append(r.fields(), zap.Error(err))...)
		return false
	case err != nil:
		r.complain("cannot "+Operation(out.Op).String()+" a message; it goes back to its queue", err)
		// Not at once: the broker would deliver it again at once.
		wait.Sleep(r.consumer.soft, wait.Next(pauses))
		return r.renew()
	}
	return true
}

// complain logs an error that many messages can have at the same time, at most once
// in a certain time.
func (r *receipt) complain(text string, err error) {
	now := time.Now().UnixNano()
	last := r.setup.complained.Load()
	if now-last < int64(quiet) || !r.setup.complained.CompareAndSwap(last, now) {
		return
	}
	r.consumer.log.Error(text, append(r.fields(), zap.Error(err))...)
}

// fields identify the message in a log. They hold nothing of the body.
func (r *receipt) fields() []zap.Field {
	return []zap.Field{
		zap.String("message_id", r.message.ID),
		zap.String("message_type", r.message.Type),
		zap.Int("attempt", r.message.Attempt),
	}
}
