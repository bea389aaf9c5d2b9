package batch_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/batch"
)

func goexit() { runtime.Goexit() }

// TestTimeLimit: the context of a batch ends with the shortest time limit of its messages, tells
// why, and has no values of one message. What the handler returns then counts.
func TestTimeLimit(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		short := func(next harebus.HandlerFunc) harebus.HandlerFunc {
			return func(ctx context.Context, bus *harebus.Bus, m *harebus.Message) error {
				if strings.Contains(string(m.Body), "2") {
					var cancel context.CancelFunc
					ctx, cancel = context.WithTimeout(ctx, 10*time.Second)
					defer cancel()
				}
				return next(ctx, bus, m)
			}
		}
		r.cfg.Handling.Middleware = []harebus.Middleware{short}
		r.cfg.Retry.MaxRetries = -1
		r.start(batch.Config{Size: 3}, func(ctx context.Context, rows []batch.Item[row]) []error {
			deadline, ok := ctx.Deadline()
			if left := time.Until(deadline); !ok || left > 10*time.Second || left < 9*time.Second {
				t.Errorf("%v are left, %v", left, ok)
			}
			if harebus.Incoming(ctx) != nil {
				t.Error("the context of the batch has a message")
			}
			<-ctx.Done()
			if !errors.Is(ctx.Err(), context.DeadlineExceeded) || !errors.Is(context.Cause(ctx), context.DeadlineExceeded) {
				t.Errorf("%v, %v", ctx.Err(), context.Cause(ctx))
			}
			results := make([]error, len(rows))
			for i := range rows {
				if rows[i].Message.ID == 3 {
					results[i] = ctx.Err()
				}
			}
			return results
		})
		r.send(1, 2, 3)
		r.quiet()
		r.wants(3)
		if stats := r.setup.Stats(); stats.Handled != 1+2 || stats.Parked != 1 {
			t.Errorf("handled %d, parked %d", stats.Handled, stats.Parked)
		}
	})
}

// TestTimeIsOver: a message whose time is over before its batch is handled is not in it.
func TestTimeIsOver(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.cfg.Handling.Middleware = []harebus.Middleware{func(next harebus.HandlerFunc) harebus.HandlerFunc {
			return func(ctx context.Context, bus *harebus.Bus, m *harebus.Message) error {
				if strings.Contains(string(m.Body), "2") && m.Attempt == 1 {
					var cancel context.CancelCauseFunc
					ctx, cancel = context.WithCancelCause(ctx)
					time.AfterFunc(time.Second, func() { cancel(errors.New("not wanted")) })
				}
				return next(ctx, bus, m)
			}
		}}
		r.start(batch.Config{Size: 20, Wait: 3 * time.Second}, done)
		r.send(1, 2, 3)
		r.quiet()
		r.wants(2, 1)
		if stats := r.setup.Stats(); stats.Handled != 1+3 || stats.Retried != 1 {
			t.Errorf("handled %d, retried %d", stats.Handled, stats.Retried)
		}
	})
}

// TestShortTime: a batch does not wait so long that less than half of the time of its messages is
// left for the handler.
func TestShortTime(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.start(batch.Config{Size: 3, Wait: time.Minute}, func(ctx context.Context, rows []batch.Item[row]) []error {
			if deadline, _ := ctx.Deadline(); time.Until(deadline) < 5*time.Second {
				t.Errorf("%v are left", time.Until(deadline))
			}
			return make([]error, len(rows))
		}, harebus.WithTimeout(10*time.Second))
		for i := range 8 { // the time for the wait and for the turn end together
			r.began = time.Now()
			r.send(i)
			r.quiet()
			if at := r.calls[i].at; at < 5*time.Second || at > 5100*time.Millisecond {
				t.Errorf("handled after %v, want 5s", at)
			}
		}
	})
}

