package publish

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/cenkalti/backoff/v4"
	"go.uber.org/zap"

	"github.com/harebus/harebus/internal/refusal"
	"github.com/harebus/harebus/internal/session"
	"github.com/harebus/harebus/internal/wait"
)

// Publisher gets messages confirmed. It holds a few confirm channels on the
// publish connection and replaces each when it dies.
type Publisher struct {
	cfg      Config
	link     *session.Link
	delays   *delayer
	ways     ways
	slots    []slot
	turn     atomic.Uint32
	suspects *quarantine

	mu        sync.Mutex       // guards what follows
	prepared  *session.Session // the session whose exchanges have been declared
	exchanges map[string]struct{}
}

// slot is the place of one channel.
type slot struct {
	mu      sync.Mutex // guards what follows
	channel *session.ConfirmChannel
	err     error         // of the last attempt to open one
	opening chan struct{} // closed when the attempt under way has ended
}

// New makes a publisher.
func New(cfg Config) *Publisher {
	return &Publisher{
		cfg:      cfg,
		link:     cfg.Link,
		delays:   newDelayer(cfg),
		slots:    make([]slot, cfg.Channels),
		suspects: newQuarantine(),
	}
}

// result is what became of a message so far.
type result struct {
	outcome session.Verdict
	err     error
	// maybe is true if an earlier attempt may have arrived.
	maybe bool
	// raised says that the broker closed the channel with an exception while the
	// message was on it: this message may be the reason, or any other that was
	// there. lone says that there was no other.
	raised, lone bool
	// ended is the suspicion that the message ends connections, alone that from
	// attempts on a connection of its own.
	ended, alone int
	// delayed says that the attempt went into the delay queues.
	delayed bool
	// detour says that the direct exchange leads nowhere and the default exchange may.
	detour bool
	// nacks counts the attempts that were nacked. began is the round in which those
	// began that came back or were nacked without any other outcome in between.
	nacks, began int
	// final says that no other attempt can end differently.
	final bool
}

// Publish sends one message and returns when its outcome is known: confirmed
// (nil), or failed for good, or ctx has ended.
func (p *Publisher) Publish(ctx context.Context, out *Message) error {
	if out.Cancels {
		return p.cancel(ctx, out)
	}
	r := p.sendOnce(ctx, out)
	if r.outcome != session.Confirmed {
		results := []result{r}
		p.untilDecided(ctx, []*Message{out}, results)
		r = results[0]
	}
	return p.failure(out, r)
}

// PublishAll sends messages in order on one channel, without waiting between
// them, then tries again what was not confirmed. Cancellations are made after that.
func (p *Publisher) PublishAll(ctx context.Context, outs []*Message) []error {
	if len(outs) == 1 {
		return []error{p.Publish(ctx, outs[0])}
	}
	if slices.ContainsFunc(outs, func(out *Message) bool { return out.Cancels }) {
		return p.thenCancel(ctx, outs)
	}
	results := p.pipeline(ctx, outs)
	p.untilDecided(ctx, outs, results)
	errs := make([]error, len(outs))
	for i, out := range outs {
		errs[i] = p.failure(out, results[i])
	}
	return errs
}

func (p *Publisher) failure(out *Message, r result) error {
	if r.outcome == session.Confirmed {
		return nil
	}
	p.cfg.Counts.Unpublished.Add(1)
	if r.maybe && r.outcome != session.Unknown {
		// The last attempt failed for certain, but an earlier one may have arrived.
		r.err = errors.Join(fmt.Errorf("the last attempt was %v, but an earlier one may have arrived", r.outcome), r.err)
		r.outcome = session.Unknown
	}
	return p.cfg.Failed(out, r.outcome, r.err)
}

// untilDecided repeats attempts until every message is confirmed, a further attempt
// cannot help, or ctx ends. A message that may have arrived is sent again with the
// same message id.
func (p *Publisher) untilDecided(ctx context.Context, outs []*Message, results []result) {
	var policy backoff.BackOff
	for round := 1; ; round++ {
		var left []int
		waiting := false
		for i := range outs {
			switch outs[i].again(&results[i], round) {
			case tryNow:
				left = append(left, i)
			case tryLater:
				waiting = true
			}
		}
		if len(left) == 0 && !waiting {
			return
		}
		if policy == nil {
			policy = publishBackOff()
		}
		if !wait.Sleep(ctx, policy.NextBackOff()) {
			return
		}
		p.cfg.Counts.Republished.Add(uint64(len(left)))
		p.repeat(ctx, outs, results, left)
	}
}

