package harebus_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/brokertest"
	"github.com/harebus/harebus/topology"
)

// deferred defers an order and returns its ticket.
func (r *rig) deferred(bus *harebus.Bus, delay time.Duration, id int) harebus.Ticket {
	r.t.Helper()
	var ticket harebus.Ticket
	if err := bus.Defer(r.ctx, "out", delay, order{id}, harebus.WithTicket(&ticket)); err != nil {
		r.t.Fatal(err)
	}
	return ticket
}

// cancellations are the bindings that cancel messages now.
func (r *rig) cancellations() (keys []string) {
	for _, b := range r.broker.Bindings() {
		if b.Destination == "harebus.delay.cancelled" && b.Source != "" {
			keys = append(keys, b.RoutingKey)
		}
	}
	return keys
}

// came are those of the messages that have come to a queue.
func (r *rig) came(queue string) (all []string) {
	for _, m := range r.broker.Messages(queue) {
		all = append(all, string(m.Body))
	}
	slices.Sort(all)
	return all
}

// TestCancel: a cancelled message never comes, whoever cancels it; the others come, on
// time. When it was due it is kept for seven days, and its binding is removed with a later
// cancellation.
func TestCancel(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.ctx = t.Context() // for more than ten minutes
		r.declare(r.channel(), "out")
		bus := r.setup(r.config("")).Bus()
		began := time.Now()
		text := r.deferred(bus, time.Minute, 1).String()
		r.deferred(bus, time.Minute, 2)
		ticket, err := topology.ParseTicket(text) // by a process that was started later
		if err != nil {
			t.Fatal(err)
		}
		other := r.setup(r.config("")).Bus()
		for range 2 {
			if err := other.Cancel(r.ctx, ticket); err != nil {
				t.Fatal(err)
			}
		}
		r.await("out", 1)
		if took := time.Since(began); took < time.Minute || took > time.Minute+time.Second {
			t.Errorf("the other came after %v", took)
		}
		r.await("harebus.delay.cancelled", 1)
		r.await("harebus.delay.cancelled.settled", 1)
		if err := other.Cancel(r.ctx, r.deferred(bus, time.Hour, 3)); err != nil {
			t.Fatal(err)
		}
		kept := r.await("harebus.delay.cancelled.kept", 1)[0]
		if got := r.came("out"); !slices.Equal(got, []string{`{"ID":2}`}) || string(kept.Body) != `{"ID":1}` {
			t.Errorf("came %q, kept %s", got, kept.Body)
		}
		if got := r.cancellations(); len(got) != 1 {
			t.Errorf("%q are bound, want that of the third message only", got)
		}
		<-time.After(7*24*time.Hour + time.Minute)
		if q, _ := r.broker.Queue("harebus.delay.cancelled.kept"); q.Ready != 0 {
			t.Errorf("%d are kept for longer than seven days", q.Ready)
		}
	})
}

// TestCancelIsOneRoundTrip: a channel is kept from the first cancellation, so that the next ones only bind. One that the broker has
// closed is replaced.
func TestCancelIsOneRoundTrip(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.declare(r.channel(), "out")
		bus := r.setup(r.config("")).Bus()
		var tickets []harebus.Ticket
		for n := range 7 {
			tickets = append(tickets, r.deferred(bus, time.Hour, n))
		}
		cancel := func(tickets ...harebus.Ticket) (took time.Duration) {
			t.Helper()
			began := time.Now()
			for _, ticket := range tickets {
				if err := bus.Cancel(r.ctx, ticket); err != nil {
					t.Fatal(err)
				}
			}
			return time.Since(began)
		}
		r.broker.Inject(brokertest.Fault{On: "basic.get", Do: brokertest.Raise, Code: 403}) // so that nothing is tidied for a minute
		cancel(tickets[0])
		<-time.After(time.Second)
		for _, method := range []string{"channel.open", "channel.close"} {
			slow := r.broker.Inject(brokertest.Fault{On: method, Times: -1, Do: brokertest.Delay, For: 5 * time.Second})
			defer slow.Remove()
		}
		if took := cancel(tickets[1:6]...); took > time.Second {
			t.Errorf("five cancellations took %v", took)
		}
		r.broker.Inject(brokertest.Fault{On: "queue.bind", Do: brokertest.Raise, Code: 404})
		cancel(tickets[6])
		if got := r.cancellations(); len(got) != 7 {
			t.Errorf("%q are bound", got)
		}
	})
}

