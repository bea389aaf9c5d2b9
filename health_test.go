package harebus_test

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/brokertest"
)

// TestReadyBeforeTheFirstSend: a setup that only sends connects when its readiness is
// asked for, and is not ready while there is no broker.
func TestReadyBeforeTheFirstSend(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		cfg := r.config("")
		s := r.setup(cfg)
		if s.Ready() == nil {
			t.Error("ready at once")
		}
		time.Sleep(time.Second)
		if err := s.Ready(); err != nil {
			t.Error(err)
		}
		cfg.Dial = refusing
		s = r.setup(cfg)
		for range 3 {
			if s.Ready() == nil {
				t.Error("ready without a broker")
			}
			time.Sleep(time.Second)
		}
		contains(t, s.Ready().Error(), "publish connection", "i/o timeout")
		if err := s.Live(); err != nil {
			t.Error(err)
		}
	})
}

// TestRefusedLimit: Live may fail when the broker has refused every connection for a
// while, as it does after a password was changed; and only then.
func TestRefusedLimit(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		const limit = 3 * time.Minute
		cfg := r.config("orders")
		patient, _ := counting(r, cfg)
		r.start(patient)
		cfg.Connect.RefusedLimit = limit
		cfg.Queue = "others"
		s, _ := counting(r, cfg)
		r.start(s)

		r.broker.Refuse(2 * limit)
		r.broker.CutConnections()
		time.Sleep(2*limit - 5*time.Second)
		if err := s.Live(); err != nil {
			t.Errorf("during an outage: %v", err)
		}
		rotated := r.broker.Inject(brokertest.Fault{On: "connection.start-ok", Times: -1, Do: brokertest.Raise, Code: 403, Text: "Login was refused"})
		time.Sleep(limit - 10*time.Second) // the outage ends in the beginning
		if err := s.Live(); err != nil {
			t.Errorf("too early: %v", err)
		}
		time.Sleep(30 * time.Second)
		err := s.Live()
		if err == nil {
			t.Fatal("alive, though nothing is accepted any more")
		}
		contains(t, err.Error(), "refused", "403")
		if err := patient.Live(); err != nil {
			t.Errorf("without the limit: %v", err)
		}
		rotated.Remove()
		time.Sleep(10 * time.Second)
		if err := s.Live(); err != nil {
			t.Errorf("recovered: %v", err)
		}
		if err := s.Ready(); err != nil {
			t.Error(err)
		}
	})
}

// TestCredentialsAreReadAgain: every connect asks for them, so that a new password is
// found.
func TestCredentialsAreReadAgain(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		var password atomic.Value
		password.Store("old")
		cfg := r.config("orders")
		cfg.Connect.Credentials = func(context.Context) (string, string, error) { return "service", password.Load().(string), nil }
		s := r.setup(cfg)
		got := make(chan int, 10)
		s.HandleMessage("Order", func(context.Context, *harebus.Bus, *harebus.Message) error {
			got <- 1
			return nil
		})
		r.start(s)
		password.Store("new") // which the broker does not know yet
		r.broker.CutConnections()
		time.Sleep(10 * time.Second)
		if s.Ready() == nil {
			t.Error("ready with a wrong password")
		}
		password.Store("old")
		time.Sleep(10 * time.Second)
		if err := s.Ready(); err != nil {
			t.Error(err)
		}
	}, brokertest.WithUser("service", "old"))
}
