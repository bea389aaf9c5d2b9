package harebus_test

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/topology"
)

// pausable are ways to consume that pause in different ways.
var pausable = map[string]func(*harebus.Config){
	"quorum":    func(c *harebus.Config) { c.Consume = harebus.ConsumeConfig{Concurrency: 3, Prefetch: 10} },
	"consumers": func(c *harebus.Config) { c.Consume = harebus.ConsumeConfig{Concurrency: 2, Prefetch: 5, Consumers: 3} },
	"classic": func(c *harebus.Config) {
		c.QueueOptions.Type, c.Consume = topology.Classic, harebus.ConsumeConfig{Concurrency: 3, Prefetch: 10}
	},
	"ordered": func(c *harebus.Config) { c.Consume = harebus.ConsumeConfig{Concurrency: 1, Prefetch: 10} },
	"single active": func(c *harebus.Config) {
		c.Consume = harebus.ConsumeConfig{Concurrency: 2, Prefetch: 10}
		c.QueueOptions.Arguments = map[string]any{"x-single-active-consumer": true}
	},
	"one at a time": func(c *harebus.Config) {
		c.QueueOptions.Type, c.Consume = topology.Classic, harebus.ConsumeConfig{Concurrency: 1, Prefetch: 1}
	},
}

// pausing is a service whose handlers take a second.
type pausing struct {
	*harebus.Setup
	got     journal
	running atomic.Int64
}

func (r *rig) pausing(change func(*harebus.Config)) *pausing {
	r.t.Helper()
	cfg := r.config("orders")
	change(&cfg)
	p := &pausing{Setup: r.setup(cfg)}
	harebus.Handle(p.Setup, func(_ context.Context, _ *harebus.Bus, o order) error {
		p.running.Add(1)
		defer p.running.Add(-1)
		time.Sleep(time.Second)
		p.got.note(o.ID)
		return nil
	})
	r.start(p.Setup)
	return p
}

// TestPause: once Pause has returned no handler runs or begins, whenever it comes; after
// Resume each message has been handled once, and with one worker in order.
func TestPause(t *testing.T) {
	for name, change := range pausable {
		for _, after := range []time.Duration{0, time.Millisecond, 500 * time.Millisecond, 3500 * time.Millisecond, 8 * time.Second} {
			t.Run(fmt.Sprint(name, " after ", after), func(t *testing.T) {
				bubble(t, func(t *testing.T, r *rig) {
					const messages = 30
					p := r.pausing(change)
					r.fill("orders", messages)
					time.Sleep(after)
					began := time.Now()
					if err := p.Pause(r.ctx); err != nil {
						t.Fatal(err)
					}
					if took := time.Since(began); took > 1100*time.Millisecond {
						t.Errorf("Pause took %v", took)
					}
					if n := p.running.Load(); n != 0 {
						t.Errorf("%d handlers run", n)
					}
					handled := len(p.got.ids)
					time.Sleep(2 * time.Minute)
					if n := len(p.got.ids); n != handled {
						t.Errorf("%d messages were handled during the pause", n-handled)
					}
					if err := p.Ready(); err != nil || !p.Stats().Paused {
						t.Errorf("ready: %v, paused: %v", err, p.Stats().Paused)
					}
					if q, _ := r.broker.Queue("orders"); q.Ready != messages-handled {
						t.Errorf("%d of %d messages are in the queue", q.Ready, messages-handled)
					}
					if err := p.Resume(); err != nil {
						t.Fatal(err)
					}
					r.quiet()
					if name == "ordered" {
						p.got.check(t, messages)
					}
					if len(p.got.ids) != messages || len(p.got.seen) != messages {
						t.Errorf("%d messages were handled %d times", len(p.got.seen), len(p.got.ids))
					}
					if p.Stats().Paused {
						t.Error("it is still paused")
					}
				})
			})
		}
	}
}

// TestPauseOften: many pauses under load lose and repeat nothing.
func TestPauseOften(t *testing.T) {
	for name, change := range pausable {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, r *rig) {
				const messages = 40
				p := r.pausing(change)
				r.fill("orders", messages)
				for i := range 25 {
					time.Sleep(time.Duration(137*i%900) * time.Millisecond)
					if err := p.Pause(r.ctx); err != nil {
						t.Fatal(err)
					}
					time.Sleep(time.Duration(211*i%500) * time.Millisecond)
					if err := p.Resume(); err != nil {
						t.Fatal(err)
					}
				}
				r.quiet()
				if len(p.got.ids) != messages || len(p.got.seen) != messages {
					t.Errorf("%d messages were handled %d times", len(p.got.seen), len(p.got.ids))
				}
				if name == "ordered" {
					p.got.check(t, messages)
				}
			})
		})
	}
}

