// Package ordered says the word of an operator about the keys of an ordered queue, for the command harebus parked. It uses no
// harebus.Setup, because it belongs to no service.
package ordered

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/harebus/harebus/internal/access"
	"github.com/harebus/harebus/internal/lanes"
	"github.com/harebus/harebus/internal/messageid"
	"github.com/harebus/harebus/internal/refusal"
	"github.com/harebus/harebus/internal/wire"
	"github.com/harebus/harebus/order"
)

// Options say which queue it is about.
type Options struct {
	Broker access.Broker
	// Queue is the ordered queue.
	Queue string
	// HeaderPrefix starts the names of the standard headers: "PikaBus.".
	HeaderPrefix string
	// Timeout is how long the broker may take to be there, and the owner of the queue to answer.
	Timeout time.Duration
}

// ErrNobody says that no instance of the service consumes, so nobody has answered. The next one does what was said.
var ErrNobody = errors.New("no instance consumes from the queue; the next one that does will do it")

// List returns the keys that are parked: as the instances say that have the queue, or its partitions; where there is none, as they
// lie in the parking queue. With an error they are those of the queues that it does not name.
func (o *Options) List(ctx context.Context) (keys []order.Parked, err error) {
	return over(ctx, o, func(one *Options) ([]order.Parked, error) { return one.list(ctx) })
}

// over calls fn for the queue and each of its partitions, also when one of them fails.
func over[T any](ctx context.Context, o *Options, fn func(*Options) ([]T, error)) (results []T, err error) {
	all, err := o.whole(ctx)
	if err != nil {
		return nil, err
	}
	var faults []error
	for _, one := range all {
		some, err := fn(one)
		if results = append(results, some...); err != nil && len(all) > 1 {
			err = fmt.Errorf("%s: %w", one.Queue, err)
		}
		faults = append(faults, err)
	}
	return results, errors.Join(faults...)
}

// list is List for one queue.
func (o *Options) list(ctx context.Context) (keys []order.Parked, err error) {
	return with(ctx, o, func(ctx context.Context, ch *amqp.Channel, q amqp.Queue) (keys []order.Parked, err error) {
		if q.Consumers > 0 {
			q, err = o.ask(ctx, ch, lanes.Note{Kind: lanes.List}, &keys)
			if !errors.Is(err, ErrNobody) {
				return keys, err
			}
		}
		return o.read(ctx, ch, q.Messages)
	})
}

// Say says a word about a key, or about all that are held, and returns for how many messages it was done. With [ErrNobody] it was not said to
// all, and another error names the queues to which it was perhaps not said.
func (o *Options) Say(ctx context.Context, word, key string) (messages int, err error) {
	var unheard error
	done, err := over(ctx, o, func(one *Options) ([]int, error) {
		n, err := one.say(ctx, word, key)
		if errors.Is(err, ErrNobody) {
			unheard, err = err, nil
		}
		return []int{n}, err
	})
	for _, n := range done {
		messages += n
	}
	return messages, cmp.Or(err, unheard)
}

// say is Say for one queue.
func (o *Options) say(ctx context.Context, word, key string) (messages int, err error) {
	return with(ctx, o, func(ctx context.Context, ch *amqp.Channel, q amqp.Queue) (messages int, err error) {
		note := lanes.Note{Kind: word, About: key}
		if q.Consumers > 0 {
			_, err = o.ask(ctx, ch, note, &messages)
			return messages, err
		}
		return 0, cmp.Or(o.publish(ctx, ch, note, "", ""), ErrNobody)
	})
}

func (o *Options) config() *lanes.Config {
	return lanes.Of((&order.Config{}).Complete(), o.Queue, o.HeaderPrefix)
}

// with calls fn with a channel, and the parking queue as it is. When ctx ends, fn may go on for a moment after with has
// returned, so what it returns travels by a channel, and it must not write anything else.
func with[T any](ctx context.Context, o *Options, fn func(ctx context.Context, ch *amqp.Channel, q amqp.Queue) (T, error)) (result T, err error) {
	broker := o.Broker
	broker.RequestTimeout = 2 * o.Timeout // a request here waits for an answer
	link, err := broker.Link("parked")
	if err != nil {
		return result, err
	}
	defer link.Close()
	ctx, cancel := context.WithTimeoutCause(ctx, 2*o.Timeout, fmt.Errorf("gave up after %v", 2*o.Timeout))
	defer cancel()
	s, err := link.Session(ctx)
	if err != nil {
		return result, err
	}
	results := make(chan T, 1)
	err = s.WithChannel(ctx, func(ch *amqp.Channel) error {
		q, err := ch.QueueDeclarePassive(o.config().Parking, true, false, false, false, nil)
		if err != nil {
			return err
		}
		got, err := fn(ctx, ch, q)
		results <- got
		return err
	})
	if refusal.Missing(err) {
		return result, fmt.Errorf("%q is no ordered queue, or no instance of its service has run: there is no queue %q", o.Queue, o.config().Parking)
	}
	select {
	case result = <-results:
	default: // it has not come so far
	}
	return result, err
}