// TestCancelLeavesNoChannel: where the broker allows no more channels than are needed, none is kept.
func TestCancelLeavesNoChannel(t *testing.T) {
	for most, kept := range map[int]int{4: 0, 10: 1} {
		t.Run(fmt.Sprint(most), func(t *testing.T) {
			bubble(t, func(t *testing.T, r *rig) {
				r.declare(r.channel(), "out")
				bus := r.setup(r.config("")).Bus()
				ticket := r.deferred(bus, time.Hour, 1)
				channels := func() (n int) {
					for _, c := range r.broker.Connections() {
						if strings.Contains(c.Name, "publish") {
							n += c.Channels
						}
					}
					return n
				}
				before := channels()
				if err := bus.Cancel(r.ctx, ticket); err != nil {
					t.Fatal(err)
				}
				<-time.After(time.Second) // what is past is tidied
				if n := channels() - before; n != kept {
					t.Errorf("%d channels are kept, want %d", n, kept)
				}
			}, brokertest.WithChannelMax(most))
		})
	}
}

// TestCancelCatchesCopies: a message that was sent twice, because the first confirm was
// lost, is cancelled twice.
func TestCancelCatchesCopies(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.declare(r.channel(), "out")
		bus := r.setup(r.config("")).Bus()
		r.deferred(bus, 5*time.Second, 1)
		r.await("out", 1)
		r.broker.Inject(brokertest.Fault{On: "basic.publish", Do: brokertest.CutAfter})
		if err := bus.Cancel(r.ctx, r.deferred(bus, 5*time.Second, 2)); err != nil {
			t.Fatal(err)
		}
		r.await("harebus.delay.cancelled", 2)
		r.await("out", 1)
	})
}

// TestCancelCatchesLateCopies: what an outbox publishes, or a handler repeats, after the due
// time passes the gate all the same, for as long as none was caught and ten minutes more.
func TestCancelCatchesLateCopies(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.ctx = t.Context()
		r.declare(r.channel(), "out")
		bus := r.setup(r.config("")).Bus()
		due := time.Now().Add(10 * time.Second)
		handler := func(id string, ticket *harebus.Ticket) {
			if err := bus.DeferUntil(r.ctx, "out", due, order{1}, harebus.WithMessageID(id), harebus.WithTicket(ticket)); err != nil {
				t.Fatal(err)
			}
		}
		var sent, kept, came harebus.Ticket
		handler("sent", &sent)
		handler("came", &came)
		tx := bus.Begin()
		if err := tx.Defer(r.ctx, "out", 10*time.Second, order{2}, harebus.WithTicket(&kept)); err != nil {
			t.Fatal(err)
		}
		envelopes, err := tx.Detach()
		if err != nil {
			t.Fatal(err)
		}
		for _, ticket := range []harebus.Ticket{sent, kept} {
			if err := bus.Cancel(r.ctx, ticket); err != nil {
				t.Fatal(err)
			}
		}
		r.await("out", 1)
		<-time.After(10 * time.Minute) // the relay is down
		forwarded := bus.Forward(r.ctx, []harebus.Envelope{stored(t, envelopes[0])})
		handler("sent", &sent)
		handler("came", &came)
		if forwarded[0] != nil {
			t.Fatal(forwarded[0])
		}
		<-time.After(9 * time.Minute)
		if got := r.came("out"); len(got) != 2 || got[1] != got[0] || got[0] != `{"ID":1}` {
			t.Errorf("came %q, want the two that nobody cancelled", got)
		}
	})
}

