// Package dedup passes over messages that were handled before, without a database: the ids of what is handled are kept in
// a stream beside the queue.
//
//	d := dedup.New(dedup.Config{})
//	err := d.Apply(&cfg) // before harebus.New
//	setup, err := harebus.New(cfg)
//	err = d.Serve(setup)
//
// The broker delivers a message again after a crash, and a sender sends it again when it does not know the outcome; both have
// the same id. An id is kept only after everything that the handler sent is confirmed, so a crash repeats a message and
// loses nothing. What a handler does elsewhere is not a part of this: for a database use package outbox. docs/streams.md
// says what is promised.
package dedup

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/stream"
	"github.com/harebus/harebus/topology"
)

// Config says how long ids are kept.
type Config struct {
	// Stream is the name of the stream. Default: that of the queue, with ".handled".
	Stream string
	// Keep is for how long an id is known, at least a minute. Each needs about 40 bytes of memory in every instance. Default: 7
	// days.
	Keep time.Duration
}

// Dedup is the [harebus.Transactor] of one setup.
type Dedup struct {
	cfg    Config
	queue  string
	served bool
	errors harebus.ErrorQueueConfig
	id     string
	known  *ids

	mu     sync.Mutex // guards what follows
	bus    *harebus.Bus
	loaded chan struct{} // closed when all ids that were in the stream are known
}

// New makes a Dedup for one setup. It does nothing until [Dedup.Apply] and [Dedup.Serve] are called; Apply reports what is wrong with cfg.
func New(cfg Config) *Dedup {
	const week = 7 * 24 * time.Hour
	if cfg.Keep == 0 {
		cfg.Keep = week
	}
	return &Dedup{cfg: cfg, id: harebus.NewMessageID(), known: newIDs(), loaded: make(chan struct{})}
}

// Apply puts the Dedup and its stream into the config of a service.
func (d *Dedup) Apply(cfg *harebus.Config) error {
	var faults []error
	if cfg.Queue == "" {
		faults = append(faults, errors.New("the config has no Queue"))
	}
	if cfg.Handling.Transactor != nil {
		faults = append(faults, errors.New("the config has a Transactor already; package outbox has an inbox of its own"))
	}
	if cfg.QueueOptions.PerInstance {
		faults = append(faults, errors.New("QueueOptions.PerInstance makes queues whose messages nobody else gets"))
	}
	if d.cfg.Keep < time.Minute {
		faults = append(faults, fmt.Errorf("the Keep of %v is less than a minute", d.cfg.Keep))
	}
	if d.cfg.Stream == "" {
		d.cfg.Stream = cfg.Queue + ".handled"
	}
	faults = append(faults, topology.ValidName("queue", d.cfg.Stream))
	if err := errors.Join(faults...); err != nil {
		return fmt.Errorf("dedup: apply: %w", err)
	}
	d.queue, d.errors = cfg.Queue, cfg.ErrorQueue
	cfg.Handling.Transactor = d
	cfg.Declare.Topology = topology.Join(cfg.Declare.Topology, d.Topology())
	return nil
}

// Topology is the stream. Apply adds it to the config.
func (d *Dedup) Topology() topology.Topology {
	t := topology.EventLog(d.cfg.Stream, "", topology.KeepAge(d.cfg.Keep))
	t.Bindings = nil // ids are sent to it by its name
	return t
}

// Serve has the setup read the stream. It is called once, before Start.
func (d *Dedup) Serve(setup *harebus.Setup) error {
	if d.queue == "" {
		return errors.New("dedup: serve: call Apply with the config of the setup first")
	}
	e, err := setup.Endpoint(harebus.EndpointConfig{
		Queue: d.cfg.Stream, ErrorQueue: d.errors,
		Consume: harebus.ConsumeConfig{
			Concurrency: 1, Stream: &stream.Config{From: stream.FromTime(time.Now().Add(-d.cfg.Keep)), OnGap: stream.GapSkips},
		},
	})
	if err != nil {
		return fmt.Errorf("dedup: serve: %w", err)
	}
	harebus.Handle(e, func(ctx context.Context, _ *harebus.Bus, h handled) error {
		d.learn(h, harebus.Incoming(ctx).TimeSent)
		return nil
	}, harebus.WithoutTransaction())
	d.served = true
	return nil
}

// handled is a message in the stream: that of an id, or a mark that an instance sends to itself.
type handled struct {
	ID   string `json:"id,omitempty"`
	Mark string `json:"mark,omitempty"`
}

// MessageType is the wire name.
func (handled) MessageType() string { return "harebus.dedup.handled" }

// learn takes what the stream says.
func (d *Dedup) learn(h handled, at time.Time) {
	if h.ID != "" {
		d.known.add(h.ID, at)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if h.Mark == d.id && !isClosed(d.loaded) {
		close(d.loaded)
	}
}

func isClosed(c chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// Check fails when Serve was not called.
func (d *Dedup) Check(context.Context) error {
	if !d.served {
		return errors.New("dedup: call Serve with the setup before Start")
	}
	return nil
}

// Ready fails until the ids of the stream are known. Until then no message is handled.
func (d *Dedup) Ready() error {
	if d.mu.Lock(); isClosed(d.loaded) {
		d.mu.Unlock()
		return nil
	}
	d.mu.Unlock()
	return fmt.Errorf("dedup: the ids in the stream %q are not read yet", d.cfg.Stream)
}

// Run sends a mark behind all ids that exist, and forgets old ids, until ctx ends.
func (d *Dedup) Run(ctx context.Context, bus *harebus.Bus) error {
	d.mu.Lock()
	d.bus = bus
	d.mu.Unlock()
	if d.Ready() != nil {
		if err := d.send(ctx, bus, handled{Mark: d.id}); err != nil {
			return err
		}
	}
	sweep := time.NewTicker(max(d.cfg.Keep/16, time.Second))
	defer sweep.Stop()
	for {
		select {
		case <-sweep.C:
			d.known.forget(time.Now().Add(-d.cfg.Keep))
		case <-ctx.Done():
			return nil
		}
	}
}

func (d *Dedup) send(ctx context.Context, bus *harebus.Bus, h handled) error {
	if err := bus.Send(ctx, d.cfg.Stream, h, harebus.Immediately()); err != nil {
		return fmt.Errorf("dedup: write to the stream %q: %w", d.cfg.Stream, err)
	}
	return nil
}

// Transact handles a message unless its id is known. A copy of one that is being handled here waits for that.
func (d *Dedup) Transact(ctx context.Context, m *harebus.Message, run func(ctx context.Context) ([]harebus.Envelope, error)) error {
	select {
	case <-d.loaded:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	end, known, err := d.known.begin(ctx, m.ID)
	if known || err != nil {
		return err
	}
	done := false
	defer func() { end(done) }()
	envelopes, err := run(ctx)
	if err != nil {
		return err
	}
	d.mu.Lock()
	bus := d.bus
	d.mu.Unlock()
	if err := errors.Join(bus.Forward(ctx, envelopes)...); err != nil {
		return err
	}
	if err := d.send(ctx, bus, handled{ID: m.ID}); err != nil {
		return err
	}
	done = true
	return nil
}
