package fair_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/brokertest"
	"github.com/harebus/harebus/fair"
	"github.com/harebus/harebus/topology"
)

// TestCrashWhileMoving: the connection ends after a message has reached the backlog and before it is
// acknowledged. Then there are two with the same id, and none is lost.
func TestCrashWhileMoving(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.fair.Share = 1
		ids := map[string]int{}
		r.start(func(ctx context.Context, j job) error {
			r.locked(func() { ids[harebus.Incoming(ctx).ID]++ })
			time.Sleep(5 * time.Millisecond)
			return nil
		})
		first := r.broker.Inject(brokertest.Fault{On: "basic.ack", Match: func(f brokertest.Frame) bool { return f.Method == "basic.ack" }, Do: brokertest.CutBefore})
		r.send("a", upTo(50)...)
		r.quiet()
		if first.Fired() != 1 {
			t.Errorf("the connection was cut %d times", first.Fired())
		}
		twice := 0
		for _, n := range ids {
			if n > 1 {
				twice++
			}
		}
		if len(ids) != 50 || twice == 0 {
			t.Errorf("%d messages, %d of them twice; want 50, and some twice", len(ids), twice)
		}
	})
}

// TestLostConnection: what waits when the connection is lost is not handled here: the broker delivers it again.
func TestLostConnection(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.start(takes(5 * time.Millisecond))
		r.send("a", upTo(90)...)
		time.Sleep(7 * time.Millisecond)
		r.broker.CloseConnections("test")
		r.quiet()
		counts := map[int]int{}
		for _, d := range r.handled("a") {
			counts[d.N]++
		}
		twice := 0
		for _, n := range counts {
			if n > 1 {
				twice++
			}
		}
		if len(counts) != 90 || twice > 10 {
			t.Errorf("%d messages were handled, %d of them twice; want 90, and only those twice that were in handlers", len(counts), twice)
		}
	})
}

// TestFullBacklog: while the backlog is full now and then, nothing is lost, messages are handled from the queue,
// and afterwards a flood moves again.
func TestFullBacklog(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.fair.Share, r.fair.Waiting = 5, 20
		r.fair.Options.Arguments = map[string]any{"x-max-length": 10, "x-overflow": "reject-publish"}
		r.cfg.Consume.Concurrency = 1
		r.start(takes(100 * time.Millisecond))
		r.send("a", upTo(300)...)
		r.quiet()
		r.once("a", 300)
		stats := r.tenants.Stats()
		if stats.Refused == 0 || stats.Refused > 100 {
			t.Errorf("the backlog has refused %d messages", stats.Refused)
		}
		time.Sleep(20 * time.Second)
		r.send("b", upTo(12)...)
		r.quiet()
		r.once("b", 12)
		r.try(r.setup.Ready())
		if after := r.tenants.Stats(); after.Moved <= stats.Moved {
			t.Errorf("nothing has moved any more: %+v", after)
		}
		if stats := r.setup.Stats(); stats.Failed != 0 || stats.Parked != 0 {
			t.Errorf("failed %d, parked %d", stats.Failed, stats.Parked)
		}
	})
}

// TestBacklogStaysFull: a backlog that takes nothing for long is not tried with every message, and Ready says what is
// wrong.
func TestBacklogStaysFull(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.fair.Share, r.fair.Waiting = 5, 20
		r.fair.Options.Arguments = map[string]any{"x-max-length": 10, "x-overflow": "reject-publish"}
		r.cfg.Consume.Concurrency = 1
		r.start(takes(100 * time.Millisecond))
		r.try(r.setup.Endpoints()[1].Pause(r.ctx))
		r.send("a", upTo(610)...)
		time.Sleep(20 * time.Second)
		if err := r.setup.Ready(); err == nil || !strings.Contains(err.Error(), `the backlog "jobs.backlog" takes no messages`) {
			t.Errorf("%v", err)
		}
		time.Sleep(40 * time.Second)
		if stats := r.tenants.Stats(); stats.Refused > 21+10 { // once for each worker, then every ten seconds
			t.Errorf("the backlog has refused %d messages", stats.Refused)
		}
		if n := len(r.handled("a")); n < 490 { // a tenth of a second each, but for the first five seconds
			t.Errorf("%d were handled", n)
		}
		r.try(r.setup.Resume())
		r.quiet()
		r.once("a", 610)
	})
}

