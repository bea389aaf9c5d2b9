package publish

import (
	"context"

	"github.com/harebus/harebus/internal/session"
)

// pipeline has the messages that are sent in order on one channel, with their
// results.
type pipeline struct {
	*Publisher
	channel *session.ConfirmChannel
	outs    []*Message
	flights []flight
	results []result
	next    int // the first that was not published
	oldest  int // the first that was not waited for
}

// pipeline sends messages in order on one channel and returns the outcome of each.
// When the window is full, or the network takes no more, it waits for its own
// oldest message first: so two pipelines can never wait for each other, and a
// confirmed message never seems unconfirmed.
func (p *Publisher) pipeline(ctx context.Context, outs []*Message) []result {
	l := &pipeline{Publisher: p, outs: outs, flights: make([]flight, len(outs)), results: make([]result, len(outs))}
	var err error
	if l.channel, err = p.channel(ctx); err != nil {
		for i := range l.results {
			l.results[i] = unsent(err)
		}
		return l.results
	}
	for l.next < len(outs) {
		if err := l.send(ctx); err != nil {
			l.results[l.next] = unsent(err)
			l.next++
		}
	}
	for l.land(ctx) {
	}
	return l.results
}

// send publishes the next message. If it is not known yet which exchange leads to its
// queue, those behind it wait until it has arrived, because they could overtake it.
func (l *pipeline) send(ctx context.Context) error {
	c, at := l.channel, l.next
	r, err := l.route(ctx, c.Session(), l.outs[at], at+1 < len(l.outs))
	if err != nil {
		return err
	}
	placed := c.TryAcquire()
	for !placed && l.land(ctx) {
		placed = c.TryAcquire()
	}
	if !placed {
		if err := c.Acquire(ctx); err != nil {
			return err
		}
	}
	l.outs[at].Broker = c.Session().HostPort()
	l.flights[at] = over(ctx, c, &r, func() bool { return l.land(ctx) })
	l.next++
	if !r.unsure {
		return nil
	}
	for l.land(ctx) {
	}
	if l.results[at].detour {
		l.results[at] = l.once(ctx, c.Session(), c, l.outs[at])
	}
	return nil
}

// land waits for the oldest message, if there is one.
func (l *pipeline) land(ctx context.Context) bool {
	at := l.oldest
	if at == l.next {
		return false
	}
	l.oldest++
	if f := l.flights[at]; f.Sent() {
		l.results[at] = l.learn(l.channel.Session(), l.outs[at], f, l.channel.Wait(ctx, f.Flight))
	}
	return true
}