// TestPauseOutlastsTheConnection: a pause stays when the connection is lost, and one can
// begin and end while there is none.
func TestPauseOutlastsTheConnection(t *testing.T) {
	for name, change := range pausable {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, r *rig) {
				p := r.pausing(change)
				if err := p.Pause(r.ctx); err != nil {
					t.Fatal(err)
				}
				r.broker.CutConnections()
				time.Sleep(10 * time.Second)
				r.fill("orders", 3)
				time.Sleep(time.Minute)
				if n := len(p.got.ids); n != 0 {
					t.Errorf("%d messages were handled during the pause", n)
				}
				if err := p.Resume(); err != nil {
					t.Fatal(err)
				}
				r.quiet()

				r.broker.Refuse(30 * time.Second)
				r.broker.CutConnections()
				time.Sleep(time.Second)
				if err := p.Pause(r.ctx); err != nil {
					t.Fatal(err)
				}
				time.Sleep(time.Minute)
				r.fill("orders", 3)
				time.Sleep(time.Minute)
				if n := len(p.got.ids); n != 3 {
					t.Errorf("%d messages were handled, want 3", n)
				}
				if err := p.Resume(); err != nil {
					t.Fatal(err)
				}
				r.quiet()
				if n := len(p.got.ids); n != 6 {
					t.Errorf("%d messages were handled, want 6", n)
				}
			})
		})
	}
}

// TestPauseOfAHungHandler: Pause ends with its context, the pause stays, and Resume lets the
// other workers go on.
func TestPauseOfAHungHandler(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		cfg := r.config("orders")
		cfg.Consume.Concurrency = 3
		s := r.setup(cfg)
		release := make(chan struct{})
		var handled atomic.Int64
		harebus.Handle(s, func(_ context.Context, _ *harebus.Bus, o order) error {
			if o.ID == 1 {
				<-release
			}
			handled.Add(1)
			return nil
		})
		r.start(s)
		r.fill("orders", 5)
		time.Sleep(10 * time.Second) // at first there is one message at a time
		ctx, cancel := context.WithTimeout(r.ctx, 3*time.Second)
		defer cancel()
		if err := s.Pause(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Pause: %v", err)
		} else {
			contains(t, err.Error(), "1 messages are being handled")
		}
		r.fill("orders", 5)
		time.Sleep(time.Second)
		if n := handled.Load(); n != 4 {
			t.Errorf("%d handled, want 4", n)
		}
		if err := s.Resume(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		if n := handled.Load(); n != 4+4 { // the second message 1 hangs as well
			t.Errorf("%d handled, want 8", n)
		}
		close(release)
		r.quiet()
	})
}

// TestPauseRefused: a setup that does not consume has nothing to pause, a handler cannot
// wait for itself, and a stop ends the pause.
func TestPauseRefused(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		s := r.setup(r.config("orders"))
		inside := make(chan error, 1)
		harebus.Handle(s, func(ctx context.Context, _ *harebus.Bus, _ order) error {
			inside <- s.Pause(ctx)
			return s.Resume()
		})
		for name, call := range map[string]func() error{"Pause": func() error { return s.Pause(r.ctx) }, "Resume": s.Resume} {
			if err := call(); !errors.Is(err, harebus.ErrNotStarted) {
				t.Errorf("%s before Start: %v", name, err)
			}
		}
		r.start(s)
		r.fill("orders", 1)
		if err := receive(r, inside); !errors.Is(err, harebus.ErrInHandler) {
			t.Errorf("Pause in a handler: %v", err)
		}
		r.quiet()
		if s.Stats().Failed != 0 {
			t.Error("Resume in a handler failed")
		}
		if err := errors.Join(s.Pause(r.ctx), s.Pause(r.ctx), s.Stop(r.ctx)); err != nil {
			t.Fatal(err)
		}
		if err := s.Pause(r.ctx); !errors.Is(err, harebus.ErrNotStarted) {
			t.Errorf("Pause after Stop: %v", err)
		}
		r.start(s)
		r.fill("orders", 1)
		r.quiet()
		if n := s.Stats().Handled; n != 2 {
			t.Errorf("%d handled after the second start", n)
		}
	})
}

// TestStopDuringAPause: a stop does not wait for a pause that waits for a handler, and
// nothing is lost.
func TestStopDuringAPause(t *testing.T) {
	for name, change := range pausable {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, r *rig) {
				p := r.pausing(change)
				r.fill("orders", 20)
				time.Sleep(2500 * time.Millisecond)
				paused := make(chan error, 1)
				go func() { paused <- p.Pause(r.ctx) }()
				time.Sleep(100 * time.Millisecond)
				if err := p.Stop(r.ctx); err != nil {
					t.Fatal(err)
				}
				if err := receive(r, paused); err != nil && !errors.Is(err, harebus.ErrStopped) {
					t.Errorf("Pause: %v", err)
				}
				r.start(p.Setup)
				r.quiet()
				if len(p.got.ids) != 20 || len(p.got.seen) != 20 {
					t.Errorf("%d messages were handled %d times", len(p.got.seen), len(p.got.ids))
				}
			})
		})
	}
}
