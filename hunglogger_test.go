package harebus_test

import (
	"context"
	"log/slog"
	"sync"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/harebus/harebus"
)

// stopper is where a logger hangs while it is stopped.
type stopper struct {
	mu      sync.Mutex
	release chan struct{} // not nil while it is stopped
}

func (s *stopper) pass() {
	s.mu.Lock()
	release := s.release
	s.mu.Unlock()
	if release != nil {
		<-release
	}
}

func (s *stopper) stop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.release = make(chan struct{})
}

func (s *stopper) goOn() {
	s.mu.Lock()
	defer s.mu.Unlock()
	close(s.release)
	s.release = nil
}

// hangingCore is a zap core that hangs in one of its methods.
type hangingCore struct {
	zapcore.Core
	in string
	*stopper
}

func (c hangingCore) at(method string) {
	if c.in == method {
		c.pass()
	}
}

func (c hangingCore) With(fields []zapcore.Field) zapcore.Core {
	c.at("With")
	return hangingCore{c.Core.With(fields), c.in, c.stopper}
}

func (c hangingCore) Enabled(l zapcore.Level) bool {
	c.at("Enabled")
	return c.Core.Enabled(l)
}

func (c hangingCore) Check(e zapcore.Entry, checked *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	c.at("Check")
	return checked.AddCore(e, c)
}

func (c hangingCore) Write(e zapcore.Entry, fields []zapcore.Field) error {
	c.at("Write")
	return c.Core.Write(e, fields)
}

// hangingHandler is a slog handler that hangs.
type hangingHandler struct {
	slog.Handler
	*stopper
}

func (h hangingHandler) Handle(ctx context.Context, r slog.Record) error {
	h.pass()
	return h.Handler.Handle(ctx, r)
}

func (h hangingHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return hangingHandler{h.Handler.WithAttrs(attrs), h.stopper}
}

func (h hangingHandler) WithGroup(name string) slog.Handler {
	return hangingHandler{h.Handler.WithGroup(name), h.stopper}
}

// TestLoggerHangs: a logger that does not return costs one message some seconds. The service
// goes on without it, connects again, and tells how much was lost when the logger is back.
func TestLoggerHangs(t *testing.T) {
	for _, in := range []string{"With", "Enabled", "Check", "Write", "slog"} {
		t.Run(in, func(t *testing.T) {
			bubble(t, func(t *testing.T, r *rig) {
				core, logs := observer.New(zapcore.InfoLevel)
				at := new(stopper)
				cfg := r.config("orders")
				cfg.Consume.Concurrency = 1
				cfg.Logger = zap.New(hangingCore{core, in, at})
				if in == "slog" {
					cfg.Logger = harebus.SlogLogger(hangingHandler{slog.DiscardHandler, at})
				}
				s := r.setup(cfg)
				got := make(chan int, 100)
				harebus.Handle(s, func(_ context.Context, _ *harebus.Bus, o order) error {
					got <- o.ID
					if o.ID == 1 {
						return harebus.NoRetry(errBoom)
					}
					return nil
				})
				r.start(s)
				time.Sleep(10 * time.Second)
				at.stop()
				for range 10 {
					r.fill("orders", 2) // the first one fails and is logged
				}
				r.quiet("error")
				r.await("error", 10)
				if took := len(got); took != 20 {
					t.Errorf("%d messages were handled, want 20", took)
				}
				r.broker.CutConnections()
				time.Sleep(20 * time.Second)
				r.fill("orders", 2)
				time.Sleep(10 * time.Second)
				if n := len(got); n != 22 {
					t.Errorf("%d messages were handled after a cut, want 22", n)
				}
				at.goOn()
				time.Sleep(time.Minute)
				r.fill("orders", 1)
				time.Sleep(10 * time.Second)
				if in == "slog" || in == "With" {
					return
				}
				if n := logs.FilterMessageSnippet("entries of the log are lost").Len(); n == 0 {
					t.Errorf("nothing tells of the lost entries: %v", logs.All())
				}
			})
		})
	}
}
