package order_test

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/order"
)

// TestPoison: a message that ends its process is held, unseen, after five times at most. It takes no other with it,
// those of its key wait behind it, and an operator can have it discarded. The same when it ends the process
// only as a retry, out of the parking queue.
func TestPoison(t *testing.T) {
	for i := range 4 {
		late, partitions := i%2 == 1, i/2*4
		t.Run(fmt.Sprintf("late=%v, partitions=%d", late, partitions), func(t *testing.T) {
			bubble(t, func(t *testing.T, r *rig) {
				r.cfg.Consume.Order = &order.Config{Partitions: partitions}
				var crashes atomic.Int64
				var serve func()
				serve = func() {
					var dead atomic.Bool
					dying := make(chan struct{})
					name := fmt.Sprintf("proc%d", crashes.Load())
					cfg := r.cfg
					r.cfg.Connect.Name = name
					s := r.instance(func(ctx context.Context, m step) error {
						switch {
						case m.Key == "p" && m.N == 1 && (!late || harebus.Incoming(ctx).Attempt > 1):
							dead.Store(true)
							close(dying)
							<-ctx.Done()
							return context.Cause(ctx)
						case m.Key == "p" && m.N == 1:
							return errBad
						}
						select {
						case <-time.After(10 * time.Millisecond):
						case <-ctx.Done():
						}
						if dead.Load() {
							<-ctx.Done() // it is gone
							return context.Cause(ctx)
						}
						return nil
					})
					r.cfg = cfg
					r.try(s.Start(r.ctx))
					go func() {
						select {
						case <-dying:
						case <-r.ctx.Done():
							return
						}
						crashes.Add(1)
						for range 3 { // all of its connections, and what it tries again
							for _, c := range r.broker.Connections() {
								if strings.HasPrefix(c.Name, name) {
									r.broker.CutConnections(c.Name)
								}
							}
						}
						_ = s.Close() // the process is gone
						serve()
					}()
				}
				r.try(r.instance(func(context.Context, step) error { return nil }).Init(r.ctx))
				for n := range 100 {
					r.strange(step{"a", n + 1}) // a sender that gives no ids
				}
				r.strange(step{"p", 1})
				r.send(strings.TrimPrefix(numbers("p", 17), "p1 ") + numbers("b", 100))
				serve()
				r.rest(5 * time.Minute)
				if n := crashes.Load(); n < 3 || n > 5 {
					t.Errorf("%d crashes", n)
				}
				for _, key := range []string{"a", "b"} {
					if got := r.once(key); got != upTo(100) {
						t.Errorf("of %s are done: %s", key, got)
					}
				}
				r.wants("p", "")
				if q, _ := r.broker.Queue("error"); q.Ready != 0 {
					t.Errorf("%d in the error queue", q.Ready)
				}
				r.word("discard", "p")
				r.rest(time.Minute)
				r.wants("p", strings.TrimPrefix(upTo(17), "1 "))
				r.empty()
			})
		})
	}
}

// strange sends a message without an id.
func (r *rig) strange(m step) {
	r.t.Helper()
	conn, err := amqp.DialConfig(r.broker.URL(), amqp.Config{Dial: r.broker.Dial})
	r.try(err)
	defer func() { r.try(conn.Close()) }()
	ch, err := conn.Channel()
	r.try(err)
	r.try(ch.PublishWithContext(r.ctx, "", "steps", true, false, amqp.Publishing{
		Headers: amqp.Table{"PikaBus.Key": m.Key}, Type: "Step", ContentType: "application/json", Body: fmt.Appendf(nil, `{"Key": %q, "N": %d}`, m.Key, m.N),
	}))
	synctest.Wait()
}

// once is what is done of a key, without repeats.
func (r *rig) once(key string) string {
	seen, list := map[string]bool{}, []string{}
	for n := range strings.FieldsSeq(r.of(key)) {
		if !seen[n] {
			seen[n] = true
			list = append(list, n)
		}
	}
	return strings.Join(list, " ")
}

// TestStopsHoldNothing: messages that were delivered again and again because instances stopped are innocent.
func TestStopsHoldNothing(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.try(r.instance(func(context.Context, step) error { return nil }).Init(r.ctx))
		r.send(numbers("a", 100))
		for range 30 {
			s := r.serve(func(context.Context, step) error { time.Sleep(2 * time.Second); return nil })
			r.rest(3 * time.Second)
			r.try(s.Close())
		}
		r.serve(func(context.Context, step) error { return nil })
		r.rest(time.Minute)
		r.wants("a", upTo(100))
		r.empty()
	})
}

