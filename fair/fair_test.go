package fair_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/batch"
	"github.com/harebus/harebus/fair"
	"github.com/harebus/harebus/order"
	"github.com/harebus/harebus/stream"
)

// flood has one tenant send so many jobs at once, and each of twenty others one a second.
func (r *rig) flood(n, seconds int) {
	r.t.Helper()
	go r.send("big", upTo(n)...)
	for second := range seconds {
		for i := range 20 {
			r.send(small(i), second)
			time.Sleep(time.Second / 20)
		}
	}
	r.quiet()
}

// smallOnes are the jobs of the twenty small tenants that were handled.
func (r *rig) smallOnes() []done {
	names := make([]string, 20)
	for i := range names {
		names[i] = small(i)
	}
	return r.handled(names...)
}

// TestFlood: one tenant sends at once what the service can handle in five seconds, and twenty others send a
// message a second each. In one queue they wait behind the flood. With a scheduler each of them is handled
// within 5 ms of waiting and 5 ms of handling, and everything is done in the same time, each message once.
func TestFlood(t *testing.T) {
	const flood, seconds = 10_000, 7
	for name, worst := range map[string]time.Duration{"one queue": time.Minute, "fair": 11 * time.Millisecond} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, r *rig) {
				if name == "one queue" {
					r.fair.By = nil
				}
				r.start(takes(5 * time.Millisecond))
				r.flood(flood, seconds)
				r.once("big", flood)
				list, all := r.smallOnes(), r.handled()
				p50, p99, end := quantile(list, 0.5), quantile(list, 0.99), all[len(all)-1].at
				t.Logf("small tenants: p50 %v, p99 %v, all done after %v", p50, p99, end)
				if len(list) != 20*seconds || p99 > worst || name == "one queue" && p50 < time.Second {
					t.Errorf("%d messages of small tenants: p50 %v, p99 %v", len(list), p50, p99)
				}
				if end > 1030*seconds*time.Millisecond {
					t.Errorf("all done after %v", end)
				}
				if name == "fair" {
					if stats := r.tenants.Stats(); stats.Moved != stats.Returned || stats.Moved < flood-200 || stats.Waiting != 0 || stats.Running != 0 {
						t.Errorf("%+v", stats)
					}
				}
			})
		})
	}
}

// TestManyFloods: when more tenants flood than have room in memory, each of them gets less of it, and small
// ones are handled at once all the same.
func TestManyFloods(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.fair.Share, r.fair.Waiting = 100, 300
		r.start(takes(5 * time.Millisecond))
		for i := range 30 {
			go r.send(fmt.Sprint("big-", i), upTo(120)...)
		}
		for second := range 2 {
			for i := range 20 {
				r.send(small(i), second)
				time.Sleep(time.Second / 20)
			}
		}
		r.quiet()
		if p90 := quantile(r.smallOnes(), 0.9); p90 > 250*time.Millisecond { // some are in the backlog for a moment
			t.Errorf("small tenants: p90 %v", p90)
		}
		for i := range 30 {
			r.once(fmt.Sprint("big-", i), 120)
		}
	})
}

// TestWeights: a tenant with three times the weight of another has three times as many turns, and one with a
// thousandth none before others have theirs.
func TestWeights(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.cfg.Consume.Concurrency = 1
		weights := map[string]float64{"three": 3, "tiny": 0.001}
		r.fair.Weight = func(tenant string) float64 {
			if w, ok := weights[tenant]; ok {
				return w
			}
			return 1
		}
		r.start(takes(5 * time.Millisecond))
		r.send("first", 0)
		synctest.Wait() // it is in its handler, and meanwhile the others come
		r.send("tiny", upTo(2)...)
		r.send("one", upTo(90)...)
		r.send("three", upTo(90)...)
		r.quiet()
		all := r.handled()
		var order string
		for _, d := range all {
			order += d.Tenant[:2] + " "
		}
		if three := strings.Count(order[:3*81], "th"); three < 58 || three > 61 {
			t.Errorf("%d of the first 80 turns, want 60: %s", three, order)
		}
		if last := all[len(all)-1]; last.Tenant != "tiny" {
			t.Errorf("the last one is of %q: %s", last.Tenant, order)
		}
	})
}

