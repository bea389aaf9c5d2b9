package streams

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
	"go.uber.org/zap"

	"github.com/harebus/harebus/internal/field"
	"github.com/harebus/harebus/internal/session"
	"github.com/harebus/harebus/internal/wire"
	"github.com/harebus/harebus/stream"
)

// token is a message in the token queue of a group, which has a single active consumer. Whoever gets one is the active
// consumer: that is the lock. The token with the highest offset is kept unacknowledged, so that the next one gets it:
// that is the store.
type token struct {
	// Offset is the one up to which everything is handled; nil in a token that only makes somebody the active consumer.
	Offset *int64 `json:"offset,omitempty"`
	// Reader is the instance that wrote it, and Barrier a number for it alone: when it comes back, all earlier tokens are here.
	Reader  string `json:"reader"`
	Barrier int64  `json:"barrier,omitempty"`
}

const (
	// renewal is how often the token is written anew: after half an hour the broker would take it back.
	renewal = 5 * time.Minute
	// long is how long it takes until waiting for another instance is no longer part of a start.
	long = time.Second
	// tokens is more than a token queue has.
	tokens = 10_000
)

// group is the membership of this instance, on one channel.
type group struct {
	reader *Reader
	on     *session.Session
	ch     *amqp.Channel
	in     <-chan amqp.Delivery
	closes chan *amqp.Error

	lost  chan struct{} // closed when this instance is not the active consumer any more
	gone  chan struct{} // closed when watch has ended
	leave func()
	err   error // why it is lost; written before lost is closed

	mu    sync.Mutex // guards what follows
	best  mark       // the highest offset that was seen
	holds uint64     // the tag of the token that has it, or of another one; 0 for none
}

// join waits until this instance is the active one, and knows the place.
func (r *Reader) join(ctx context.Context, on *session.Session, standBy func()) (*group, error) {
	g := &group{reader: r, on: on, lost: make(chan struct{}), gone: make(chan struct{})}
	if err := g.open(ctx); err != nil {
		return nil, err
	}
	if err := g.activate(ctx, standBy); err != nil {
		_ = on.RPC(context.WithoutCancel(ctx), g.ch.Close) // it gives back what came
		return nil, err
	}
	g.leave = sync.OnceFunc(func() {
		_ = on.RPC(context.Background(), g.ch.Close) // likewise
		<-g.gone
	})
	go g.watch()
	return g, nil
}

// quit lets another instance read; nil has none.
func (g *group) quit() {
	if g != nil {
		g.leave()
	}
}

// losing is closed when the lock is lost; nil for nil.
func (g *group) losing() <-chan struct{} {
	if g == nil {
		return nil
	}
	return g.lost
}

// open consumes from the token queue.
func (g *group) open(ctx context.Context) error {
	type result struct {
		ch *amqp.Channel
		in <-chan amqp.Delivery
	}
	opened := make(chan result, 1)
	err := g.on.RPC(ctx, func() error {
		ch, err := g.on.Channel()
		if err != nil {
			return err
		}
		g.closes = ch.NotifyClose(make(chan *amqp.Error, 1))
		if err = ch.Qos(tokens, 0, false); err != nil {
			return err
		}
		in, err := ch.Consume(g.queue(), "", false, false, false, false, nil)
		opened <- result{ch, in}
		return err
	})
	if err != nil {
		return fmt.Errorf("cannot join the group %s: %w", field.Quote(g.reader.Group), err)
	}
	r := <-opened
	g.ch, g.in = r.ch, r.in
	return nil
}

func (g *group) queue() string { return stream.TokenQueue(g.reader.Name, g.reader.Group) }

// activate sends a token, so that there is one, and waits for one. Then it sends a barrier and waits for that.
func (g *group) activate(ctx context.Context, standBy func()) error {
	slow := time.AfterFunc(long, standBy)
	defer slow.Stop()
	if err := g.send(ctx, token{}); err != nil {
		return err
	}
	barrier, active := time.Now().UnixNano(), false
	again := time.NewTicker(time.Minute) // somebody may have taken the tokens, or purged the queue
	defer again.Stop()
	for {
		select {
		case <-again.C:
			t := token{}
			if active {
				t.Barrier = barrier
			}
			if err := g.send(ctx, t); err != nil {
				return err
			}
		case d, ok := <-g.in:
			if !ok {
				return g.ending()
			}
			if !active {
				active = true
				if err := g.send(ctx, token{Barrier: barrier}); err != nil {
					return err
				}
			}
			if t := g.take(d); t.Reader == g.reader.id && t.Barrier == barrier {
				return nil
			}
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// ending is why the channel has ended.
func (g *group) ending() error {
	select {
	case err := <-g.closes:
		if err != nil {
			return fmt.Errorf("the channel to the token queue %s has ended: %v", field.Quote(g.queue()), err) //nolint:errorlint // nothing that was asked for is refused
		}
	default:
	}
	return fmt.Errorf("the broker has ended consuming from the token queue %s", field.Quote(g.queue()))
}

func (g *group) send(ctx context.Context, t token) error {
	t.Reader = g.reader.id
	text, err := json.Marshal(t)
	if err != nil {
		return err
	}
	if err := g.reader.Send(ctx, g.queue(), text); err != nil {
		return fmt.Errorf("cannot write to the token queue %s: %w", field.Quote(g.queue()), err)
	}
	return nil
}

// take reads a token, and acknowledges all but the one that is to be kept.
func (g *group) take(d amqp.Delivery) token {
	var t token
	_ = wire.Unpack(&d) // only the body matters
	err := json.Unmarshal(d.Body, &t)
	if err == nil && t.Offset != nil && *t.Offset < -1 {
		err = fmt.Errorf("%d is no offset", *t.Offset)
	}
	if err != nil {
		g.reader.Log.Error("a message in the token queue is no token; it is removed", zap.String("queue", g.queue()), zap.Error(err))
		_ = d.Ack(false) // a closed channel gives it back
		return token{}
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	better := t.Offset != nil && (!g.best.known || *t.Offset >= g.best.offset)
	if better {
		g.best = mark{*t.Offset, true}
	}
	if fresh := t.Offset == nil && t.Barrier == 0 && !g.best.known; g.holds != 0 && !better && !fresh {
		_ = d.Ack(false) // likewise
		return t
	}
	if g.holds != 0 {
		_ = g.ch.Ack(g.holds, false) // likewise
	}
	g.holds = d.DeliveryTag
	return t
}

// stored is the place of the group.
func (g *group) stored() mark {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.best
}

// store keeps a place. The token that had the last one is acknowledged when this one has come back. An instance that has
// lost the lock may do it, too: what it has handled is handled.
func (g *group) store(ctx context.Context, offset int64) error {
	return g.send(ctx, token{Offset: &offset})
}

// watch holds the lock until the channel ends.
func (g *group) watch() {
	defer close(g.gone)
	for d := range g.in {
		g.take(d)
	}
	g.err = g.ending()
	close(g.lost)
}

// renew writes the place anew, or a token without one; nil has none.
func (g *group) renew() {
	if g == nil {
		return
	}
	t := token{}
	if best := g.stored(); best.known {
		t.Offset = &best.offset
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := g.send(ctx, t); err != nil {
		g.reader.Log.Warn("the token of the group cannot be renewed; trying again", zap.Error(err))
	}
}
