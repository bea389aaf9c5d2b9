package pulse

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
	"go.uber.org/zap"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/internal/session"
	"github.com/harebus/harebus/internal/wire"
)

const (
	// waiting is how many questions wait for an instance; the oldest is dropped. They expire.
	waiting = 32
	// stale is when a question expires: nobody waits for the answer any more.
	stale = 10 * time.Second
	// prefetch is how many questions are taken at a time.
	prefetch = 4
	// replyTo starts every address for direct replies. Answers go nowhere else, so a question
	// cannot have an instance fill a queue.
	replyTo = "amq.rabbitmq.reply-to."

	typeAnswer = "harebus.pulse.answer"
)

// desk is where one session is asked.
type desk struct {
	pulse *Pulse
	setup *harebus.Setup
	on    *session.Session
	ch    *amqp.Channel

	deliveries <-chan amqp.Delivery
	closes     chan *amqp.Error
	cancels    chan string
}

// attend answers on one session until that ends, or ctx.
func (p *Pulse) attend(ctx context.Context, link *session.Link, setup *harebus.Setup) error {
	on, err := link.Session(ctx)
	if err != nil {
		return err
	}
	opened := make(chan *desk, 1)
	err = on.RPCs(ctx, func(next func()) error {
		d := &desk{pulse: p, setup: setup, on: on}
		err := d.open(next)
		opened <- d
		return err
	})
	if err != nil {
		return err
	}
	return (<-opened).serve(ctx)
}

// keys are the routing keys under which an instance is asked, and takes orders.
func (p *Pulse) keys(setup *harebus.Setup) []string {
	keys := []string{Target{}.key(), Target{Instance: p.instance}.key()}
	for _, e := range setup.Endpoints() {
		keys = append(keys, Target{Queue: e.Queue()}.key())
	}
	return keys
}

// open declares a queue, which belongs to the connection, and consumes from it.
func (d *desk) open(next func()) (err error) {
	if d.ch, err = d.on.Channel(); err != nil {
		return err
	}
	d.closes = d.ch.NotifyClose(make(chan *amqp.Error, 1))
	d.cancels = d.ch.NotifyCancel(make(chan string, 1))
	exchanges := []string{Exchange}
	if d.pulse.cfg.Control {
		exchanges = append(exchanges, ControlExchange)
	}
	// Another name each time: the broker may not have noticed yet that the connection before has ended.
	name := queueName(d.pulse.instance)
	next()
	_, err = d.ch.QueueDeclare(name, false, false, true, false, amqp.Table{"x-max-length": int32(waiting), "x-message-ttl": int32(stale.Milliseconds())})
	for _, exchange := range exchanges {
		if err == nil {
			next()
			err = d.ch.ExchangeDeclare(exchange, amqp.ExchangeDirect, true, false, false, false, nil)
		}
		for _, key := range d.pulse.keys(d.setup) {
			if err == nil {
				next()
				err = d.ch.QueueBind(name, key, exchange, false, nil)
			}
		}
	}
	if err == nil {
		next()
		err = d.ch.Qos(prefetch, 0, false)
	}
	if err == nil {
		next()
		d.deliveries, err = d.ch.Consume(name, "harebus-pulse", false, true, false, false, nil)
	}
	return err
}

func queueName(instance string) string {
	id := harebus.NewMessageID()
	return fmt.Sprintf("%s.%s.%s", Exchange, instance, id[len(id)-6:])
}

// serve answers until the consumer ends, or ctx.
func (d *desk) serve(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case err := <-d.closes:
			if err == nil {
				return errors.New("channel closed")
			}
			return err
		case _, ok := <-d.cancels:
			if ok {
				_ = d.on.RPC(ctx, d.ch.Close) // an error means that it is closed
				return errors.New("the broker cancelled the consumer: the queue was deleted")
			}
			d.cancels = nil // the channel has ended; closes says why
		case m, ok := <-d.deliveries:
			if !ok {
				d.deliveries = nil // likewise
				continue
			}
			if err := d.take(ctx, &m); err != nil {
				return err
			}
		}
	}
}

// take answers one question, or carries out an order. What is neither is dropped.
func (d *desk) take(ctx context.Context, m *amqp.Delivery) error {
	var unreadable *wire.UnreadableError
	switch err := wire.Unpack(m); {
	case errors.As(err, &unreadable):
		return m.Ack(false)
	case err != nil:
		d.on.Abort()
		return err
	}
	refused, known := "", m.Exchange == Exchange
	if m.Exchange == ControlExchange && d.pulse.cfg.Control {
		known = true
		if err := d.pulse.order(ctx, d.setup, m); err != nil {
			refused = shorten(err.Error())
		}
	}
	if known && strings.HasPrefix(m.ReplyTo, replyTo) && d.on.BlockedReason() == "" {
		if err := d.reply(ctx, m, refused); err != nil {
			return err
		}
	}
	return m.Ack(false)
}

func (d *desk) reply(ctx context.Context, m *amqp.Delivery, refused string) error {
	a := d.pulse.answer(d.setup)
	a.Refused = refused
	body, err := a.encode()
	if err != nil {
		d.pulse.log.Error("an answer cannot be written", zap.Error(err))
		return nil
	}
	return d.on.RPC(ctx, func() error {
		return d.ch.PublishWithContext(ctx, "", m.ReplyTo, false, false, amqp.Publishing{
			Type: typeAnswer, ContentType: "application/json", CorrelationId: m.CorrelationId, Body: body,
		})
	})
}
