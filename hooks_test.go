package harebus_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/cenkalti/backoff/v4"

	"github.com/harebus/harebus"
)

// TestStopInsideHooks: a stop or a pause is refused at once in everything that runs as a
// part of handling, also where only the goroutine gives it away.
func TestStopInsideHooks(t *testing.T) {
	type hook = func(c *harebus.Config, stop func()) []harebus.HandlerOption
	for name, configure := range map[string]hook{
		"error handler": func(c *harebus.Config, stop func()) []harebus.HandlerOption {
			c.Handling.ErrorHandler = func(_ *harebus.Message, _ error, p harebus.Decision) harebus.Decision { stop(); return p }
			return nil
		},
		"given up": func(_ *harebus.Config, stop func()) []harebus.HandlerOption {
			return []harebus.HandlerOption{harebus.WithGivenUp(func(context.Context, *harebus.Bus, *harebus.Message, error) error { stop(); return nil })}
		},
		"rule": func(c *harebus.Config, stop func()) []harebus.HandlerOption {
			c.Retry.Rules = []harebus.RetryRule{{Match: func(error) bool { stop(); return false }}}
			return nil
		},
		"back-off": func(c *harebus.Config, stop func()) []harebus.HandlerOption {
			made := false // New tries it
			c.Retry.MaxRetries, c.Retry.BackOff = 1, func() backoff.BackOff {
				if made {
					stop()
				}
				made = true
				return &backoff.StopBackOff{}
			}
			return nil
		},
		"receive": func(c *harebus.Config, stop func()) []harebus.HandlerOption {
			c.Handling.Receive = func(context.Context, *harebus.Message) error { stop(); return nil }
			return nil
		},
		"middleware": func(c *harebus.Config, stop func()) []harebus.HandlerOption {
			c.Handling.Middleware = []harebus.Middleware{func(next harebus.HandlerFunc) harebus.HandlerFunc {
				return func(ctx context.Context, bus *harebus.Bus, m *harebus.Message) error {
					stop()
					return next(ctx, bus, m)
				}
			}}
			return nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, r *rig) {
				cfg := r.config("orders")
				cfg.Retry = harebus.RetryConfig{MaxRetries: -1}
				var s *harebus.Setup
				got := make(chan error, 10)
				opts := configure(&cfg, func() {
					if s == nil {
						return
					}
					start := time.Now()
					for _, err := range []error{s.Close(), s.Stop(context.Background()), s.Pause(context.Background())} {
						got <- err
					}
					if took := time.Since(start); took > time.Second {
						t.Errorf("it took %v", took)
					}
				})
				s = r.setup(cfg)
				harebus.Handle(s, func(context.Context, *harebus.Bus, order) error { return errNo }, opts...)
				r.start(s)
				r.fill("orders", 1)
				for range 3 {
					if err := receive(r, got); !errors.Is(err, harebus.ErrInHandler) {
						t.Errorf("got %v", err)
					}
				}
				r.quiet("error")
				if err := s.Ready(); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

// TestReceiveHangs: a Receive hook that hangs is seen as a handler is: its context ends,
// it is logged, and it counts as in flight.
func TestReceiveHangs(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		logger, logs := observed()
		cfg := r.config("orders")
		cfg.Logger, cfg.Consume.Concurrency, cfg.Handling.Timeout = logger, 1, 2*time.Minute
		ended, release := make(chan error, 1), make(chan struct{})
		cfg.Handling.Receive = func(ctx context.Context, _ *harebus.Message) error {
			<-ctx.Done()
			ended <- context.Cause(ctx)
			<-release
			return nil
		}
		s, _ := counting(r, cfg)
		start := time.Now()
		r.start(s)
		r.fill("orders", 1)
		if err := receive(r, ended); err == nil || time.Since(start) > 3*time.Minute {
			t.Errorf("the context ended with %v after %v", err, time.Since(start))
		}
		if age := s.Stats().OldestInFlight; age < 2*time.Minute {
			t.Errorf("oldest: %v", age)
		}
		if logs.FilterMessageSnippet("running for long").Len() == 0 {
			t.Error("nothing is logged")
		}
		close(release)
		r.quiet()
	})
}

// hanging is an error whose text never comes.
type hanging struct{ until <-chan struct{} }

func (h hanging) Error() string { <-h.until; return "late" }

// TestPanicsOfHangingErrors: an error handler that panics with an error whose methods hang
// holds no worker.
func TestPanicsOfHangingErrors(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		until := make(chan struct{})
		defer close(until)
		logger, _ := observed()
		cfg := r.config("orders")
		cfg.Logger, cfg.Consume.Concurrency = logger, 1
		cfg.Handling.ErrorHandler = func(*harebus.Message, error, harebus.Decision) harebus.Decision { panic(hanging{until}) }
		s := r.setup(cfg)
		harebus.Handle(s, func(context.Context, *harebus.Bus, order) error { return errNo })
		r.start(s)
		r.fill("orders", 2)
		r.await("error", 2)
	})
}
