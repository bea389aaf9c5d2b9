package integration_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/batch"
)

// TestBatchesCut: batches are handled while their connection is cut again and again, and while the service stops and
// another instance goes on: no message is lost, every batch has at most its size, and what failed is handled alone.
func TestBatchesCut(t *testing.T) {
	t.Parallel()
	p := shared(t)
	way := p.road()
	p.try(way.allow())
	cfg := p.config("a")
	cfg.URL = p.over(way)
	cfg.Consume = harebus.ConsumeConfig{Concurrency: 40}
	cfg.Retry = harebus.RetryConfig{MaxRetries: 3, BackOff: pauses(50 * time.Millisecond)}
	in := newInbox()
	var largest, alone atomic.Int64
	handle := func(_ context.Context, notes []batch.Item[note]) []error {
		largest.Store(max(largest.Load(), int64(len(notes))))
		if len(notes) > 20 {
			t.Errorf("a batch of %d", len(notes))
		}
		results := make([]error, len(notes))
		for i, one := range notes {
			m := one.Incoming()
			switch {
			case m.Attempt > 1 && len(notes) > 1:
				t.Errorf("attempt %d in a batch of %d", m.Attempt, len(notes))
			case m.Attempt == 1 && one.Message.N%20 == 0:
				results[i] = errors.New("not at the first time")
				continue
			case m.Attempt > 1:
				alone.Add(1)
			}
			in.add(m)
		}
		return results
	}
	instance := func() *harebus.Setup {
		s := p.setup(cfg)
		p.try(batch.Handle(s, handle, batch.Config{Size: 20, Wait: 20 * time.Millisecond, Parallel: 2}))
		p.start(s)
		return s
	}
	first := instance()
	messages := p.stream(p.bus(), cfg.Queue, 60)
	for range 2 {
		messages.progress(p, 100, patience)
		way.hiccup()
		messages.progress(p, 100, patience)
	}
	second := instance()
	p.try(first.Stop(p.within(patience)))
	messages.progress(p, 100, patience)
	p.ready(second, patience)
	messages.settle(p, in)
	if largest.Load() < 2 || alone.Load() == 0 {
		t.Errorf("the largest batch had %d messages, and %d were handled alone", largest.Load(), alone.Load())
	}
	p.eventually(patience, func() error { // acks of the last batch
		if stats := second.Stats(); stats.InFlight != 0 {
			return errors.New("messages are in flight")
		}
		return nil
	})
	if parked := first.Stats().Parked + second.Stats().Parked; parked > 0 {
		t.Errorf("%d messages were parked", parked)
	}
}
