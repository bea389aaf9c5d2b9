package harebus_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/brokertest"
)

// ledger is a Transactor that keeps messages in memory. Its hooks are called where a
// database could fail.
type ledger struct {
	before func(m *harebus.Message) (skip bool, err error) // of Transact
	after  func(run int, sent []harebus.Envelope) error    // a run; an error runs the handler again
	check  error
	run    func(ctx context.Context, bus *harebus.Bus) error // instead of forwarding

	mu     sync.Mutex
	stored []harebus.Envelope
	wake   chan struct{}
}

// transactionKey is what a handler finds its transaction by.
type transactionKey struct{}

func newLedger() *ledger { return &ledger{wake: make(chan struct{}, 1)} }

func (l *ledger) Check(context.Context) error { return l.check }

func (l *ledger) Transact(ctx context.Context, m *harebus.Message, run func(context.Context) ([]harebus.Envelope, error)) error {
	if l.before != nil {
		if skip, err := l.before(m); skip || err != nil {
			return err
		}
	}
	for n := 1; ; n++ {
		sent, err := run(context.WithValue(ctx, transactionKey{}, n))
		if err != nil {
			return err
		}
		if l.after != nil && l.after(n, sent) != nil {
			continue
		}
		l.mu.Lock()
		l.stored = append(l.stored, sent...)
		l.mu.Unlock()
		select {
		case l.wake <- struct{}{}:
		default:
		}
		return nil
	}
}

func (l *ledger) Run(ctx context.Context, bus *harebus.Bus) error {
	if l.run != nil {
		return l.run(ctx, bus)
	}
	for {
		select {
		case <-l.wake:
		case <-ctx.Done():
			return l.forward(bus) // the connections are still there
		}
		if err := l.forward(bus); err != nil {
			return err
		}
	}
}

func (l *ledger) forward(bus *harebus.Bus) error {
	l.mu.Lock()
	sent := l.stored
	l.stored = nil
	l.mu.Unlock()
	return errors.Join(bus.Forward(context.Background(), sent)...)
}

// ledgered starts a service of orders whose handler runs in l.
func (r *rig) ledgered(l *ledger, handle func(ctx context.Context, bus *harebus.Bus, o order) error, opts ...harebus.HandlerOption) *harebus.Setup {
	r.t.Helper()
	r.bound(r.channel(), "out")
	cfg := r.config("orders")
	cfg.Handling.Transactor = l
	s := r.setup(cfg)
	harebus.Handle(s, handle, opts...)
	r.start(s)
	return s
}

// TestTransactor: a message is acknowledged when its transaction has ended, and what the
// handler sent is published after that.
func TestTransactor(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		l := newLedger()
		release := make(chan struct{})
		l.run = func(ctx context.Context, bus *harebus.Bus) error {
			<-release
			l.run = nil
			return l.Run(ctx, bus)
		}
		s := r.ledgered(l, func(ctx context.Context, bus *harebus.Bus, o order) error {
			if ctx.Value(transactionKey{}) != 1 {
				t.Error("the handler's context does not lead to the transaction")
			}
			return bus.Send(ctx, "out", answer(o))
		})
		r.publish(r.channel(), "orders", plain(`{"ID":7}`))
		r.quiet()
		if got := s.Stats(); got.Handled != 1 || len(r.broker.Messages("out")) != 0 {
			t.Errorf("handled %d before anything was published; %d published", got.Handled, len(r.broker.Messages("out")))
		}
		close(release)
		r.await("out", 1)
	})
}

// TestTransactorFails: the policies see the handler's own error, and nothing is stored.
func TestTransactorFails(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		l := newLedger()
		r.ledgered(l, func(ctx context.Context, bus *harebus.Bus, o order) error {
			if err := bus.Send(ctx, "out", answer(o)); err != nil {
				return err
			}
			if harebus.Incoming(ctx).Attempt == 1 {
				return errNo
			}
			return harebus.NoRetry(errNo)
		})
		r.publish(r.channel(), "orders", plain(`{"ID":7}`))
		parked := r.await("error", 1)[0]
		if got := parked.Publishing.Headers["PikaBus.ErrorRetries"]; got != int8(2) {
			t.Errorf("%v failures, want 2", got)
		}
		r.await("out", 0)
		if len(l.stored) != 0 {
			t.Errorf("%d messages of failed runs were stored", len(l.stored))
		}
	})
}