// TestSparseTenant: a tenant with a small weight that always has one message waiting gets no more than its
// weight, although it has none between two of them.
func TestSparseTenant(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.cfg.Consume.Concurrency = 1
		r.fair.Weight = func(tenant string) float64 {
			if tenant == "sparse" {
				return 0.1
			}
			return 1
		}
		turns, next := 0, 1
		r.start(func(_ context.Context, j job) error {
			if j.Tenant == "sparse" {
				if turns < 90 {
					r.send("sparse", next) // the next one comes when this one is handled
					next++
				}
			} else {
				turns++
			}
			time.Sleep(5 * time.Millisecond)
			return nil
		})
		r.send("other", upTo(90)...)
		r.send("sparse", 0)
		r.quiet()
		if n := len(r.handled("sparse")); n < 8 || n > 12 {
			t.Errorf("%d turns of the tenant with a tenth of the weight, beside 90", n)
		}
	})
}

// TestUntold: a message without a tenant, with one whose name has 10 KB, and one about which By panics are
// handled as others are, and so are those for which Weight has no weight.
func TestUntold(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		weights := []float64{0, -1, math.NaN(), math.Inf(1), math.Inf(-1), 1e-9, 1e9}
		r.fair.By = func(m *harebus.Message) string {
			if tenant(m) == "panics" {
				panic("no tenant")
			}
			return tenant(m)
		}
		r.fair.Weight = func(tenant string) float64 {
			if i := slices.Index([]string{"0", "1", "2", "3", "4", "5", "6"}, tenant); i >= 0 {
				return weights[i]
			}
			if tenant == "weightless" {
				panic("no weight")
			}
			return 1
		}
		r.start(takes(5 * time.Millisecond))
		long := strings.Repeat("long", 2500)
		names := []string{"", "panics", "weightless", long, "0", "1", "2", "3", "4", "5", "6"}
		for _, name := range names {
			r.send(name, upTo(20)...)
		}
		r.quiet()
		for _, name := range names {
			r.once(name, 20)
		}
		if stats := r.tenants.Stats(); stats.Untold != 1+40 || stats.BadWeights != 8*20 {
			t.Errorf("%+v", stats)
		}
		r.try(r.setup.Ready())
		if stats := r.setup.Stats(); stats.Failed != 0 {
			t.Errorf("%d failed", stats.Failed)
		}
	})
}

// TestConcurrency: as many are handled at once as Consume says, also when that changes, by all consumers
// together, with and without the backlog.
func TestConcurrency(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.cfg.Consume = harebus.ConsumeConfig{Concurrency: 3, Consumers: 2}
		running, most := 0, 0
		r.start(func(context.Context, job) error {
			r.locked(func() {
				running++
				most = max(most, running)
			})
			time.Sleep(10 * time.Millisecond)
			r.locked(func() { running-- })
			return nil
		})
		for _, want := range []int{6, 2, 20} {
			r.try(r.setup.SetConcurrency(want/2, 0))
			r.locked(func() { most = 0 })
			r.send("a", upTo(300)...)
			r.quiet()
			r.locked(func() {
				if most != want {
					t.Errorf("%d at once, want %d", most, want)
				}
			})
		}
	})
}

