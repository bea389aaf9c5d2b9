package schedule

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.uber.org/zap"

	"github.com/harebus/harebus"
)

const (
	// interval is how often an instance looks whether it leads.
	interval = time.Minute
	// retry is the pause before another attempt at something small.
	retry = time.Second
	// sending is how long the leader waits for confirms.
	sending = 20 * time.Second
	// future is how far ahead of the clock a watermark may be before that is worth a warning.
	future = time.Minute
)

// serve registers the handlers of the schedules queue.
func (s *Schedules) serve() {
	harebus.Handle(s.endpoint, s.onToken, harebus.WithType(typeToken))
	harebus.Handle(s.endpoint, s.onMark, harebus.WithType(typeMark))
	harebus.Handle(s.endpoint, s.onDone, harebus.WithType(typeDone))
	harebus.Handle(s.endpoint, s.onRequest, harebus.WithType(typeRequest))
}

// onToken is called with a token when it comes, and again when its Hold is released.
func (s *Schedules) onToken(ctx context.Context, bus *harebus.Bus, t token) error {
	if t.Name == "" || t.Last.IsZero() {
		return harebus.NoRetry(errors.New("schedule: the token has no name or no watermark"))
	}
	m, now := harebus.Incoming(ctx), s.clock()
	s.mu.Lock()
	e, what := s.leader.arrive(&t, m.ID, m.Redelivered, now)
	switch what {
	case fateNeedless:
		s.mu.Unlock()
		return nil
	case fateEarly:
		return s.await(ctx, bus, e)
	case fateCounts:
	}
	s.known[t.Name] = true
	s.warnOfFuture(&t, now)
	var own *step
	wake, gone := now.Add(gathering), false
	if !s.leader.gather(e, now) {
		own, wake, gone = s.leader.look(e, now)
	}
	var steps []*step
	if own != nil {
		steps = append([]*step{own}, s.leader.batch(e, now)...)
	}
	probe := !s.leader.complete && s.leader.probing == 0
	if gone {
		e.stop()
		delete(s.leader.entries, t.Name)
		s.log.Warn("the token of a schedule that no version of the service has defined for 30 days is removed", zap.String("schedule", t.Name))
	}
	s.mu.Unlock()
	if probe {
		s.sendMark(ctx, bus, true)
	}
	switch {
	case gone:
		return nil
	case own == nil:
		return s.keep(e, wake)
	}
	s.carryOut(ctx, steps)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.leader.entries[t.Name] == e { // not confirmed
		return s.keepLocked(e, e.patience)
	}
	delete(s.leader.spent, m.ID)
	return nil
}

// await has a token wait for its successor, and sends a mark behind that one. It is called with mu held, and releases it.
func (s *Schedules) await(ctx context.Context, bus *harebus.Bus, successor *entry) error {
	h := new(harebus.Hold)
	successor.early = append(successor.early, h)
	marked := s.leader.probing >= successor.mark // an earlier one may have gone to another leader
	s.mu.Unlock()
	if !marked {
		s.sendMark(ctx, bus, true)
	}
	return h
}

// clock is the time without the reading of the monotonic clock, because due times have none.
func clock() time.Time { return time.Now().Round(0) }

// keep holds the message of a token until wake.
func (s *Schedules) keep(e *entry, wake time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.keepLocked(e, wake)
}

func (s *Schedules) keepLocked(e *entry, wake time.Time) error {
	h, now := new(harebus.Hold), s.clock()
	e.stop() // and its predecessors are looked at again: this one has come
	e.hold, e.kept = h, now
	e.timer = time.AfterFunc(max(wake.Sub(now), time.Millisecond), func() { s.release(e, h) })
	return h
}

// release has a token looked at.
func (s *Schedules) release(e *entry, h *harebus.Hold) {
	s.mu.Lock()
	if e.hold == h && e.timer != nil {
		e.timer, e.kept = nil, s.clock()
		s.leader.ready = append(s.leader.ready, e)
	}
	s.mu.Unlock()
	h.Release()
}

// carryOut publishes what steps want: first the messages for due times, and when they are
// confirmed the successors of the tokens. So a death at any point leaves the old token, and what is
// published again has the same id.
func (s *Schedules) carryOut(ctx context.Context, steps []*step) {
	ctx, cancel := detached(ctx)
	defer cancel()
	s.fire(ctx, steps)
	var open []*step
	for _, one := range steps {
		if one.message == nil || one.fired {
			open = append(open, one)
		}
	}
	var done []*step
	_ = s.publish(ctx, open, func(tx *harebus.Tx, one *step) error {
		return tx.Send(ctx, s.queue, one.next, harebus.WithType(typeToken), harebus.WithMessageID(one.id))
	}, func(one *step) {
		s.leader.confirmed(one, s.clock())
		if !one.verdict.due.IsZero() {
			s.count(one)
			done = append(done, one)
		}
	})
	for _, one := range done {
		s.tell(ctx, one)
	}
}

