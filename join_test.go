package harebus_test

import (
	"context"
	"errors"
	"testing"

	"github.com/harebus/harebus"
)

// failFirst runs a service whose handler fails at its first attempt, after it has
// called send, and returns what has arrived in the queue out.
func failFirst(r *rig, send func(ctx context.Context, s *harebus.Setup, own *harebus.Bus) error) []arrived {
	r.t.Helper()
	r.bound(r.channel(), "out")
	s := r.setup(r.config("orders"))
	attempt := 0
	s.HandleMessage("Order", func(ctx context.Context, bus *harebus.Bus, _ *harebus.Message) error {
		if err := send(ctx, s, bus); err != nil {
			r.t.Error(err)
		}
		if attempt++; attempt == 1 {
			return errNo
		}
		return nil
	})
	r.start(s)
	err := s.Bus().Send(r.ctx, "orders", order{1}, harebus.WithMessageID("incoming"), harebus.WithCorrelationID("conversation"))
	if err != nil {
		r.t.Fatal(err)
	}
	r.quiet("out", "error")
	var all []arrived
	for _, m := range r.broker.Messages("out") {
		all = append(all, arrived{m.MessageId, m.CorrelationId})
	}
	if attempt != 2 {
		r.t.Fatalf("%d attempts", attempt)
	}
	return all
}

type arrived struct{ id, conversation string }

// TestOuterBusJoins: inside a handler the setup's bus is as good as the handler's:
// what a failed attempt sent does not leave, ids are derived, and the conversation
// goes on.
func TestOuterBusJoins(t *testing.T) {
	for name, send := range map[string]func(ctx context.Context, s *harebus.Setup, own *harebus.Bus) error{
		"own bus": func(ctx context.Context, _ *harebus.Setup, own *harebus.Bus) error {
			return own.Send(ctx, "out", order{2})
		},
		"send": func(ctx context.Context, s *harebus.Setup, _ *harebus.Bus) error {
			return s.Bus().Send(ctx, "out", order{2})
		},
		"derived context": func(ctx context.Context, s *harebus.Setup, _ *harebus.Bus) error {
			ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
			defer cancel()
			return s.Bus().Send(ctx, "out", order{2})
		},
		"transaction": func(ctx context.Context, s *harebus.Setup, _ *harebus.Bus) error {
			return s.Bus().Transaction(ctx, func(ctx context.Context, tx *harebus.Tx) error {
				return tx.Send(ctx, "out", order{2})
			})
		},
		"transaction in a transaction": func(ctx context.Context, s *harebus.Setup, own *harebus.Bus) error {
			return own.Transaction(ctx, func(ctx context.Context, _ *harebus.Tx) error {
				return s.Bus().Transaction(ctx, func(ctx context.Context, tx *harebus.Tx) error {
					return tx.Send(ctx, "out", order{2})
				})
			})
		},
		"begin": func(ctx context.Context, s *harebus.Setup, _ *harebus.Bus) error {
			tx := s.Bus().Begin()
			defer tx.Rollback()
			return errors.Join(tx.Send(ctx, "out", order{2}), tx.Commit(ctx))
		},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, r *rig) {
				got := failFirst(r, send)
				if len(got) != 1 {
					t.Fatalf("%d messages have left, want that of the second attempt", len(got))
				}
				want := arrived{harebus.DerivedID("incoming", "orders\x00Order", "PikaBusDirect\x00out\x00Order", "0"), "conversation"}
				if got[0] != want {
					t.Errorf("got %+v, want %+v", got[0], want)
				}
			})
		})
	}
}

// TestBeginCommitJoins: a transaction that was begun and filled elsewhere joins the
// handler whose context it is committed with.
func TestBeginCommitJoins(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		got := failFirst(r, func(ctx context.Context, s *harebus.Setup, _ *harebus.Bus) error {
			tx := s.Bus().Begin()
			return errors.Join(tx.Send(r.ctx, "out", order{2}), tx.Commit(ctx))
		})
		if len(got) != 1 {
			t.Errorf("%d messages have left, want that of the second attempt", len(got))
		}
	})
}

// TestImmediately: with the option, every attempt sends, under one id.
func TestImmediately(t *testing.T) {
	for name, send := range map[string]func(ctx context.Context, s *harebus.Setup, own *harebus.Bus) error{
		"own bus": func(ctx context.Context, _ *harebus.Setup, own *harebus.Bus) error {
			return own.Send(ctx, "out", order{2}, harebus.Immediately())
		},
		"outer bus": func(ctx context.Context, s *harebus.Setup, _ *harebus.Bus) error {
			return s.Bus().Send(ctx, "out", order{2}, harebus.Immediately())
		},
		"transaction": func(ctx context.Context, s *harebus.Setup, _ *harebus.Bus) error {
			tx := s.Bus().Begin()
			defer tx.Rollback()
			return tx.Send(ctx, "out", order{2}, harebus.Immediately())
		},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, r *rig) {
				got := failFirst(r, send)
				if len(got) != 2 || got[0] != got[1] || got[0].conversation != "conversation" {
					t.Errorf("got %+v", got)
				}
			})
		})
	}
}

// TestOtherSetupDoesNotJoin: a bus of another setup sends at once.
func TestOtherSetupDoesNotJoin(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		other := r.setup(r.config(""))
		got := failFirst(r, func(ctx context.Context, _ *harebus.Setup, _ *harebus.Bus) error {
			return other.Bus().Send(ctx, "out", order{2})
		})
		if len(got) != 2 || got[0] == got[1] || got[0].conversation == "conversation" {
			t.Errorf("got %+v", got)
		}
	})
}

// TestOuterBusAfterHandler: a context of a handler that has returned joins nothing.
func TestOuterBusAfterHandler(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.bound(r.channel(), "out")
		var left context.Context
		s := r.handling(r.config("orders"), func(ctx context.Context, _ *harebus.Bus, _ order) error {
			left = context.WithoutCancel(ctx) //nolint:fatcontext // called once
			return nil
		})
		tx := s.Bus().Begin()
		for name, err := range map[string]error{
			"send":        s.Bus().Send(left, "out", order{2}),
			"reply":       s.Bus().Reply(left, order{2}),
			"begin":       errors.Join(tx.Send(left, "out", order{2}), tx.Commit(left)),
			"transaction": s.Bus().Transaction(left, func(ctx context.Context, tx *harebus.Tx) error { return tx.Send(ctx, "out", order{2}) }),
		} {
			if !errors.Is(err, harebus.ErrHandlerReturned) {
				t.Errorf("%s: %v", name, err)
			}
		}
		if err := s.Bus().Send(left, "out", order{2}, harebus.Immediately()); err != nil {
			t.Error(err)
		}
		r.await("out", 1)
	})
}

// TestOuterBusReplies: the setup's bus can answer the message that is handled.
func TestOuterBusReplies(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.bound(r.channel(), "asker")
		s := r.setup(r.config("orders"))
		harebus.Handle(s, func(ctx context.Context, _ *harebus.Bus, _ order) error { return s.Bus().Reply(ctx, answer{2}) })
		r.start(s)
		err := s.Bus().Send(r.ctx, "orders", order{1}, harebus.WithReplyTo("asker"), harebus.WithCorrelationID("question"))
		if err != nil {
			t.Fatal(err)
		}
		if m := r.await("asker", 1)[0]; m.CorrelationId != "question" || m.Type != "Answer" {
			t.Errorf("the reply is %q of %q", m.Type, m.CorrelationId)
		}
	})
}