// TestLateWithoutTicket: it takes the way of a message that was never deferred.
func TestLateWithoutTicket(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.declare(r.channel(), "out")
		bus := r.setup(r.config("")).Bus()
		if err := bus.DeferUntil(r.ctx, "out", time.Now().Add(-time.Second), order{1}); err != nil {
			t.Fatal(err)
		}
		r.await("out", 1)
		if _, ok := r.broker.Queue("harebus.delay.2ms"); ok {
			t.Error("a delay queue was declared")
		}
	})
}

// TestCancelLate: what is not certain is said, and the message comes when it was too late.
func TestCancelLate(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.declare(r.channel(), "out")
		bus := r.setup(r.config("")).Bus()
		passed := r.deferred(bus, 10*time.Second, 1)
		r.await("out", 1)
		if err := bus.Cancel(r.ctx, passed); !errors.Is(err, harebus.ErrTooLate) || !errors.Is(err, harebus.ErrNotSent) {
			t.Errorf("of a message that was delivered: %v", err)
		}
		soon := r.deferred(bus, 900*time.Millisecond, 2)
		err := bus.Cancel(r.ctx, soon)
		if !errors.Is(err, harebus.ErrUnknownOutcome) || errors.Is(err, harebus.ErrTooLate) {
			t.Fatalf("of a message that is due soon: %v", err)
		}
		contains(t, err.Error(), "harebus: cancel message", soon.ID, "less than 1s")
		for _, ticket := range []harebus.Ticket{{}, {ID: "x"}, {Due: time.Now().Add(time.Hour)}, {ID: strings.Repeat("x", 256), Due: time.Now().Add(time.Hour)}} {
			if err := bus.Cancel(r.ctx, ticket); !errors.Is(err, harebus.ErrRefused) {
				t.Errorf("%+v: %v", ticket, err)
			}
		}
	})
}

// TestCancelElsewhere: a ticket of another virtual host is refused.
func TestCancelElsewhere(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		bus := r.setup(r.config("")).Bus()
		err := bus.Cancel(r.ctx, harebus.Ticket{ID: "x", Due: time.Now().Add(time.Hour)})
		if !errors.Is(err, harebus.ErrRefused) {
			t.Fatal(err)
		}
		contains(t, err.Error(), "virtual host", "404")
	})
}

// TestUselessCancellationsAreRemoved: a cancellation that came too late does not stay for
// ever.
func TestUselessCancellationsAreRemoved(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.ctx = t.Context()
		r.declare(r.channel(), "out")
		bus := r.setup(r.config("")).Bus()
		r.deferred(bus, 900*time.Millisecond, 1) // declares
		r.await("out", 1)
		ticket := r.deferred(bus, 2*time.Second, 2)
		r.broker.Inject(brokertest.Fault{On: "queue.bind", Do: brokertest.Delay, For: 5 * time.Second})
		if err := bus.Cancel(r.ctx, ticket); !errors.Is(err, harebus.ErrUnknownOutcome) {
			t.Fatal(err)
		}
		r.await("out", 2)
		<-time.After(11 * time.Minute)
		if err := bus.Cancel(r.ctx, r.deferred(bus, time.Hour, 3)); err != nil {
			t.Fatal(err)
		}
		<-time.After(time.Second)
		if got := r.cancellations(); len(got) != 1 {
			t.Errorf("%q are bound, want that of the third message only", got)
		}
	})
}

// TestRetryIsNotCancelled: a cancellation that came too late for a message does not catch
// its retry.
func TestRetryIsNotCancelled(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		attempts := make(chan int, 9)
		cfg := r.config("out")
		s := r.setup(cfg)
		harebus.Handle(s, func(ctx context.Context, _ *harebus.Bus, _ order) error {
			m := harebus.Incoming(ctx)
			attempts <- m.Attempt
			switch m.Attempt {
			case 1:
				return errors.New("again")
			case 2:
				if !m.Redelivered && len(attempts) < 3 {
					return harebus.Postpone(time.Second, errors.New("not yet"))
				}
			}
			return nil
		})
		r.start(s)
		ticket := r.deferred(s.Bus(), 1200*time.Millisecond, 1)
		r.broker.Inject(brokertest.Fault{On: "queue.bind", Do: brokertest.Delay, For: 1500 * time.Millisecond})
		if err := s.Bus().Cancel(r.ctx, ticket); !errors.Is(err, harebus.ErrUnknownOutcome) {
			t.Fatal(err)
		}
		for _, want := range []int{1, 2, 2} {
			if got := receive(r, attempts); got != want {
				t.Errorf("attempt %d, want %d", got, want)
			}
		}
	})
}

