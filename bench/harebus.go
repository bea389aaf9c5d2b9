package main

import (
	"bytes"
	"context"
	"errors"
	"time"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/seal"
	"github.com/harebus/harebus/topology"
)

func harebusLibrary() *library {
	return harebusTuned(harebus.PublishConfig{}, harebus.ConsumeConfig{Concurrency: workers, Prefetch: prefetch})
}

func harebusTuned(publish harebus.PublishConfig, consume harebus.ConsumeConfig) *library {
	return &library{
		name: "harebus", requester: harebusRequester, handle: outboxHandle,
		keeper: func(ctx context.Context, p *place, relay bool) (keeper, error) { return newOutboxKeeper(ctx, p, relay) },
		publisher: func(_ context.Context, p *place) (publisher, error) {
			return newHarebusPublisher(harebus.Config{URL: p.url, Dial: p.dial, Publish: publish})
		},
		consume: func(ctx context.Context, p *place, queue string, seen func(*job)) (stopper, error) {
			return harebusConsumer(ctx, p, queue, consume, func(_ context.Context, _ *harebus.Bus, j job) error {
				seen(&j)
				return nil
			})
		},
		transform: func(ctx context.Context, p *place, from, to string, seen func(*job)) (stopper, error) {
			return harebusConsumer(ctx, p, from, consume, func(ctx context.Context, bus *harebus.Bus, j job) error {
				seen(&j)
				return bus.Send(ctx, to, j)
			})
		},
		retry: func(ctx context.Context, p *place, queue string, after time.Duration, seen func(*job)) (stopper, error) {
			failure := errors.New("not yet")
			return harebusConsumer(ctx, p, queue, consume, func(ctx context.Context, _ *harebus.Bus, j job) error {
				if harebus.Incoming(ctx).Attempt == 1 {
					return harebus.RetryAfter(after, failure)
				}
				seen(&j)
				return nil
			})
		},
	}
}

// harebusSealed publishes sealed messages.
func harebusSealed() *library {
	return &library{
		name: "harebus-sealed",
		publisher: func(_ context.Context, p *place) (publisher, error) {
			key, err := seal.NewKey("2026-11", bytes.Repeat([]byte{1}, 32))
			if err != nil {
				return nil, err
			}
			keys, err := seal.NewKeyring(key)
			if err != nil {
				return nil, err
			}
			cfg := harebus.Config{URL: p.url, Dial: p.dial}
			cfg.Payload.Guards = []harebus.Guard{seal.New(keys, seal.Policy{Types: []string{"*"}})}
			return newHarebusPublisher(cfg)
		},
	}
}

func newHarebusPublisher(cfg harebus.Config) (publisher, error) {
	s, err := harebus.New(cfg)
	if err != nil {
		return nil, err
	}
	return harebusPublisher{s, s.Bus()}, nil
}

type harebusPublisher struct {
	setup *harebus.Setup
	bus   *harebus.Bus
}

func (h harebusPublisher) publish(ctx context.Context, queue string, j job) error {
	return h.bus.Send(ctx, queue, j)
}

func (h harebusPublisher) batch(ctx context.Context, queue string, jobs []job) error {
	return h.bus.Transaction(ctx, func(ctx context.Context, tx *harebus.Tx) error {
		for _, j := range jobs {
			if err := tx.Send(ctx, queue, j); err != nil {
				return err
			}
		}
		return nil
	})
}

func (h harebusPublisher) close() error { return h.setup.Close() }

func harebusConsumer(ctx context.Context, p *place, queue string, consume harebus.ConsumeConfig, handle func(context.Context, *harebus.Bus, job) error) (stopper, error) {
	return harebusService(ctx, harebusConfig(p, queue, consume), handle)
}

func harebusService(ctx context.Context, cfg harebus.Config, handle func(context.Context, *harebus.Bus, job) error) (stopper, error) {
	s, err := harebus.New(cfg)
	if err != nil {
		return nil, err
	}
	harebus.Handle(s, handle)
	if err := s.Start(ctx); err != nil {
		return nil, err
	}
	return s.Close, nil
}

func harebusConfig(p *place, queue string, consume harebus.ConsumeConfig) harebus.Config {
	return harebus.Config{
		URL: p.url, Dial: p.dial, Queue: queue, QueueOptions: harebus.QueueOptions{Type: p.queueType()}, Consume: consume,
	}
}

// declare makes the queues of a place as harebus does for its services, so that
// everybody works with what its users get.
func declare(ctx context.Context, p *place, queues ...string) error {
	for _, q := range queues {
		s, err := harebus.New(harebusConfig(p, q, harebus.ConsumeConfig{}))
		if err != nil {
			return err
		}
		harebus.Handle(s, func(context.Context, *harebus.Bus, job) error { return errors.New("not to be handled") })
		if err := errors.Join(s.Start(ctx), s.Close()); err != nil {
			return err
		}
	}
	return nil
}

func (p *place) queueType() topology.QueueType {
	if p.kind == "classic" {
		return topology.Classic
	}
	return topology.Quorum
}
