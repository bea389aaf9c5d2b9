// Package redrive moves messages from an error queue back to the queues they
// came from.
//
// A message is published, its confirm awaited, and only then acknowledged, one
// at a time: what happens on the way can repeat a message, and lose none. It
// talks to the broker itself, because a service cannot listen on its error queue.
package redrive

import (
	"context"
	"errors"
	"fmt"
	"time"
	"unicode/utf8"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/topology"
)

// Options say what to move. The zero value of Count and of the texts but URL,
// Queue and HeaderPrefix means no restriction.
type Options struct {
	// URL is the address of the broker.
	URL string
	// Queue is the error queue.
	Queue string
	// HeaderPrefix starts the names of the standard headers: "PikaBus.".
	HeaderPrefix string
	// Count is how many messages to move at most.
	Count int
	// Match is the wire name of the type of the messages to move.
	Match string
	// To is where to move them, instead of each one's SourceQueue.
	To string
	// DryRun changes nothing.
	DryRun bool
	// Timeout is how long the broker may take for one message.
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
	ID, Type string
	To       string // empty if there is nowhere to move it
	Reason   string // why it was left
}

// Report counts what was done.
type Report struct {
	// Moved counts those that would be moved when nothing is changed.
	Moved, Left, Unmatched int
}

// Run moves messages and calls each with what it did, one message at a time. It
// looks at every message that was ready when it began, once, in the order of the
// queue, and gives back what it does not move; those that come while it runs are
// left alone, so one that fails again at once is not moved in circles. When ctx
// ends it finishes the message in hand.
//
// Every look at a message of a quorum queue counts as a delivery; see keep.
func Run(ctx context.Context, o Options, each func(Item)) (Report, error) {
	m, err := connect(ctx, o)
	if err != nil {
		return Report{}, fmt.Errorf("redrive: %w", err)
	}
	r := run{options: o, mover: m, each: each}
	err = errors.Join(r.all(ctx), m.close())
	if err != nil {
		return r.report, fmt.Errorf("redrive: %w", err)
	}
	return r.report, nil
}

// run is one Run under way.
type run struct {
	options Options
	mover   *mover
	each    func(Item)
	report  Report
}

func (r *run) all(ctx context.Context) error {
	depth, err := r.mover.depth(r.options.Queue)
	if err != nil {
		return err
	}
	for i := 0; i < depth && ctx.Err() == nil; i++ {
		if r.options.Count > 0 && r.report.Moved == r.options.Count {
			return nil
		}
		d, ok, err := r.mover.get(r.options.Queue)
		if err != nil || !ok {
			return err
		}
		if err := r.one(&d); err != nil {
			return err
		}
	}
	return nil
}

// one deals with a message. An error ends the run.
func (r *run) one(d *amqp.Delivery) error {
	o := r.options
	item := Item{
		ID:   header(d.Headers, o.HeaderPrefix+harebus.HeaderMessageID, d.MessageId),
		Type: header(d.Headers, o.HeaderPrefix+harebus.HeaderMessageType, d.Type),
	}
	if o.Match != "" && item.Type != o.Match {
		r.report.Unmatched++
		return r.keep(d)
	}
	target, err := o.target(d)
	if err != nil {
		r.leave(item, err)
		return r.keep(d)
	}
	item.To = target
	if o.DryRun {
		r.report.Moved++
		item.Action = WouldMove
		r.each(item)
		return r.keep(d)
	}
	err = r.mover.move(target, cleaned(d, o.HeaderPrefix), d)
	var left *leftError
	switch {
	case err == nil:
		r.report.Moved++
		item.Action = Moved
		r.each(item)
		return nil
	case errors.As(err, &left):
		r.leave(item, err)
		return r.keep(d)
	default:
		r.leave(item, err)
		return err
	}
}

// leave reports a message that stays.
func (r *run) leave(item Item, reason error) {
	r.report.Left++
	item.Action, item.Reason = Left, reason.Error()
	r.each(item)
}

// manyDeliveries is well below any delivery limit in use: RabbitMQ 4 drops a
// message of a quorum queue at its twenty-first delivery.
const manyDeliveries = 10

// keep leaves a message in the queue: it is held until the end, so that the next
// one comes, and given back when the channel closes. One of a quorum queue that has been looked at
// often is put into the queue anew instead, at its end and otherwise unchanged:
// looking must not use up its deliveries.
func (r *run) keep(d *amqp.Delivery) error {
	if n, ok := d.Headers["x-delivery-count"].(int64); !ok || n < manyDeliveries {
		return nil
	}
	err := r.mover.move(r.options.Queue, renewed(d), d)
	var left *leftError
	if errors.As(err, &left) {
		return nil
	}
	return err
}

// target is where a message goes. The address is the message's own word, which
// anybody may have written: it is held to the rules for names, and must not lead
// back here.
func (o Options) target(d *amqp.Delivery) (string, error) {
	if o.To != "" {
		return o.To, nil
	}
	value, ok := d.Headers[o.HeaderPrefix+harebus.HeaderSourceQueue]
	if !ok {
		if queue, ok := d.Headers["x-first-death-queue"].(string); ok {
			return "", fmt.Errorf("it does not say where it came from; the broker moved it here from %q", queue)
		}
		return "", errors.New("it does not say where it came from")
	}
	source, ok := text(value)
	if !ok {
		return "", errors.New("its source queue is not text")
	}
	if err := topology.ValidName("queue", source); err != nil {
		return "", err
	}
	if source == o.Queue {
		return "", errors.New("its source queue is the error queue itself")
	}
	return source, nil
}

// text returns a header value that is text. Python's clients write bytes too.
func text(value any) (string, bool) {
	switch v := value.(type) {
	case string:
		return v, utf8.ValidString(v)
	case []byte:
		return string(v), utf8.Valid(v)
	}
	return "", false
}

// header reads a header, or the property that stands in for it.
func header(headers amqp.Table, name, property string) string {
	if v, ok := text(headers[name]); ok && v != "" {
		return v
	}
	return property
}
