package limit_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cenkalti/backoff/v4"
	"go.uber.org/goleak"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/brokertest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// job is the message of the tests.
type job struct{ ID int }

func (job) MessageType() string { return "Job" }

// rig is a service on a broker with a clock of its own.
type rig struct {
	t      *testing.T
	ctx    context.Context
	broker *brokertest.Broker
	cfg    harebus.Config
	setup  *harebus.Setup
	began  time.Time

	mu      sync.Mutex // guards what follows
	at      []time.Duration
	running int
	most    int
}

// bubble runs a test in virtual time.
func bubble(t *testing.T, test func(t *testing.T, r *rig)) {
	t.Helper()
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		broker := brokertest.New()
		t.Cleanup(broker.Close)
		ctx, cancel := context.WithTimeoutCause(t.Context(), 3*time.Hour, errors.New("the test took three hours"))
		t.Cleanup(cancel)
		test(t, &rig{t: t, ctx: ctx, broker: broker, cfg: harebus.Config{
			Dial: broker.Dial, Queue: "jobs",
			// The whole prefetch is used from the start of a connection.
			QueueOptions: harebus.QueueOptions{Arguments: map[string]any{"x-single-active-consumer": true}},
			Retry:        harebus.RetryConfig{MaxRetries: 2, BackOff: func() backoff.BackOff { return backoff.NewConstantBackOff(time.Second) }},
		}})
	})
}

func (r *rig) try(err error) {
	r.t.Helper()
	if err != nil {
		r.t.Fatal(err)
	}
}

// start starts a service whose handler runs within the middleware.
func (r *rig) start(fn func(ctx context.Context, j job) error, middleware ...harebus.Middleware) {
	r.t.Helper()
	r.cfg.Handling.Middleware = middleware
	s, err := harebus.New(r.cfg)
	r.try(err)
	r.t.Cleanup(func() { r.try(s.Close()) })
	r.setup = s
	harebus.Handle(s, func(ctx context.Context, _ *harebus.Bus, j job) error {
		r.begin()
		defer r.end()
		return fn(ctx, j)
	})
	s.HandleMessage("Other", func(context.Context, *harebus.Bus, *harebus.Message) error { return nil })
	r.began = time.Now() // before a handler looks at it
	r.try(s.Start(r.ctx))
}

// begin notes the beginning of a handler.
func (r *rig) begin() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.at = append(r.at, time.Since(r.began))
	r.running++
	r.most = max(r.most, r.running)
}

func (r *rig) end() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.running--
}

// calls is how many handlers have begun.
func (r *rig) calls() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.at)
}

// send sends so many jobs.
func (r *rig) send(n int) {
	r.t.Helper()
	r.try(r.setup.Bus().Transaction(r.ctx, func(ctx context.Context, tx *harebus.Tx) error {
		for i := range n {
			if err := tx.Send(ctx, "jobs", job{i}); err != nil {
				return err
			}
		}
		return nil
	}))
}

func (r *rig) quiet() {
	r.t.Helper()
	r.try(r.broker.WaitQuiet(r.ctx, "error"))
}

// within fails the test unless a time is so long, or a little longer.
func (r *rig) within(what string, got, want time.Duration) {
	r.t.Helper()
	if got < want || got > want+want/50+50*time.Millisecond {
		r.t.Errorf("%s after %v, want %v", what, got, want)
	}
}
