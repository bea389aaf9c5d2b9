package harebus

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cenkalti/backoff/v4"
	amqp "github.com/rabbitmq/amqp091-go"
	"go.uber.org/zap"

	"github.com/harebus/harebus/topology"
)

// publisher gets messages confirmed. It holds a few confirm channels on the
// publish connection and replaces each when it dies.
type publisher struct {
	link    *link
	setup   *Setup
	delays  *delayer
	slots   []slot
	turn    atomic.Uint32
	suspect chan struct{} // held while one message is tried alone

	mu        sync.Mutex // guards what follows
	prepared  *session   // the session whose exchanges have been declared
	exchanges map[string]struct{}
}

// slot is the place of one channel.
type slot struct {
	mu      sync.Mutex // guards what follows
	channel *confirmChannel
	err     error         // of the last attempt to open one
	opening chan struct{} // closed when the attempt under way has ended
}

func newPublisher(l *link, s *Setup) *publisher {
	return &publisher{
		link:    l,
		setup:   s,
		delays:  newDelayer(s),
		slots:   make([]slot, s.cfg.Publish.Channels),
		suspect: make(chan struct{}, 1),
	}
}

// result is what became of a message so far.
type result struct {
	outcome Outcome
	err     error
	// maybe says that an earlier attempt may have arrived.
	maybe bool
	// raised says that the broker closed the channel with an exception while the
	// message was on it: this message may be the reason, or any other.
	raised bool
	// delayed says that the attempt went into the delay queues.
	delayed bool
	// final says that no other attempt can end differently.
	final bool
}

// publish sends one message and returns when its outcome is known: confirmed
// (nil), or failed for good, or ctx has ended.
func (p *publisher) publish(ctx context.Context, out *outgoing) error {
	r := p.attempt(ctx, out)
	if r.outcome != Confirmed {
		results := []result{r}
		p.settle(ctx, []*outgoing{out}, results)
		r = results[0]
	}
	return p.report(out, r)
}

// publishAll sends messages in order on one channel, without waiting between
// them, then tries again what was not confirmed.
func (p *publisher) publishAll(ctx context.Context, outs []*outgoing) []error {
	if len(outs) == 1 {
		return []error{p.publish(ctx, outs[0])}
	}
	results := p.pipeline(ctx, outs)
	p.settle(ctx, outs, results)
	errs := make([]error, len(outs))
	for i, out := range outs {
		errs[i] = p.report(out, results[i])
	}
	return errs
}

func (p *publisher) report(out *outgoing, r result) error {
	if r.outcome == Confirmed {
		return nil
	}
	p.setup.counters.unpublished.Add(1)
	if r.maybe && r.outcome != Unknown {
		// The last attempt failed for certain, but an earlier one may have arrived.
		r.err = errors.Join(fmt.Errorf("the last attempt was %v, but an earlier one may have arrived", r.outcome), r.err)
		r.outcome = Unknown
	}
	return &PublishError{
		MessageID: out.msg.MessageId, Exchange: out.exchange, RoutingKey: out.key,
		Outcome: r.outcome, Err: r.err,
	}
}

// settle repeats attempts until every message is confirmed, trying again cannot
// help, or ctx ends. What may have arrived is sent again under the same message
// id.
func (p *publisher) settle(ctx context.Context, outs []*outgoing, results []result) {
	var policy backoff.BackOff
	for tries := 1; ; tries++ {
		var left []int
		for i := range outs {
			if p.again(outs[i], &results[i], tries) {
				left = append(left, i)
			}
		}
		if len(left) == 0 {
			return
		}
		if policy == nil {
			policy = publishBackOff()
		}
		if !sleep(ctx, policy.NextBackOff()) {
			return
		}
		p.setup.counters.republished.Add(uint64(len(left)))
		p.repeat(ctx, outs, results, left)
	}
}

// repeat makes another attempt at some of the messages: first those that may
// not be tried in company, then the others, in order.
func (p *publisher) repeat(ctx context.Context, outs []*outgoing, results []result, left []int) {
	var together []*outgoing
	var places []int
	merge := func(i int, r result) {
		r.maybe = results[i].maybe || results[i].outcome == Unknown
		results[i] = r
	}
	for _, i := range left {
		if results[i].raised {
			merge(i, p.alone(ctx, outs[i]))
			continue
		}
		together, places = append(together, outs[i]), append(places, i)
	}
	if len(together) == 0 {
		return
	}
	for k, r := range p.pipeline(ctx, together) {
		merge(places[k], r)
	}
}

