package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/harebus/harebus/internal/wire"
)

// rawLibrary is the plain client as one would use it who knows it well.
func rawLibrary() *library {
	return &library{
		name: "raw", requester: rawRequester,
		publisher: func(_ context.Context, p *place) (publisher, error) {
			return newRawPublisher(p, p.dial)
		},
		consume: func(_ context.Context, p *place, queue string, seen func(*job)) (stopper, error) {
			return rawConsume(p, queue, 1, seen)
		},
		transform: rawTransform,
	}
}

// rawCoalesced is the plain client on a connection that gathers writes.
func rawCoalesced() *library {
	return &library{
		name: "raw-coalesced",
		publisher: func(_ context.Context, p *place) (publisher, error) {
			return newRawPublisher(p, func(network, address string) (net.Conn, error) {
				c, err := p.dial(network, address)
				if err != nil {
					return nil, err
				}
				return wire.New(c, 15*time.Second), nil
			})
		},
	}
}

// rawMultiple is the plain client acknowledging fifty messages at a time.
func rawMultiple() *library {
	const batch = 50
	return &library{
		name: "raw-multiple",
		consume: func(_ context.Context, p *place, queue string, seen func(*job)) (stopper, error) {
			return rawConsume(p, queue, batch, seen)
		},
	}
}

func rawConnect(p *place, dial func(network, address string) (net.Conn, error)) (*amqp.Connection, *amqp.Channel, error) {
	conn, err := amqp.DialConfig(p.url, amqp.Config{Dial: dial, Heartbeat: 10 * time.Second, Locale: "en_US"})
	if err != nil {
		return nil, nil, err
	}
	ch, err := conn.Channel()
	if err != nil {
		return nil, nil, errors.Join(err, conn.Close())
	}
	return conn, ch, nil
}

// rawPublisher publishes from any number of goroutines on one confirm channel.
type rawPublisher struct {
	conn    *amqp.Connection
	ch      *amqp.Channel
	returns sync.WaitGroup
	mu      sync.Mutex // guards returned
	count   int
}

func newRawPublisher(p *place, dial func(network, address string) (net.Conn, error)) (*rawPublisher, error) {
	conn, ch, err := rawConnect(p, dial)
	if err != nil {
		return nil, err
	}
	if err := ch.Confirm(false); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	r := &rawPublisher{conn: conn, ch: ch}
	returns := ch.NotifyReturn(make(chan amqp.Return, 1000))
	r.returns.Go(func() {
		for range returns {
			r.mu.Lock()
			r.count++
			r.mu.Unlock()
		}
	})
	return r, nil
}

func (r *rawPublisher) send(queue string, j *job, correlation, origin string) (*amqp.DeferredConfirmation, error) {
	msg, err := publishing(j, correlation, origin)
	if err != nil {
		return nil, err
	}
	return r.ch.PublishWithDeferredConfirm(directExchange, queue, true, false, msg)
}

func confirmed(ctx context.Context, c *amqp.DeferredConfirmation) error {
	acked, err := c.WaitContext(ctx)
	if err == nil && !acked {
		err = errors.New("not acknowledged")
	}
	return err
}

func (r *rawPublisher) publish(ctx context.Context, queue string, j job) error {
	c, err := r.send(queue, &j, "", "")
	if err != nil {
		return err
	}
	return confirmed(ctx, c)
}

func (r *rawPublisher) batch(ctx context.Context, queue string, jobs []job) error {
	confirms := make([]*amqp.DeferredConfirmation, 0, len(jobs))
	for i := range jobs {
		c, err := r.send(queue, &jobs[i], "", "")
		if err != nil {
			return err
		}
		confirms = append(confirms, c)
	}
	for _, c := range confirms {
		if err := confirmed(ctx, c); err != nil {
			return err
		}
	}
	return nil
}

func (r *rawPublisher) close() error {
	err := r.conn.Close()
	r.returns.Wait()
	if r.count > 0 {
		err = errors.Join(err, fmt.Errorf("%d messages were returned", r.count))
	}
	return err
}

// rawConsume handles one message after the other and acknowledges every batch.
func rawConsume(p *place, queue string, batch int, seen func(*job)) (stopper, error) {
	conn, ch, err := rawConnect(p, p.dial)
	if err != nil {
		return nil, err
	}
	deliveries, err := rawDeliveries(ch, queue)
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	result := make(chan error, 1)
	go func() {
		var failure error
		n := 0
		for d := range deliveries {
			j, err := received(d.Body)
			if err != nil {
				failure = err
				continue
			}
			seen(&j)
			if n++; n%batch == 0 {
				failure = errors.Join(failure, ignoreClosed(d.Ack(batch > 1)))
			}
		}
		result <- failure
	}()
	return func() error {
		err := ch.Cancel(queue, false)
		return errors.Join(err, <-result, conn.Close())
	}, nil
}

func rawDeliveries(ch *amqp.Channel, queue string) (<-chan amqp.Delivery, error) {
	if err := ch.Qos(prefetch, 0, false); err != nil {
		return nil, err
	}
	return ch.Consume(queue, queue, false, false, false, false, nil)
}

// ignoreClosed passes over acks after the end of a round.
func ignoreClosed(err error) error {
	if errors.Is(err, amqp.ErrClosed) {
		return nil
	}
	return err
}

// rawTransform has workers on one channel, and publishes on a second connection:
// a publisher that the broker blocks must not stop the acks.
func rawTransform(ctx context.Context, p *place, from, to string, seen func(*job)) (stopper, error) {
	return rawWorkers(p, from, func(out *rawPublisher, d *amqp.Delivery) error {
		return rawForward(ctx, out, d, from, to, seen)
	})
}

// rawWorkers has workers handle the deliveries of a queue on one channel, with a publisher on
// a second connection.
func rawWorkers(p *place, queue string, handle func(out *rawPublisher, d *amqp.Delivery) error) (stopper, error) {
	out, err := newRawPublisher(p, p.dial)
	if err != nil {
		return nil, err
	}
	conn, ch, err := rawConnect(p, p.dial)
	if err != nil {
		return nil, errors.Join(err, out.close())
	}
	deliveries, err := rawDeliveries(ch, queue)
	if err != nil {
		return nil, errors.Join(err, conn.Close(), out.close())
	}
	var group sync.WaitGroup
	failures := make(chan error, workers)
	for range workers {
		group.Go(func() {
			for d := range deliveries {
				if err := handle(out, &d); err != nil {
					failures <- err
					return
				}
			}
		})
	}
	return func() error {
		err := ch.Cancel(queue, false)
		group.Wait()
		close(failures)
		for failure := range failures {
			err = errors.Join(err, failure)
		}
		return errors.Join(err, conn.Close(), out.close())
	}, nil
}

func rawForward(ctx context.Context, out *rawPublisher, d *amqp.Delivery, from, to string, seen func(*job)) error {
	j, err := received(d.Body)
	if err != nil {
		return err
	}
	seen(&j)
	c, err := out.send(to, &j, d.CorrelationId, from)
	if err != nil {
		return err
	}
	if err := confirmed(ctx, c); err != nil {
		return err
	}
	return ignoreClosed(d.Ack(false))
}
