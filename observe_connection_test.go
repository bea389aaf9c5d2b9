package harebus_test

import (
	"context"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/harebus/harebus"
)

// lifeline is an observer of everything about connections.
type lifeline struct {
	mu   sync.Mutex // guards what follows
	open []string
	said []string
}

func line(o harebus.Observation) string {
	return strings.Join(strings.Fields(o.String()+" "+o.Connection+" "+o.Queue+" "+o.Address), " ")
}

func (l *lifeline) ObserveStart(ctx context.Context, o harebus.Observation) context.Context {
	l.mu.Lock()
	defer l.mu.Unlock()
	if o.Connection != "" {
		l.open = append(l.open, line(o))
		if o.Err != nil {
			l.said = append(l.said, "begin "+line(o)+": "+o.Err.Error())
		}
	}
	return ctx
}

func (l *lifeline) ObserveEnd(_ context.Context, o harebus.Observation, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if o.Connection == "" {
		return
	}
	about := line(o)
	if i := slices.Index(l.open, about); i >= 0 {
		l.open = slices.Delete(l.open, i, i+1)
	} else {
		about = "without a start: " + about
	}
	if err != nil {
		about += ": " + err.Error()
	}
	l.said = append(l.said, "end "+about)
}

// now returns what is open and what was said since the last call, both sorted.
func (l *lifeline) now(r *rig) (open, said []string) {
	r.t.Helper()
	<-time.After(time.Minute)
	l.mu.Lock()
	defer l.mu.Unlock()
	open, said, l.said = slices.Clone(l.open), l.said, nil
	slices.Sort(open)
	slices.Sort(said)
	return open, said
}

// TestConnectionOperations: connections, blocked publishers and consumers are seen for as long as they last, with the
// address of the broker, and say why they end.
func TestConnectionOperations(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		seen := &lifeline{}
		cfg := r.config("orders")
		cfg.Connect.Name = "orders"
		cfg.Observers = []harebus.Observer{seen}
		s := r.setup(cfg)
		harebus.Handle(s, func(context.Context, *harebus.Bus, order) error { return nil })
		r.start(s)
		if err := s.Bus().Send(r.ctx, "orders", order{1}); err != nil {
			t.Fatal(err)
		}
		const at = " brokertest:5672"
		up := []string{"connection consume" + at, "connection publish" + at, "consume consume orders" + at}
		open, said := seen.now(r)
		sameLines(t, open, up)
		sameLines(t, said, []string{"end connect consume" + at, "end connect publish" + at})

		r.broker.Block("low on memory") // which it tells those who publish
		sent := make(chan error, 1)
		go func() { sent <- s.Bus().Send(r.ctx, "orders", order{2}) }()
		open, said = seen.now(r)
		sameLines(t, open, slices.Concat([]string{"blocked publish" + at}, up))
		sameLines(t, said, []string{"begin blocked publish" + at + ": low on memory"})
		r.broker.Unblock()
		if err := receive(r, sent); err != nil {
			t.Error(err)
		}
		open, said = seen.now(r)
		sameLines(t, open, up)
		sameLines(t, said, []string{"end blocked publish" + at})

		if err := r.broker.CancelConsumers("orders"); err != nil {
			t.Fatal(err)
		}
		open, said = seen.now(r)
		sameLines(t, open, up)
		if len(said) != 1 || !strings.HasPrefix(said[0], "end consume consume orders"+at+": the broker cancelled the consumer") || !strings.Contains(said[0], "its consumer timeout has passed") {
			t.Errorf("said %q", said)
		}

		r.broker.CutConnections("orders consume")
		open, said = seen.now(r)
		sameLines(t, open, up)
		if len(said) != 3 || said[0] != "end connect consume"+at || !strings.HasPrefix(said[1], "end connection consume"+at+": ") || !strings.HasPrefix(said[2], "end consume consume orders"+at+": ") {
			t.Errorf("said %q", said)
		}

		if err := s.Stop(r.ctx); err != nil {
			t.Fatal(err)
		}
		open, said = seen.now(r)
		sameLines(t, open, nil)
		sameLines(t, said, []string{"end connection consume" + at, "end connection publish" + at, "end consume consume orders" + at})
	})
}

