package harebus_test

import (
	"context"
	"fmt"
	"testing"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/harebus/harebus"
)

// What a handler sends, in whatever way, names the message that it was handling, and so do the log lines about it. What nobody
// handled anything for names none. A handler that changes its message changes nothing about that.
func TestCausation(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		core, logs := observer.New(zap.ErrorLevel)
		cfg := r.config("orders")
		cfg.Logger, cfg.Retry.MaxRetries = zap.New(core), -1
		cfg.Payload.Environment, cfg.Payload.Build = "test", "1.4.2"
		s := r.setup(cfg)
		causes := map[int]string{}
		harebus.Handle(s, func(ctx context.Context, bus *harebus.Bus, o order) error {
			m := harebus.Incoming(ctx)
			causes[o.ID] = m.CausationID
			if m.Headers["PikaBus.Environment"] != "test" || m.Headers["PikaBus.Build"] != "1.4.2" {
				t.Errorf("headers %v", m.Headers)
			}
			m.ID, m.CausationID = "changed", "changed"
			switch o.ID {
			case 1:
				return bus.Transaction(ctx, func(ctx context.Context, tx *harebus.Tx) error { return tx.Send(ctx, "orders", order{2}) })
			case 2:
				return s.Bus().Send(ctx, "orders", order{3}, harebus.Immediately(), harebus.WithMessageID("three"))
			default:
				return errNo
			}
		})
		r.start(s)
		if err := s.Bus().Send(r.ctx, "orders", order{1}, harebus.WithMessageID("one"), harebus.WithCorrelationID("talk")); err != nil {
			t.Fatal(err)
		}
		r.quiet("error")
		second := causes[3]
		if causes[1] != "" || causes[2] != "one" || second == "" || second == "one" {
			t.Errorf("causes %v", causes)
		}
		if parked := r.await("error", 1)[0]; parked.Headers["PikaBus.CausationId"] != second {
			t.Errorf("the parked message was caused by %v", parked.Headers["PikaBus.CausationId"])
		}
		line := logs.FilterMessage("message moved to the error queue").All()[0].ContextMap()
		if line["message_id"] != "three" || line["causation_id"] != second || line["correlation_id"] != "talk" {
			t.Errorf("the log says %v", line)
		}
	})
}

// A message of another environment is parked at once. One that names none, as those of PikaBus, is handled, and so is every
// message by a service without an environment.
func TestOtherEnvironment(t *testing.T) {
	for own, want := range map[string]int{"production": 1, "": 0} {
		t.Run("own="+own, func(t *testing.T) {
			bubble(t, func(t *testing.T, r *rig) {
				cfg := r.config("orders")
				cfg.Payload.Environment = own
				s := r.setup(cfg)
				var handled []int
				harebus.Handle(s, func(_ context.Context, _ *harebus.Bus, o order) error {
					handled = append(handled, o.ID)
					return nil
				})
				r.start(s)
				for i, environment := range []string{"", "staging", "production"} {
					cfg := r.config("")
					cfg.Payload.Environment = environment
					if err := r.setup(cfg).Bus().Send(r.ctx, "orders", order{i}); err != nil {
						t.Fatal(err)
					}
				}
				r.quiet("error")
				parked := r.broker.Messages("error")
				if len(handled)+want != 3 || len(parked) != want {
					t.Fatalf("handled %v, parked %d", handled, len(parked))
				}
				for _, m := range parked {
					contains(t, fmt.Sprint(m.Headers["PikaBus.ErrorDetails"]), "other-environment: it was sent in the environment \"staging\"")
				}
			})
		})
	}
}
