// Package fair shares an endpoint between tenants: while one of them floods the queue, the messages of
// the others are handled within a moment.
//
//	setup, err := harebus.New(harebus.Config{Queue: "orders"})
//	tenants, err := fair.New(setup, fair.Config{By: func(m *harebus.Message) string {
//		tenant, _ := m.Headers["tenant"].(string)
//		return tenant
//	}})
//
// Messages wait in this process, and the tenants have their turns. What a tenant has too many of moves,
// confirmed, to a second queue, the backlog, and comes back from there bit by bit. docs/fairness.md says
// what is promised.
package fair

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/harebus/harebus"
)

const (
	defaultShare = 100
	mostShare    = 10_000
	mostWaiting  = 50_000
)

// Config says how an endpoint is shared.
type Config struct {
	// By says whose a message is. It sees the message as middleware does, before it is decoded, is called
	// from many goroutines, and must not block. The empty tenant is one like others, and has what By
	// panics about, too: [Stats].Untold counts both. Required.
	By func(m *harebus.Message) string
	// Share is how many messages of a tenant are in this process at most, those in handlers included.
	// Further ones move to the backlog. At most 10,000. Default: 100.
	Share int
	// Weight is how much a tenant gets in relation to others, from 0.001 to 1,000: with 2 it is twice as
	// often its turn. What is outside of that, or panics, counts as 1: see [Stats].BadWeights. It is
	// called for each message, from many goroutines, and must not block. Default: 1 for all.
	Weight func(tenant string) float64
	// Waiting is how many messages of the queue wait in this process at most, beside those in handlers:
	// at least 2 × Share, at most 50,000. When they become many, the share of each tenant becomes smaller.
	// Default: 10 × Share.
	Waiting int
	// Backlog is the name of the second queue. Default: the name of the queue and ".backlog".
	Backlog string
	// Options are those of the backlog. Default: a durable quorum queue.
	Options harebus.QueueOptions
}

// complete fills in the defaults and reports every fault.
func (c Config) complete(on harebus.Registrar) (Config, error) {
	if c.Share == 0 {
		c.Share = defaultShare
	}
	if c.Waiting == 0 {
		c.Waiting = min(10*c.Share, mostWaiting)
	}
	if c.Backlog == "" {
		c.Backlog = on.Queue() + ".backlog"
	}
	var faults []error
	if c.By == nil {
		faults = append(faults, errors.New("the function By is nil: it says whose a message is"))
	}
	if c.Share < 1 || c.Share > mostShare {
		faults = append(faults, fmt.Errorf("a Share of %d is not between 1 and %d", c.Share, mostShare))
	}
	if c.Waiting < 2*c.Share || c.Waiting > mostWaiting {
		faults = append(faults, fmt.Errorf("a Waiting of %d is not between 2 × Share, which is %d, and %d", c.Waiting, 2*c.Share, mostWaiting))
	}
	return c, errors.Join(faults...)
}

// New shares the messages of an endpoint, a setup's or one of its further ones, between tenants. It is
// called before Start, adds the backlog to the setup, and does not connect. How many are handled at once
// stays Consume.Concurrency × Consume.Consumers. The order of the queue is not kept, so one with a single
// active consumer is refused, and so is one that does not last: per instance, exclusive, auto-delete.
func New(on harebus.Registrar, cfg Config) (*Scheduler, error) {
	fail := func(err error) (*Scheduler, error) { return nil, fmt.Errorf("fair: %w", err) }
	cfg, err := cfg.complete(on)
	if err != nil {
		return fail(err)
	}
	s := newScheduler(cfg, on)
	consumers := on.Consumption().Consumers
	if err := on.Gate(s, (cfg.Waiting+consumers-1)/consumers); err != nil {
		return fail(err)
	}
	if _, err := on.Beside(cfg.Backlog, cfg.Options, harebus.ConsumeConfig{Concurrency: cfg.Share, Prefetch: cfg.Share}); err != nil {
		return fail(err)
	}
	return s, nil
}

// Admit is for the bus: see [harebus.Gate].
func (s *Scheduler) Admit(ctx context.Context, bus *harebus.Bus, m *harebus.Message, handle func() error) error {
	f := s.fileOf(m)
	place := s.enter(f, time.Now())
	if place == nil {
		if s.move(ctx, bus, m) {
			return harebus.ErrMoved
		}
		place = s.stay(f)
	}
	if err := s.await(ctx, place); err != nil {
		if !errors.Is(err, errLong) {
			return err
		}
		if s.move(ctx, bus, m) { // before the broker takes it back
			return harebus.ErrMoved
		}
		return harebus.Postpone(again, errLong)
	}
	defer s.leave(place)
	return handle()
}

// move stores the message in the backlog. False means that it has to be handled from here.
func (s *Scheduler) move(ctx context.Context, bus *harebus.Bus, m *harebus.Message) bool {
	if !s.moves.begin(time.Now()) {
		return false
	}
	// A stop or a pause does not cut it off: then there would be two.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), patience)
	defer cancel()
	copied, err := m.Envelope("", s.cfg.Backlog)
	if err == nil {
		err = bus.Forward(ctx, []harebus.Envelope{copied})[0]
	}
	s.moves.end(time.Now(), err)
	return err == nil
}
