package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/batch"
	"github.com/harebus/harebus/fair"
	"github.com/harebus/harebus/order"
	"github.com/harebus/harebus/stream"
	"github.com/harebus/harebus/topology"
)

// The ways to consume are measured in turns with plain consumption of the same messages, each from a queue of its own. Every
// message has one of a thousand keys, which are tenants, too.
const tenants = 1000

// ofAll is everybody's prefetch and concurrency in these rows: an ordered queue has the former, a batch needs the latter.
var ofAll = harebus.ConsumeConfig{Prefetch: order.Window, Concurrency: 100}

// way is how messages are consumed.
type way struct {
	// change is what differs from a plain service.
	change func(cfg *harebus.Config)
	// handle registers what handles. handled is called for each call of a handler, with how many messages it had.
	handle func(s *harebus.Setup, handled func(n int)) error
	// clear are the endings of the names of its queues.
	clear []string
}

// ways are contenders in the workloads that begin with "ways".
func ways() []*library {
	return []*library{
		{name: "harebus-plain", way: &way{handle: oneByOne}},
		{name: "harebus-ordered", way: &way{
			change: func(cfg *harebus.Config) { cfg.Consume.Order = &order.Config{} },
			handle: oneByOne, clear: []string{"", ".parked"},
		}},
		{name: "harebus-divided", way: &way{
			change: func(cfg *harebus.Config) { cfg.Consume.Order = &order.Config{Partitions: 4} },
			handle: oneByOne,
			clear:  []string{"", ".parked", ".members", ".0", ".0.parked", ".1", ".1.parked", ".2", ".2.parked", ".3", ".3.parked"},
		}},
		{name: "harebus-fair", way: &way{
			handle: func(s *harebus.Setup, handled func(n int)) error {
				_, err := fair.New(s, fair.Config{By: func(m *harebus.Message) string { return fmt.Sprint(m.Headers["PikaBus.Key"]) }})
				return errors.Join(err, oneByOne(s, handled))
			},
			clear: []string{"", ".backlog"},
		}},
		{name: "harebus-batch", way: &way{handle: func(s *harebus.Setup, handled func(n int)) error {
			return batch.Handle(s, func(_ context.Context, b []batch.Item[job]) []error {
				handled(len(b))
				return make([]error, len(b))
			}, batch.Config{Size: 100})
		}}},
		{name: "harebus-stream", way: &way{
			change: func(cfg *harebus.Config) {
				log := topology.EventLog(cfg.Queue, "")
				log.Bindings = nil // messages are sent to it by its name
				cfg.Declare.Topology, cfg.QueueOptions, cfg.Consume.Stream = log, harebus.QueueOptions{}, &stream.Config{}
			},
			handle: oneByOne,
		}},
	}
}

// oneByOne handles single messages.
func oneByOne(s *harebus.Setup, handled func(n int)) error { //nolint:unparam // as other ways
	harebus.Handle(s, func(context.Context, *harebus.Bus, job) error {
		handled(1)
		return nil
	})
	return nil
}

// wayRound fills a queue and consumes it. Each call of a handler takes so long, one call at a time, as it would with one connection
// to a database.
func (c *contest) wayRound(ctx context.Context, l *library, takes time.Duration) (_ figures, err error) {
	queue := c.place.queue(0) + "." + l.name
	cfg := harebusConfig(c.place, queue, ofAll)
	if l.way.change != nil {
		l.way.change(&cfg)
	}
	s, err := harebus.New(cfg)
	if err != nil {
		return figures{}, err
	}
	closing := sync.OnceValue(s.Close)
	defer func() {
		err = errors.Join(err, closing())
		for _, ending := range append([]string{""}, l.way.clear...) {
			err = errors.Join(err, c.place.remove(queue+ending))
		}
	}()
	var seen atomic.Pointer[func(*job)]
	var one sync.Mutex // the connection to the database
	err = l.way.handle(s, func(n int) {
		if takes > 0 {
			one.Lock()
			time.Sleep(takes)
			one.Unlock()
		}
		for range n {
			(*seen.Load())(nil)
		}
	})
	if err == nil {
		err = s.Init(ctx)
	}
	if err == nil {
		err = c.sendKeyed(ctx, s, queue)
	}
	if err != nil {
		return figures{}, err
	}
	return c.measure(ctx, func(count func(*job)) (stopper, error) {
		seen.Store(&count)
		return closing, s.Start(ctx)
	})
}

// sendKeyed puts as many messages into a queue as a round takes.
func (c *contest) sendKeyed(ctx context.Context, s *harebus.Setup, queue string) error {
	for n := 0; n < c.pace.messages+c.pace.spare; {
		err := s.Bus().Transaction(ctx, func(ctx context.Context, tx *harebus.Tx) error {
			for range batchSize {
				n++
				if err := tx.Send(ctx, queue, newJob(c.text), harebus.WithKey(fmt.Sprint("tenant-", n%tenants))); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}