// TestTransactorRunsAgain: each run gets the message as it came and buffers for itself; the
// ids are the same.
func TestTransactorRunsAgain(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		l := newLedger()
		var ids []string
		l.after = func(run int, sent []harebus.Envelope) error {
			if len(sent) != 1 {
				t.Errorf("run %d sent %d messages", run, len(sent))
			}
			if ids = append(ids, sent[0].MessageID()); run < 3 {
				return errNo
			}
			return nil
		}
		r.ledgered(l, func(ctx context.Context, bus *harebus.Bus, o order) error {
			m := harebus.Incoming(ctx)
			if m.ID != "m1" || m.Headers["tenant"] != "a" {
				t.Errorf("the handler got %q with %v", m.ID, m.Headers["tenant"])
			}
			err := bus.Send(ctx, "out", answer(o))
			m.ID, m.Headers["tenant"] = "changed", "b"
			return err
		})
		m := plain(`{"ID":7}`)
		m.MessageId, m.Headers = "m1", map[string]any{"tenant": "a"}
		r.publish(r.channel(), "orders", m)
		if got := r.await("out", 1)[0].Publishing.MessageId; len(ids) != 3 || ids[0] != ids[1] || ids[1] != ids[2] || got != ids[2] {
			t.Errorf("ids %v, published %s", ids, got)
		}
	})
}

// TestTransactorSkips: a message that the Transactor knows is acknowledged without its
// handler, and one that makes it panic or ends its goroutine has failed.
func TestTransactorSkips(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		l := newLedger()
		handled := make(chan int, 9)
		l.before = func(m *harebus.Message) (bool, error) {
			switch m.ID {
			case "known":
				return true, nil
			case "panic":
				panic("the driver")
			case "exit":
				runtime.Goexit()
			}
			return false, nil
		}
		s := r.ledgered(l, func(_ context.Context, _ *harebus.Bus, o order) error {
			handled <- o.ID
			return nil
		}, harebus.WithRetry(harebus.RetryConfig{MaxRetries: -1}))
		for i, id := range []string{"known", "panic", "exit", "new"} {
			if err := s.Bus().Send(r.ctx, "orders", order{i}, harebus.WithMessageID(id)); err != nil {
				t.Fatal(err)
			}
		}
		if got := receive(r, handled); got != 3 {
			t.Errorf("handled %d", got)
		}
		r.quiet("error")
		contains(t, text(r.await("error", 2)), "panic: the driver", "transactor_test.go", "runtime.Goexit")
		if len(handled) != 0 {
			t.Error("the handler saw another one")
		}
	})
}

// TestWithoutTransaction: such a handler knows no Transactor.
func TestWithoutTransaction(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		l := newLedger()
		l.before = func(*harebus.Message) (bool, error) { return false, errNo }
		s := r.ledgered(l, func(ctx context.Context, bus *harebus.Bus, o order) error {
			return bus.Send(ctx, "out", answer(o))
		}, harebus.WithoutTransaction())
		if err := s.Bus().Send(r.ctx, "orders", order{1}); err != nil {
			t.Fatal(err)
		}
		r.await("out", 1)
		if i, err := s.Invoke(r.ctx, order{2}); err != nil || i.Err != nil || len(i.Sent) != 1 {
			t.Errorf("Invoke: %+v, %v", i, err)
		}
	})
}

// TestWithTransaction: Start refuses a handler that needs a transaction and has none.
func TestWithTransaction(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		handle := func(context.Context, *harebus.Bus, order) error { return nil }
		s := r.ledgered(newLedger(), handle, harebus.WithTransaction())
		if i, err := s.Invoke(r.ctx, order{1}); err != nil || i.Err != nil {
			t.Errorf("Invoke: %+v, %v", i, err)
		}
		for name, opts := range map[string][]harebus.HandlerOption{
			"none": {harebus.WithTransaction()},
			"both": {harebus.WithTransaction(), harebus.WithoutTransaction()},
		} {
			cfg := r.config(name)
			if name == "both" {
				cfg.Handling.Transactor = newLedger()
			}
			s := r.setup(cfg)
			harebus.Handle(s, handle, opts...)
			if err := s.Start(r.ctx); err == nil || !strings.Contains(err.Error(), "needs a transaction") {
				t.Errorf("%s: %v", name, err)
			}
		}
	})
}

// TestTransactorStop: Run works until the last handler has returned, and the connections are
// there until it has returned itself.
func TestTransactorStop(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		l := newLedger()
		begun := make(chan struct{})
		s := r.ledgered(l, func(ctx context.Context, bus *harebus.Bus, o order) error {
			close(begun)
			time.Sleep(10 * time.Second)
			return bus.Send(ctx, "out", answer(o))
		})
		if err := s.Bus().Send(r.ctx, "orders", order{1}); err != nil {
			t.Fatal(err)
		}
		receive(r, begun)
		if err := s.Stop(r.ctx); err != nil {
			t.Fatal(err)
		}
		r.await("out", 1)
	})
}

