package harebus_test

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/harebus/harebus"
)

// door is a gate whose function can be exchanged.
type door struct {
	admit func(ctx context.Context, bus *harebus.Bus, m *harebus.Message, handle func() error) error
	ready error
}

func (d *door) Admit(ctx context.Context, bus *harebus.Bus, m *harebus.Message, handle func() error) error {
	return d.admit(ctx, bus, m, handle)
}

func (d *door) Ready() error { return d.ready }

// gated is a service with a gate.
func (r *rig) gated(d *door, handled chan int) *harebus.Setup {
	r.t.Helper()
	cfg := r.config("gated")
	cfg.Retry.MaxRetries = -1
	s := r.setup(cfg)
	if err := s.Gate(d, 20); err != nil {
		r.t.Fatal(err)
	}
	harebus.Handle(s, func(_ context.Context, _ *harebus.Bus, o order) error { handled <- o.ID; return nil })
	r.start(s)
	return s
}

// TestGate: a gate decides when a message is handled; it may store it elsewhere, and what it returns else, or a panic,
// is a failure.
func TestGate(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		handled := make(chan int, 10)
		d := &door{admit: func(ctx context.Context, bus *harebus.Bus, m *harebus.Message, handle func() error) error {
			if harebus.Incoming(ctx) != nil {
				t.Error("the gate is in a handler")
			}
			switch {
			case strings.Contains(string(m.Body), "2"):
				if err := bus.Send(ctx, "gated", order{7}); err != nil { // at once, not when the message is handled
					return err
				}
				return harebus.ErrMoved
			case strings.Contains(string(m.Body), "3"):
				return errors.New("no")
			case strings.Contains(string(m.Body), "4"):
				panic("no")
			}
			return handle()
		}}
		s := r.gated(d, handled)
		for id := 1; id < 5; id++ {
			if err := s.Bus().Send(r.ctx, "gated", order{id}); err != nil {
				t.Fatal(err)
			}
		}
		r.quiet("error")
		if one, seven := <-handled, <-handled; one != 1 || seven != 7 || len(handled) != 0 {
			t.Errorf("handled %d and %d", one, seven)
		}
		stats := s.Stats()
		if stats.Handled != 2 || stats.Postponed != 1 || stats.Failed != 2 || stats.Parked != 2 || stats.HandlingTime.Count() != 2 {
			t.Errorf("%+v", stats.MessageStats)
		}
		d.ready = errors.New("the door is stuck")
		if err := s.Ready(); !errors.Is(err, d.ready) {
			t.Error(err)
		}
	})
}

// TestGateWaits: the context of a gate ends with a stop and with a pause, and the message goes back, uncounted. More
// messages wait in the gate than are in handlers.
func TestGateWaits(t *testing.T) {
	for name, leave := range map[string]func(r *rig, s *harebus.Setup) error{
		"stop":            func(_ *rig, s *harebus.Setup) error { return s.Close() },
		"pause":           func(r *rig, s *harebus.Setup) error { return s.Pause(r.ctx) },
		"lost connection": func(r *rig, _ *harebus.Setup) error { r.broker.CloseConnections("test"); return nil },
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, r *rig) {
				handled, waiting, ended := make(chan int, 100), make(chan int, 100), make(chan int, 100)
				var open atomic.Bool
				d := &door{admit: func(ctx context.Context, _ *harebus.Bus, _ *harebus.Message, handle func() error) error {
					if open.Load() {
						return handle()
					}
					waiting <- 1
					<-ctx.Done()
					ended <- 1
					return context.Cause(ctx)
				}}
				s := r.gated(d, handled)
				for id := range 30 {
					if err := s.Bus().Send(r.ctx, "gated", order{id}); err != nil {
						t.Fatal(err)
					}
				}
				time.Sleep(6 * time.Second) // until the trial of the connection is over
				if len(waiting) != 30 {     // ten, and twenty for which the gate has room
					t.Errorf("%d wait", len(waiting))
				}
				open.Store(true)
				began := time.Now()
				if err := leave(r, s); err != nil {
					t.Fatal(err)
				}
				if took := time.Since(began); took > time.Second || len(ended) != 30 && name != "lost connection" {
					t.Errorf("it took %v, and %d did not wait any more", took, len(ended))
				}
				switch name {
				case "stop":
					r.start(s)
				case "pause":
					if err := s.Resume(); err != nil {
						t.Fatal(err)
					}
				}
				r.quiet()
				if len(handled) != 30 || s.Stats().Failed != 0 {
					t.Errorf("%d were handled, %d failed", len(handled), s.Stats().Failed)
				}
			})
		})
	}
}

// TestGateFaults: a gate that cannot be is refused.
func TestGateFaults(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		d := &door{}
		s := r.setup(r.config("gated"))
		if err := s.Gate(nil, 0); err == nil {
			t.Error("nil is accepted")
		}
		if err := s.Gate(d, 65_535); err == nil || !strings.Contains(err.Error(), "room") {
			t.Error(err)
		}
		if err := s.Gate(d, 1); err != nil {
			t.Error(err)
		}
		if err := s.Gate(d, 1); err == nil {
			t.Error("a second one is accepted")
		}
		beside, err := s.Beside("gated.more", harebus.QueueOptions{}, harebus.ConsumeConfig{})
		if err != nil {
			t.Fatal(err)
		}
		if err := beside.Gate(d, 1); err == nil {
			t.Error("a gate of a queue that is beside another one is accepted")
		}
		if _, err := beside.Beside("gated.third", harebus.QueueOptions{}, harebus.ConsumeConfig{}); err == nil {
			t.Error("a queue beside one that is beside another one is accepted")
		}
	})
}

// TestGateHasMoved: what a gate has stored elsewhere is acknowledged, also when a stop or a pause began meanwhile: else
// there would be two.
func TestGateHasMoved(t *testing.T) {
	for name, leave := range map[string]func(r *rig, s *harebus.Setup) error{
		"stop":  func(_ *rig, s *harebus.Setup) error { return s.Close() },
		"pause": func(r *rig, s *harebus.Setup) error { return s.Pause(r.ctx) },
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, r *rig) {
				came := make(chan struct{}, 10)
				s := r.gated(&door{admit: func(ctx context.Context, _ *harebus.Bus, _ *harebus.Message, _ func() error) error {
					came <- struct{}{}
					<-ctx.Done()
					return harebus.ErrMoved
				}}, nil)
				if err := s.Bus().Send(r.ctx, "gated", order{1}); err != nil {
					t.Fatal(err)
				}
				<-came
				if err := leave(r, s); err != nil {
					t.Error(err)
				}
				time.Sleep(time.Second)
				if q, _ := r.broker.Queue("gated"); q.Ready+q.Unacked != 0 || s.Stats().Postponed != 1 {
					t.Errorf("%d messages are in the queue, %d were postponed", q.Ready+q.Unacked, s.Stats().Postponed)
				}
			})
		})
	}
}