// repeat makes another attempt at some of the messages: first those that must be
// sent alone, then the others, in order.
func (p *Publisher) repeat(ctx context.Context, outs []*Message, results []result, left []int) {
	var together []*Message
	var places []int
	for _, i := range left {
		switch before := &results[i]; {
		case before.raised:
			before.followedBy(p.onOwnChannel(ctx, outs[i]))
		case before.ended >= session.Suspicious:
			before.followedBy(p.onOwnConnection(ctx, outs[i]))
		default:
			together, places = append(together, outs[i]), append(places, i)
		}
	}
	if len(together) == 0 {
		return
	}
	for k, r := range p.pipeline(ctx, together) {
		results[places[k]].followedBy(r)
	}
}

// followedBy replaces a result by that of the next attempt.
func (r *result) followedBy(next result) {
	next.maybe = (r.maybe || r.outcome == session.Unknown) && !contentRefused(&next)
	next.ended += r.ended
	next.alone += r.alone
	next.nacks += r.nacks
	if next.answered() && r.answered() {
		next.began = r.began
	}
	*r = next
}

// answered says whether the broker has answered the attempt, and did not take the message.
func (r *result) answered() bool { return r.outcome == session.Returned || r.outcome == session.Nacked }

// sendOnce sends a message once and waits for its outcome.
func (p *Publisher) sendOnce(ctx context.Context, out *Message) result {
	c, err := p.channel(ctx)
	if err != nil {
		return unsent(err)
	}
	return p.through(ctx, c.Session(), c, out)
}

// through sends a message once over c, and through the default exchange if the first
// exchange does not lead to a queue. The objects on its route are declared on s,
// which may be another session than that of c.
func (p *Publisher) through(ctx context.Context, s *session.Session, c *session.ConfirmChannel, out *Message) result {
	r := p.once(ctx, s, c, out)
	if r.detour {
		r = p.once(ctx, s, c, out)
	}
	return r
}

func (p *Publisher) once(ctx context.Context, s *session.Session, c *session.ConfirmChannel, out *Message) result {
	r, err := p.route(ctx, s, out, false)
	if err != nil {
		return unsent(err)
	}
	if err := c.Acquire(ctx); err != nil {
		return unsent(err)
	}
	out.Broker = c.Session().HostPort()
	f := over(ctx, c, &r, func() bool { return false })
	return p.learn(s, out, f, c.Wait(ctx, f.Flight))
}

// resultOf is the result of an attempt that a channel has answered.
func resultOf(r session.Result) result {
	return result{outcome: r.Verdict, err: r.Err, raised: r.Raised, lone: r.Lone, ended: r.Ended, final: r.Final}
}

func unsent(err error) result {
	var last *finalError
	if errors.As(err, &last) {
		return result{outcome: last.verdict, err: last.err, final: true}
	}
	return result{outcome: session.NotSent, err: err, final: session.Permanent(err) || errors.Is(err, session.ErrStopped)}
}

// learn makes the result of an attempt, and updates what is remembered: whether the
// direct exchange leads to the queue, and which objects must be declared again.
func (p *Publisher) learn(s *session.Session, out *Message, f flight, is session.Result) result {
	r := resultOf(is)
	r.delayed = f.delayed
	if r.outcome == session.Nacked {
		r.nacks = 1
	}
	switch {
	case r.outcome == session.Returned && f.delayed:
		p.delays.forget() // a queue of the delay infrastructure has gone
	case r.outcome == session.Returned && f.bound:
		r.detour = true
		p.ways.learn(s, out.Key, false)
	case r.outcome == session.Returned && !out.Mandatory:
		r.outcome = session.Confirmed // there is no such queue, as the caller expected
	case r.outcome == session.Confirmed && f.unsure:
		p.ways.learn(s, out.Key, true)
	case r.raised && refusal.Missing(r.err):
		p.forget() // an exchange has gone
		p.delays.forget()
		if out.Foreign && r.lone {
			r = closedChannel(r)
		}
	case r.raised && r.lone:
		r = closedChannel(r)
	}
	if r.outcome == session.Confirmed {
		p.cfg.Counts.Published.Add(1)
	}
	return r
}

// route is how an attempt sent its message.
type route struct {
	delayed bool // into the delay queues
	bound   bool // through the direct exchange; if that leads nowhere, the default exchange may
	unsure  bool // nothing is known about the way yet
}

// routed is a message with the exchange and key of this attempt.
type routed struct {
	session.Publishing
	route
}

// flight is a message on its way.
type flight struct {
	session.Flight
	route
}

// over publishes on a channel; the caller has acquired a place in its window.
func over(ctx context.Context, c *session.ConfirmChannel, r *routed, relieve func() bool) flight {
	return flight{c.Publish(ctx, &r.Publishing, relieve), r.route}
}

