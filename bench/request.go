package main

import (
	"context"
	"errors"
	"sync"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/harebus/harebus"
)

// requestRound has goroutines ask a service of the same library, and wait for the reply, in a loop. Client and service share the
// process, so the CPU of a message is that of both.
func (c *contest) requestRound(ctx context.Context, l *library) (_ figures, err error) {
	asking, err := l.requester(ctx, c.place, c.place.queue(0))
	if err != nil {
		return figures{}, err
	}
	defer func() { err = errors.Join(err, asking.close()) }()
	const warmUp = 30
	for range warmUp {
		if err := asking.publish(ctx, c.place.queue(0), newJob(c.text)); err != nil {
			return figures{}, err
		}
	}
	return c.publishRound(ctx, asking)
}

// onlyRequests is a publisher that asks.
type onlyRequests struct {
	ask func(ctx context.Context, queue string, j job) error
	end stopper
}

func (o onlyRequests) publish(ctx context.Context, queue string, j job) error {
	return o.ask(ctx, queue, j)
}

func (o onlyRequests) batch(ctx context.Context, queue string, jobs []job) error {
	return errors.New("bench: requests have no batches")
}

func (o onlyRequests) close() error { return o.end() }

// harebusRequester replies in a handler, and asks with Request.
func harebusRequester(ctx context.Context, p *place, queue string) (publisher, error) {
	stop, err := harebusConsumer(ctx, p, queue, harebus.ConsumeConfig{Concurrency: workers, Prefetch: prefetch}, func(ctx context.Context, bus *harebus.Bus, j job) error {
		return bus.Reply(ctx, j)
	})
	if err != nil {
		return nil, err
	}
	s, err := harebus.New(harebus.Config{URL: p.url, Dial: p.dial})
	if err != nil {
		return nil, errors.Join(err, stop())
	}
	ask := func(ctx context.Context, queue string, j job) error {
		_, err := harebus.Request[job](ctx, s.Bus(), queue, j)
		return err
	}
	return onlyRequests{ask, func() error { return errors.Join(s.Close(), stop()) }}, nil
}

// rawRequester replies from workers on one channel, and asks with direct reply-to, which has no reply queue.
func rawRequester(ctx context.Context, p *place, queue string) (publisher, error) {
	stop, err := rawReplies(ctx, p, queue)
	if err != nil {
		return nil, err
	}
	r, err := newRawPublisher(p, p.dial)
	if err != nil {
		return nil, errors.Join(err, stop())
	}
	replies, err := r.ch.Consume(directReplyTo, "", true, false, false, false, nil)
	if err != nil {
		return nil, errors.Join(err, r.close(), stop())
	}
	pending := &asked{calls: map[string]chan job{}}
	go pending.hand(replies)
	ask := func(ctx context.Context, queue string, j job) error { return pending.ask(ctx, r, queue, &j) }
	return onlyRequests{ask, func() error { return errors.Join(r.close(), stop()) }}, nil
}

const directReplyTo = "amq.rabbitmq.reply-to"

// asked are the requests of a plain client that have no reply yet.
type asked struct {
	mu    sync.Mutex // guards calls
	calls map[string]chan job
}

func (w *asked) hand(replies <-chan amqp.Delivery) {
	for d := range replies {
		j, err := received(d.Body)
		w.mu.Lock()
		call := w.calls[d.CorrelationId]
		delete(w.calls, d.CorrelationId)
		w.mu.Unlock()
		if call != nil && err == nil {
			call <- j
		}
	}
}

func (w *asked) ask(ctx context.Context, r *rawPublisher, queue string, j *job) error {
	id, call := newID(), make(chan job, 1)
	w.mu.Lock()
	w.calls[id] = call
	w.mu.Unlock()
	msg, err := publishing(j, id, directReplyTo)
	if err != nil {
		return err
	}
	c, err := r.ch.PublishWithDeferredConfirm(directExchange, queue, true, false, msg)
	if err == nil {
		err = confirmed(ctx, c)
	}
	if err != nil {
		return err
	}
	select {
	case <-call:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// rawReplies answers what comes.
func rawReplies(ctx context.Context, p *place, queue string) (stopper, error) {
	return rawWorkers(p, queue, func(out *rawPublisher, d *amqp.Delivery) error { return rawReply(ctx, out, d) })
}

func rawReply(ctx context.Context, out *rawPublisher, d *amqp.Delivery) error {
	j, err := received(d.Body)
	if err != nil {
		return err
	}
	msg, err := publishing(&j, d.CorrelationId, "")
	if err != nil {
		return err
	}
	c, err := out.ch.PublishWithDeferredConfirm("", d.ReplyTo, false, false, msg)
	if err == nil {
		err = confirmed(ctx, c)
	}
	if err != nil {
		return err
	}
	return ignoreClosed(d.Ack(false))
}