// TestCancelOverALostConnection: whether the broker got the request or not.
func TestCancelOverALostConnection(t *testing.T) {
	for name, fault := range map[string]brokertest.Fault{
		"before": {On: "queue.bind", Do: brokertest.CutBefore}, "after": {On: "queue.bind", Do: brokertest.CutAfter},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, r *rig) {
				r.declare(r.channel(), "out")
				bus := r.setup(r.config("")).Bus()
				ticket := r.deferred(bus, time.Minute, 1)
				fault.Match = func(f brokertest.Frame) bool { return f.Queue == "harebus.delay.cancelled" }
				r.broker.Inject(fault)
				if err := bus.Cancel(r.ctx, ticket); err != nil {
					t.Fatal(err)
				}
				r.await("harebus.delay.cancelled", 1)
				r.await("out", 0)
			})
		})
	}
}

// TestCancelIsRefused: a user without the right gets the broker's text, nothing is
// cancelled, and the connection goes on.
func TestCancelIsRefused(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.declare(r.channel(), "out")
		bus := r.setup(r.config("")).Bus()
		ticket := r.deferred(bus, 10*time.Second, 1)
		r.broker.Inject(brokertest.Fault{On: "queue.bind", Do: brokertest.Raise, Code: 403, Text: "ACCESS_REFUSED", Match: func(f brokertest.Frame) bool {
			return f.Queue == "harebus.delay.cancelled"
		}})
		err := bus.Cancel(r.ctx, ticket)
		if !errors.Is(err, harebus.ErrNotSent) {
			t.Fatal(err)
		}
		contains(t, err.Error(), "403")
		r.await("out", 1)
	})
}

// TestCancelInTransaction: it happens at the commit, and only then.
func TestCancelInTransaction(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.declare(r.channel(), "out")
		bus := r.setup(r.config("")).Bus()
		both := func(tickets ...harebus.Ticket) func(context.Context, *harebus.Tx) error {
			return func(ctx context.Context, tx *harebus.Tx) error {
				var faults []error
				for _, ticket := range tickets {
					faults = append(faults, tx.Cancel(ctx, ticket))
				}
				return errors.Join(append(faults, tx.Send(ctx, "out", order{9}))...)
			}
		}
		kept, gone := r.deferred(bus, 20*time.Second, 1), r.deferred(bus, 20*time.Second, 2)
		rollback := errors.New("roll back")
		err := bus.Transaction(r.ctx, func(ctx context.Context, tx *harebus.Tx) error {
			return errors.Join(both(kept)(ctx, tx), rollback)
		})
		if !errors.Is(err, rollback) {
			t.Fatal(err)
		}
		if err := bus.Transaction(r.ctx, both(gone)); err != nil {
			t.Fatal(err)
		}
		r.await("harebus.delay.cancelled", 1)
		r.await("out", 2)
		if got := r.came("out"); !slices.Equal(got, []string{`{"ID":1}`, `{"ID":9}`}) {
			t.Errorf("came %q", got)
		}
		late, tx := r.deferred(bus, 5*time.Second, 3), bus.Begin()
		if err := both(late)(r.ctx, tx); err != nil {
			t.Fatal(err)
		}
		<-time.After(5 * time.Second)
		if err := tx.Commit(r.ctx); !errors.Is(err, harebus.ErrTooLate) {
			t.Errorf("a commit that is too late: %v", err)
		}
		if err := bus.Transaction(r.ctx, both(late)); !errors.Is(err, harebus.ErrTooLate) {
			t.Errorf("a call that is too late: %v", err)
		}
	})
}

