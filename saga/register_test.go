package saga_test

import (
	"context"
	"strings"
	"testing"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/brokertest"
	"github.com/harebus/harebus/saga"
	"github.com/harebus/harebus/saga/sagatest"
)

func newSetup(t *testing.T, cfg harebus.Config) *harebus.Setup {
	t.Helper()
	broker := brokertest.New()
	t.Cleanup(broker.Close)
	cfg.URL, cfg.Dial, cfg.Queue = broker.URL(), broker.Dial, "orders"
	setup, err := harebus.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = setup.Close() })
	return setup
}

func begin(context.Context, *saga.Instance[order], placed) error { return nil }

type panics struct{ *placed }

// TestRegisterFaults: Register reports all faults at once, and registers nothing.
func TestRegisterFaults(t *testing.T) {
	t.Parallel()
	store := sagatest.NewStore()
	good := saga.Config{Name: "order", Store: store}
	for fault, register := range map[string]func(on harebus.Registrar) error{
		"Config.Name is empty": func(on harebus.Registrar) error { return saga.Register(on, saga.Config{Store: store}, steps()...) },
		"Config.Name has 256 bytes": func(on harebus.Registrar) error {
			return saga.Register(on, saga.Config{Name: strings.Repeat("x", 256), Store: store}, steps()...)
		},
		"Config.Store is nil": func(on harebus.Registrar) error { return saga.Register(on, saga.Config{Name: "order"}, steps()...) },
		"Config.Version -1": func(on harebus.Registrar) error {
			return saga.Register(on, saga.Config{Name: "order", Store: store, Version: -1}, steps()...)
		},
		"no step is made by Start":                                    func(on harebus.Registrar) error { return saga.Register(on, good, steps()[1:]...) },
		"step 4: messages of type \"Paid\" have a step of On already": func(on harebus.Registrar) error { return saga.Register(on, good, append(steps(), steps()[1])...) },
		"step 4: messages of type \"Placed\" have steps of Start and On; a Start also continues an instance that runs": func(on harebus.Registrar) error {
			return saga.Register(on, good, append(steps(), saga.On(placedKey, begin))...)
		},
		"step 1: a function of the Start for saga_test.placed is nil": func(on harebus.Registrar) error {
			return saga.Register(on, good, saga.Start(nil, begin))
		},
		"step 1: a function of the OnTimeout for saga_test.late is nil": func(on harebus.Registrar) error {
			return saga.Register(on, good, saga.OnTimeout[order, late](nil))
		},
		"step 1: the method MessageType panics": func(on harebus.Registrar) error {
			return saga.Register(on, good, saga.Start(func(panics) string { return "" }, func(context.Context, *saga.Instance[order], panics) error { return nil }))
		},
		"step 1: the zero Step; make one with Start, On or OnTimeout": func(on harebus.Registrar) error {
			return saga.Register(on, good, saga.Step[order]{})
		},
		"on is a <nil>":                 func(harebus.Registrar) error { return saga.Register(nil, good, steps()...) },
		"on is a nil *harebus.Setup":    func(harebus.Registrar) error { return saga.Register((*harebus.Setup)(nil), good, steps()...) },
		"on is a nil *harebus.Endpoint": func(harebus.Registrar) error { return saga.Register((*harebus.Endpoint)(nil), good, steps()...) },
		"there is a saga of this name already": func(on harebus.Registrar) error {
			if err := saga.Register(on, good, saga.Start(placedKey, begin)); err != nil {
				return err
			}
			return saga.Register(on, good, steps()...)
		},
	} {
		setup := newSetup(t, harebus.Config{Handling: harebus.HandlingConfig{Transactor: store}})
		err := register(setup)
		if err == nil || !strings.Contains(err.Error(), fault) || !strings.HasPrefix(err.Error(), "saga: register ") {
			t.Errorf("%v, want %q", err, fault)
		}
		if strings.Contains(fault, "already") {
			continue
		}
		if err := saga.Register(setup, good, steps()...); err != nil {
			t.Errorf("after %q: %v", fault, err)
		}
		if err := setup.Start(t.Context()); err != nil { // no handler of the faulty saga is there
			t.Errorf("after %q: %v", fault, err)
		}
	}
	err := saga.Register(newSetup(t, harebus.Config{}), saga.Config{}, saga.On(paidKey, pay), saga.On(paidKey, pay))
	contains(t, err.Error(), "Config.Name is empty", "Config.Store is nil", "have a step of On already", "no step is made by Start")
}

// TestStartFaults: Start reports what Register cannot know.
func TestStartFaults(t *testing.T) {
	t.Parallel()
	store := sagatest.NewStore()
	starts := func(setup *harebus.Setup, names ...string) string {
		t.Helper()
		for _, name := range names {
			if err := saga.Register(setup, saga.Config{Name: name, Store: store}, steps()...); err != nil {
				t.Fatal(err)
			}
		}
		err := setup.Start(t.Context())
		if err == nil {
			t.Error("it has started")
			return ""
		}
		return err.Error()
	}
	contains(t, starts(newSetup(t, harebus.Config{}), "order"), `handler of "Placed": it needs a transaction: set Handling.Transactor`, `handler of "Paid"`, `handler of "Late"`)
	with := harebus.Config{Handling: harebus.HandlingConfig{Transactor: store}}
	contains(t, starts(newSetup(t, with), "order", "other"), `handler of "Placed": there is one already`)
	type nameless struct{}
	setup := newSetup(t, with)
	err := saga.Register(setup, saga.Config{Name: "order", Store: store},
		saga.Start(func(nameless) string { return "" }, func(context.Context, *saga.Instance[order], nameless) error { return nil }))
	if err != nil {
		t.Fatal(err)
	}
	contains(t, starts(setup), "the type has no wire name")
}

// TestEndpoints: one saga can have steps on several queues, each with a name of its own.
func TestEndpoints(t *testing.T) {
	t.Parallel()
	register := func(setup *harebus.Setup, store saga.Store) error {
		second, err := setup.Endpoint(harebus.EndpointConfig{Queue: "second", Handling: harebus.HandlingConfig{Transactor: store.(*sagatest.Store)}})
		if err != nil {
			return err
		}
		cfg := saga.Config{Name: "order", Store: store}
		if err := saga.Register(second, cfg, steps()...); err != nil {
			return err
		}
		return saga.Register(setup, cfg, saga.Start(placedKey, begin, harebus.WithType("Other")), saga.On(paidKey, pay))
	}
	sagatest.Run(t, register, func(t *testing.T, s *sagatest.Service) {
		if err := s.Setup.Bus().Send(t.Context(), "second", placed{"7"}); err != nil {
			t.Fatal(err)
		}
		s.After(0)
		s.Send(paid{"7", 30})
		s.Finish()
		want(t, "shop", bodies(s, "shop"), `{"Order":"7","Amount":-30}`)
	}, "shop")
}