// TestOtherArguments: a backlog that exists with other arguments is an error of Start, which names it.
func TestOtherArguments(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		other, err := harebus.New(harebus.Config{Dial: r.broker.Dial, Declare: harebus.DeclareConfig{Topology: topology.Topology{
			Queues: []topology.Queue{{Name: "jobs.backlog", Type: topology.Classic}},
		}}})
		r.try(err)
		r.try(other.Init(r.ctx))
		r.make(takes(0))
		if err := r.setup.Start(r.ctx); err == nil || !strings.Contains(err.Error(), "jobs.backlog") {
			t.Errorf("%v", err)
		}
	})
}

// TestStop: a stop does not wait for messages that wait for their turn. They are in their queues afterwards,
// in the backlog, too, and the next instance handles each once.
func TestStop(t *testing.T) {
	for name, leave := range map[string]func(r *rig) error{
		"stop":  func(r *rig) error { return r.setup.Close() },
		"pause": func(r *rig) error { return r.setup.Pause(r.ctx) },
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, r *rig) {
				r.fair.Share, r.fair.Waiting = 10, 50
				r.cfg.Consume.Concurrency = 2
				r.start(takes(time.Second))
				r.send("a", upTo(60)...)
				r.send("b", upTo(60)...)
				time.Sleep(500 * time.Millisecond)
				if stats := r.tenants.Stats(); stats.Waiting < 20 || stats.Running != 2 {
					t.Errorf("%+v", stats)
				}
				began := time.Now()
				r.try(leave(r))
				if took := time.Since(began); took > time.Second {
					t.Errorf("it took %v", took)
				}
				if stats := r.tenants.Stats(); stats.Waiting != 0 || stats.Running != 0 {
					t.Errorf("%+v", stats)
				}
				time.Sleep(100 * time.Millisecond) // until the acks of a pause are there
				main, _ := r.broker.Queue("jobs")
				backlog, _ := r.broker.Queue("jobs.backlog")
				if main.Ready+backlog.Ready != 118 || main.Ready == 0 || backlog.Ready == 0 || main.Unacked+backlog.Unacked != 0 {
					t.Errorf("%d and %d are ready, %d unacknowledged", main.Ready, backlog.Ready, main.Unacked+backlog.Unacked)
				}
				if name == "pause" {
					r.try(r.setup.Resume())
				} else {
					r.try(r.setup.Start(r.ctx))
				}
				time.Sleep(6 * time.Second) // until the backlog has its turn in the trial of the connection
				r.quiet()
				r.once("a", 60)
				r.once("b", 60)
			})
		})
	}
}

// TestPausedOften: a message that waits whenever the service pauses is not moved to the error queue by its
// delivery count.
func TestPausedOften(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.cfg.Consume.Concurrency = 1
		r.cfg.QueueOptions.Arguments = map[string]any{"x-delivery-limit": 6}
		var long atomic.Bool
		long.Store(true)
		r.start(func(ctx context.Context, _ job) error {
			if long.Load() {
				time.Sleep(10 * time.Second)
			}
			return nil
		})
		r.send("a", upTo(30)...)
		for range 20 {
			time.Sleep(7 * time.Second)
			r.try(r.setup.Pause(r.ctx))
			r.try(r.setup.Resume())
		}
		long.Store(false)
		r.quiet()
		r.once("a", 30)
		if n := len(r.broker.Messages("error")); n != 0 {
			t.Errorf("%d messages in the error queue", n)
		}
	})
}

// TestLongWait: what has waited for five minutes goes to the backlog, uncounted, so that the broker's consumer timeout
// does not pass.
func TestLongWait(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.fair.Share, r.fair.Waiting = 5, 10
		r.cfg.Consume.Concurrency = 1
		r.cfg.Handling.Timeout = -1
		failures := 0
		r.start(func(ctx context.Context, _ job) error {
			if harebus.Incoming(ctx).Attempt != 1 {
				failures++
			}
			time.Sleep(12 * time.Minute)
			return nil
		})
		lost := r.broker.Inject(brokertest.Fault{On: "channel.close", From: brokertest.FromBroker, Times: -1, Do: brokertest.Delay, For: time.Millisecond})
		r.send("a", 0, 1, 2, 3)
		time.Sleep(49 * time.Minute)
		r.once("a", 4)
		if failures > 0 || lost.Fired() > 0 {
			t.Errorf("%d failures, %d channels lost", failures, lost.Fired())
		}
		if r.tenants.Stats().Moved < 6 {
			t.Errorf("%+v", r.tenants.Stats())
		}
	})
}

