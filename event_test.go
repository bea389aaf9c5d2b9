package harebus_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/harebus/harebus"
)

type (
	// placed is an event with a topic.
	placed struct{ ID int }
	// paid has its methods on the pointer and needs no subscriber.
	paid struct{ ID int }
	// shipped must have one, whatever the setup says.
	shipped struct{ ID int }
	// wild and broken have no topic that can be published to.
	wild   struct{}
	broken struct{ *placed }
)

func (placed) MessageType() string  { return "Placed" }
func (placed) Topic() string        { return "order.placed" }
func (*paid) MessageType() string   { return "Paid" }
func (*paid) Topic() string         { return "order.paid" }
func (*paid) OptionalEvent() bool   { return true }
func (shipped) MessageType() string { return "Shipped" }
func (shipped) Topic() string       { return "order.shipped" }
func (shipped) OptionalEvent() bool { return false }
func (wild) MessageType() string    { return "Wild" }
func (wild) Topic() string          { return "order.*" }
func (broken) MessageType() string  { return "Broken" }
func heard[T any](to chan T) func(context.Context, *harebus.Bus, T) error {
	return func(_ context.Context, _ *harebus.Bus, event T) error {
		to <- event
		return nil
	}
}

// TestHandleEvent: one act subscribes and handles, and the event is published to the
// same topic, by value and by pointer.
func TestHandleEvent(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		s := r.setup(r.config("billing"))
		places, pays := make(chan placed, 2), make(chan *paid, 2)
		harebus.HandleEvent(s, heard(places))
		harebus.HandleEvent(s, heard(pays))
		r.start(s)
		bus := s.Bus()
		for _, event := range []any{placed{1}, &placed{2}, paid{3}, &paid{4}} {
			if err := bus.PublishEvent(r.ctx, event); err != nil {
				t.Fatalf("%T: %v", event, err)
			}
		}
		if got := []int{receive(r, places).ID, receive(r, places).ID}; got[0]+got[1] != 3 {
			t.Errorf("placed: %v", got)
		}
		if got := []int{receive(r, pays).ID, receive(r, pays).ID}; got[0]+got[1] != 7 {
			t.Errorf("paid: %v", got)
		}
	})
}

// TestHandleEventAfterStart: the topic of a handler that comes after the start is bound
// at once, and not at the next of the declarations that come every minute.
func TestHandleEventAfterStart(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		s := r.setup(r.config("billing"))
		harebus.HandleEvent(s, heard(make(chan *paid, 1)))
		r.start(s)
		places := make(chan placed, 1)
		harebus.HandleEvent(s, heard(places))
		time.Sleep(time.Second)
		if bound := r.boundTo("billing"); bound != "order.paid order.placed" {
			t.Errorf("bound to %q", bound)
		}
		if err := s.Bus().PublishEvent(r.ctx, placed{1}); err != nil {
			t.Fatal(err)
		}
		if got := receive(r, places); got.ID != 1 {
			t.Errorf("got %v", got)
		}
		if err := s.Ready(); err != nil {
			t.Error(err)
		}
	})
}

// TestHandleEventFaults: what cannot be subscribed to is reported by Start, with the
// remedy; what cannot be published is refused.
func TestHandleEventFaults(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		s := r.setup(r.config("billing"))
		harebus.HandleEvent(s, func(context.Context, *harebus.Bus, order) error { return nil })
		harebus.HandleEvent(s, func(context.Context, *harebus.Bus, wild) error { return nil })
		harebus.HandleEvent(s, func(context.Context, *harebus.Bus, broken) error { return nil })
		err := s.Start(r.ctx)
		if err == nil {
			t.Fatal("started")
		}
		contains(t, err.Error(), "harebus_test.order", "method Topic() string", "order.*", "harebus_test.broken", "panic")
		for name, event := range map[string]any{"no topic": order{1}, "wildcard": wild{}, "panics": broken{}, "nil": nil, "nil pointer": (*placed)(nil), "map": map[string]any{}} {
			if err := s.Bus().PublishEvent(r.ctx, event); !errors.Is(err, harebus.ErrRefused) {
				t.Errorf("%s: %v", name, err)
			}
		}
	})
}

// TestOptionalEvents: whether an event needs a subscriber is said once, for the
// setup or for a type; commands always need their queue.
func TestOptionalEvents(t *testing.T) {
	for name, optional := range map[string]bool{"default": false, "optional": true} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, r *rig) {
				cfg := r.config("")
				cfg.Publish.OptionalEvents = optional
				bus := r.setup(cfg).Bus()
				for event, want := range map[any]bool{placed{}: optional, paid{}: true, shipped{}: false} {
					err := bus.PublishEvent(r.ctx, event)
					if got := err == nil; got != want || (!got && !errors.Is(err, harebus.ErrUnroutable)) {
						t.Errorf("%T: %v", event, err)
					}
					if err := bus.PublishEvent(r.ctx, event, harebus.NonMandatory()); err != nil {
						t.Errorf("%T: %v", event, err)
					}
				}
				if err := bus.Publish(r.ctx, "by.hand", placed{}); (err == nil) != optional {
					t.Errorf("publish: %v", err)
				}
				if err := bus.Send(r.ctx, "nowhere", paid{}); !errors.Is(err, harebus.ErrUnroutable) {
					t.Errorf("a command to nobody: %v", err)
				}
			})
		})
	}
}
