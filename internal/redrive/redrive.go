// Package redrive moves messages from an error queue back to the queues they
// came from.
//
// A message is published, its confirm awaited, and only then acknowledged, one at a
// time: a failure in between can repeat a message, but not lose one. It does not
// use a harebus.Setup, because a service cannot consume from its error queue.
package redrive

import (
	"context"
	"errors"
	"fmt"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/internal/access"
	"github.com/harebus/harebus/internal/field"
	"github.com/harebus/harebus/internal/queue"
	"github.com/harebus/harebus/internal/session"
)

// Options say what to move. The zero value of Count and of the texts but Queue
// and HeaderPrefix means no restriction.
type Options struct {
	// Broker is where to connect.
	Broker access.Broker
	// Queue is the error queue.
	Queue string
	// HeaderPrefix starts the names of the standard headers: "PikaBus.".
	HeaderPrefix string
	// Count is the largest number of messages to move.
	Count int
	// Match is the wire name of the type of the messages to move.
	Match string
	// To is where to move them, instead of each one's SourceQueue.
	To string
	// Reseal, if any, protects what a message carries again, as seal.Reseal does. It returns
	// false for a message that it leaves as it is. One that it fails for stays in the queue.
	Reseal func(ctx context.Context, id *harebus.Identity, p *harebus.Payload) (bool, error)
	// DryRun changes nothing.
	DryRun bool
	// NoLock does not keep other operators out.
	NoLock bool
	// Window is how many messages one consumer holds, which bounds what is in memory
	// here. A queue with more is read by several. Default: 5000.
	Window int
	// Timeout is how long the broker may take to be there, and for one message.
	Timeout time.Duration
}

// Action is what was done with a message.
type Action string

// The actions. Messages that Options.Match does not match are only counted.
const (
	Moved     Action = "moved"
	WouldMove Action = "would move"
	Left      Action = "left"
)

// Item is one message and what was done with it.
type Item struct {
	Action   Action
	Position int // in the queue, from 1, when the run began
	ID, Type string
	To       string // empty if there is nowhere to move it
	Reason   string // why it was left
	Source   string // the queue where it failed; empty if it does not say
	Failure  string // why it was parked; empty if it does not say
	Resealed bool   // Options.Reseal has protected it again
	// Sent is when it was sent first; zero if it does not say.
	Sent time.Time
	// Unreadable says that the AMQP client cannot read all headers. Those that it can are
	// in Delivery. They are moved as they came.
	Unreadable bool
	// Delivery is the message as it lies in the error queue.
	Delivery *amqp.Delivery
}

// Report counts what was done.
type Report struct {
	// Moved counts those that would be moved when nothing is changed.
	Moved, Left, Unmatched int
}

// Run moves messages and calls each with what it did, one message at a time. It
// looks at every message that was ready when it began, once, in the order of the
// queue, and gives back those that it does not move, in the same order. Messages
// that come while it runs are ignored, so one that fails again at once is not moved
// again and again. When ctx ends it finishes the message in hand.
//
// Every look at a message of a quorum queue counts as a delivery; see keep.
func Run(ctx context.Context, o Options, each func(Item)) (Report, error) {
	r := run{options: o, each: each}
	ready := 0
	c, err := queue.Connect(ctx, queue.Options{
		Broker: o.Broker, Name: "redrive", Queue: o.Queue, Hold: o.Window, Timeout: o.Timeout,
		Begin: func(ctx context.Context, c *queue.Conn) (err error) {
			ready, err = r.begin(ctx, c)
			return err
		},
	})
	if err != nil {
		return Report{}, fmt.Errorf("redrive: %w", err)
	}
	r.conn = c
	err = r.all(ctx, ready)
	if closed := c.Close(); err == nil {
		err = closed
	}
	if err != nil {
		return r.report, fmt.Errorf("redrive: %w", err)
	}
	return r.report, nil
}

// run is one Run under way.
type run struct {
	options Options
	conn    *queue.Conn
	each    func(Item)
	report  Report
	renewAt int64
	renew   bool // see keep
}

// begin makes sure that nobody else takes messages, begins to take them and returns how many there are.
func (r *run) begin(ctx context.Context, c *queue.Conn) (ready int, err error) {
	if !r.options.NoLock {
		if err := c.Lock(ctx); err != nil {
			return 0, err
		}
	}
	if r.renewAt, err = c.Check(ctx); err != nil {
		return 0, fmt.Errorf("queue %q: %w", r.options.Queue, err)
	}
	found, err := c.Settled(ctx)
	if err != nil || found.Messages == 0 {
		return 0, err
	}
	return found.Messages, c.Take(ctx, found.Messages)
}

