package publish

import (
	"context"
	"errors"
	"slices"
	"sync"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/harebus/harebus/internal/session"
)

// The broker closes the channel, or the connection, because of a message that it refuses,
// and the other messages on it fail too. It does not say which message was the reason, so
// each is tried alone.

// closedChannel makes the result of a message that has closed its channel, with no other on it.
func closedChannel(r result) result {
	return result{outcome: session.Refused, err: r.err, final: true, delayed: r.delayed}
}

// contentRefused says whether the broker refused a message for what it is. Then no earlier
// attempt can have been accepted either. Other refusals come and go: rights, for example.
func contentRefused(r *result) bool {
	var broker *amqp.Error
	return r.outcome == session.Refused && errors.As(r.err, &broker) &&
		slices.Contains([]int{amqp.PreconditionFailed, amqp.ContentTooLarge}, broker.Code)
}

// quarantine is a connection on which suspects are tried, one at a time.
type quarantine struct {
	turn chan struct{} // held by the one that is tried

	mu      sync.Mutex       // guards what follows
	present int              // those who are tried or wait for it
	own     *session.Session // the connection for them, open until the last one leaves
}

func newQuarantine() *quarantine { return &quarantine{turn: make(chan struct{}, 1)} }

// tried calls try while no other message is being tried.
func (q *quarantine) tried(ctx context.Context, try func() result) result {
	q.mu.Lock()
	q.present++
	q.mu.Unlock()
	defer q.leave()
	select {
	case q.turn <- struct{}{}:
		defer func() { <-q.turn }()
		return try()
	case <-ctx.Done():
		return unsent(context.Cause(ctx))
	}
}

func (q *quarantine) leave() {
	q.mu.Lock()
	q.present--
	var idle *session.Session
	if q.present == 0 {
		idle, q.own = q.own, nil
	}
	q.mu.Unlock()
	if idle != nil {
		idle.Close()
	}
}

// connection returns the connection for suspects; the caller is being tried.
func (q *quarantine) connection(ctx context.Context, l *session.Link) (*session.Session, error) {
	q.mu.Lock()
	own := q.own
	q.mu.Unlock()
	if own != nil {
		if own.Alive() {
			return own, nil
		}
		own.Close()
	}
	own, err := l.Extra(ctx, "suspect")
	q.mu.Lock()
	defer q.mu.Unlock()
	q.own = own
	return own, err
}

// onOwnChannel sends a message once, on a channel that no other message uses: what
// closes the channel now is this message.
func (p *Publisher) onOwnChannel(ctx context.Context, out *Message) result {
	return p.suspects.tried(ctx, func() result {
		s, err := p.session(ctx)
		if err != nil {
			return unsent(err)
		}
		return p.overNewChannel(ctx, s, s, out)
	})
}

// onOwnConnection sends a message once, on a connection that nothing else uses: what ends
// the connection now is this message, or the network.
func (p *Publisher) onOwnConnection(ctx context.Context, out *Message) result {
	return p.suspects.tried(ctx, func() result {
		s, err := p.session(ctx)
		if err != nil {
			return unsent(err)
		}
		own, err := p.suspects.connection(ctx, p.link)
		if err != nil {
			return unsent(err)
		}
		r := p.overNewChannel(ctx, s, own, out)
		r.alone, r.ended = r.ended, 0
		return r
	})
}

// overNewChannel sends a message over a new channel of a session; s is the session for
// what it needs on its way.
func (p *Publisher) overNewChannel(ctx context.Context, s, on *session.Session, out *Message) result {
	c, err := session.OpenConfirmChannel(ctx, on, p.cfg.Confirms)
	if err != nil {
		return unsent(err)
	}
	defer c.Retire()
	return p.through(ctx, s, c, out)
}