// detached is the context of what is sent at once, and not with the rest of a handler.
func detached(ctx context.Context) (context.Context, context.CancelFunc) {
	alone, cancel := context.WithTimeout(context.Background(), sending)
	stop := context.AfterFunc(ctx, cancel)
	return alone, func() { stop(); cancel() }
}

// fire publishes the messages for due times.
func (s *Schedules) fire(ctx context.Context, steps []*step) {
	var due []*step
	for _, one := range steps {
		if one.message != nil {
			due = append(due, one)
		}
	}
	err := s.publish(ctx, due, func(tx *harebus.Tx, one *step) error {
		return tx.Send(ctx, s.setup.Queue(), one.message, harebus.WithType(dueType(one.next.Name)),
			harebus.WithMessageID(one.definition.id(one.verdict.due)))
	}, func(one *step) { one.fired = true })
	if err != nil {
		s.log.Warn("a due time cannot be put into the queue of the service; trying again", zap.String("queue", s.setup.Queue()), zap.Error(err))
	}
}

// publish sends a message for each step, calls confirmed, with mu held, for those that the broker
// has, and notes the failure of the others.
func (s *Schedules) publish(ctx context.Context, steps []*step, send func(*harebus.Tx, *step) error, confirmed func(*step)) error {
	if len(steps) == 0 {
		return nil
	}
	err := s.setup.Bus().Transaction(ctx, func(_ context.Context, tx *harebus.Tx) error {
		for _, one := range steps {
			if err := send(tx, one); err != nil {
				return err
			}
		}
		return nil
	})
	var some *harebus.TransactionError
	partly := errors.As(err, &some) && len(some.Messages) == len(steps)
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, one := range steps {
		switch {
		case err == nil, partly && some.Messages[i].Outcome == harebus.Confirmed:
			confirmed(one)
		case one.entry != nil:
			one.entry.failed(s.clock())
		}
	}
	return err
}

// warnOfFuture says once an hour that a watermark is ahead of the clock. mu is held.
func (s *Schedules) warnOfFuture(t *token, now time.Time) {
	if t.Last.Sub(now) <= future || now.Sub(s.warned[t.Name]) < time.Hour {
		return
	}
	s.warned[t.Name] = now
	s.log.Warn("a schedule has a watermark in the future, so it is not due before that; a clock was wrong, or is now. harebus schedule rm lets it begin anew",
		zap.String("schedule", t.Name), zap.Time("watermark", t.Last))
}