// publish leaves a note in the parking queue, and waits for the confirm. An error says why the broker does not have it.
func (o *Options) publish(ctx context.Context, ch *amqp.Channel, n lanes.Note, replyTo, id string) error {
	cfg := o.config()
	closes, returns := ch.NotifyClose(make(chan *amqp.Error, 1)), ch.NotifyReturn(make(chan amqp.Return, 1))
	if err := ch.Confirm(false); err != nil {
		return err
	}
	confirm, err := ch.PublishWithDeferredConfirmWithContext(ctx, "", cfg.Parking, true, false, amqp.Publishing{
		Headers: n.Write(&cfg.Names), MessageId: id, CorrelationId: id, ReplyTo: replyTo, DeliveryMode: amqp.Persistent,
	})
	if err != nil {
		return err
	}
	ok, err := confirm.WaitContext(ctx)
	switch {
	case err != nil:
		return err
	case !ok:
		return unconfirmed(closes, cfg.Parking)
	}
	select {
	case _, returned := <-returns: // it comes before the confirm
		if returned {
			return fmt.Errorf("the parking queue %q was deleted", cfg.Parking)
		}
	default:
	}
	return nil
}

// unconfirmed says why the broker has not confirmed a note. The client notes the end of a channel before it ends the wait for a confirm.
func unconfirmed(closes <-chan *amqp.Error, parking string) error {
	select {
	case err := <-closes:
		switch {
		case err == nil:
			return errors.New("the connection was lost before the broker confirmed it")
		case refusal.Forbidden(err):
			return fmt.Errorf("the user needs the permission to write to amq.default, the exchange by which the parking queue is reached: %w", err)
		}
		return err
	default:
		return fmt.Errorf("the broker has refused it: the parking queue %q is full, or cannot be reached now", parking)
	}
}

// ask leaves a note and waits for the answer of the owner. [ErrNobody] says that no instance is there any more, and then the parking queue is
// returned as it is: the broker still counts the consumers of an instance that has just stopped.
func (o *Options) ask(ctx context.Context, ch *amqp.Channel, n lanes.Note, answer any) (q amqp.Queue, err error) {
	replies, err := ch.QueueDeclare("", false, true, true, false, nil)
	if err != nil {
		return q, err
	}
	deliveries, err := ch.ConsumeWithContext(ctx, replies.Name, "", true, true, false, false, nil)
	if err != nil {
		return q, err
	}
	id := messageid.New()
	if err := o.publish(ctx, ch, n, replies.Name, id); err != nil {
		return q, err
	}
	timeout, look := time.NewTimer(o.Timeout), time.NewTicker(time.Second)
	defer timeout.Stop()
	defer look.Stop()
	for {
		select {
		case d, ok := <-deliveries:
			if !ok {
				return q, errors.New("the connection was lost before the answer came")
			}
			if err := wire.Unpack(&d); err != nil {
				return q, err
			}
			return q, json.Unmarshal(d.Body, answer)
		case <-look.C:
			if q, err = ch.QueueDeclarePassive(o.config().Parking, true, false, false, false, nil); err != nil {
				return q, err
			}
			if q.Consumers == 0 {
				return q, ErrNobody
			}
		case <-timeout.C:
			return q, fmt.Errorf("the instance that has the queue has not answered within %v; what was said stays in the parking queue, and it will be done", o.Timeout)
		}
	}
}

// read reads the parking queue, as its active consumer: an instance that starts meanwhile waits until this is over, and then
// finds everything there.
//
// It has n messages, or more that come meanwhile.
func (o *Options) read(ctx context.Context, ch *amqp.Channel, n int) ([]order.Parked, error) {
	const quiet = 500 * time.Millisecond
	cfg := o.config()
	if err := ch.Qos(prefetch, 0, false); err != nil {
		return nil, err
	}
	deliveries, err := ch.ConsumeWithContext(ctx, cfg.Parking, "", false, false, false, false, nil)
	if err != nil {
		return nil, err
	}
	var all []amqp.Delivery
	for came := 0; ; came++ {
		pause := quiet
		if came < n {
			pause = o.Timeout
		}
		timer := time.NewTimer(pause)
		select {
		case d, ok := <-deliveries:
			timer.Stop()
			if !ok {
				return nil, errors.New("the connection was lost while the parking queue was read")
			}
			if err := wire.Unpack(&d); err == nil { // what cannot be read has no key
				all = append(all, d)
			}
		case <-timer.C:
			if came < n {
				return nil, fmt.Errorf("of the %d messages in %s only %d came within %v: an instance of the service may have begun meanwhile; try again",
					n, cfg.Parking, came, o.Timeout)
			}
			return lanes.Collect(all, cfg), nil
		}
	}
}

// prefetch is that of the owner: a smaller one would change the order in which the messages are returned.
const prefetch = 60_000