// TestFullParking: when as many messages are parked as may be, the keys that wait stand still, the others go on while the
// window has room, and Ready says so; after the operator's word all goes on.
func TestFullParking(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.cfg.Consume.Order = &order.Config{MaxParked: 20}
		s := r.serve(bad("a", 1))
		r.send(numbers("a", 100) + numbers("b", 50))
		r.rest(time.Minute)
		r.wants("b", upTo(50))
		if q, _ := r.broker.Queue("steps.parked"); q.Unacked != 21 {
			t.Errorf("%d are parked", q.Unacked-1)
		}
		if err := s.Ready(); err == nil || !strings.Contains(err.Error(), "20 messages are parked in steps.parked, as many as may be") {
			t.Errorf("ready: %v", err)
		}
		for n := 101; n <= 400; n++ {
			r.send(fmt.Sprint("a", n))
		}
		r.send(numbers("c", 10)) // outside of the window
		r.rest(time.Minute)
		r.wants("c", "")
		r.word("discard", "a")
		r.rest(time.Minute)
		r.wants("a", strings.TrimPrefix(upTo(400), "1 "))
		r.wants("c", upTo(10))
		r.try(s.Ready())
		r.empty()
	})
}

// TestHeldForDays: what is parked for long is taken up anew before the broker takes it back, and so is the note of the
// owner; nothing is repeated or lost by that.
func TestHeldForDays(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		s := r.serve(bad("a", 2))
		r.send("a1 a2 a3 b1")
		for range 12 {
			r.rest(time.Hour)
			r.try(s.Ready())
		}
		r.send("a4 b2")
		r.rest(time.Minute)
		r.wants("a", "1")
		r.wants("b", "1 2")
		if r.said("consumer interrupted") || r.said("cannot consume") {
			t.Error("the broker has taken something back")
		}
		r.word("discard", "a")
		r.rest(time.Minute)
		r.wants("a", "1 3 4")
		r.rest(12 * time.Hour)
		if r.said("consumer interrupted") || r.said("cannot consume") {
			t.Error("the broker has taken the note of the owner back")
		}
		r.empty()
	})
}

// TestStopWaits: the next owner begins when the handlers of the one that stops have ended, and not before.
func TestStopWaits(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		running := 0
		fn := func(_ context.Context, m step) error {
			r.mu.Lock()
			running++
			if running > 1 {
				t.Errorf("%d handlers at once", running)
			}
			r.mu.Unlock()
			time.Sleep(7 * time.Second)
			r.mu.Lock()
			running--
			r.mu.Unlock()
			return nil
		}
		first := r.serve(fn)
		r.serve(fn)
		r.send(numbers("a", 8))
		r.rest(8 * time.Second)
		r.try(first.Close())
		r.rest(time.Minute)
		r.wants("a", upTo(8))
		r.empty()
	})
}

// TestPauseHandsOver: a pause of the owner lets another instance have the queue.
func TestPauseHandsOver(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		who := map[string]int{}
		fn := func(name string) func(context.Context, step) error {
			return func(_ context.Context, _ step) error {
				r.mu.Lock()
				who[name]++
				r.mu.Unlock()
				return nil
			}
		}
		first := r.serve(fn("first"))
		second := r.serve(fn("second"))
		r.send("a1 a2")
		r.rest(time.Second)
		r.try(first.Pause(r.ctx))
		r.send("a3 a4 a5")
		r.rest(time.Second)
		r.try(second.Pause(r.ctx))
		r.send("a6")
		r.rest(time.Second)
		r.wants("a", "1 2 3 4 5")
		r.try(first.Resume())
		r.try(second.Resume())
		r.rest(time.Second)
		r.wants("a", "1 2 3 4 5 6")
		if who["first"] < 2 || who["second"] < 3 { // either may have the last one
			t.Error(who)
		}
		r.empty()
	})
}

