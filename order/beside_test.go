package order_test

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/claim"
	"github.com/harebus/harebus/dialect"
	"github.com/harebus/harebus/dialect/cloudevents"
	"github.com/harebus/harebus/order"
	"github.com/harebus/harebus/seal"
)

// once fails the first attempt at the nth message of a key.
func once(key string, n int) func(context.Context, step) error {
	var failed atomic.Bool
	return func(_ context.Context, s step) error {
		if s.Key == key && s.N == n && failed.CompareAndSwap(false, true) {
			return errBad
		}
		return nil
	}
}

// through sends messages of two keys with bus, of which one fails once, and fails the test unless they come out in order.
func (r *rig) through(bus *harebus.Bus, opts ...harebus.SendOption) {
	r.t.Helper()
	for n := range 4 {
		for _, key := range []string{"a", "b"} {
			r.try(bus.Send(r.ctx, "steps", step{key, n + 1}, append([]harebus.SendOption{harebus.WithKey(key)}, opts...)...))
		}
	}
	r.rest(500 * time.Millisecond)
	r.wants("a", "1")
	r.wants("b", "1 2 3 4")
	r.rest(time.Minute)
	r.wants("a", "1 2 3 4")
	r.empty()
}

// senderOf is a setup that only sends.
func (r *rig) senderOf(cfg harebus.Config) *harebus.Bus {
	r.t.Helper()
	cfg.Dial = r.broker.Dial
	s, err := harebus.New(cfg)
	r.try(err)
	r.t.Cleanup(func() { r.try(s.Close()) })
	return s.Bus()
}

// TestCheckOnly: with CheckOnly an ordered queue needs its parking queue, and says so; when it is there, everything works.
func TestCheckOnly(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		before, err := harebus.New(harebus.Config{Dial: r.broker.Dial, Queue: "other"})
		r.try(err)
		r.try(before.Init(r.ctx))
		r.try(before.Close())
		deployment := r.instance(once("a", 2))
		r.cfg.Declare.Mode = harebus.CheckOnly
		early := r.instance(func(context.Context, step) error { return nil })
		if err := early.Start(r.ctx); err == nil || !strings.Contains(err.Error(), "steps") {
			t.Errorf("without its queues: %v", err)
		}
		r.try(deployment.Init(r.ctx))
		r.try(deployment.Close())
		r.try(r.broker.DeleteQueue("steps.parked"))
		without := r.instance(func(context.Context, step) error { return nil })
		if err := without.Start(r.ctx); err == nil || !strings.Contains(err.Error(), "steps.parked") {
			t.Errorf("without the parking queue: %v", err)
		}
		r.cfg.Declare.Mode = harebus.DeclareAll
		again := r.instance(func(context.Context, step) error { return nil })
		r.try(again.Init(r.ctx))
		r.cfg.Declare.Mode = harebus.CheckOnly
		r.serve(once("a", 2))
		r.through(r.sender)
	})
}

type stepV1 struct {
	Name   string
	Number int
}

func (stepV1) MessageType() string { return "Step.v1" }

// TestUpcast: messages of an older version have their places among those of the newer one.
func TestUpcast(t *testing.T) {
	bubble(t, func(_ *testing.T, r *rig) {
		s := r.instance(once("a", 2))
		harebus.Upcast(s, func(_ context.Context, old stepV1) (step, error) { return step{old.Name, old.Number}, nil })
		r.try(s.Start(r.ctx))
		for _, message := range []any{step{"a", 1}, stepV1{"a", 2}, step{"a", 3}, stepV1{"a", 4}} {
			r.try(r.sender.Send(r.ctx, "steps", message, harebus.WithKey("a")))
		}
		r.rest(time.Minute)
		r.wants("a", "1 2 3 4")
		r.empty()
	})
}

