package saga_test

import (
	"context"
	"fmt"
	"math"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/saga"
	"github.com/harebus/harebus/saga/sagatest"
)

// TestSaga: messages start an instance, continue it and complete it, each with its own state.
func TestSaga(t *testing.T) {
	run(t, func(t *testing.T, s *sagatest.Service) {
		s.Send(placed{"7"}, placed{"8"}, placed{"A"}, placed{"a"})
		s.Send(paid{"7", 40}, paid{"8", 10}, paid{"A", 1}, paid{"a", 2})
		if o, ok := state(s, "7"); !ok || o.Paid != 40 || len(o.Parts) != 1 {
			t.Errorf("%+v, %v", o, ok)
		}
		s.Send(paid{"7", 60})
		want(t, "shop", bodies(s, "shop"), `{"Order":"7","Amount":100}`)
		if o, ok := state(s, "7"); ok {
			t.Errorf("a state is left: %+v", o)
		}
		for key, amount := range map[string]int{"8": 10, "A": 1, "a": 2} {
			if o, ok := state(s, key); !ok || o.Paid != amount {
				t.Errorf("%s: %+v, %v", key, o, ok)
			}
		}
		s.Finish()
		want(t, "parked", details(s), "")
	})
}

// TestTimeout: a timeout comes when its time has passed, and only to the run that sent it.
func TestTimeout(t *testing.T) {
	run(t, func(t *testing.T, s *sagatest.Service) {
		s.Send(placed{"late"}, placed{"done"}, placed{"again"})
		s.Send(paid{"late", 10}, paid{"done", 100}, paid{"again", 100})
		s.After(patience - time.Minute)
		want(t, "shop, too early", bodies(s, "shop"), `{"Order":"again","Amount":100} {"Order":"done","Amount":100}`)
		s.Send(placed{"again"}) // a second run, whose timeout comes a day later
		s.Send(paid{"again", 20})
		s.After(2 * time.Minute)
		want(t, "shop", bodies(s, "shop"), `{"Order":"again","Amount":100} {"Order":"done","Amount":100} {"Order":"late","Amount":-10}`)
		if o, ok := state(s, "again"); !ok || o.Paid != 20 {
			t.Errorf("the timeout of the first run has ended the second: %+v", o)
		}
		s.Finish()
		contains(t, bodies(s, "shop"), `{"Order":"again","Amount":-20}`)
		want(t, "parked", details(s), "")
	})
}

// TestTimeoutForeign: a message of a timeout's type that no instance has sent is parked, and a
// timeout for which there is no step is refused.
func TestTimeoutForeign(t *testing.T) {
	t.Parallel()
	var refused atomic.Value
	register := func(setup *harebus.Setup, store saga.Store) error {
		return saga.Register(setup, saga.Config{Name: "order", Store: store}, append(steps()[1:], saga.Start(placedKey, func(ctx context.Context, o *saga.Instance[order], _ placed) error {
			refused.Store(o.Timeout(ctx, time.Hour, &paid{}))
			return o.Timeout(ctx, time.Hour, &late{}) // a pointer is as good
		}))...)
	}
	sagatest.Run(t, register, func(t *testing.T, s *sagatest.Service) {
		s.Send(placed{"7"}, late{})
		contains(t, details(s), "was not sent by Timeout of this saga")
		err, _ := refused.Load().(error)
		contains(t, err.Error(), "register one with OnTimeout")
		s.Finish()
		want(t, "shop", bodies(s, "shop"), `{"Order":"7","Amount":0}`)
		want(t, "attempts", fmt.Sprint(s.Setup.Stats().Retried), "0")
	}, "shop")
}

// TestEarlyAndLate: a message that comes before the start is retried, one that comes after the
// end is dropped, and one for which nothing ever starts is parked.
func TestEarlyAndLate(t *testing.T) {
	run(t, func(t *testing.T, s *sagatest.Service) {
		s.Send(paid{"7", 100}, paid{"never", 1})
		s.Send(placed{"7"})
		s.After(10 * time.Second)
		want(t, "shop", bodies(s, "shop"), `{"Order":"7","Amount":100}`)
		s.Send(paid{"7", 5})
		if o, ok := state(s, "7"); ok {
			t.Errorf("a late message has started %+v", o)
		}
		s.Finish()
		want(t, "shop", bodies(s, "shop"), `{"Order":"7","Amount":100}`)
		want(t, "parked", bodies(s, sagatest.Parked), `{"Order":"never","Amount":1}`)
		contains(t, details(s), `saga: order: key "never": there is no instance with this key`)
	})
}