// TestHangs: when no handler ends, Ready says so.
func TestHangs(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		release := make(chan struct{})
		r.start(func(context.Context, job) error { <-release; return nil }, harebus.WithTimeout(0))
		r.send("a", upTo(30)...)
		time.Sleep(10 * time.Minute)
		r.try(r.setup.Ready())
		time.Sleep(6 * time.Minute)
		if err := r.setup.Ready(); err == nil || !strings.Contains(err.Error(), "no handler has begun or ended for") {
			t.Errorf("%v", err)
		}
		close(release)
		r.quiet()
		r.once("a", 30)
		r.try(r.setup.Ready())
	})
}

// TestHandlers: a panic, the end of the goroutine and errors give their turns back.
func TestHandlers(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.cfg.Consume.Concurrency = 2
		calls := map[int]int{}
		r.start(func(_ context.Context, j job) error {
			var again bool
			r.locked(func() {
				calls[j.N]++
				again = calls[j.N] > 1
			})
			time.Sleep(time.Millisecond)
			if again {
				return nil
			}
			switch j.N % 3 {
			case 0:
				panic("a bad handler")
			case 1:
				goexit()
			}
			return errors.New("not yet")
		})
		r.send("a", upTo(30)...)
		r.quiet()
		r.once("a", 30)
		if stats := r.tenants.Stats(); stats.Running != 0 || stats.Waiting != 0 {
			t.Errorf("%+v", stats)
		}
	})
}

// bookkeeper is a Transactor that counts open transactions.
type bookkeeper struct{ open, most atomic.Int64 }

func (*bookkeeper) Check(context.Context) error { return nil }

func (b *bookkeeper) Transact(ctx context.Context, _ *harebus.Message, run func(context.Context) ([]harebus.Envelope, error)) error {
	b.most.Store(max(b.most.Load(), b.open.Add(1)))
	defer b.open.Add(-1)
	_, err := run(ctx)
	return err
}

func (*bookkeeper) Run(ctx context.Context, _ *harebus.Bus) error { <-ctx.Done(); return nil }

// TestTransactions: a message that waits, or moves, has no transaction, and its time limit has not begun.
func TestTransactions(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		books := &bookkeeper{}
		r.cfg.Handling.Transactor = books
		r.cfg.Handling.Timeout = 50 * time.Millisecond
		r.start(func(ctx context.Context, _ job) error {
			time.Sleep(40 * time.Millisecond)
			return ctx.Err()
		})
		r.send("a", upTo(300)...)
		r.quiet()
		r.once("a", 300)
		if books.most.Load() != 10 {
			t.Errorf("%d transactions at once, want 10", books.most.Load())
		}
		if stats := r.setup.Stats(); stats.Failed != 0 || stats.Handled != 301 || stats.Postponed != r.tenants.Stats().Moved {
			t.Errorf("failed %d, handled %d, postponed %d, moved %d", stats.Failed, stats.Handled, stats.Postponed, r.tenants.Stats().Moved)
		}
	})
}

// TestPoison: a message that ends the process whenever it is handled takes no others with it to the error queue, neither
// those that wait in the process nor those in the backlog. It is parked in the end.
func TestPoison(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.fair.Share, r.fair.Waiting = 20, 100
		r.cfg.Consume.Concurrency = 3
		kills := 0
		r.start(func(_ context.Context, j job) error {
			time.Sleep(5 * time.Millisecond)
			if j.N == 70 {
				kills++
				r.broker.CutConnections() // as the end of the process does
				time.Sleep(time.Second)
				return errors.New("dead")
			}
			return nil
		})
		r.send("a", upTo(150)...)
		r.send("b", upTo(60)...)
		r.try(r.broker.WaitQueue(r.ctx, "error", func(q brokertest.Queue) bool { return q.Ready > 0 }))
		r.quiet()
		if n := len(r.broker.Messages("error")); n != 1 || kills > 45 {
			t.Errorf("%d messages in the error queue, after %d kills", n, kills)
		}
		seen := map[job]bool{}
		for _, d := range r.handled() {
			seen[d.job] = true
		}
		if len(seen) != 209 {
			t.Errorf("%d jobs were handled, want 209", len(seen))
		}
	})
}

// TestInstances: two instances share the queue and the backlog. Each message is handled once.
func TestInstances(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.fair.Share = 20
		r.make(takes(5 * time.Millisecond))
		first := r.setup
		r.start(takes(5 * time.Millisecond))
		r.try(first.Start(r.ctx))
		time.Sleep(6 * time.Second)
		r.flood(4000, 3)
		r.once("big", 4000)
		list := r.smallOnes()
		if p99 := quantile(list, 0.99); len(list) != 60 || p99 > 11*time.Millisecond {
			t.Errorf("%d messages of small tenants, p99 %v", len(list), p99)
		}
	})
}