// TestTransactorHangs: a Run that does not return does not hold up Stop for ever.
func TestTransactorHangs(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		l := newLedger()
		release := make(chan struct{})
		defer close(release)
		l.run = func(context.Context, *harebus.Bus) error { <-release; return nil }
		s := r.ledgered(l, func(context.Context, *harebus.Bus, order) error { return nil })
		began := time.Now()
		err := s.Stop(r.ctx)
		if err == nil || time.Since(began) != 30*time.Second+2*time.Second {
			t.Fatalf("Stop returned %v after %v", err, time.Since(began))
		}
		contains(t, err.Error(), "Config.Handling.Transactor has not returned")
	})
}

// TestTransactorAlone: a setup without a queue starts for its Transactor, whose Run is called
// again when it ends early.
func TestTransactorAlone(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		l := newLedger()
		runs := make(chan int, 9)
		n := 0
		l.run = func(ctx context.Context, _ *harebus.Bus) error {
			n++
			runs <- n
			switch n {
			case 1:
				return errNo
			case 2:
				panic("the driver")
			case 3:
				runtime.Goexit()
			}
			<-ctx.Done()
			return nil
		}
		cfg := r.config("")
		cfg.Handling.Transactor = l
		s := r.setup(cfg)
		l.check = errNo
		if err := s.Start(r.ctx); !errors.Is(err, errNo) {
			t.Errorf("Start with a Transactor that cannot work: %v", err)
		}
		l.check = nil
		r.start(s)
		for want := 1; want <= 4; want++ {
			if got := receive(r, runs); got != want {
				t.Errorf("run %d, want %d", got, want)
			}
		}
		if err := s.Stop(r.ctx); err != nil {
			t.Error(err)
		}
	})
}

// TestNoQueueNoErrorQueue: a setup that is started without a queue declares the exchanges and
// no error queue.
func TestNoQueueNoErrorQueue(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		cfg := r.config("")
		cfg.Handling.Transactor = newLedger()
		s := r.setup(cfg)
		r.start(s)
		if err := s.Bus().Publish(r.ctx, "topic", order{1}); !errors.Is(err, harebus.ErrUnroutable) {
			t.Error(err)
		}
		if queues := r.broker.Queues(); len(queues) != 0 {
			t.Errorf("queues: %v", queues)
		}
	})
}

// TestTransactorInvoke: Invoke runs the handler in a transaction, without what it sent.
func TestTransactorInvoke(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		l := newLedger()
		cfg := r.config("orders")
		cfg.Handling.Transactor = l
		s := r.setup(cfg)
		harebus.Handle(s, func(ctx context.Context, bus *harebus.Bus, o order) error {
			if ctx.Value(transactionKey{}) == nil {
				t.Error("no transaction")
			}
			return errors.Join(bus.Send(ctx, "out", answer(o)), map[bool]error{true: errNo}[o.ID == 2])
		})
		if i, err := s.Invoke(r.ctx, order{1}); err != nil || i.Err != nil || len(i.Sent) != 1 {
			t.Errorf("%+v, %v", i, err)
		}
		if i, err := s.Invoke(r.ctx, order{2}); err != nil || !errors.Is(i.Err, errNo) || len(i.Sent) != 0 {
			t.Errorf("%+v, %v", i, err)
		}
		l.before = func(*harebus.Message) (bool, error) { return true, nil }
		if i, err := s.Invoke(r.ctx, order{3}); err != nil || i.Err != nil || len(i.Sent) != 0 {
			t.Errorf("a known message: %+v, %v", i, err)
		}
		if len(l.stored) != 0 {
			t.Errorf("%d messages were stored", len(l.stored))
		}
	})
}

// text is why messages were parked.
func text(parked []brokertest.Message) string {
	var all strings.Builder
	for _, m := range parked {
		fmt.Fprintln(&all, m.Publishing.Headers["PikaBus.ErrorDetails"])
	}
	return all.String()
}

// waiter is a Transactor that may be behind.
type waiter struct {
	*ledger
	behind error
}

func (w *waiter) Ready() error { return w.behind }

// TestTransactorBehind: a Transactor that cannot publish what it has stored makes Ready fail.
func TestTransactorBehind(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		w := &waiter{newLedger(), errNo}
		cfg := r.config("orders")
		cfg.Handling.Transactor = w
		s := r.setup(cfg)
		harebus.Handle(s, func(context.Context, *harebus.Bus, order) error { return nil })
		r.start(s)
		if err := s.Ready(); !errors.Is(err, errNo) {
			t.Errorf("Ready: %v", err)
		}
		w.behind = nil
		if err := s.Ready(); err != nil {
			t.Error(err)
		}
	})
}