// TestLostTenure: when the connection is lost, the contexts of handlers end, and no other message is handled in this process
// before they have returned.
func TestLostTenure(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		cancelled := make(chan time.Duration, 10)
		running := false
		r.serve(func(ctx context.Context, m step) error {
			r.mu.Lock()
			if running {
				t.Error("two handlers at once")
			}
			running = true
			r.mu.Unlock()
			defer func() {
				r.mu.Lock()
				running = false
				r.mu.Unlock()
			}()
			if m.N == 1 && !harebus.Incoming(ctx).Redelivered {
				began := time.Now()
				<-ctx.Done()
				cancelled <- time.Since(began)
				time.Sleep(20 * time.Second) // it does not care
				return context.Cause(ctx)
			}
			return nil
		})
		r.send("a1 a2")
		r.rest(time.Second)
		r.broker.CutConnections()
		r.rest(10 * time.Second)
		select {
		case after := <-cancelled:
			if after > 2*time.Second {
				t.Errorf("cancelled after %v", after)
			}
		default:
			t.Error("not cancelled")
		}
		r.wants("a", "")
		r.rest(20 * time.Second)
		r.wants("a", "1 2")
		r.empty()
	})
}

// TestRetryOfPoison: the word to retry a message that ends its process has it handled once, and then it is held again.
func TestRetryOfPoison(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		crashes := 0
		var serve func()
		serve = func() {
			cfg := r.cfg
			r.cfg.Connect.Name = fmt.Sprintf("proc%d", crashes)
			dying := make(chan struct{})
			s := r.instance(func(ctx context.Context, m step) error {
				if m.Key == "p" {
					close(dying)
					<-ctx.Done()
					return context.Cause(ctx)
				}
				return nil
			})
			name := r.cfg.Connect.Name
			r.cfg = cfg
			r.try(s.Start(r.ctx))
			go func() {
				select {
				case <-dying:
				case <-r.ctx.Done():
					return
				}
				r.mu.Lock()
				crashes++
				r.mu.Unlock()
				for _, c := range r.broker.Connections() {
					if strings.HasPrefix(c.Name, name) {
						r.broker.CutConnections(c.Name)
					}
				}
				_ = s.Close()
				serve()
			}()
		}
		serve()
		r.send("p1 a1")
		r.rest(10 * time.Minute)
		before := crashes
		r.word("retry", "p")
		r.rest(10 * time.Minute)
		if crashes != before+1 {
			t.Errorf("%d crashes by one retry", crashes-before)
		}
		r.send("a2")
		r.rest(time.Second)
		if got := r.once("a"); got != "1 2" {
			t.Errorf("of a are done: %s", got)
		}
	})
}

// TestNotesOfTheGone: a note of a process that has ended, about a message that was done with, does not stay for ever.
func TestNotesOfTheGone(t *testing.T) {
	bubble(t, func(_ *testing.T, r *rig) {
		fn := func(context.Context, step) error { return nil }
		r.try(r.instance(fn).Init(r.ctx))
		r.word("trial other 0", "gone")
		r.serve(fn)
		r.send("a1 a2")
		r.rest(time.Minute)
		r.wants("a", "1 2")
		r.empty()
	})
}

// TestPoisonInPartitions: a message that ends its process has nobody of the other partitions held, which was in a handler of the process, too.
func TestPoisonInPartitions(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.cfg.Consume.Order = &order.Config{Partitions: 4}
		r.try(r.instance(func(context.Context, step) error { return nil }).Init(r.ctx))
		r.send("p1")
		others := "abcdefghijklmno"
		for key := range strings.SplitSeq(others, "") {
			r.send(numbers(key, 30))
		}
		for crashes := 0; ; crashes++ {
			dying, dead := make(chan struct{}), make(chan struct{})
			r.cfg.Connect.Name = fmt.Sprint("proc", crashes)
			s := r.serve(func(ctx context.Context, m step) error {
				wait := time.After(100 * time.Millisecond)
				if m.Key == "p" {
					time.Sleep(50 * time.Millisecond) // others are in their handlers
					close(dying)
					wait = nil
				}
				select {
				case <-wait:
					return nil
				case <-ctx.Done():
				case <-dead: // it has ended
				}
				<-ctx.Done()
				return context.Cause(ctx)
			})
			select {
			case <-dying:
			case <-time.After(time.Minute):
				if crashes > 5 {
					t.Errorf("%d crashes", crashes)
				}
				for key := range strings.SplitSeq(others, "") {
					if got := r.once(key); got != upTo(30) {
						t.Errorf("of %s are done: %s", key, got)
					}
				}
				return
			}
			close(dead)
			for range 3 { // all of its connections, and what it tries again
				for _, c := range r.broker.Connections() {
					if strings.HasPrefix(c.Name, r.cfg.Connect.Name) {
						r.broker.CutConnections(c.Name)
					}
				}
			}
			_ = s.Close()
		}
	})
}