// TestForgotten: when a completed instance is remembered no longer, a message for it is one for
// an unknown instance, and its timeouts are still dropped.
func TestForgotten(t *testing.T) {
	run(t, func(t *testing.T, s *sagatest.Service) {
		s.Store.Keep = time.Hour
		s.Send(placed{"7"})
		s.Send(paid{"7", 100})
		s.After(time.Hour + time.Minute)
		s.Send(paid{"7", 5})
		s.Finish() // also the timeout, a day later
		want(t, "parked", details(s), `saga: order: key "7": there is no instance with this key`)
		want(t, "shop", bodies(s, "shop"), `{"Order":"7","Amount":100}`)
	})
}

// TestUnknown: a function decides about messages for unknown keys.
func TestUnknown(t *testing.T) {
	t.Parallel()
	register := func(setup *harebus.Setup, store saga.Store) error {
		unknown := func(ctx context.Context, bus *harebus.Bus, m *harebus.Message) error {
			var p paid
			if err := m.Decode(&p); err != nil {
				return err
			}
			if p.Amount == 1 {
				return harebus.NoRetry(errNo)
			}
			return bus.Send(ctx, "shop", shipped{p.Order, -1})
		}
		return saga.Register(setup, saga.Config{Name: "order", Store: store, Unknown: unknown}, steps()...)
	}
	sagatest.Run(t, register, func(t *testing.T, s *sagatest.Service) {
		s.Send(paid{"7", 1}, paid{"8", 2})
		want(t, "parked", details(s), "no")
		want(t, "shop", bodies(s, "shop"), `{"Order":"8","Amount":-1}`)
		s.Send(placed{"8"}) // nothing of the unknown instance is left
		if o, ok := state(s, "8"); !ok || o.Paid != 0 {
			t.Errorf("%+v, %v", o, ok)
		}
		s.Finish()
	}, "shop")
}

// forgetful is a Transactor without an inbox.
type forgetful struct{ *sagatest.Store }

func (f forgetful) Transact(ctx context.Context, m *harebus.Message, run func(context.Context) ([]harebus.Envelope, error)) error {
	other := *m
	other.ID = harebus.NewMessageID()
	return f.Store.Transact(ctx, &other, run)
}

// TestStartTwice: a copy of the message that started an instance changes nothing, also without
// an inbox and after the end. Another starting message continues the instance.
func TestStartTwice(t *testing.T) {
	t.Parallel()
	var starts, others atomic.Int32
	register := func(setup *harebus.Setup, store saga.Store) error {
		second, err := setup.Endpoint(harebus.EndpointConfig{Queue: "second", Handling: harebus.HandlingConfig{Transactor: forgetful{store.(*sagatest.Store)}}})
		if err != nil {
			return err
		}
		harebus.Handle(setup, func(context.Context, *harebus.Bus, paid) error { return nil }) // Start wants one
		return saga.Register(second, saga.Config{Name: "order", Store: store}, saga.On(paidKey, pay),
			saga.Start(placedKey, func(_ context.Context, o *saga.Instance[order], _ placed) error {
				if o.New {
					starts.Add(1)
				} else {
					others.Add(1)
				}
				return nil
			}))
	}
	sagatest.Run(t, register, func(t *testing.T, s *sagatest.Service) {
		send := func(message any, id string) {
			if err := s.Setup.Bus().Send(t.Context(), "second", message, harebus.WithMessageID(id)); err != nil {
				t.Fatal(err)
			}
			s.After(0)
		}
		for range 3 {
			send(placed{"7"}, "one")
		}
		send(placed{"7"}, "two")
		send(paid{"7", 100}, "three")
		send(placed{"7"}, "one")
		if _, ok := state(s, "7"); ok || starts.Load() != 1 || others.Load() != 1 {
			t.Errorf("%d starts, %d others; it runs: %v", starts.Load(), others.Load(), ok)
		}
		send(placed{"7"}, "four")
		if o, ok := state(s, "7"); !ok || o.Paid != 0 || starts.Load() != 2 {
			t.Errorf("%d starts; %+v, %v", starts.Load(), o, ok)
		}
	}, "shop")
}