// TestForeignKey: messages of another bus are in order by a header of theirs, or by the key of WithKey, which is written beside what the peer
// reads.
func TestForeignKey(t *testing.T) {
	for name, header := range map[string]string{"WithKey": "", "attribute": "cloudEvents_partitionkey"} {
		test := func(t *testing.T, r *rig) {
			events := cloudevents.New(cloudevents.Config{Types: dialect.Types{"Step": "com.acme.step"}, Source: "/acme"})
			r.cfg.Payload.Dialects = []dialect.Dialect{events}
			r.cfg.Consume.Order = &order.Config{Header: header}
			var theirs atomic.Int32
			fails := once("a", 2)
			r.serve(func(ctx context.Context, s step) error {
				if harebus.Incoming(ctx).Headers["cloudEvents_type"] == "com.acme.step" {
					theirs.Add(1)
				}
				return fails(ctx, s)
			})
			bus := r.senderOf(harebus.Config{Publish: harebus.PublishConfig{Peers: map[string]dialect.Dialect{"steps": events}}})
			if header == "" {
				r.through(bus)
			} else {
				for n := range 4 {
					for _, key := range []string{"a", "b"} {
						r.try(bus.Send(r.ctx, "steps", step{key, n + 1}, harebus.WithHeader(header, key)))
					}
				}
				r.rest(500 * time.Millisecond)
				r.wants("a", "1")
				r.wants("b", "1 2 3 4")
				r.rest(time.Minute)
				r.wants("a", "1 2 3 4")
			}
			if theirs.Load() != 9 {
				t.Errorf("%d attempts with messages of the other bus", theirs.Load())
			}
		}
		t.Run(name, func(t *testing.T) { bubble(t, test) })
	}
}

// TestStoredKey: what is stored as an outbox does, and sent by another process, has its key.
func TestStoredKey(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.serve(once("a", 2))
		tx := r.sender.Begin()
		for n := range 4 {
			r.try(tx.Send(r.ctx, "steps", step{"a", n + 1}, harebus.WithKey("a")))
		}
		stored, err := tx.Detach()
		r.try(err)
		opened := make([]harebus.Envelope, len(stored))
		for i, e := range stored {
			head, err := e.Head()
			r.try(err)
			opened[i], err = harebus.OpenEnvelope(e.Exchange(), e.RoutingKey(), head, e.Body())
			r.try(err)
		}
		r.try(errors.Join(r.senderOf(harebus.Config{}).Forward(r.ctx, opened)...))
		r.rest(500 * time.Millisecond)
		r.wants("a", "1")
		r.rest(time.Minute)
		r.wants("a", "1 2 3 4")
		if q, _ := r.broker.Queue("error"); q.Ready != 0 {
			t.Errorf("%d in the error queue", q.Ready)
		}
		r.empty()
	})
}

// long is a step with a long body.
type long struct {
	step
	Pad string
}

// TestClaims: bodies in a store come out in their order, also after their messages were parked.
func TestClaims(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		store, err := claim.OpenDir(t.TempDir())
		r.try(err)
		t.Cleanup(func() { r.try(store.Close()) })
		large, err := claim.New(claim.Config{Store: store, From: 1024})
		r.try(err)
		large.Use(&r.cfg)
		fails := once("a", 2)
		var stored atomic.Int32
		r.serve(func(ctx context.Context, s step) error {
			if strings.Contains(harebus.Incoming(ctx).Properties.ContentType, "claim") {
				stored.Add(1)
			}
			return fails(ctx, s)
		})
		var cfg harebus.Config
		large.Use(&cfg)
		bus := r.senderOf(cfg)
		for n := range 4 {
			r.try(bus.Send(r.ctx, "steps", long{step{"a", n + 1}, strings.Repeat("x", 4096)}, harebus.WithKey("a")))
		}
		r.rest(500 * time.Millisecond)
		r.wants("a", "1")
		r.rest(time.Minute)
		r.wants("a", "1 2 3 4")
		r.empty()
		if n := stored.Load(); n != 5 {
			t.Errorf("%d attempts had a body from the store", n)
		}
	})
}

// TestSealed: a sealed message can be opened after it was parked, and its key, which is a header, is not sealed.
func TestSealed(t *testing.T) {
	for name, guard := range map[string]func(seal.Keys, seal.Policy) harebus.Guard{"seal": seal.New, "sign": seal.Sign} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(_ *testing.T, r *rig) {
				key, err := seal.NewKey("key", bytes.Repeat([]byte{1}, 32))
				r.try(err)
				ring, err := seal.NewKeyring(key)
				r.try(err)
				guards := []harebus.Guard{guard(ring, seal.Policy{Types: []string{"*"}})}
				r.cfg.Payload.Guards = guards
				r.serve(once("a", 2))
				r.through(r.senderOf(harebus.Config{Payload: harebus.PayloadConfig{Guards: guards}}))
			})
		})
	}
}

