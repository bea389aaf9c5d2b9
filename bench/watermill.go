package main

import (
	"context"
	"encoding/json"
	"errors"
	"sync"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	watermillamqp "github.com/ThreeDotsLabs/watermill-amqp/v3/pkg/amqp"
	"github.com/ThreeDotsLabs/watermill/message"
	amqp "github.com/rabbitmq/amqp091-go"
)

// channelPool is how many publishes Watermill can have under way: it waits for
// the confirm of each on a channel of its own.
const channelPool = 100

// watermillLibrary is Watermill with a number of subscriptions: each handles one
// message at a time.
func watermillLibrary(name string, subscriptions int) *library {
	l := &library{
		name: name,
		consume: func(ctx context.Context, p *place, queue string, seen func(*job)) (stopper, error) {
			return watermillConsume(ctx, p, queue, subscriptions, func(m *message.Message) error {
				j, err := received(m.Payload)
				if err == nil {
					seen(&j)
				}
				return err
			})
		},
		transform: func(ctx context.Context, p *place, from, to string, seen func(*job)) (stopper, error) {
			return watermillTransform(ctx, p, from, to, subscriptions, seen)
		},
	}
	if subscriptions == 1 {
		l.publisher = func(_ context.Context, p *place) (publisher, error) { return newWatermillPublisher(p) }
		l.keeper = newForwarderKeeper
	}
	return l
}

// queuesExist stands in for Watermill's declarations: all contenders use the
// same queues, which exist.
type queuesExist struct{}

func (queuesExist) BuildTopology(*amqp.Channel, watermillamqp.BuildTopologyParams, watermillamqp.Config, watermill.LoggerAdapter) error {
	return nil
}

func (queuesExist) ExchangeDeclare(*amqp.Channel, string, watermillamqp.Config) error { return nil }

func watermillConfig(p *place, prefetch int) watermillamqp.Config {
	c := watermillamqp.NewDurableQueueConfig(p.url)
	c.Connection.AmqpConfig = &amqp.Config{Dial: p.dial, Heartbeat: 10 * time.Second, Locale: "en_US"}
	c.Exchange.GenerateName = watermillamqp.GenerateExchangeNameConstant(directExchange)
	c.Exchange.Type = amqp.ExchangeDirect
	c.Publish.ConfirmDelivery = true
	c.Publish.ChannelPoolSize = channelPool
	c.Publish.Mandatory = true
	c.Consume.Qos.PrefetchCount = prefetch
	c.TopologyBuilder = queuesExist{}
	return c
}

type watermillPublisher struct{ *watermillamqp.Publisher }

func newWatermillPublisher(p *place) (watermillPublisher, error) {
	w, err := watermillamqp.NewPublisher(watermillConfig(p, prefetch), watermill.NopLogger{})
	return watermillPublisher{w}, err
}

func watermillMessage(j *job, correlation, origin string) (*message.Message, error) {
	body, err := json.Marshal(j)
	if err != nil {
		return nil, err
	}
	e := newEnvelope(correlation, origin)
	m := message.NewMessage(e.id, body)
	for key, value := range e.headers() {
		m.Metadata[key] = value.(string) //nolint:forcetypeassert // all headers are text
	}
	return m, nil
}

func (w watermillPublisher) publish(_ context.Context, queue string, j job) error {
	m, err := watermillMessage(&j, "", "")
	if err != nil {
		return err
	}
	return w.Publish(queue, m)
}

func (w watermillPublisher) batch(_ context.Context, queue string, jobs []job) error {
	messages := make([]*message.Message, 0, len(jobs))
	for i := range jobs {
		m, err := watermillMessage(&jobs[i], "", "")
		if err != nil {
			return err
		}
		messages = append(messages, m)
	}
	return w.Publish(queue, messages...)
}

func (w watermillPublisher) close() error { return w.Close() }

func watermillConsume(ctx context.Context, p *place, queue string, subscriptions int, handle func(*message.Message) error) (stopper, error) {
	s, err := watermillamqp.NewSubscriber(watermillConfig(p, prefetch/subscriptions), watermill.NopLogger{})
	if err != nil {
		return nil, err
	}
	var group sync.WaitGroup
	failures := make(chan error, subscriptions)
	for range subscriptions {
		messages, err := s.Subscribe(ctx, queue)
		if err != nil {
			return nil, errors.Join(err, s.Close())
		}
		group.Go(func() {
			for m := range messages {
				if err := handle(m); err != nil {
					failures <- err
					m.Nack()
					return
				}
				m.Ack()
			}
		})
	}
	return func() error {
		err := s.Close()
		group.Wait()
		close(failures)
		for failure := range failures {
			err = errors.Join(err, failure)
		}
		return err
	}, nil
}

func watermillTransform(ctx context.Context, p *place, from, to string, subscriptions int, seen func(*job)) (stopper, error) {
	out, err := newWatermillPublisher(p)
	if err != nil {
		return nil, err
	}
	stop, err := watermillConsume(ctx, p, from, subscriptions, func(in *message.Message) error {
		j, err := received(in.Payload)
		if err != nil {
			return err
		}
		seen(&j)
		m, err := watermillMessage(&j, in.Metadata["PikaBus.CorrelationId"], from)
		if err != nil {
			return err
		}
		return out.Publish(to, m)
	})
	if err != nil {
		return nil, errors.Join(err, out.Close())
	}
	return func() error { return errors.Join(stop(), out.Close()) }, nil
}