// TestFailure: a step that fails, however, leaves the state as it was and sends nothing.
func TestFailure(t *testing.T) {
	t.Parallel()
	var fail atomic.Bool
	failure := func(err error, amount int) error {
		switch {
		case err != nil || !fail.Load():
			return err
		case amount == 102:
			runtime.Goexit()
		case amount == 103:
			panic(errNo)
		}
		return errNo
	}
	once := harebus.WithRetry(harebus.RetryConfig{MaxRetries: -1})
	register := func(setup *harebus.Setup, store saga.Store) error {
		return saga.Register(setup, saga.Config{Name: "order", Store: store},
			saga.Start(placedKey, func(ctx context.Context, o *saga.Instance[order], m placed) error {
				if !fail.Load() {
					return nil
				}
				return failure(o.Send(ctx, "shop", shipped{m.Order, 0}), 101)
			}, once),
			saga.On(paidKey, func(ctx context.Context, o *saga.Instance[order], m paid) error {
				return failure(pay(ctx, o, m), m.Amount)
			}, once))
	}
	sagatest.Run(t, register, func(t *testing.T, s *sagatest.Service) {
		s.Send(placed{"7"})
		s.Send(paid{"7", 10})
		fail.Store(true)
		s.Send(placed{"8"}, paid{"7", 101}, paid{"7", 102}, paid{"7", 103})
		fail.Store(false)
		if o, ok := state(s, "7"); !ok || o.Paid != 10 || len(s.Messages(sagatest.Parked)) != 4 {
			t.Errorf("%+v, %v; %s", o, ok, details(s))
		}
		if o, ok := state(s, "8"); ok {
			t.Errorf("a start that failed has left %+v", o)
		}
		want(t, "shop", bodies(s, "shop"), "")
		s.Send(paid{"7", 90})
		want(t, "shop", bodies(s, "shop"), `{"Order":"7","Amount":100}`)
	}, "shop")
}

// TestAtOnce: messages for one instance that come at the same time wait for each other. Each
// is handled once, and none is lost.
func TestAtOnce(t *testing.T) {
	t.Parallel()
	const messages = 99
	var handled atomic.Int32
	register := func(setup *harebus.Setup, store saga.Store) error {
		return saga.Register(setup, saga.Config{Name: "order", Store: store},
			saga.Start(placedKey, func(context.Context, *saga.Instance[order], placed) error {
				time.Sleep(time.Millisecond) // of the bubble: the others have come
				return nil
			}),
			saga.On(paidKey, func(ctx context.Context, o *saga.Instance[order], m paid) error {
				handled.Add(1)
				time.Sleep(time.Millisecond)
				return pay(ctx, o, m)
			}))
	}
	sagatest.Run(t, register, func(t *testing.T, s *sagatest.Service) {
		s.Send(placed{"7"}, placed{"7"}, placed{"7"})
		all := make([]any, messages)
		for i := range all {
			all[i] = paid{"7", 1}
		}
		s.Send(all...)
		if o, _ := state(s, "7"); o.Paid != messages || handled.Load() != messages {
			t.Errorf("%d paid by %d attempts, want %d by as many", o.Paid, handled.Load(), messages)
		}
		want(t, "failed", fmt.Sprint(s.Setup.Stats().Failed), "0")
	}, "shop")
}

// TestMany: a thousand instances run side by side.
func TestMany(t *testing.T) {
	run(t, func(t *testing.T, s *sagatest.Service) {
		const many = 1000
		var begin, end []any
		for i := range many {
			begin = append(begin, placed{fmt.Sprint(i)})
			end = append(end, paid{fmt.Sprint(i), 100 + i})
		}
		s.Send(begin...)
		s.Send(end...)
		s.Finish()
		if n := len(s.Messages("shop")); n != many || details(s) != "" {
			t.Errorf("%d shipped, want %d; %s", n, many, details(s))
		}
	})
}

// TestKeys: a key that a store cannot have parks the message at once.
func TestKeys(t *testing.T) {
	run(t, func(t *testing.T, s *sagatest.Service) {
		long := fmt.Sprintf("%0255d", 7)
		s.Send(placed{""}, paid{"a\x00b", 1}, placed{long + "8"}, placed{long})
		want(t, "parked", fmt.Sprint(len(s.Messages(sagatest.Parked))), "3")
		contains(t, details(s), `saga: order: the key of a message of type "Placed" is empty`, "has the byte 0", "has 256 bytes, more than 255")
		if _, ok := state(s, long); !ok {
			t.Error("a key of 255 bytes starts nothing")
		}
		want(t, "retried", fmt.Sprint(s.Setup.Stats().Retried), "0")
	})
}

