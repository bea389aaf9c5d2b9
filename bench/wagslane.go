package main

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
	rabbitmq "github.com/wagslane/go-rabbitmq"
)

func wagslaneLibrary() *library {
	return &library{
		name: "go-rabbitmq",
		publisher: func(_ context.Context, p *place) (publisher, error) {
			return newWagslanePublisher(p)
		},
		consume: func(_ context.Context, p *place, queue string, seen func(*job)) (stopper, error) {
			return wagslaneConsume(p, queue, func(d *rabbitmq.Delivery) error {
				j, err := received(d.Body)
				if err == nil {
					seen(&j)
				}
				return err
			})
		},
		transform: wagslaneTransform,
	}
}

// silent is a logger that drops everything.
type silent struct{}

func (silent) Fatalf(string, ...any) {}
func (silent) Errorf(string, ...any) {}
func (silent) Warnf(string, ...any)  {}
func (silent) Infof(string, ...any)  {}
func (silent) Debugf(string, ...any) {}

func wagslaneConnect(p *place) (*rabbitmq.Conn, error) {
	return rabbitmq.NewConn(p.url,
		rabbitmq.WithConnectionOptionsLogger(silent{}),
		rabbitmq.WithConnectionOptionsConfig(rabbitmq.Config{Dial: p.dial, Heartbeat: 10 * time.Second, Locale: "en_US"}))
}

type wagslanePublisher struct {
	conn *rabbitmq.Conn
	pub  *rabbitmq.Publisher
}

func newWagslanePublisher(p *place) (*wagslanePublisher, error) {
	conn, err := wagslaneConnect(p)
	if err != nil {
		return nil, err
	}
	pub, err := rabbitmq.NewPublisher(conn, rabbitmq.WithPublisherOptionsLogger(silent{}), rabbitmq.WithPublisherOptionsConfirm)
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	pub.NotifyReturn(func(rabbitmq.Return) {})
	return &wagslanePublisher{conn, pub}, nil
}

func (w *wagslanePublisher) send(ctx context.Context, queue string, j *job, correlation, origin string) (*amqp.DeferredConfirmation, error) {
	body, err := json.Marshal(j)
	if err != nil {
		return nil, err
	}
	e := newEnvelope(correlation, origin)
	confirms, err := w.pub.PublishWithDeferredConfirmWithContext(ctx, body, []string{queue},
		rabbitmq.WithPublishOptionsExchange(directExchange),
		rabbitmq.WithPublishOptionsMandatory,
		rabbitmq.WithPublishOptionsPersistentDelivery,
		rabbitmq.WithPublishOptionsHeaders(e.headers()),
		rabbitmq.WithPublishOptionsContentType("application/json"),
		rabbitmq.WithPublishOptionsContentEncoding("utf-8"),
		rabbitmq.WithPublishOptionsMessageID(e.id),
		rabbitmq.WithPublishOptionsCorrelationID(e.correlation),
		rabbitmq.WithPublishOptionsReplyTo(origin),
		rabbitmq.WithPublishOptionsTimestamp(e.time),
		rabbitmq.WithPublishOptionsType(jobType),
	)
	if err != nil {
		return nil, err
	}
	return confirms[0], nil
}

func (w *wagslanePublisher) publish(ctx context.Context, queue string, j job) error {
	c, err := w.send(ctx, queue, &j, "", "")
	if err != nil {
		return err
	}
	return confirmed(ctx, c)
}

func (w *wagslanePublisher) batch(ctx context.Context, queue string, jobs []job) error {
	confirms := make([]*amqp.DeferredConfirmation, 0, len(jobs))
	for i := range jobs {
		c, err := w.send(ctx, queue, &jobs[i], "", "")
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

func (w *wagslanePublisher) close() error {
	w.pub.Close()
	return w.conn.Close()
}

func wagslaneConsume(p *place, queue string, handle func(*rabbitmq.Delivery) error) (stopper, error) {
	conn, err := wagslaneConnect(p)
	if err != nil {
		return nil, err
	}
	c, err := rabbitmq.NewConsumer(conn, queue,
		rabbitmq.WithConsumerOptionsLogger(silent{}),
		rabbitmq.WithConsumerOptionsQueueNoDeclare,
		rabbitmq.WithConsumerOptionsConcurrency(workers),
		rabbitmq.WithConsumerOptionsQOSPrefetch(prefetch))
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	result := make(chan error, 1)
	failures := make(chan error, 1)
	go func() {
		result <- c.Run(func(d rabbitmq.Delivery) rabbitmq.Action {
			if err := handle(&d); err != nil {
				select {
				case failures <- err:
				default:
				}
				return rabbitmq.NackDiscard
			}
			return rabbitmq.Ack
		})
	}()
	return func() error {
		// Closing races with the library's own reconnecting: it may end in an
		// error of a connection that is closed already, which says nothing of the
		// messages. They have been counted.
		c.Close()
		_ = conn.Close()
		<-result
		select {
		case failure := <-failures:
			return failure
		default:
			return nil
		}
	}, nil
}

func wagslaneTransform(ctx context.Context, p *place, from, to string, seen func(*job)) (stopper, error) {
	out, err := newWagslanePublisher(p)
	if err != nil {
		return nil, err
	}
	stop, err := wagslaneConsume(p, from, func(d *rabbitmq.Delivery) error {
		j, err := received(d.Body)
		if err != nil {
			return err
		}
		seen(&j)
		c, err := out.send(ctx, to, &j, d.CorrelationId, from)
		if err != nil {
			return err
		}
		return confirmed(ctx, c)
	})
	if err != nil {
		return nil, errors.Join(err, out.close())
	}
	return func() error { return errors.Join(stop(), out.close()) }, nil
}