// TestSettles: a tenant is not late for good: ten seconds after it has had too many for the last time its
// messages are handled at once, although some of it are still in the backlog, behind those of another.
func TestSettles(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.fair.Share = 10
		r.start(takes(50 * time.Millisecond))
		r.send("big", upTo(4_000)...)
		r.send("burst", upTo(15)...)
		time.Sleep(2 * time.Second)
		r.send("burst", 15) // there would be room for it
		time.Sleep(10 * time.Second)
		r.send("burst", 16)
		r.quiet()
		list := r.handled("burst")
		moved, late := 0, map[int]bool{}
		for _, d := range list {
			if late[d.N] = d.after > time.Second; late[d.N] && d.N < 15 {
				moved++
			}
		}
		if len(list) != 17 || moved != 5 || !late[15] || late[16] { // which five is up to the goroutines
			t.Errorf("%d of 15 are moved: %v", moved, list)
		}
	})
}

// TestManyTenants: with more tenants than there is room, each of which has one message, memory stays as it
// was configured.
func TestManyTenants(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.fair.Share, r.fair.Waiting = 10, 100
		most := 0
		r.start(func(context.Context, job) error {
			q, _ := r.broker.Queue("jobs")
			r.locked(func() { most = max(most, q.Unacked) })
			time.Sleep(5 * time.Millisecond)
			return nil
		})
		for i := range 3000 {
			r.try(r.sender.Bus().Send(r.ctx, "jobs", job{"", i}, harebus.WithHeader("tenant", strings.Repeat("t", 1000)+small(i))))
		}
		r.quiet()
		r.once("", 3000)
		if most > 150 { // Waiting and the prefetch
			t.Errorf("%d messages in memory", most)
		}
	})
}

// TestPausedBacklog: while only the backlog is paused, the queue goes on.
func TestPausedBacklog(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.fair.Share = 10
		r.start(takes(5 * time.Millisecond))
		backlog := r.setup.Endpoints()[1]
		r.try(backlog.Pause(r.ctx))
		r.send("a", upTo(100)...)
		time.Sleep(time.Second)
		q, _ := r.broker.Queue("jobs.backlog")
		if q.Ready < 80 || len(r.handled("a"))+q.Ready != 100 {
			t.Errorf("%d in the backlog, %d handled", q.Ready, len(r.handled("a")))
		}
		if stats := backlog.Stats(); !stats.Paused || stats.Consume.Concurrency != 10 {
			t.Errorf("%+v", stats)
		}
		r.try(backlog.Resume())
		r.quiet()
		r.once("a", 100)
	})
}

// TestEndpoints: a further endpoint of a setup is shared, too, beside one that is not.
func TestEndpoints(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		cfg := r.cfg
		cfg.Queue = "others"
		s, err := harebus.New(cfg)
		r.try(err)
		defer func() { r.try(s.Close()) }()
		e, err := s.Endpoint(harebus.EndpointConfig{Queue: "jobs"})
		r.try(err)
		r.fair.Share = 10
		r.tenants, err = fair.New(e, r.fair)
		r.try(err)
		handled := []string{}
		harebus.Handle(s, func(context.Context, *harebus.Bus, job) error {
			r.locked(func() { handled = append(handled, "others") })
			return nil
		})
		harebus.Handle(e, func(context.Context, *harebus.Bus, job) error {
			time.Sleep(5 * time.Millisecond)
			r.locked(func() { handled = append(handled, "jobs") })
			return nil
		})
		r.try(s.Start(r.ctx))
		time.Sleep(6 * time.Second)
		r.send("a", upTo(100)...)
		r.try(s.Bus().Send(r.ctx, "others", job{"a", 0}))
		r.quiet()
		if len(handled) != 101 || slices.Index(handled, "others") < 0 || r.tenants.Stats().Moved < 80 {
			t.Errorf("%d handled, %+v", len(handled), r.tenants.Stats())
		}
		if stats := e.Stats(); stats.Handled != 100 {
			t.Errorf("%d are counted for the endpoint", stats.Handled)
		}
		service, err := s.Contract()
		r.try(err)
		for _, q := range service.Queues {
			if q.Name == "jobs.backlog" {
				t.Error("the backlog is in the contract")
			}
		}
	})
}