// TestDeferred: a deferred message has its place when it is due, and a cancelled one none.
func TestDeferred(t *testing.T) {
	bubble(t, func(_ *testing.T, r *rig) {
		r.serve(once("a", 2))
		r.try(r.sender.Defer(r.ctx, "steps", 10*time.Second, step{"a", 2}, harebus.WithKey("a")))
		var ticket harebus.Ticket
		r.try(r.sender.Defer(r.ctx, "steps", 10*time.Second, step{"a", 9}, harebus.WithKey("a"), harebus.WithTicket(&ticket)))
		r.send("a1")
		r.rest(5 * time.Second)
		r.wants("a", "1")
		r.try(r.sender.Cancel(r.ctx, ticket))
		r.rest(5*time.Second + 100*time.Millisecond)
		r.send("a3") // 2 has failed once by now
		r.rest(100 * time.Millisecond)
		r.wants("a", "1")
		r.rest(time.Minute)
		r.wants("a", "1 2 3")
	})
}

type asked struct{ N int }

func (asked) MessageType() string { return "Asked" }

type told struct{ N int }

func (told) MessageType() string { return "Told" }

// TestRequests: a request has its place in the order of its key, and its answer comes when it is handled; one that is given up is
// answered, whether it then holds its key or not.
func TestRequests(t *testing.T) {
	for name, give := range map[string]order.GiveUp{"hold": order.HoldKey, "skip": order.SkipMessage} {
		test := func(t *testing.T, r *rig) {
			r.cfg.Consume.Order = &order.Config{GiveUp: give}
			s := r.instance(once("a", 1))
			harebus.Handle(s, func(ctx context.Context, bus *harebus.Bus, q asked) error {
				if q.N < 0 {
					return errBad
				}
				return bus.Reply(ctx, told(q))
			})
			r.try(s.Start(r.ctx))
			asking, err := harebus.New(harebus.Config{Dial: r.broker.Dial, Queue: "asking"})
			r.try(err)
			r.t.Cleanup(func() { r.try(asking.Close()) })
			harebus.Handle(asking, func(context.Context, *harebus.Bus, told) error { return nil })
			r.try(asking.Start(r.ctx))
			r.send("a1")
			ask := func(n int) error {
				got, err := harebus.Request[told](r.ctx, asking.Bus(), "steps", asked{n}, harebus.WithKey("a"))
				if err == nil && got.N != n {
					t.Errorf("%+v", got)
				}
				return err
			}
			r.try(ask(2)) // behind a1, which is retried
			r.wants("a", "1")
			var fault *harebus.FaultError
			if err := ask(-1); !errors.As(err, &fault) {
				t.Errorf("given up: %v", err)
			}
			if give == order.HoldKey {
				r.word("discard", "a")
			}
			r.try(ask(3))
		}
		t.Run(name, func(t *testing.T) { bubble(t, test) })
	}
}

// TestReplyInOrder: an answer that is sent to an ordered queue has the key that the handler gives it.
func TestReplyInOrder(t *testing.T) {
	bubble(t, func(_ *testing.T, r *rig) {
		r.serve(once("a", 2))
		other, err := harebus.New(harebus.Config{Dial: r.broker.Dial, Queue: "other"})
		r.try(err)
		r.t.Cleanup(func() { r.try(other.Close()) })
		harebus.Handle(other, func(ctx context.Context, bus *harebus.Bus, q asked) error {
			return bus.Reply(ctx, step{"a", q.N}, harebus.WithKey("a"))
		})
		r.try(other.Start(r.ctx))
		for n := range 4 {
			r.try(r.sender.Send(r.ctx, "other", asked{n + 1}, harebus.WithReplyTo("steps")))
			r.rest(100 * time.Millisecond)
		}
		r.wants("a", "1")
		r.rest(time.Minute)
		r.wants("a", "1 2 3 4")
	})
}

// TestLeaseInOrder: a handler with a lease, which acknowledges before it has handled, is refused on an ordered queue.
func TestLeaseInOrder(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		s, err := harebus.New(r.cfg)
		r.try(err)
		defer func() { r.try(s.Close()) }()
		harebus.Handle(s, func(context.Context, *harebus.Bus, step) error { return nil }, harebus.WithLease(time.Hour))
		if err := s.Start(r.ctx); err == nil || !strings.Contains(err.Error(), "does not keep the order of its queue") {
			t.Errorf("start: %v", err)
		}
	})
}
