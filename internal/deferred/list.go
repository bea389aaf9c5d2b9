package deferred

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"net/url"
	"strings"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/internal/field"
	"github.com/harebus/harebus/internal/queue"
	"github.com/harebus/harebus/internal/session"
	"github.com/harebus/harebus/topology"
)

// Item is a message that waits.
type Item struct {
	ID, Type string
	// Exchange and Key are where it goes when it is due. The empty exchange leads to the
	// queue that Key names. Both are empty if the names are too long to be read.
	Exchange, Key string
	// Due is the time in its header; zero if it has none.
	Due time.Time
	// Retry says that it has failed, or was postponed by its handler, and waits for its next
	// attempt.
	Retry bool
	// Ticket cancels it. It is empty for a message that cannot be cancelled: a retry, and
	// what a program without tickets has deferred.
	Ticket string
	// Delivery is the message as it lies in its queue.
	Delivery *amqp.Delivery
}

// List looks at the messages that wait in the delay queues, those of the shortest queue
// first, and calls each with them. It stops after most messages. Each queue is held for as
// long as its messages take to be read; a message that becomes due meanwhile is late by
// that. Their order and their due times do not change. It returns how many messages of these queues
// it has not seen: they have become due since, or the broker was slow, and they were not waited for.
func (o Options) List(ctx context.Context, most int, each func(Item)) (unseen int, err error) {
	err = o.with(ctx, "list", func(ctx context.Context, s *session.Session) error {
		for _, q := range waiting() {
			n, err := ready(ctx, s, q.name)
			if err != nil {
				return err
			}
			if n = min(n, most); n == 0 {
				continue
			}
			unseen += n
			err = o.look(ctx, s, held{q.name, n, briefly}, func(m *queue.Message) (bool, error) {
				most--
				unseen--
				each(o.item(m.Delivery))
				return false, nil
			})
			if err != nil {
				return err
			}
		}
		return nil
	})
	return unseen, err
}

// held are the messages of a queue that is looked at: n were ready, and none of them comes any more when nothing has
// come for idle.
type held struct {
	queue string
	n     int
	idle  time.Duration
}

const (
	// briefly is for delay queues: while they are held, nothing comes out of them.
	briefly = 300 * time.Millisecond
	// patiently is for queues in which messages stay. RabbitMQ 3.10 reads thousands of messages from the disk before
	// the first of them comes.
	patiently = 10 * time.Second
)

// look takes the messages of a queue and gives back those that were not acknowledged, in their
// order, by closing the channel. It ends early when take returns true: then that message is
// acknowledged.
func (o *Options) look(ctx context.Context, s *session.Session, h held, take func(m *queue.Message) (bool, error)) error {
	var ch *amqp.Channel
	err := s.RPC(ctx, func() (err error) {
		ch, err = s.Channel()
		return err
	})
	if err != nil {
		return fmt.Errorf("look at queue %q: %w", h.queue, err)
	}
	rest := h.n
	for more := true; more && rest > 0 && err == nil; {
		h.n = min(rest, cmp.Or(o.Hold, math.MaxUint16))
		more, err = consumed(ctx, s, ch, h, take)
		rest -= h.n
	}
	if closed := s.RPC(ctx, ch.Close); err == nil {
		err = closed
	}
	if err != nil {
		return fmt.Errorf("look at queue %q: %w", h.queue, err)
	}
	return nil
}

// consumed calls take with the messages of one consumer, which holds h.n. It returns false
// when there were fewer, or take wants no more.
func consumed(ctx context.Context, s *session.Session, ch *amqp.Channel, h held, take func(m *queue.Message) (bool, error)) (more bool, err error) {
	var deliveries <-chan amqp.Delivery
	err = s.RPCs(ctx, func(next func()) (err error) {
		if err = ch.Qos(h.n, 0, false); err != nil {
			return err
		}
		next()
		deliveries, err = ch.Consume(h.queue, "", false, false, false, false, nil)
		return err
	})
	if err != nil {
		return false, err
	}
	return taken(ctx, deliveries, h, take)
}

// taken calls take with at most h.n deliveries, and returns true if there were so many.
func taken(ctx context.Context, deliveries <-chan amqp.Delivery, h held, take func(m *queue.Message) (bool, error)) (all bool, err error) {
	quiet := time.NewTimer(h.idle)
	defer quiet.Stop()
	for range h.n {
		quiet.Reset(h.idle)
		select {
		case d, ok := <-deliveries:
			if !ok {
				return false, errors.New("the broker has ended the consumer")
			}
			if found, err := take(queue.Unpack(&d)); err != nil || found {
				return false, errors.Join(err, acknowledge(&d, found))
			}
		case <-quiet.C:
			return false, nil
		case <-ctx.Done():
			return false, context.Cause(ctx)
		}
	}
	return true, nil
}

func acknowledge(d *amqp.Delivery, found bool) error {
	if !found {
		return nil
	}
	return d.Ack(false)
}

// item describes a message in a delay queue.
func (o *Options) item(d *amqp.Delivery) Item {
	i := Item{ID: d.MessageId, Type: d.Type, Delivery: d}
	if due, err := field.ParseTime(d.Headers[o.HeaderPrefix+harebus.HeaderDeferredTime]); err == nil {
		i.Due = due
	}
	_, i.Retry = d.Headers[o.HeaderPrefix+harebus.HeaderErrorRetries]
	label, ticket := labels(d)
	i.Exchange, i.Key = destination(label)
	if t := (topology.Ticket{ID: d.MessageId, Due: i.Due}); ticket && t.Validate() == nil {
		i.Ticket = t.String()
	}
	return i
}

// labels are the label of the exit of a message, and whether it has the one by which it can
// be cancelled.
func labels(d *amqp.Delivery) (exit string, ticket bool) {
	lists := []any{d.Headers["CC"]}
	deaths, _ := d.Headers["x-death"].([]any)
	for _, one := range deaths {
		if death, ok := one.(amqp.Table); ok {
			lists = append(lists, death["routing-keys"])
		}
	}
	own := topology.Delays{}.Cancellation(d.MessageId).Key
	for _, list := range lists {
		keys, _ := list.([]any)
		for _, value := range keys {
			key, _ := value.(string)
			ticket = ticket || key == own
			if strings.HasPrefix(key, "due/") || strings.HasPrefix(key, "due#") {
				exit = key
			}
		}
	}
	if rest, ok := strings.CutPrefix(d.RoutingKey, topology.DefaultDelayPrefix+"."); exit == "" && ok && strings.HasPrefix(rest, "due") {
		exit = rest // it travels under the name of its exit
	}
	return exit, ticket
}

// destination reads the label of an exit.
func destination(label string) (exchange, key string) {
	rest, ok := strings.CutPrefix(label, "due/")
	if !ok {
		return "", ""
	}
	exchange, key, _ = strings.Cut(rest, "/")
	if unescaped, err := url.PathUnescape(exchange); err == nil { // only % and / are escaped
		exchange = unescaped
	}
	return exchange, key
}
