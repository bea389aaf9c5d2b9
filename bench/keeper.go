package main

import (
	"context"
	"database/sql"
	"errors"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/outbox"
)

// bareLibrary changes the database and sends nothing.
func bareLibrary() *library {
	return &library{name: "bare", keeper: func(_ context.Context, p *place, _ bool) (keeper, error) {
		return bareKeeper{p.books}, nil
	}}
}

type bareKeeper struct{ books *books }

func (k bareKeeper) transact(ctx context.Context, _ string, _ int, _ string) error {
	return k.books.transact(ctx, func(*sql.Tx) error { return nil })
}

func (bareKeeper) close() error { return nil }

// commitPublishLibrary commits, and then publishes with harebus: what is lost if the process ends in between is lost.
func commitPublishLibrary() *library {
	return &library{
		name: "commit-publish",
		keeper: func(_ context.Context, p *place, _ bool) (keeper, error) {
			s, err := harebus.New(harebus.Config{URL: p.url, Dial: p.dial})
			if err != nil {
				return nil, err
			}
			return publishingKeeper{p.books, s}, nil
		},
		handle: func(ctx context.Context, p *place, from, to string) (stopper, error) {
			return harebusConsumer(ctx, p, from, sixteen, func(ctx context.Context, bus *harebus.Bus, j job) error {
				if err := p.books.transact(ctx, func(*sql.Tx) error { return nil }); err != nil {
					return err
				}
				return bus.Send(ctx, to, j)
			})
		},
	}
}

// sixteen is the concurrency of handlers that wait for a database.
var sixteen = harebus.ConsumeConfig{Concurrency: 16, Prefetch: prefetch}

type publishingKeeper struct {
	books *books
	setup *harebus.Setup
}

func (k publishingKeeper) transact(ctx context.Context, queue string, n int, text string) error {
	jobs := make([]job, n)
	err := k.books.transact(ctx, func(*sql.Tx) error {
		for i := range jobs {
			jobs[i] = newJob(text)
		}
		return nil
	})
	switch {
	case err != nil:
		return err
	case n == 1:
		return k.setup.Bus().Send(ctx, queue, jobs[0])
	default:
		return harebusPublisher{k.setup, k.setup.Bus()}.batch(ctx, queue, jobs)
	}
}

func (k publishingKeeper) close() error { return k.setup.Close() }

// joinLibrary is the outbox in transactions that somebody else commits.
func joinLibrary() *library {
	return &library{name: "harebus-join", keeper: func(ctx context.Context, p *place, relay bool) (keeper, error) {
		k, err := newOutboxKeeper(ctx, p, relay)
		return joinKeeper{k}, err
	}}
}

// outboxKeeper is the outbox in its own transactions.
type outboxKeeper struct {
	books *books
	box   *outbox.Outbox
	setup *harebus.Setup
}

func newOutboxKeeper(ctx context.Context, p *place, relay bool) (*outboxKeeper, error) {
	box, err := p.books.outbox()
	if err != nil {
		return nil, err
	}
	s, err := harebus.New(harebus.Config{URL: p.url, Dial: p.dial, Handling: harebus.HandlingConfig{Transactor: box}})
	if err != nil {
		return nil, err
	}
	if relay {
		if err := s.Start(ctx); err != nil {
			return nil, errors.Join(err, s.Close())
		}
	}
	return &outboxKeeper{p.books, box, s}, nil
}

func (k *outboxKeeper) transact(ctx context.Context, queue string, n int, text string) error {
	return k.box.Transaction(ctx, k.setup.Bus(), func(ctx context.Context, tx *outbox.Tx) error {
		if err := k.books.change(ctx, tx.SQL); err != nil {
			return err
		}
		return sendJobs(ctx, tx, queue, n, text)
	})
}

func (k *outboxKeeper) close() error { return k.setup.Close() }

type joinKeeper struct{ *outboxKeeper }

func (k joinKeeper) transact(ctx context.Context, queue string, n int, text string) error {
	return k.books.transact(ctx, func(tx *sql.Tx) error {
		return sendJobs(ctx, k.box.Join(tx, k.setup.Bus()), queue, n, text)
	})
}

func sendJobs(ctx context.Context, to harebus.Sender, queue string, n int, text string) error {
	for range n {
		if err := to.Send(ctx, queue, newJob(text)); err != nil {
			return err
		}
	}
	return nil
}

// outboxHandle is a service whose handlers run in transactions of the outbox, with its inbox.
func outboxHandle(ctx context.Context, p *place, from, to string) (stopper, error) {
	box, err := p.books.outbox()
	if err != nil {
		return nil, err
	}
	cfg := harebusConfig(p, from, sixteen)
	cfg.Handling.Transactor = box
	return harebusService(ctx, cfg, func(ctx context.Context, bus *harebus.Bus, j job) error {
		if err := p.books.change(ctx, outbox.SQL(ctx)); err != nil {
			return err
		}
		return bus.Send(ctx, to, j)
	})
}
