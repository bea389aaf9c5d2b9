package harebus_test

import (
	"context"
	"errors"
	"maps"
	"math"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/harebus/harebus"
)

// tagger is an observer that leaves headers, and may do more.
type tagger struct {
	headers map[string]any
	start   func(ctx context.Context, o harebus.Observation) context.Context
	ends    chan harebus.Observation
}

func (g tagger) ObserveStart(ctx context.Context, o harebus.Observation) context.Context {
	if o.Headers != nil {
		maps.Copy(o.Headers, g.headers)
	}
	if g.start != nil {
		return g.start(ctx, o)
	}
	return nil
}

func (g tagger) ObserveEnd(_ context.Context, o harebus.Observation, _ error) {
	if g.ends != nil {
		g.ends <- o
	}
}

// TestObserverFaults: an observer that fails at every call, in whatever way, costs no message, no worker and no other
// observer anything; one that hangs costs each worker five seconds, once.
func TestObserverFaults(t *testing.T) {
	for name, bad := range map[string]func(r *rig){
		"panics":             func(*rig) { panic("foreign") },
		"ends its goroutine": func(*rig) { runtime.Goexit() },
		"hangs":              func(r *rig) { <-r.ctx.Done() },
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, r *rig) {
				began := time.Now()
				good := tagger{headers: map[string]any{"good": "yes"}, ends: make(chan harebus.Observation, 100)}
				cfg := r.config("orders")
				cfg.Consume.Concurrency = 1
				cfg.Retry = harebus.RetryConfig{MaxRetries: 1, BackOff: steady}
				cfg.Observers = []harebus.Observer{misbehaving{func() { bad(r) }}, good}
				s := r.setup(cfg)
				r.bound(r.channel(), "out")
				harebus.Handle(s, func(ctx context.Context, bus *harebus.Bus, o order) error {
					if o.ID == 1 {
						return errNo
					}
					return bus.Send(ctx, "out", o)
				})
				r.start(s)
				for id := 1; id <= 3; id++ {
					if err := s.Bus().Send(r.ctx, "orders", order{id}); err != nil {
						t.Fatal(err)
					}
				}
				r.quiet("out", "error")
				if n := s.Stats(); n.Handled != 2 || n.Retried != 1 || n.Parked != 1 || n.Connections != 2 {
					t.Errorf("counts %+v", n)
				}
				for _, m := range append(r.await("out", 2), r.await("error", 1)...) {
					if m.Headers["good"] != "yes" {
						t.Errorf("headers %v", m.Headers)
					}
				}
				if took := time.Since(began); took > time.Minute {
					t.Errorf("it took %v", took)
				}
				ends := map[harebus.Operation]int{}
				for len(good.ends) > 0 {
					ends[(<-good.ends).Operation]++
				}
				if ends[harebus.OpSend] != 5 || ends[harebus.OpHandle] != 4 || ends[harebus.OpRetry] != 1 || ends[harebus.OpPark] != 1 {
					t.Errorf("the other observer was told of %v", ends)
				}
			})
		})
	}
}

type misbehaving struct{ bad func() }

func (m misbehaving) ObserveStart(context.Context, harebus.Observation) context.Context {
	m.bad()
	return nil
}
func (m misbehaving) ObserveEnd(context.Context, harebus.Observation, error) { m.bad() }

// TestObserverHeaders: headers that cannot be sent, or for which there is no room, are left out, and the message goes.
func TestObserverHeaders(t *testing.T) {
	for name, c := range map[string]struct {
		headers map[string]any
		want    any
	}{
		"sendable": {map[string]any{"good": "yes"}, "yes"},
		"refused ones": {map[string]any{
			"good": "yes", "nan": math.NaN(), "PikaBus.MessageId": "forged", "CC": []any{"elsewhere"}, "x-death": 1, "func": func() {}, "": 1,
			"panics": badText{func() { panic("text") }},
		}, "yes"},
		"too long":                  {map[string]any{"good": strings.Repeat("x", 200<<10)}, nil},
		"too long a value for some": {map[string]any{"good": "yes", "goexit": badText{runtime.Goexit}}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, r *rig) {
				r.bound(r.channel(), "out")
				cfg := r.config("orders")
				cfg.Observers = []harebus.Observer{tagger{headers: c.headers}}
				s := r.setup(cfg)
				err := s.Bus().Send(r.ctx, "out", order{1}, harebus.WithHeaders(map[string]any{"good": "old", "mine": "kept"}))
				if err != nil {
					t.Fatal(err)
				}
				m := r.await("out", 1)[0]
				want := c.want
				if want == nil {
					want = "old"
				}
				if m.Headers["good"] != want || m.Headers["mine"] != "kept" || m.Headers["PikaBus.MessageId"] != m.MessageId || m.Headers["panics"] != nil {
					t.Errorf("headers %v", m.Headers)
				}
			})
		})
	}
}

// badText is a header value whose text misbehaves.
type badText struct{ bad func() }

func (b badText) MarshalText() ([]byte, error) { b.bad(); return nil, nil }

// TestObserverContext: an observer can neither cut off an operation with the context it returns, nor take its values.
func TestObserverContext(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.bound(r.channel(), "out")
		type key struct{}
		ended, cancel := context.WithCancelCause(context.WithValue(context.Background(), key{}, "own"))
		cancel(errors.New("the observer's own"))
		cfg := r.config("orders")
		cfg.Observers = []harebus.Observer{tagger{start: func(context.Context, harebus.Observation) context.Context { return ended }}}
		s := r.setup(cfg)
		harebus.Handle(s, func(ctx context.Context, _ *harebus.Bus, o order) error {
			if ctx.Err() != nil || context.Cause(ctx) != nil || ctx.Value(key{}) != "own" {
				t.Errorf("context: %v, cause %v, value %v", ctx.Err(), context.Cause(ctx), ctx.Value(key{}))
			}
			if err := s.Bus().Send(ctx, "out", o); err != nil {
				return err
			}
			if n := len(r.broker.Messages("out")); n != 0 {
				t.Errorf("%d messages have left before the handler has returned", n)
			}
			return nil
		})
		r.start(s)
		if err := s.Bus().Send(r.ctx, "orders", order{1}); err != nil {
			t.Fatal(err)
		}
		r.await("out", 1)
	})
}