// TestConnectingOperations: each address that is tried is an operation, without the password in its URL. A paused consumer
// that keeps the order of its queue ends without an error.
func TestConnectingOperations(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		seen := &lifeline{}
		cfg := r.config("orders")
		cfg.Consume = harebus.ConsumeConfig{Concurrency: 1, Consumers: 1}
		cfg.Observers = []harebus.Observer{seen}
		s := r.setup(cfg)
		harebus.Handle(s, func(context.Context, *harebus.Bus, order) error { return nil })
		r.broker.Refuse(10 * time.Second)
		r.start(s)
		_, said := seen.now(r)
		if len(said) < 2 || !slices.ContainsFunc(said, func(line string) bool { return strings.Contains(line, "refused") }) || strings.Contains(strings.Join(said, ""), "guest") {
			t.Errorf("said %q", said)
		}
		if err := s.Pause(r.ctx); err != nil {
			t.Fatal(err)
		}
		_, said = seen.now(r)
		sameLines(t, said, []string{"end consume consume orders brokertest:5672"})
		if err := s.Resume(); err != nil {
			t.Fatal(err)
		}
		open, _ := seen.now(r)
		sameLines(t, open, []string{"connection consume brokertest:5672", "consume consume orders brokertest:5672"})
	})
}

// stations notes the broker's address of every operation on messages.
type stations struct {
	mu   sync.Mutex // guards seen
	seen map[harebus.Operation][]string
}

func (p *stations) ObserveStart(ctx context.Context, o harebus.Observation) context.Context {
	if o.Operation != harebus.OpHandle && o.Connection == "" && o.Address != "" {
		p.add(o.Operation, "at the start: "+o.Address)
	}
	return ctx
}

func (p *stations) ObserveEnd(_ context.Context, o harebus.Observation, _ error) {
	if o.Connection == "" && !o.Buffered {
		p.add(o.Operation, o.Address)
	}
}

func (p *stations) add(op harebus.Operation, address string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !slices.Contains(p.seen[op], address) {
		p.seen[op] = append(p.seen[op], address)
	}
}

// TestAddresses: operations on messages name the broker that they were sent to or came from; a message that was not sent has
// been nowhere.
func TestAddresses(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		p := &stations{seen: map[harebus.Operation][]string{}}
		cfg := r.config("orders")
		cfg.Observers, cfg.Retry = []harebus.Observer{p}, harebus.RetryConfig{MaxRetries: 1, BackOff: steady}
		s := r.setup(cfg)
		harebus.Handle(s, func(ctx context.Context, bus *harebus.Bus, o order) error {
			if o.ID == 1 {
				return errNo
			}
			return bus.Publish(ctx, "topic", o, harebus.NonMandatory())
		})
		r.start(s)
		bus := s.Bus()
		for id := range 2 {
			if err := bus.Send(r.ctx, "orders", order{id}); err != nil {
				t.Fatal(err)
			}
		}
		if err := bus.Defer(r.ctx, "orders", time.Minute, order{3}); err != nil {
			t.Fatal(err)
		}
		tx := bus.Begin()
		if err := tx.Publish(r.ctx, "topic", order{4}, harebus.NonMandatory()); err != nil {
			t.Fatal(err)
		}
		envelopes, err := tx.Detach()
		if err != nil {
			t.Fatal(err)
		}
		for _, err := range bus.Forward(r.ctx, envelopes) {
			if err != nil {
				t.Fatal(err)
			}
		}
		r.quiet("error")
		if err := s.Stop(r.ctx); err != nil {
			t.Fatal(err)
		}
		if err := bus.Publish(r.ctx, "topic", order{5}); err == nil {
			t.Error("published by a setup that has stopped")
		}
		address := strings.TrimSuffix(r.broker.URL()[strings.LastIndexByte(r.broker.URL(), '@')+1:], "/")
		want := map[harebus.Operation][]string{harebus.OpPublish: {""}}
		for _, op := range []harebus.Operation{
			harebus.OpSend, harebus.OpDefer, harebus.OpForward, harebus.OpHandle, harebus.OpCommit, harebus.OpRetry, harebus.OpPark,
		} {
			want[op] = []string{address}
		}
		for op, addresses := range want {
			if !slices.Equal(p.seen[op], addresses) {
				t.Errorf("%v has the addresses %q, not %q", op, p.seen[op], addresses)
			}
		}
	})
}