// again decides whether another attempt makes sense, and by which route.
func (p *publisher) again(out *outgoing, r *result, tries int) bool {
	// A classic queue whose node is down is not routable for a while; channels
	// nack while a quorum queue has no leader, and those that were opened then until they
	// are replaced. That is a second and five seconds of attempts.
	const few, some = 6, 10
	switch {
	case r.outcome == Confirmed || r.final:
		return false
	case r.outcome == Returned:
		if out.viaDefault && !r.delayed {
			out.viaDefault, out.direct = false, true
		}
		return tries < few
	case r.outcome == Nacked:
		return tries < some
	default:
		return true
	}
}

func publishBackOff() backoff.BackOff {
	return backoff.NewExponentialBackOff(
		backoff.WithInitialInterval(30*time.Millisecond),
		backoff.WithMultiplier(2),
		backoff.WithRandomizationFactor(0.2),
		backoff.WithMaxInterval(time.Second),
		backoff.WithMaxElapsedTime(0),
	)
}

// attempt sends a message once and waits for its outcome.
func (p *publisher) attempt(ctx context.Context, out *outgoing) result {
	c, err := p.channel(ctx)
	if err != nil {
		return unsent(err)
	}
	return p.through(ctx, c, out)
}

// through sends a message once over c.
func (p *publisher) through(ctx context.Context, c *confirmChannel, out *outgoing) result {
	r, err := p.route(ctx, c.session, out)
	if err != nil {
		return unsent(err)
	}
	if err := c.acquire(ctx); err != nil {
		return unsent(err)
	}
	f := c.publish(ctx, r, func() bool { return false })
	return p.learn(f, c.wait(ctx, f))
}

func unsent(err error) result {
	var returned *PublishError
	if errors.As(err, &returned) {
		return result{outcome: returned.Outcome, err: returned.Err, final: true}
	}
	return result{outcome: NotSent, err: err, final: permanent(err) || errors.Is(err, ErrStopped)}
}

// learn lets the outcome of an attempt take effect.
func (p *publisher) learn(f flight, r result) result {
	r.delayed = f.delayed
	if r.outcome == Confirmed {
		p.setup.counters.published.Add(1)
	}
	if r.outcome == Returned && r.delayed {
		p.delays.forget() // a queue of the delay infrastructure has gone
	}
	if r.raised && missing(r.err) {
		p.forget() // an exchange has gone
		p.delays.forget()
	}
	return r
}

// alone sends a message once, on a channel that no other message uses: what
// closes the channel now is this message.
func (p *publisher) alone(ctx context.Context, out *outgoing) result {
	select {
	case p.suspect <- struct{}{}:
		defer func() { <-p.suspect }()
	case <-ctx.Done():
		return unsent(context.Cause(ctx))
	}
	s, err := p.session(ctx)
	if err != nil {
		return unsent(err)
	}
	c, err := openConfirmChannel(ctx, s, p.setup)
	if err != nil {
		return unsent(err)
	}
	defer c.retire()
	r := p.through(ctx, c, out)
	if r.raised && (out.foreign || !missing(r.err)) { // an exchange of ours is declared again
		return result{outcome: Nacked, err: r.err, final: true}
	}
	return r
}

// pipeline sends messages in order on one channel and returns the outcome of
// each. When the window is full, or the network takes no more, it waits for its own
// oldest message first: two pipelines can never wait for each other, and no
// message that has been confirmed passes for one that has not.
func (p *publisher) pipeline(ctx context.Context, outs []*outgoing) []result {
	results := make([]result, len(outs))
	c, err := p.channel(ctx)
	if err != nil {
		for i := range results {
			results[i] = unsent(err)
		}
		return results
	}
	flights := make([]flight, len(outs))
	next, oldest := 0, 0 // the first that was not published, and that was not waited for
	land := func() bool {
		if oldest == next {
			return false
		}
		if flights[oldest].sent {
			results[oldest] = p.learn(flights[oldest], c.wait(ctx, flights[oldest]))
		}
		oldest++
		return true
	}
	for ; next < len(outs); next++ {
		r, err := p.route(ctx, c.session, outs[next])
		if err != nil {
			results[next] = unsent(err)
			continue
		}
		placed := c.tryAcquire()
		for !placed && land() {
			placed = c.tryAcquire()
		}
		if !placed {
			if err := c.acquire(ctx); err != nil {
				results[next] = unsent(err)
				continue
			}
		}
		flights[next] = c.publish(ctx, r, land)
	}
	for land() {
	}
	return results
}