// TestNoTurn: while a handler hangs, later batches do not fail: their messages are put off, and
// that is not counted.
func TestNoTurn(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		hangs := true
		r.start(batch.Config{Size: 5}, func(_ context.Context, rows []batch.Item[row]) []error {
			if hangs {
				hangs = false
				time.Sleep(8 * time.Minute)
			}
			for _, one := range rows {
				if one.Incoming().Attempt != 1 {
					t.Errorf("row %d: attempt %d", one.Message.ID, one.Incoming().Attempt)
				}
			}
			return make([]error, len(rows))
		})
		r.send(upTo(10)...)
		r.quiet()
		stats := r.setup.Stats()
		if stats.Handled != 1+10 || stats.Failed != stats.Postponed || stats.Postponed < 5 || stats.Parked != 0 || stats.Retried != 0 {
			t.Errorf("handled %d, failed %d, postponed %d, parked %d, retried %d", stats.Handled, stats.Failed, stats.Postponed, stats.Parked, stats.Retried)
		}
	})
}

// TestParallel: no more than Parallel batches are handled at once, those of single messages included.
func TestParallel(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		running := make(chan struct{}, 2)
		r.start(batch.Config{Size: 5, Parallel: 2}, func(_ context.Context, rows []batch.Item[row]) []error {
			select {
			case running <- struct{}{}:
			default:
				t.Error("a third batch is handled")
			}
			time.Sleep(time.Second)
			<-running
			results := make([]error, len(rows))
			if len(rows) > 1 {
				for i := range results {
					results[i] = errors.New("one by one")
				}
			}
			return results
		})
		r.send(upTo(20)...)
		r.quiet()
		if n := len(r.sizes()); n != 4+20 {
			t.Errorf("%v", r.sizes())
		}
	})
}

// TestStop: a stop, and a pause, handle the batch that waits. A batch whose handler ignores a stop
// goes back to the queue, uncounted.
func TestStop(t *testing.T) {
	for name, leave := range map[string]func(r *rig) error{
		"stop":  func(r *rig) error { return r.setup.Close() },
		"pause": func(r *rig) error { return r.setup.Pause(r.ctx) },
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, r *rig) {
				r.start(batch.Config{Size: 10, Wait: 3 * time.Second}, done)
				r.send(1, 2, 3)
				time.Sleep(time.Second)
				began := time.Now()
				r.try(leave(r))
				if took := time.Since(began); took > 3*time.Second {
					t.Errorf("it took %v", took)
				}
				r.wants(3)
				time.Sleep(10 * time.Millisecond) // acks
				if q, _ := r.broker.Queue("rows"); q.Ready+q.Unacked != 0 {
					t.Errorf("%d ready, %d unacknowledged", q.Ready, q.Unacked)
				}
			})
		})
	}
	t.Run("late", func(t *testing.T) {
		bubble(t, func(t *testing.T, r *rig) {
			r.cfg.ShutdownTimeout = 5 * time.Second
			r.start(batch.Config{Size: 3}, func(ctx context.Context, rows []batch.Item[row]) []error {
				<-ctx.Done()
				results := make([]error, len(rows))
				for i := range results {
					results[i] = context.Cause(ctx)
				}
				return results
			})
			r.send(1, 2, 3, 4)
			time.Sleep(time.Second)
			began := time.Now()
			r.try(r.setup.Close())
			if took := time.Since(began); took > 6*time.Second {
				t.Errorf("it took %v", took)
			}
			if q, _ := r.broker.Queue("rows"); q.Ready != 4 {
				t.Errorf("%d messages are ready, want 4", q.Ready)
			}
			for _, m := range r.broker.Messages("rows") {
				if m.Headers["PikaBus.ErrorRetries"] != nil {
					t.Errorf("%v was counted", m.Headers)
				}
			}
		})
	})
}

// TestLostConnection: a batch in hand when the connection is lost is handled again; nothing is lost
// and nothing counts as an attempt.
func TestLostConnection(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		handled := map[int]bool{}
		cut := true
		r.start(batch.Config{Size: 5}, func(_ context.Context, rows []batch.Item[row]) []error {
			if cut {
				cut = false
				r.broker.CutConnections()
				time.Sleep(time.Second)
			}
			for _, one := range rows {
				handled[one.Message.ID] = true
				if one.Incoming().Attempt != 1 {
					t.Errorf("row %d: attempt %d", one.Message.ID, one.Incoming().Attempt)
				}
			}
			return make([]error, len(rows))
		})
		r.send(upTo(12)...)
		r.quiet()
		if len(handled) != 12 {
			t.Errorf("handled %v", handled)
		}
	})
}

