package queue

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/harebus/harebus/internal/refusal"
	"github.com/harebus/harebus/internal/wait"
)

// ErrLocked says that another operator works with the queue.
var ErrLocked = errors.New("another operator works with the error queue")

// Lock keeps a second operator out until Unlock or the end of the connection. The broker takes
// a moment to notice that a process was killed.
func (c *Conn) Lock(ctx context.Context) error {
	const patience = time.Second
	name := LockName(c.o.Queue)
	err := Lock(ctx, c.session, name, patience)
	switch {
	case refusal.Locked(err):
		return fmt.Errorf("%w: it holds the queue %q; wait until it has ended", ErrLocked, name)
	case err != nil && ctx.Err() == nil:
		return fmt.Errorf("declare the lock %q (-no-lock goes without): %w", name, err)
	}
	return err
}

// Unlock lets other operators in.
func (c *Conn) Unlock(ctx context.Context) error {
	return c.session.WithChannel(ctx, func(ch *amqp.Channel) error {
		_, err := ch.QueueDelete(LockName(c.o.Queue), false, false, false)
		return err
	})
}

// Check refuses a queue that is no error queue. It returns the number of deliveries at which a
// message is to be put into the queue anew, because looking must not use up its delivery limit.
func (c *Conn) Check(ctx context.Context) (renewAt int64, err error) {
	if err := c.unused(ctx); err != nil {
		return 0, err
	}
	limit, deadLetters := c.learn(ctx)
	if deadLetters {
		return 0, errors.New("it dead-letters into another queue, so it is no error queue; a look would use up deliveries of its messages")
	}
	switch limit {
	case unknown:
		return fewLooks, nil
	case 0, 1: // one look and one interrupted look
		return 0, fmt.Errorf("its delivery limit is %d, so the broker would drop messages that a look gives back; it has to be 2 or more", limit)
	}
	return limit / 2, nil
}

// unknown is the delivery limit of a queue that was declared without one, or is no quorum queue.
const unknown = -1

// unused waits until the queue has no consumers: that of an operator who was killed is there for
// a moment, and so long the broker has not taken back what it held.
func (c *Conn) unused(ctx context.Context) error {
	const tries, pause = 20, 100 * time.Millisecond
	for try := 1; ; try++ {
		state, err := c.Settled(ctx)
		if err != nil || state.Consumers == 0 {
			return err
		}
		if try == tries {
			return fmt.Errorf("it has %d consumers, so it is no error queue or another operator works with it; a look would take messages from them", state.Consumers)
		}
		if !wait.Sleep(ctx, pause) {
			return context.Cause(ctx)
		}
	}
}

// fewLooks is well below any delivery limit in use of a queue that was declared without one: a
// quorum queue of RabbitMQ 4 then drops a message at its twenty-first delivery.
const fewLooks = 10

// asIs is what the broker says about a declaration that differs from the queue.
var asIs = regexp.MustCompile(`inequivalent arg '([^']*)' .*(?:current is|received) .*'(\d+)'`)

// learn asks how often a quorum queue may be looked at, and whether it dead-letters. The question
// is a declaration with a delivery limit that is no number. The broker refuses it, also when
// the queue is gone, and says how the queue differs. A limit that a policy sets is not in the
// answer.
func (c *Conn) learn(ctx context.Context) (limit int64, deadLetters bool) {
	err := c.session.WithChannel(ctx, func(ch *amqp.Channel) error {
		_, err := ch.QueueDeclare(c.o.Queue, true, false, false, false, amqp.Table{"x-queue-type": "quorum", "x-delivery-limit": "?"})
		return err
	})
	var refused *amqp.Error
	if !errors.As(err, &refused) || refused.Code != amqp.PreconditionFailed {
		return unknown, false
	}
	if strings.Contains(refused.Reason, "'x-dead-letter-") {
		return unknown, true
	}
	if found := asIs.FindStringSubmatch(refused.Reason); found != nil && found[1] == "x-delivery-limit" {
		if limit, err := strconv.ParseInt(found[2], 10, 64); err == nil {
			return limit, false
		}
	}
	return unknown, false
}