// route decides where this attempt goes: straight to its exchange, or into the
// delay infrastructure while it is not due, and always if it has a ticket. A message that others follow wants to be
// sure of its way.
func (p *Publisher) route(ctx context.Context, s *session.Session, out *Message, followed bool) (routed, error) {
	if err := s.Ready(ctx); err != nil {
		return routed{}, err
	}
	if !out.Due.IsZero() {
		if r, waits, err := p.delays.route(ctx, s, out); waits || err != nil {
			return r, err
		}
		// It is due, whatever the clock of its receiver says.
		delete(out.Publishing.Headers, p.cfg.DueHeader)
	}
	if out.Foreign && out.Exchange != "" {
		if err := p.checkExchange(ctx, s, out); err != nil {
			return routed{}, err
		}
	}
	r := routed{Publishing: session.Publishing{Exchange: out.Exchange, Key: out.Key, Mandatory: out.Mandatory}}
	if out.ViaDefault {
		r.Mandatory, r.bound = true, true // also for NonMandatory: the return shows that the queue is not bound here
		if followed || p.ways.detours.Load() > 0 {
			bound, known := p.ways.find(s, out.Key)
			r.bound, r.unsure = bound || !known, !known
		}
		if r.bound = r.bound && !out.Single; !r.bound {
			r.Exchange, r.unsure = "", false
		}
	}
	r.Room = deathRoom(r.Exchange, out.Key)
	if out.Copied {
		p.cfg.Fit(&out.Publishing, s.FrameMax(), r.Room)
		r.Room = 0 // whatever there is
	}
	r.Message = out.Publishing
	return r, nil
}

// checkExchange looks, once per session, whether an exchange that a caller
// named exists: publishing to a missing one closes the channel for everybody.
func (p *Publisher) checkExchange(ctx context.Context, s *session.Session, out *Message) error {
	name := out.Exchange
	p.mu.Lock()
	_, known := p.exchanges[name]
	p.mu.Unlock()
	if known {
		return nil
	}
	err := p.cfg.exchange(ctx, s, out)
	if refusal.Missing(err) {
		return &finalError{session.Returned, fmt.Errorf("exchange %q does not exist: %w", name, err)}
	}
	if err != nil && !refusal.Forbidden(err) { // publishing tells
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.exchanges != nil {
		p.exchanges[name] = struct{}{}
	}
	return nil
}

// session returns a session on which the setup's objects exist.
func (p *Publisher) session(ctx context.Context) (*session.Session, error) {
	s, err := p.link.Session(ctx)
	if err != nil {
		return nil, err
	}
	p.mu.Lock()
	prepared := p.prepared == s
	p.mu.Unlock()
	if prepared {
		return s, nil
	}
	if err := p.cfg.Declare(ctx, s); err != nil {
		return nil, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.prepared, p.exchanges = s, map[string]struct{}{}
	return s, nil
}

// forget makes the next channel declare the exchanges again.
func (p *Publisher) forget() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.prepared, p.exchanges = nil, nil
}

// channel returns an open channel, opening one if need be.
func (p *Publisher) channel(ctx context.Context) (*session.ConfirmChannel, error) {
	s := &p.slots[int(p.turn.Add(1))%len(p.slots)]
	for {
		s.mu.Lock()
		if c := s.channel; c != nil && c.Usable() {
			s.mu.Unlock()
			return c, nil
		}
		if s.opening == nil {
			if !p.link.Spawn(func() { p.open(s) }) {
				s.mu.Unlock()
				return nil, session.ErrStopped
			}
			s.opening = make(chan struct{})
		}
		opening := s.opening
		s.mu.Unlock()
		select {
		case <-opening:
		case <-ctx.Done():
			return nil, p.link.NotConnected(ctx)
		}
		s.mu.Lock()
		c, err := s.channel, s.err
		s.mu.Unlock()
		if err != nil {
			return nil, err
		}
		if c.Usable() {
			return c, nil
		}
	}
}

// open fills a slot. It belongs to no caller: one that gives up must not take
// the channel away from those who wait for it too.
func (p *Publisher) open(s *slot) {
	c, err := p.openChannel(p.link.Context())
	if err != nil && p.link.Context().Err() != nil {
		err = session.ErrStopped
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.channel, s.err = c, err
	close(s.opening)
	s.opening = nil
}

func (p *Publisher) openChannel(ctx context.Context) (*session.ConfirmChannel, error) {
	s, err := p.session(ctx)
	if err != nil {
		return nil, err
	}
	c, err := session.OpenConfirmChannel(ctx, s, p.cfg.Confirms)
	if err != nil {
		p.cfg.Confirms.Log.Warn("cannot open a publish channel", zap.Error(err))
	}
	return c, err
}