// TestCancelNothingWithoutTheMessages: when a message of the transaction is not confirmed,
// nothing is cancelled.
func TestCancelNothingWithoutTheMessages(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.declare(r.channel(), "out")
		bus := r.setup(r.config("")).Bus()
		ticket := r.deferred(bus, 30*time.Second, 1)
		err := bus.Transaction(r.ctx, func(ctx context.Context, tx *harebus.Tx) error {
			return errors.Join(tx.Cancel(ctx, ticket), tx.Send(ctx, "nowhere", order{2}))
		})
		var failed *harebus.TransactionError
		if !errors.As(err, &failed) || len(failed.With(harebus.Returned)) != 1 || len(failed.With(harebus.NotSent)) != 1 {
			t.Fatal(err)
		}
		r.await("out", 1)
	})
}

// TestCancelInHandler: with the handler's success, after its messages; its envelope can be
// stored.
func TestCancelInHandler(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.declare(r.channel(), "out")
		s := r.setup(r.config("orders"))
		var ticket harebus.Ticket
		harebus.Handle(s, func(ctx context.Context, bus *harebus.Bus, _ order) error {
			if err := bus.Cancel(ctx, ticket); err != nil {
				return err
			}
			if harebus.Incoming(ctx).Attempt == 1 {
				return errors.New("again")
			}
			return nil
		})
		r.start(s)
		ticket = r.deferred(s.Bus(), time.Minute, 1)
		invocation, err := s.Invoke(r.ctx, &harebus.Message{Type: "Order", Body: []byte("{}"), Attempt: 2})
		if err != nil || len(invocation.Sent) != 1 || invocation.Sent[0].Operation != harebus.OpCancel || invocation.Sent[0].ID != ticket.ID {
			t.Fatalf("%+v, %v", invocation, err)
		}
		if err := s.Bus().Send(r.ctx, "orders", order{2}); err != nil {
			t.Fatal(err)
		}
		r.await("harebus.delay.cancelled", 1)
		r.await("out", 0)
	})
}

// TestStoredCancellation: as an outbox stores it.
func TestStoredCancellation(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.declare(r.channel(), "out")
		bus := r.setup(r.config("")).Bus()
		ticket, tx := r.deferred(bus, 10*time.Second, 1), bus.Begin()
		if err := tx.Cancel(r.ctx, ticket); err != nil {
			t.Fatal(err)
		}
		envelopes, err := tx.Detach()
		if err != nil {
			t.Fatal(err)
		}
		head, err := envelopes[0].Head()
		if err != nil {
			t.Fatal(err)
		}
		stored, err := harebus.OpenEnvelope(envelopes[0].Exchange(), envelopes[0].RoutingKey(), head, nil)
		if err != nil {
			t.Fatal(err)
		}
		if errs := bus.Forward(r.ctx, []harebus.Envelope{stored}); errs[0] != nil {
			t.Fatal(errs[0])
		}
		r.await("harebus.delay.cancelled", 1)
		if errs := bus.Forward(r.ctx, []harebus.Envelope{stored}); !errors.Is(errs[0], harebus.ErrTooLate) {
			t.Errorf("forwarded late: %v", errs[0])
		}
	})
}

// TestReschedule: the new message comes, the old one does not; one that is due stays.
func TestReschedule(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.declare(r.channel(), "out")
		bus := r.setup(r.config("")).Bus()
		began := time.Now()
		first := r.deferred(bus, 10*time.Second, 1)
		second, err := bus.Reschedule(r.ctx, first, "out", 5*time.Second, order{2})
		if err != nil || second.ID == first.ID || second.ID == "" {
			t.Fatal(second, err)
		}
		third, err := bus.Reschedule(r.ctx, second, "out", 30*time.Second, order{3})
		if err != nil {
			t.Fatal(err)
		}
		r.await("out", 1)
		if took := time.Since(began); took < 30*time.Second || took > 31*time.Second {
			t.Errorf("it came after %v", took)
		}
		if _, err := bus.Reschedule(r.ctx, third, "out", time.Second, order{4}); !errors.Is(err, harebus.ErrTooLate) {
			t.Errorf("of a message that was delivered: %v", err)
		}
		if _, err := bus.Reschedule(r.ctx, harebus.Ticket{}, "out", time.Second, order{4}); !errors.Is(err, harebus.ErrRefused) {
			t.Errorf("without a ticket: %v", err)
		}
		r.await("harebus.delay.cancelled", 2)
		if got := r.came("out"); !slices.Equal(got, []string{`{"ID":3}`}) {
			t.Errorf("came %q", got)
		}
	})
}