// all processes the ready messages. When enough were moved, it still takes those
// that were given back before: a quorum queue puts a returned message behind earlier
// returned ones, so the messages that redrive holds would come behind them.
func (r *run) all(ctx context.Context, ready int) error {
	givenBack := false
	for i := 0; i < ready && ctx.Err() == nil; i++ {
		enough := r.options.Count > 0 && r.report.Moved == r.options.Count
		if enough && !givenBack && !r.renew {
			return nil
		}
		l, ok, err := r.conn.Next(ctx)
		if err != nil || !ok {
			return err
		}
		givenBack = l.Redelivered
		r.renew = r.renew || l.Looks() >= r.renewAt
		if enough {
			err = r.keep(l)
		} else {
			err = r.one(ctx, l, i+1)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// one processes a message. An error ends the run.
func (r *run) one(ctx context.Context, l *queue.Message, position int) error {
	o := r.options
	item := o.item(l, position)
	if o.Match != "" && item.Type != o.Match {
		r.report.Unmatched++
		return r.keep(l)
	}
	target, err := o.target(l)
	if err != nil {
		r.leave(item, err)
		return r.keep(l)
	}
	item.To = target
	p := l.Cleaned(o.HeaderPrefix, r.conn.User())
	if item.Resealed, err = o.reseal(context.WithoutCancel(ctx), l, target, &p); err != nil {
		r.leave(item, err)
		return r.keep(l)
	}
	if o.DryRun {
		r.report.Moved++
		item.Action = WouldMove
		r.each(item)
		return r.keep(l)
	}
	err = r.move(target, p, l)
	var left *queue.LeftError
	switch {
	case err == nil:
		r.report.Moved++
		item.Action = Moved
		r.each(item)
		return nil
	case errors.As(err, &left):
		r.leave(item, err)
		return r.keep(l)
	default:
		r.leave(item, err)
		return err
	}
}

// leave reports a message that stays in the error queue.
func (r *run) leave(item Item, reason error) {
	r.report.Left++
	item.Action, item.Reason = Left, reason.Error()
	r.each(item)
}

// keep leaves a message in the queue: it is held until the end, so that the next one
// comes, and given back when the channel closes. Looking must not use up the delivery
// limit of a quorum queue. So once one message has been looked at often, it and all that follow are published to the queue again, one after
// the other and otherwise unchanged, which keeps the order.
func (r *run) keep(l *queue.Message) error {
	if !r.renew || l.Broken {
		return nil
	}
	err := r.move(r.options.Queue, l.Renewed(r.conn.User()), l)
	var left *queue.LeftError
	if errors.As(err, &left) {
		return nil
	}
	return err
}

// move publishes p to a queue, waits for the confirm and acknowledges l. After any error but
// a *queue.LeftError the run cannot go on.
func (r *run) move(to string, p session.Publishing, l *queue.Message) error {
	p.Key = to
	if err := r.conn.Store([]session.Publishing{p})[0]; err != nil {
		return err
	}
	return r.conn.Remove(l)
}

// target is the queue to which a message goes.
func (o Options) target(l *queue.Message) (string, error) {
	source, err := l.Back(o.HeaderPrefix, o.Queue)
	if o.To != "" && !l.Broken {
		return o.To, nil
	}
	return source, err
}

// item describes a message.
func (o Options) item(l *queue.Message, position int) Item {
	d := l.Delivery
	i := Item{
		Position: position, Unreadable: l.Table != nil || l.Broken,
		ID:       l.Text(o.HeaderPrefix+harebus.HeaderMessageID, d.MessageId),
		Type:     l.Text(o.HeaderPrefix+harebus.HeaderMessageType, d.Type),
		Source:   l.Text(o.HeaderPrefix+harebus.HeaderSourceQueue, ""),
		Failure:  l.Text(o.HeaderPrefix+harebus.HeaderErrorDetails, ""),
		Sent:     d.Timestamp,
		Delivery: d,
	}
	death := l.Death()
	if i.Source == "" {
		i.Source, _ = field.Text(death["queue"])
	}
	if reason, ok := field.Text(death["reason"]); ok && i.Failure == "" {
		i.Failure = "the broker moved it here: " + reason
	}
	return i
}
