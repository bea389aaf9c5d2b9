package harebus_test

import (
	"context"
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