// TestRescheduleTwice: each new message has an id of its own, so cancelling one leaves the
// other. The old one's id is refused: both would be cancelled.
func TestRescheduleTwice(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.declare(r.channel(), "out")
		bus := r.setup(r.config("")).Bus()
		old := r.deferred(bus, 10*time.Second, 1)
		var next [2]harebus.Ticket
		for i := range next {
			var err error
			if next[i], err = bus.Reschedule(r.ctx, old, "out", time.Minute, order{2 + i}); err != nil {
				t.Fatal(err)
			}
		}
		if err := bus.Cancel(r.ctx, next[0]); err != nil {
			t.Fatal(err)
		}
		if _, err := bus.Reschedule(r.ctx, next[1], "out", time.Hour, order{4}, harebus.WithMessageID(next[1].ID)); !errors.Is(err, harebus.ErrRefused) {
			t.Errorf("with the old id: %v", err)
		}
		r.await("out", 1)
		r.await("harebus.delay.cancelled", 2)
		if got := r.came("out"); !slices.Equal(got, []string{`{"ID":3}`}) {
			t.Errorf("came %q", got)
		}
	})
}

// TestRescheduleOverALostConnection: the broker has cancelled the old message, and when the
// connection is back that one is due. The new one must come.
func TestRescheduleOverALostConnection(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.declare(r.channel(), "out")
		bus := r.setup(r.config("")).Bus()
		old := r.deferred(bus, 5*time.Second, 1)
		r.broker.Inject(brokertest.Fault{On: "queue.bind", Do: brokertest.CutAfter, Match: func(f brokertest.Frame) bool {
			return f.Queue == "harebus.delay.cancelled"
		}})
		r.broker.Inject(brokertest.Fault{On: "connection.open", Do: brokertest.Delay, For: 8 * time.Second})
		next, err := bus.Reschedule(r.ctx, old, "out", time.Minute, order{2})
		if !errors.Is(err, harebus.ErrUnknownOutcome) || errors.Is(err, harebus.ErrTooLate) || time.Now().Before(old.Due) {
			t.Errorf("%v; %v before the message was due", err, time.Until(old.Due))
		}
		if next.ID == "" {
			t.Error("no ticket of the new message")
		}
		r.await("harebus.delay.cancelled", 1)
		r.await("out", 1)
		if got := r.came("out"); !slices.Equal(got, []string{`{"ID":2}`}) {
			t.Errorf("came %q", got)
		}
	})
}

// TestManyCancelled: of many messages, every other one is cancelled by several goroutines
// while they become due.
func TestManyCancelled(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.ctx = t.Context()
		r.declare(r.channel(), "out")
		bus := r.setup(r.config("")).Bus()
		const messages = 400
		var want []string
		done := make(chan error, messages)
		for i := range messages {
			ticket := r.deferred(bus, time.Duration(2000+i*37%9000)*time.Millisecond, i)
			if i%2 == 1 {
				want = append(want, fmt.Sprintf(`{"ID":%d}`, i))
				done <- nil
				continue
			}
			go func() { done <- bus.Cancel(r.ctx, ticket) }()
		}
		for range messages {
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
		r.await("out", messages/2)
		<-time.After(11 * time.Minute)
		slices.Sort(want)
		if got := r.came("out"); !slices.Equal(got, want) {
			t.Errorf("%d messages came", len(got))
		}
		for range 4 { // each removes a hundred
			if err := bus.Cancel(r.ctx, r.deferred(bus, time.Hour, -1)); err != nil {
				t.Fatal(err)
			}
			<-time.After(time.Second)
		}
		if got := r.cancellations(); len(got) != 4 {
			t.Errorf("%d bindings are left", len(got))
		}
		r.await("harebus.delay.cancelled.kept", messages/2)
	})
}