// warnOfOther says once an hour that another service has its schedules in the same queue. Only one instance leads, and it fires
// the schedules of its own service.
func (s *Schedules) warnOfOther(service string) {
	if service == "" || service == s.setup.Queue() {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	key, now := "\x00"+service, s.clock() // no schedule has such a name
	if now.Sub(s.warned[key]) < time.Hour {
		return
	}
	s.warned[key] = now
	s.log.Error("two services have their schedules in one queue, and those of one of them are not fired; give each a Config.Queue of its own",
		zap.String("queue", s.queue), zap.String("service", s.setup.Queue()), zap.String("other", service))
}

// onMark gets the marks of all instances. Only its own say something to an instance.
func (s *Schedules) onMark(ctx context.Context, bus *harebus.Bus, m mark) error {
	if m.Instance != s.instance {
		s.warnOfOther(m.Service)
		return nil
	}
	now := s.clock()
	s.mu.Lock()
	complete, changed := s.leader.returned(m)
	if changed {
		s.counts.LeaderChanges++
		s.log.Info("this instance leads the schedules", zap.Int("tokens", len(s.leader.entries)))
	}
	probe := !s.leader.complete && !m.Probe || s.leader.probing == 0 && s.leader.awaited()
	steps := s.leader.missing(now)
	for _, one := range steps {
		if !s.known[one.next.Name] {
			s.log.Info("a schedule has no token; it is a new one, or the queue was deleted. It begins at its next due time", zap.String("schedule", one.next.Name))
		} else {
			s.log.Warn("the token of a schedule is gone: its queue was deleted or purged. The schedule begins anew at its next due time",
				zap.String("schedule", one.next.Name))
		}
	}
	s.mu.Unlock()
	if changed {
		bus.Observe(ctx, harebus.Observation{Operation: harebus.OpLead, Queue: s.setup.Queue()}, nil)
	}
	if probe {
		s.sendMark(ctx, bus, true)
	}
	if complete && len(steps) > 0 {
		s.carryOut(ctx, steps)
	}
	return nil
}

// sendMark sends a mark to this instance itself. If that fails, the next one follows soon.
func (s *Schedules) sendMark(ctx context.Context, bus *harebus.Bus, probe bool) bool {
	s.mu.Lock()
	m := s.leader.mark(probe)
	s.mu.Unlock()
	m.Instance, m.Service = s.instance, s.setup.Queue()
	err := bus.Send(ctx, s.queue, m, harebus.WithType(typeMark), harebus.WithExpiration(2*interval), harebus.Immediately())
	if err == nil {
		return true
	}
	if ctx.Err() == nil {
		s.log.Debug("cannot send a mark", zap.Error(err))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.leader.probing == m.Number {
		s.leader.probing = 0
	}
	return false
}

// onDone notes the end of a run. It may come before the token that says that the run has begun.
func (s *Schedules) onDone(ctx context.Context, _ *harebus.Bus, d done) error {
	now := s.clock()
	s.mu.Lock()
	e := s.leader.entries[d.Name]
	early := e == nil && !s.leader.complete || e != nil && e.token.Last.Before(d.At)
	if !early && (e == nil || e.token.Running == nil || !e.token.Running.Equal(d.At)) {
		s.mu.Unlock()
		return nil
	}
	s.mu.Unlock()
	if !early && s.change(ctx, e, func(t *token) { t.Running = nil }) == nil {
		return nil
	}
	if m := harebus.Incoming(ctx); !m.TimeSent.IsZero() && now.Sub(m.TimeSent) > runLimit {
		return nil
	}
	return later()
}

// later has the handler called again soon.
func later() error {
	h := new(harebus.Hold)
	time.AfterFunc(retry, h.Release)
	return h
}

// change publishes a token that differs from the present one in something else than its watermark.
func (s *Schedules) change(ctx context.Context, e *entry, change func(*token)) error {
	s.mu.Lock()
	one := &step{entry: e, definition: s.leader.definitions[e.token.Name], next: e.token, id: s.leader.newID()}
	one.next.Revision++
	change(&one.next)
	if one.definition != nil {
		one.describe()
	}
	s.mu.Unlock()
	ctx, cancel := detached(ctx)
	defer cancel()
	err := s.publish(ctx, []*step{one}, func(tx *harebus.Tx, one *step) error {
		return tx.Send(ctx, s.queue, one.next, harebus.WithType(typeToken), harebus.WithMessageID(one.id))
	}, func(one *step) { s.leader.replaced(one, s.clock()) })
	if err != nil {
		return fmt.Errorf("schedule: change the token of %q: %w", e.token.Name, err)
	}
	return nil
}

// runner is what the setup runs beside the handlers of the schedules queue. It is a Transactor
// without a transaction: the seam for work that begins and ends with the setup.
type runner struct{ s *Schedules }

// Check has nothing to check.
func (*runner) Check(context.Context) error { return nil }

// Transact runs the handler and publishes what it sent.
func (r *runner) Transact(ctx context.Context, _ *harebus.Message, run func(context.Context) ([]harebus.Envelope, error)) error {
	envelopes, err := run(ctx)
	if err != nil || len(envelopes) == 0 {
		return err
	}
	alone, cancel := detached(ctx)
	defer cancel()
	return errors.Join(r.s.setup.Bus().Forward(alone, envelopes)...)
}

// Run sends marks while it is not known that this instance leads or does not.
func (r *runner) Run(ctx context.Context, bus *harebus.Bus) error {
	s := r.s
	defer func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.leader.forget()
	}()
	for {
		s.mu.Lock()
		s.leader.tick(s.clock())
		probe := s.leader.complete
		needed := !probe || len(s.leader.missing(s.clock())) > 0
		s.mu.Unlock()
		pause := interval
		if needed && !s.trySendMark(ctx, bus, probe) {
			pause = retry
		}
		t := time.NewTimer(pause)
		select {
		case <-ctx.Done():
			t.Stop()
			return nil
		case <-t.C:
		}
	}
}

// trySendMark is sendMark with a limit, because a broker that is away would hold it up.
func (s *Schedules) trySendMark(ctx context.Context, bus *harebus.Bus, probe bool) bool {
	ctx, cancel := context.WithTimeout(ctx, interval/3)
	defer cancel()
	return s.sendMark(ctx, bus, probe)
}
