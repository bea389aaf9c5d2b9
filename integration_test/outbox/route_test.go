package outbox_test

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/integration_test/outbox/database"
	"github.com/harebus/harebus/outbox"
)

// tenants are databases, each with a table for effects.
type tenants map[string]*outbox.Outbox

var errNoTenant = errors.New("no such tenant")

// choose takes the tenant from a header.
func (all tenants) choose(m *harebus.Message) (*outbox.Outbox, error) {
	name, _ := m.Headers["tenant"].(string)
	ob, ok := all[name]
	if !ok {
		return nil, harebus.NoRetry(fmt.Errorf("%w: %q", errNoTenant, name))
	}
	return ob, nil
}

// TestRoute: each message is handled in the database of its tenant. A tenant whose tables are
// missing holds up no other, is named, and is served when they are there.
func TestRoute(t *testing.T) {
	for _, kind := range database.Kinds {
		t.Run(kind, func(t *testing.T) { t.Parallel(); route(t, kind) })
	}
}

func route(t *testing.T, kind string) {
	r := newRig(t, database.Need(t, kind))
	rigs, all := map[string]*rig{"a": r}, tenants{}
	for _, name := range []string{"b", "c", "late"} {
		other := *r
		other.data = database.Need(t, kind)
		other.db = other.data.Open(t)
		other.exec("create table effects (id integer not null)")
		rigs[name] = &other
	}
	for name, one := range rigs {
		all[name] = one.outbox(outbox.Config{Name: name})
		if name == "c" { // has no tables yet
			continue
		}
		if err := all[name].Migrate(r.ctx); err != nil {
			t.Fatal(err)
		}
	}
	// A process that is gone has left a message in b.
	rigs["b"].store(rigs["b"].outbox(outbox.Config{}), r.setup(all["b"], ""), "left")
	r.queue("left")
	router := outbox.Route(all.choose, all["a"], all["b"], all["c"])
	s, err := harebus.New(harebus.Config{URL: r.broker.URL(), Dial: r.broker.Dial, Queue: "orders", Handling: harebus.HandlingConfig{Transactor: router}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	harebus.Handle(s, func(ctx context.Context, bus *harebus.Bus, o order) error {
		return errors.Join(r.insert(ctx, o.ID), bus.Send(ctx, "out", placed(o)))
	}, harebus.WithRetry(harebus.RetryConfig{MaxRetries: 1000}))
	r.start(s)
	r.await("left", 1)
	send := func(name string) {
		t.Helper()
		err := s.Bus().Send(r.ctx, "orders", order{1}, harebus.WithMessageID("m1"), harebus.WithHeaders(map[string]any{"tenant": name}))
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"c", "a", "a", "b", "late", "nobody"} {
		send(name)
	}
	r.await("out", 3) // under one id, which is another message in each database
	parked := r.await("error", 1)[0]
	details, _ := parked.Publishing.Headers["PikaBus.ErrorDetails"].(string)
	contains(t, errors.New(details), `no such tenant: "nobody"`)
	contains(t, s.Ready(), "harebus: outbox: route c: ", "if they are missing, run the SQL of Schema")
	if err := all["c"].Migrate(r.ctx); err != nil {
		t.Fatal(err)
	}
	r.await("out", 4)
	for name, one := range rigs {
		check(t, "effects of "+name, one.number("select count(*) from effects"), 1)
		check(t, "inbox of "+name, one.number("select count(*) from harebus_inbox"), 1)
	}
	r.eventually("all are ready", func() bool { return s.Ready() == nil })
}

// TestRouteRefuses: what cannot work is refused with the reason.
func TestRouteRefuses(t *testing.T) {
	t.Parallel()
	r := newRig(t, database.Need(t, "sqlite"))
	ob, same := r.outbox(outbox.Config{Name: "one"}), r.outbox(outbox.Config{Name: "two"})
	all := tenants{"": ob}
	contains(t, outbox.Route(nil, ob).Check(r.ctx), "the function that chooses is nil")
	contains(t, outbox.Route(all.choose, nil).Check(r.ctx), "the outbox is nil")
	contains(t, outbox.Route(all.choose, ob, same).Check(r.ctx), "route two: two outboxes have the same tables")
	contains(t, outbox.Route(all.choose, ob).Add(r.ctx, same), "route two: two outboxes have the same tables")
	bare := r.outbox(outbox.Config{Prefix: "none_"})
	router := outbox.Route(all.choose, bare)
	contains(t, router.Check(r.ctx), "if they are missing")
	mistaken := func(*harebus.Message) (*outbox.Outbox, error) { return nil, nil } //nolint:nilnil // a mistake that users can make
	err := outbox.Route(mistaken, ob).Transact(r.ctx, &harebus.Message{}, nil)
	contains(t, err, "the outbox is nil")
	ctx, cancel := context.WithCancel(r.ctx)
	ended := make(chan error)
	s := r.setup(ob, "")
	again := outbox.Route(all.choose, ob)
	for range 2 {
		go func() { ended <- again.Run(ctx, s.Bus()) }()
	}
	if err := <-ended; !errors.Is(err, outbox.ErrRunning) {
		t.Errorf("the second Run: %v", err)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