// routed is a message with the exchange and key of this attempt.
type routed struct {
	exchange, key string
	mandatory     bool
	delayed       bool // into the delay queues
	room          int  // for what the broker adds to the headers on the way
	msg           amqp.Publishing
}

// route decides where this attempt goes: straight to its exchange, or into the
// delay infrastructure while it is not due.
func (p *publisher) route(ctx context.Context, s *session, out *outgoing) (routed, error) {
	if err := s.ready(ctx); err != nil {
		return routed{}, err
	}
	if !out.due.IsZero() && time.Until(out.due) > 0 {
		if err := p.delays.prepare(ctx, s, out); err != nil {
			return routed{}, err
		}
		if wait := time.Until(out.due); wait > 0 { // preparing takes a while the first time
			return p.delays.route(s, out, wait)
		}
	}
	if out.foreign && out.exchange != "" {
		if err := p.checkExchange(ctx, s, out.exchange); err != nil {
			return routed{}, err
		}
	}
	exchange := out.exchange
	if out.direct {
		exchange = ""
	}
	room := deathRoom(exchange, out.key)
	if out.copied {
		p.setup.dialect.fit(&out.msg, s.frameMax, room)
		room = 0 // whatever there is
	}
	return routed{exchange: exchange, key: out.key, mandatory: out.mandatory, room: room, msg: out.msg}, nil
}

// checkExchange looks, once per session, whether an exchange that a caller
// named exists: publishing to a missing one closes the channel for everybody.
func (p *publisher) checkExchange(ctx context.Context, s *session, name string) error {
	p.mu.Lock()
	_, known := p.exchanges[name]
	p.mu.Unlock()
	if known {
		return nil
	}
	err := s.withChannel(ctx, func(ch *amqp.Channel) error {
		return ch.ExchangeDeclarePassive(name, string(topology.Direct), true, false, false, false, nil)
	})
	if missing(err) {
		return &PublishError{Outcome: Returned, Err: fmt.Errorf("exchange %q does not exist: %w", name, err)}
	}
	if err != nil && !forbidden(err) { // publishing tells
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
func (p *publisher) session(ctx context.Context) (*session, error) {
	s, err := p.link.session(ctx)
	if err != nil {
		return nil, err
	}
	p.mu.Lock()
	prepared := p.prepared == s
	p.mu.Unlock()
	if prepared {
		return s, nil
	}
	if err := p.setup.declareForSending(ctx, s); err != nil {
		return nil, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.prepared, p.exchanges = s, map[string]struct{}{}
	return s, nil
}

// forget makes the next channel declare the exchanges again.
func (p *publisher) forget() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.prepared, p.exchanges = nil, nil
}

// channel returns an open channel, opening one if need be.
func (p *publisher) channel(ctx context.Context) (*confirmChannel, error) {
	s := &p.slots[int(p.turn.Add(1))%len(p.slots)]
	for {
		s.mu.Lock()
		if c := s.channel; c != nil && c.usable() {
			s.mu.Unlock()
			return c, nil
		}
		if s.opening == nil {
			if !p.link.spawn(func() { p.open(s) }) {
				s.mu.Unlock()
				return nil, ErrStopped
			}
			s.opening = make(chan struct{})
		}
		opening := s.opening
		s.mu.Unlock()
		select {
		case <-opening:
		case <-ctx.Done():
			return nil, p.link.notConnected(ctx)
		}
		s.mu.Lock()
		c, err := s.channel, s.err
		s.mu.Unlock()
		if err != nil {
			return nil, err
		}
		if c.usable() {
			return c, nil
		}
	}
}

// open fills a slot. It belongs to no caller: one that gives up must not take
// the channel away from those who wait for it too.
func (p *publisher) open(s *slot) {
	c, err := p.openChannel(p.link.ctx)
	if err != nil && p.link.ctx.Err() != nil {
		err = ErrStopped
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.channel, s.err = c, err
	close(s.opening)
	s.opening = nil
}

func (p *publisher) openChannel(ctx context.Context) (*confirmChannel, error) {
	s, err := p.session(ctx)
	if err != nil {
		return nil, err
	}
	c, err := openConfirmChannel(ctx, s, p.setup)
	if err != nil {
		p.setup.log.Warn("cannot open a publish channel", zap.Error(err))
	}
	return c, err
}
