package harebus_test

import (
	"context"
	"errors"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/topology"
)

// asker is a plain client that waits for replies as RPC clients do: at an address
// that the broker names.
func asker(r *rig, ch *amqp.Channel, queue string) (address string, replies <-chan amqp.Delivery) {
	r.t.Helper()
	if queue == "" {
		q, err := ch.QueueDeclare("", false, true, true, false, nil)
		if err != nil {
			r.t.Fatal(err)
		}
		queue = q.Name
	}
	replies, err := ch.ConsumeWithContext(r.ctx, queue, "", true, false, false, false, nil)
	if err != nil {
		r.t.Fatal(err)
	}
	return queue, replies
}

// TestReplyReserved: with the switch, clients of other libraries get their answers.
func TestReplyReserved(t *testing.T) {
	for name, queue := range map[string]string{"direct reply-to": "amq.rabbitmq.reply-to", "server-named queue": ""} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, r *rig) {
				cfg := r.config("orders")
				cfg.Reply.Reserved = true
				var asked []string
				cfg.Reply.Policy = func(m *harebus.Message) error {
					asked = append(asked, m.ReplyTo)
					return nil
				}
				s := r.setup(cfg)
				harebus.Handle(s, func(ctx context.Context, bus *harebus.Bus, o order) error { return bus.Reply(ctx, answer(o)) })
				r.start(s)
				ch := r.channel()
				address, replies := asker(r, ch, queue)
				question := plain(`{"ID":7}`)
				question.ReplyTo, question.CorrelationId = address, "question"
				r.publish(ch, "orders", question)
				if got := receive(r, replies); string(got.Body) != `{"ID":7}` || got.CorrelationId != "question" {
					t.Errorf("got %s for %q", got.Body, got.CorrelationId)
				}
				r.quiet()
				if len(asked) != 1 {
					t.Errorf("the policy was asked about %q", asked)
				}
			})
		})
	}
}

// TestReplyRefusedIsFinal: no attempt can end differently, so there is but one.
func TestReplyRefusedIsFinal(t *testing.T) {
	for name, c := range map[string]struct {
		address  string
		reserved bool
		policy   harebus.ReplyPolicy
	}{
		"direct reply-to":    {"amq.rabbitmq.reply-to.token", false, nil},
		"server-named queue": {"amq.gen-1", false, nil},
		"other reserved":     {"amq.topic", true, nil},
		"policy":             {"amq.gen-1", true, harebus.RepliesTo("billing")},
		"error queue":        {"error", true, nil},
		"no address":         {"", false, nil},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, r *rig) {
				cfg := r.config("orders")
				cfg.Reply.Reserved, cfg.Reply.Policy = c.reserved, c.policy
				s := r.setup(cfg)
				attempts := 0
				harebus.Handle(s, func(ctx context.Context, bus *harebus.Bus, _ order) error {
					attempts++
					err := bus.Reply(ctx, answer{1})
					if want := harebus.ErrRefused; c.address != "" && !errors.Is(err, want) {
						t.Errorf("got %v", err)
					}
					return err
				})
				r.start(s)
				question := plain(`{}`)
				question.ReplyTo = c.address
				r.publish(r.channel(), "orders", question)
				r.await("error", 1)
				if attempts != 1 {
					t.Errorf("%d attempts", attempts)
				}
			})
		})
	}
}

// TestDeferUntil: a message comes at its time, and one whose time has passed at once.
func TestDeferUntil(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.bound(r.channel(), "out")
		bus := r.setup(r.config("")).Bus()
		start := time.Now()
		for name, due := range map[string]time.Time{"later": start.Add(90 * time.Minute), "passed": start.Add(-time.Hour)} {
			if err := bus.DeferUntil(r.ctx, "out", due, order{1}, harebus.WithMessageID(name)); err != nil {
				t.Fatal(err)
			}
		}
		if m := r.await("out", 1)[0]; m.MessageId != "passed" {
			t.Errorf("first came %q", m.MessageId)
		}
		r.setClock(start.Add(90*time.Minute - time.Second))
		r.await("out", 1)
		r.await("out", 2)
		if late := time.Since(start.Add(90 * time.Minute)); late < 0 || late > 10*time.Second {
			t.Errorf("late by %v", late)
		}
		for name, due := range map[string]time.Time{"zero": {}, "too far": start.Add(topology.MaxDelay + 3*time.Hour)} {
			if err := bus.DeferUntil(r.ctx, "out", due, order{1}); !errors.Is(err, harebus.ErrRefused) {
				t.Errorf("%s: %v", name, err)
			}
		}
	})
}

// TestSender: one function sends with a bus and with a transaction.
func TestSender(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.bound(r.channel(), "out")
		place := func(on harebus.Sender) error { return on.Send(r.ctx, "out", order{1}) }
		bus := r.setup(r.config("")).Bus()
		err := bus.Transaction(r.ctx, func(_ context.Context, tx *harebus.Tx) error { return place(tx) })
		if err := errors.Join(err, place(bus)); err != nil {
			t.Fatal(err)
		}
		r.await("out", 2)
	})
}
