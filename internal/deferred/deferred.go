// Package deferred shows the messages that wait in the delay queues, and takes back
// cancellations, for the command harebus deferred. It uses no harebus.Setup, because it
// belongs to no service.
package deferred

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/harebus/harebus/internal/access"
	"github.com/harebus/harebus/internal/refusal"
	"github.com/harebus/harebus/internal/session"
	"github.com/harebus/harebus/topology"
)

// Options say where the messages are.
type Options struct {
	// Broker is where to connect.
	Broker access.Broker
	// HeaderPrefix starts the names of the standard headers: "PikaBus.".
	HeaderPrefix string
	// Hold is how many messages one consumer holds; a queue with more is looked at by several.
	// Default: 65,535, which is the most.
	Hold int
	// Timeout is how long the broker may take to be there, and for one answer.
	Timeout time.Duration
}

// with calls fn with a session.
func (o *Options) with(ctx context.Context, verb string, fn func(ctx context.Context, s *session.Session) error) error {
	broker := o.Broker
	broker.RequestTimeout = o.Timeout
	link, err := broker.Link("deferred")
	if err != nil {
		return fmt.Errorf("%s deferred messages: %w", verb, err)
	}
	defer link.Close()
	connecting, cancel := context.WithTimeoutCause(ctx, o.Timeout, fmt.Errorf("gave up after %v", o.Timeout))
	s, err := link.Session(connecting)
	cancel()
	if err == nil {
		err = fn(ctx, s)
	}
	if err != nil {
		return fmt.Errorf("%s deferred messages: %w", verb, err)
	}
	return nil
}

// Counts are how many messages wait.
type Counts struct {
	// Classes are the messages in the delay queues.
	Classes []Class
	// Total is their sum.
	Total int
	// Cancelled are those that were caught by a cancellation in the last seven days.
	Cancelled int
	// Lost are those that met a queue that was deleted.
	Lost int
}

// Class is a number of messages that are due within some time, at the latest.
type Class struct {
	Name     string
	Within   time.Duration
	Messages int
}

const (
	day   = 24 * time.Hour
	month = 30 * day
)

func classes() []Class {
	return []Class{
		{"1 s", time.Second, 0},
		{"1 min", time.Minute, 0},
		{"1 h", time.Hour, 0},
		{"1 d", day, 0},
		{"30 d", month, 0},
		{"later", topology.MaxDelay, 0},
	}
}

// Count asks each delay queue how many messages it has. It takes none.
func (o Options) Count(ctx context.Context) (Counts, error) {
	c := Counts{Classes: classes()}
	err := o.with(ctx, "count", func(ctx context.Context, s *session.Session) error {
		queues := waiting()
		for i, q := range queues {
			n, err := ready(ctx, s, q.name)
			if err != nil {
				return err
			}
			within := topology.MaxDelay
			if i+1 < len(queues) {
				within = queues[i+1].wait // what is left after this queue is less than one more step
			}
			at := slices.IndexFunc(c.Classes, func(class Class) bool { return within <= class.Within })
			c.Classes[at].Messages += n
			c.Total += n
		}
		for _, q := range (topology.Delays{}).Cancelled().Queues {
			n, err := ready(ctx, s, q.Name)
			if err != nil {
				return err
			}
			c.Cancelled += n
		}
		var err error
		c.Lost, err = ready(ctx, s, lost)
		return err
	})
	return c, err
}

const lost = topology.DefaultDelayPrefix + ".lost"

// delayQueue is a queue that keeps each message for wait.
type delayQueue struct {
	name string
	wait time.Duration
}

// longer is from where on a queue waits a millisecond more than its share.
const longer = 2500 * time.Millisecond

// waiting are the delay queues, shortest first. The broker may not have all of them.
func waiting() (queues []delayQueue) {
	for _, q := range (topology.Delays{}).Topology().Queues {
		if ttl, ok := q.Arguments["x-message-ttl"].(int64); ok {
			wait := time.Duration(ttl) * time.Millisecond
			if wait > longer {
				wait -= time.Millisecond // which makes sure that nothing is early
			}
			queues = append(queues, delayQueue{q.Name, wait})
		}
	}
	slices.SortFunc(queues, func(a, b delayQueue) int { return cmp.Compare(a.wait, b.wait) })
	return queues
}

// ready is the number of messages that are ready in a queue: 0 if there is no such queue.
func ready(ctx context.Context, s *session.Session, queue string) (n int, err error) {
	err = s.WithChannel(ctx, func(ch *amqp.Channel) error {
		q, err := ch.QueueDeclarePassive(queue, true, false, false, false, nil)
		n = q.Messages
		return err
	})
	switch {
	case err == nil:
		return n, nil
	case refusal.Missing(err) && !session.Unreachable(err):
		return 0, nil
	default:
		return 0, fmt.Errorf("ask for queue %q: %w", queue, err)
	}
}

// ErrLost says that a message met a deleted queue before it was due.
var ErrLost = fmt.Errorf("it lies in queue %q, because a queue on its way was deleted, and would be early: restore it when it is due", lost)

// ErrNotCancelled says that a message is not among the cancelled.
var ErrNotCancelled = errors.New("it is not among the cancelled: it was delivered, was never cancelled, or that was more than seven days ago")
