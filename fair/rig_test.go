package fair_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cenkalti/backoff/v4"
	"go.uber.org/goleak"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/brokertest"
	"github.com/harebus/harebus/fair"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// job is the message of the tests: the Nth of a tenant.
type job struct {
	Tenant string
	N      int
}

func (job) MessageType() string { return "Job" }

// done is a job that was handled, how long after it was sent, and how long after the service was started.
type done struct {
	job
	after, at time.Duration
}

// rig is a service that tenants share, on a broker with a clock of its own.
type rig struct {
	t       *testing.T
	ctx     context.Context
	broker  *brokertest.Broker
	cfg     harebus.Config
	fair    fair.Config
	setup   *harebus.Setup
	tenants *fair.Scheduler
	sender  *harebus.Setup
	began   time.Time

	mu   sync.Mutex // guards what follows
	done []done
}

// tenant is whose a message is in the tests: the header says it.
func tenant(m *harebus.Message) string {
	name, _ := m.Headers["tenant"].(string)
	return name
}

// bubble runs a test in virtual time.
func bubble(t *testing.T, test func(t *testing.T, r *rig)) {
	t.Helper()
	t.Parallel()
	synctest.Test(t, func(t *testing.T) { test(t, newRig(t)) })
}

// newRig makes a broker. The service handles ten messages at once, and retries twice, a second apart.
func newRig(t *testing.T) *rig {
	t.Helper()
	broker := brokertest.New()
	t.Cleanup(broker.Close)
	ctx, cancel := context.WithTimeoutCause(t.Context(), time.Hour, errors.New("the test took an hour"))
	t.Cleanup(cancel)
	r := &rig{t: t, ctx: ctx, broker: broker, fair: fair.Config{By: tenant}, cfg: harebus.Config{
		Dial: broker.Dial, Queue: "jobs",
		Retry: harebus.RetryConfig{MaxRetries: 2, BackOff: func() backoff.BackOff { return backoff.NewConstantBackOff(time.Second) }},
	}}
	sender, err := harebus.New(harebus.Config{Dial: broker.Dial, Publish: harebus.PublishConfig{Window: 10_000}})
	r.try(err)
	t.Cleanup(func() { r.try(sender.Close()) })
	r.sender = sender
	return r
}

func (r *rig) try(err error) {
	r.t.Helper()
	if err != nil {
		r.t.Fatal(err)
	}
}

// make makes the service. Its tenants share it, unless By is nil.
func (r *rig) make(fn func(ctx context.Context, j job) error, opts ...harebus.HandlerOption) {
	r.t.Helper()
	s, err := harebus.New(r.cfg)
	r.try(err)
	r.t.Cleanup(func() { r.try(s.Close()) })
	r.setup = s
	if r.fair.By != nil {
		r.tenants, err = fair.New(s, r.fair)
		r.try(err)
	}
	harebus.Handle(s, func(ctx context.Context, _ *harebus.Bus, j job) error {
		if j.N < 0 {
			return nil
		}
		if err := fn(ctx, j); err != nil {
			return err
		}
		r.mu.Lock()
		defer r.mu.Unlock()
		r.done = append(r.done, done{j, time.Since(harebus.Incoming(ctx).TimeSent), time.Since(r.began)})
		return nil
	}, opts...)
}

// locked runs what several handlers do with the same variables.
func (r *rig) locked(f func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	f()
}

// start starts the service, and ends the trial of its connection with a message.
func (r *rig) start(fn func(ctx context.Context, j job) error, opts ...harebus.HandlerOption) {
	r.t.Helper()
	r.make(fn, opts...)
	r.try(r.setup.Start(r.ctx))
	r.send("", -1)
	r.quiet()
	time.Sleep(time.Second) // until the consumers take as many messages as they may
	r.began = time.Now()
}

// takes is a handler that takes so long.
func takes(d time.Duration) func(context.Context, job) error {
	return func(context.Context, job) error {
		time.Sleep(d)
		return nil
	}
}

func (r *rig) send(tenant string, numbers ...int) {
	r.t.Helper()
	r.try(r.sender.Bus().Transaction(r.ctx, func(ctx context.Context, tx *harebus.Tx) error {
		for _, n := range numbers {
			if err := tx.Send(ctx, "jobs", job{tenant, n}, harebus.WithHeader("tenant", tenant)); err != nil {
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

// handled are the jobs that were handled so far, of a tenant or, if none is named, of all.
func (r *rig) handled(tenants ...string) (list []done) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, d := range r.done {
		if len(tenants) == 0 || slices.Contains(tenants, d.Tenant) {
			list = append(list, d)
		}
	}
	return list
}

// quantile is the latency that the share q of the jobs does not exceed.
func quantile(list []done, q float64) time.Duration {
	times := make([]time.Duration, len(list))
	for i, d := range list {
		times[i] = d.after
	}
	slices.Sort(times)
	return times[min(int(q*float64(len(times))), len(times)-1)]
}

// once fails the test unless each of the first jobs of a tenant was handled once.
func (r *rig) once(tenant string, n int) {
	r.t.Helper()
	seen := map[int]int{}
	for _, d := range r.handled(tenant) {
		seen[d.N]++
	}
	for i := range n {
		if seen[i] != 1 {
			r.t.Errorf("job %d of %s was handled %d times", i, tenant, seen[i])
		}
	}
	if len(seen) != n {
		r.t.Errorf("%d jobs of %s were handled, want %d", len(seen), tenant, n)
	}
}

// upTo are the numbers from 0.
func upTo(n int) []int {
	list := make([]int, n)
	for i := range list {
		list[i] = i
	}
	return list
}

// small names the nth small tenant.
func small(n int) string { return fmt.Sprintf("small-%d", n) }

func goexit() { runtime.Goexit() }