// TestNoDoubles: messages of a batch that waits while the connection is lost come again, and are not
// in that batch twice.
func TestNoDoubles(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		var handled atomic.Int32
		r.start(batch.Config{Size: 10, Wait: time.Minute}, func(_ context.Context, rows []batch.Item[row]) []error {
			in := map[int]bool{}
			for _, one := range rows {
				if in[one.Message.ID] {
					t.Errorf("row %d is in the batch twice", one.Message.ID)
				}
				in[one.Message.ID] = true
			}
			handled.Add(int32(len(rows)))
			return make([]error, len(rows))
		})
		r.send(upTo(4)...)
		time.Sleep(time.Second)
		r.broker.CutConnections()
		r.quiet()
		time.Sleep(2 * time.Minute) // until the batch that waited is handled, too
		if n := handled.Load(); n != 8 {
			t.Errorf("%d rows were handled in %v, want each twice", n, r.sizes())
		}
	})
}

// TestStopSoonerThanWait: when ShutdownTimeout is less than Wait, a stop ends the wait, and the messages
// go back to the queue, uncounted.
func TestStopSoonerThanWait(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.cfg.ShutdownTimeout = 5 * time.Second
		r.start(batch.Config{Size: 10, Wait: time.Minute}, done)
		r.send(1, 2, 3)
		time.Sleep(time.Second)
		began := time.Now()
		r.try(r.setup.Close())
		if took := time.Since(began); took > 6*time.Second {
			t.Errorf("it took %v", took)
		}
		r.wants()
		if q, _ := r.broker.Queue("rows"); q.Ready != 3 {
			t.Errorf("%d messages are ready, want 3", q.Ready)
		}
		for _, m := range r.broker.Messages("rows") {
			if m.Headers["PikaBus.ErrorRetries"] != nil {
				t.Errorf("%v was counted", m.Headers)
			}
		}
	})
}

// TestDeliveredOften: a message that the broker has delivered three times, perhaps because it ends
// the process, is handled alone and at once.
func TestDeliveredOften(t *testing.T) {
	bubble(t, func(_ *testing.T, r *rig) {
		cuts := 0
		r.start(batch.Config{Size: 5, Wait: time.Minute}, func(_ context.Context, rows []batch.Item[row]) []error {
			if cuts < 2 {
				cuts++
				r.broker.CutConnections()
			}
			return make([]error, len(rows))
		})
		r.send(upTo(5)...)
		r.quiet()
		sizes := r.sizes()
		if len(sizes) < 7 || fmt.Sprint(sizes[len(sizes)-5:]) != "[1 1 1 1 1]" {
			r.t.Errorf("batches of %v, want five of one message at the end", sizes)
		}
	})
}

// TestFewerAtOnce: with a concurrency below Size batches are smaller, and wait.
func TestFewerAtOnce(t *testing.T) {
	bubble(t, func(_ *testing.T, r *rig) {
		r.start(batch.Config{Size: 20, Wait: time.Second}, done)
		r.try(r.setup.SetConcurrency(4, 0))
		time.Sleep(time.Second)
		r.send(upTo(8)...)
		r.quiet()
		r.wants(4, 4)
	})
}

// TestBesideOthers: messages of another type on the same queue are handled one by one meanwhile.
func TestBesideOthers(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.make(batch.Config{Size: 10, Wait: 10 * time.Second}, done)
		var others atomic.Int64
		r.setup.HandleMessage("Other", func(context.Context, *harebus.Bus, *harebus.Message) error { others.Add(1); return nil })
		r.try(r.setup.Start(r.ctx))
		r.send(1)
		time.Sleep(time.Second)
		for range 30 {
			r.try(r.setup.Bus().Send(r.ctx, "rows", []byte("x"), harebus.WithType("Other")))
		}
		time.Sleep(6 * time.Second) // the trial is over
		if n := others.Load(); n != 30 {
			t.Errorf("%d others were handled", n)
		}
		r.wants()
		r.quiet()
		r.wants(1)
	})
}

// TestInvoke: a handler of batches can be tried without a broker.
func TestInvoke(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.make(batch.Config{}, func(_ context.Context, rows []batch.Item[row]) []error {
			return []error{fmt.Errorf("no row %d", rows[0].Message.ID)}
		})
		got, err := r.setup.Invoke(r.ctx, row{4})
		if err != nil || got.Err == nil || got.Err.Error() != "no row 4" {
			t.Errorf("%+v, %v", got, err)
		}
	})
}
