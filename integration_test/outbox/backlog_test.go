package outbox_test

import (
	"context"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/integration_test/outbox/database"
	"github.com/harebus/harebus/outbox"
)

// looks are what observers hear of the backlog.
type looks struct {
	mu   sync.Mutex
	all  []harebus.Backlog
	last error
}

func (l *looks) ObserveStart(ctx context.Context, _ harebus.Observation) context.Context { return ctx }

func (l *looks) ObserveEnd(_ context.Context, o harebus.Observation, err error) {
	if o.Operation != harebus.OpBacklog {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.last = err
	if o.Backlog != nil {
		l.all = append(l.all, *o.Backlog)
	}
}

// any says whether one of the looks was so.
func (l *looks) any(is func(harebus.Backlog) bool) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.ContainsFunc(l.all, is)
}

// err is the error of the last one.
func (l *looks) err() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.last
}

// observed is a started setup without a queue, whose observer is returned too.
func (r *rig) observed(ob *outbox.Outbox) (*harebus.Setup, *looks) {
	r.t.Helper()
	seen := &looks{}
	s, err := harebus.New(harebus.Config{
		URL: r.broker.URL(), Dial: r.broker.Dial, Handling: harebus.HandlingConfig{Transactor: ob}, Observers: []harebus.Observer{seen},
	})
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { _ = s.Close() })
	r.start(s)
	return s, seen
}

func (r *rig) store(ob *outbox.Outbox, s *harebus.Setup, queues ...string) {
	r.t.Helper()
	err := ob.Transaction(r.ctx, s.Bus(), func(ctx context.Context, tx *outbox.Tx) error {
		for n, queue := range queues {
			if err := tx.Send(ctx, queue, placed{n}); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		r.t.Fatal(err)
	}
}

// TestBehind: when stored messages wait too long, Ready fails, and the observers are told how
// many wait and how long. Refused ones are named. When they are published, all is well again.
func TestBehind(t *testing.T) {
	onEach(t, func(t *testing.T, r *rig) {
		ob := r.outbox(outbox.Config{Behind: 400 * time.Millisecond, Name: "shop"})
		s, seen := r.observed(ob)
		r.store(ob, s, "out", "nobody")
		r.await("out", 1)
		r.eventually("the refused message is counted", func() bool {
			return seen.any(func(b harebus.Backlog) bool { return b.Refused == 1 && b.Waiting == 0 })
		})
		if err := ob.Ready(); err != nil {
			t.Errorf("with a refused message: %v", err)
		}
		contains(t, seen.err(), `1 refused messages, the first: id `, `with key "nobody"`, "no queue takes the message")

		r.broker.Refuse(time.Hour)
		r.broker.CutConnections()
		r.store(ob, s, "out", "out", "out")
		r.eventually("the observer sees three old messages", func() bool {
			return seen.any(func(b harebus.Backlog) bool {
				return b.Name == "shop" && b.Waiting == 3 && b.Oldest > 400*time.Millisecond
			})
		})
		for _, err := range []error{ob.Ready(), s.Ready(), seen.err()} {
			contains(t, err, "harebus: outbox shop: 3 stored messages wait to be published, the oldest for ", "more than 400ms", `with key "nobody"`)
		}
		r.broker.Refuse(0)
		r.await("out", 4)
		r.eventually("it has caught up", func() bool { return ob.Ready() == nil && s.Ready() == nil })
		r.eventually("the observer is told how long they took", func() bool {
			return seen.any(func(b harebus.Backlog) bool { return b.Lag > 400*time.Millisecond })
		})
	})
}

// TestBlind: while the table cannot be read, Ready fails.
func TestBlind(t *testing.T) {
	t.Parallel()
	r := newRig(t, database.Own(t, "postgres"))
	ob := r.outbox(outbox.Config{Behind: 200 * time.Millisecond})
	careless := r.outbox(outbox.Config{Behind: -1})
	_, seen := r.observed(ob)
	s, _ := r.observed(careless)
	r.eventually("all are ready", func() bool { return ob.Ready() == nil && s.Ready() == nil })
	r.eventually("it has looked", func() bool { return seen.any(func(harebus.Backlog) bool { return true }) })
	r.data.Kill()
	r.eventually("it is not ready", func() bool { return ob.Ready() != nil })
	contains(t, ob.Ready(), "harebus: outbox: cannot look at the backlog for ", "connect")
	r.eventually("the observer is told", func() bool { return seen.err() != nil })
	contains(t, seen.err(), "harebus: outbox: cannot look at the backlog: ")
	if err := careless.Ready(); err != nil {
		t.Errorf("without a bound: %v", err)
	}
	r.data.Restart(t)
	r.eventually("it is ready again", func() bool { return ob.Ready() == nil })
}