// TestRefused: what cannot be shared is refused, with the reason.
func TestRefused(t *testing.T) {
	by := func(*harebus.Message) string { return "" }
	single := map[string]any{"x-single-active-consumer": true}
	for want, c := range map[string]struct {
		change func(*harebus.Config)
		fair   fair.Config
	}{
		"By is nil":                         {},
		"a Share of -1 is not between 1":    {fair: fair.Config{By: by, Share: -1}},
		"a Share of 10001 is not between 1": {fair: fair.Config{By: by, Share: 10_001}},
		"not between 2 × Share, which is 2": {fair: fair.Config{By: by, Waiting: 1}},
		"and 50000":                         {fair: fair.Config{By: by, Waiting: 50_001}},
		"single active consumer":            {fair: fair.Config{By: by}, change: func(c *harebus.Config) { c.QueueOptions.Arguments = single }},
		"is a stream":                       {fair: fair.Config{By: by}, change: func(c *harebus.Config) { c.Consume.Stream = &stream.Config{} }},
		"a single active consumer":          {fair: fair.Config{By: by}, change: func(c *harebus.Config) { c.Consume.Order = &order.Config{} }},
		"left behind":                       {fair: fair.Config{By: by}, change: func(c *harebus.Config) { c.QueueOptions.PerInstance = true }},
		"left behind ":                      {fair: fair.Config{By: by}, change: func(c *harebus.Config) { c.QueueOptions.Exclusive = true }},
		" left behind":                      {fair: fair.Config{By: by}, change: func(c *harebus.Config) { c.QueueOptions.AutoDelete = true }},
		"not there":                         {fair: fair.Config{By: by}, change: func(c *harebus.Config) { c.Queue = "" }},
		"an endpoint of the queue":          {fair: fair.Config{By: by, Backlog: "jobs"}},
		"error queue of another":            {fair: fair.Config{By: by, Backlog: "error"}},
		"room":                              {fair: fair.Config{By: by}, change: func(c *harebus.Config) { c.Consume.Prefetch = 65_000 }},
		"both \"jobs.backlog\"":             {fair: fair.Config{By: by}, change: func(c *harebus.Config) { c.ErrorQueue.Name = "jobs.backlog" }},
		"no message can be sent to it":      {fair: fair.Config{By: by}, change: func(c *harebus.Config) { c.Queue = strings.Repeat("x", 250) }},
	} {
		t.Run(want, func(t *testing.T) {
			cfg := harebus.Config{Queue: "jobs"}
			if c.change != nil {
				c.change(&cfg)
			}
			s, err := harebus.New(cfg)
			if err != nil {
				t.Fatal(err)
			}
			if want == "left behind " || want == " left behind" {
				want = strings.TrimSpace(want)
			}
			if _, err := fair.New(s, c.fair); err == nil || !strings.Contains(err.Error(), strings.TrimSpace(want)) {
				t.Errorf("%v, want %q", err, want)
			}
		})
	}
}

// TestRefusedLater: a second scheduler, one after Start, and handlers for the backlog are refused.
func TestRefusedLater(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.start(takes(0))
		if _, err := fair.New(r.setup, fair.Config{By: tenant}); !errors.Is(err, harebus.ErrStarted) || !strings.Contains(err.Error(), "the endpoint has one") {
			t.Error(err)
		}
		r.fair.By = nil
		r.make(takes(0))
		if _, err := fair.New(r.setup, fair.Config{By: tenant}); err != nil {
			t.Fatal(err)
		}
		backlog := r.setup.Endpoints()[1]
		backlog.HandleMessage("Other", func(context.Context, *harebus.Bus, *harebus.Message) error { return nil })
		if err := r.setup.Start(r.ctx); err == nil || !strings.Contains(err.Error(), "are handled by those of") {
			t.Error(err)
		}
	})
}

// TestBatches: a batch has what is handled at once, and its tenants have their turns.
func TestBatches(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.make(takes(0))
		s, err := harebus.New(harebus.Config{Dial: r.broker.Dial, Queue: "rows", Consume: harebus.ConsumeConfig{Concurrency: 10}})
		r.try(err)
		defer func() { r.try(s.Close()) }()
		_, err = fair.New(s, fair.Config{By: tenant})
		r.try(err)
		var mixed int
		r.try(batch.Handle(s, func(_ context.Context, jobs []batch.Item[job]) []error {
			if len(jobs) == 10 && slices.ContainsFunc(jobs, func(j batch.Item[job]) bool { return j.Message.Tenant == "b" }) {
				mixed++
			}
			time.Sleep(10 * time.Millisecond)
			return make([]error, len(jobs))
		}, batch.Config{}))
		r.try(s.Start(r.ctx))
		time.Sleep(6 * time.Second) // until the trial is over
		for i := range 300 {
			r.try(r.sender.Bus().Send(r.ctx, "rows", job{"a", i}, harebus.WithHeader("tenant", "a")))
		}
		for i := range 10 {
			r.try(r.sender.Bus().Send(r.ctx, "rows", job{"b", i}, harebus.WithHeader("tenant", "b")))
		}
		r.quiet()
		if mixed != 2 && mixed != 3 || s.Stats().Handled != 310 {
			t.Errorf("%d full batches with both tenants, %d handled", mixed, s.Stats().Handled)
		}
		if err := batch.Handle(s, func(context.Context, []batch.Item[string]) []error { return nil }, batch.Config{Size: 11}, harebus.WithType("X")); err == nil {
			t.Error("a batch that could never be full is accepted")
		}
	})
}