// TestUnwritable: a state that JSON cannot have parks the message at once and is not kept.
func TestUnwritable(t *testing.T) {
	t.Parallel()
	type state struct{ Ratio float64 }
	register := func(setup *harebus.Setup, store saga.Store) error {
		return saga.Register(setup, saga.Config{Name: "order", Store: store},
			saga.Start(placedKey, func(ctx context.Context, o *saga.Instance[state], m placed) error {
				o.State.Ratio = math.NaN()
				return o.Send(ctx, "shop", shipped{m.Order, 0})
			}))
	}
	sagatest.Run(t, register, func(t *testing.T, s *sagatest.Service) {
		s.Send(placed{"7"})
		contains(t, details(s), `saga: order: key "7": the state cannot be written`, "NaN")
		want(t, "shop", bodies(s, "shop"), "")
		want(t, "retried", fmt.Sprint(s.Setup.Stats().Retried), "0")
	}, "shop")
}

// changed is a store whose instances somebody else changes.
type changed struct {
	saga.Store
	times atomic.Int32
}

func (c *changed) Save(ctx context.Context, name, key string, r saga.Record) error {
	if c.times.Add(-1) >= 0 {
		r.Version--
	}
	return c.Store.Save(ctx, name, key, r)
}

// TestConflict: a message whose instance was changed meanwhile is handled again, and that does
// not count as a failure.
func TestConflict(t *testing.T) {
	t.Parallel()
	store := &changed{}
	var attempts []int
	register := func(setup *harebus.Setup, inner saga.Store) error {
		store.Store = inner
		return saga.Register(setup, saga.Config{Name: "order", Store: store}, steps()[0],
			saga.On(paidKey, func(ctx context.Context, o *saga.Instance[order], m paid) error {
				attempts = append(attempts, harebus.Incoming(ctx).Attempt)
				return pay(ctx, o, m)
			}), steps()[2])
	}
	sagatest.Run(t, register, func(t *testing.T, s *sagatest.Service) {
		s.Send(placed{"7"})
		store.times.Store(7) // more often than a message is retried
		s.Send(paid{"7", 100})
		s.Finish()
		want(t, "attempts", fmt.Sprint(attempts), "[1 1 1 1 1 1 1 1]")
		want(t, "shop", bodies(s, "shop"), `{"Order":"7","Amount":100}`)
	}, "shop")
}

// hired is an event that starts a saga.
type hired struct{ Name string }

func (hired) MessageType() string { return "Hired" }
func (hired) Topic() string       { return "staff.hired" }

// TestEvent: the queue subscribes to the events that a saga has steps for.
func TestEvent(t *testing.T) {
	t.Parallel()
	register := func(setup *harebus.Setup, store saga.Store) error {
		return saga.Register(setup, saga.Config{Name: "staff", Store: store},
			saga.Start(func(m *hired) string { return m.Name }, func(_ context.Context, o *saga.Instance[order], _ *hired) error {
				o.State.Paid = 1
				return nil
			}))
	}
	sagatest.Run(t, register, func(t *testing.T, s *sagatest.Service) {
		if err := s.Setup.Bus().PublishEvent(t.Context(), hired{"Ann"}); err != nil {
			t.Fatal(err)
		}
		s.After(0)
		var o order
		if !s.State("staff", "Ann", &o) || o.Paid != 1 {
			t.Errorf("%+v", o)
		}
	})
}

// TestCopies: a copy of a message changes the state once.
func TestCopies(t *testing.T) {
	run(t, func(t *testing.T, s *sagatest.Service) {
		s.Send(placed{"7"})
		for range 3 {
			if err := s.Setup.Bus().Send(t.Context(), sagatest.Queue, paid{"7", 40}, harebus.WithMessageID("one")); err != nil {
				t.Fatal(err)
			}
		}
		s.After(0)
		if o, ok := state(s, "7"); !ok || o.Paid != 40 {
			t.Errorf("%+v, %v", o, ok)
		}
		want(t, "handled", fmt.Sprint(s.Setup.Stats().Handled), "4")
	})
}

// TestInvoke: a step can be called without a broker.
func TestInvoke(t *testing.T) {
	t.Parallel()
	store := sagatest.NewStore()
	setup := newSetup(t, harebus.Config{Handling: harebus.HandlingConfig{Transactor: store}})
	if err := orders(setup, store); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		message any
		sent    string
	}{{placed{"7"}, "defer"}, {paid{"7", 60}, ""}, {paid{"7", 40}, "send"}} {
		i, err := setup.Invoke(t.Context(), c.message)
		if err != nil || i.Err != nil {
			t.Fatal(err, i)
		}
		got := ""
		for _, sent := range i.Sent {
			got += sent.Operation.String()
		}
		want(t, fmt.Sprintf("%+v sends", c.message), got, c.sent)
	}
}
