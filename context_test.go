package harebus_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/harebus/harebus"
)

// traveller is a service whose messages carry a tenant and a user; the tenant is required.
func (r *rig) traveller(handle func(ctx context.Context, bus *harebus.Bus, o order) error) *harebus.Setup {
	r.t.Helper()
	cfg := r.config("orders")
	cfg.Payload.Context = []harebus.ContextHeader{{Name: "tenant", Required: true}, {Name: "user", Max: 8}}
	cfg.Retry = harebus.RetryConfig{MaxRetries: 1, BackOff: steady}
	s := r.setup(cfg)
	harebus.Handle(s, handle)
	r.start(s)
	return s
}

// Values travel from the call to the handler, through a retry, and on with all that the handler sends, also if that call has
// another context. A handler can replace a value, or drop one.
func TestContextTravels(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.bound(r.channel(), "out")
		s := r.traveller(func(ctx context.Context, bus *harebus.Bus, o order) error {
			if harebus.Incoming(ctx).Attempt == 1 {
				return errNo
			}
			if tenant, user := harebus.ContextValue(ctx, "tenant"), harebus.ContextValue(ctx, "user"); tenant != "acme" || user != "ann" {
				t.Errorf("the handler sees %q and %q", tenant, user)
			}
			clear(harebus.Incoming(ctx).Headers) // is the handler's
			return errors.Join(
				bus.Send(ctx, "out", order{1}),
				bus.Send(context.WithoutCancel(r.ctx), "out", order{2}),
				bus.Send(harebus.WithContextValue(ctx, "user", ""), "out", order{3}),
				bus.Defer(harebus.WithContextValue(ctx, "tenant", "other"), "out", time.Second, order{4}),
				bus.Send(ctx, "out", order{5}, harebus.WithHeader("user", "bob")),
				bus.Transaction(ctx, func(ctx context.Context, tx *harebus.Tx) error { return tx.Send(ctx, "out", order{6}) }),
			)
		})
		ctx := harebus.WithContextValue(harebus.WithContextValue(r.ctx, "tenant", "acme"), "user", "ann")
		if err := s.Bus().Send(harebus.WithContextValue(ctx, "secret", "x"), "orders", order{0}); err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, m := range r.await("out", 6) {
			got = append(got, fmt.Sprintf("%s %v %v %v", m.Body, m.Headers["tenant"], m.Headers["user"], m.Headers["secret"]))
		}
		slices.Sort(got)
		want := []string{
			`{"ID":1} acme ann <nil>`, `{"ID":2} acme ann <nil>`, `{"ID":3} acme <nil> <nil>`, `{"ID":4} other ann <nil>`,
			`{"ID":5} acme bob <nil>`, `{"ID":6} acme ann <nil>`,
		}
		if !slices.Equal(got, want) {
			t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
	})
}

// A message without a required value, or with one that may not travel, is not sent.
func TestContextRefused(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		s := r.traveller(func(context.Context, *harebus.Bus, order) error { return nil })
		tenant := harebus.WithContextValue(r.ctx, "tenant", "acme")
		for name, test := range map[string]struct {
			ctx  context.Context
			opts []harebus.SendOption
			says string
		}{
			"missing":         {r.ctx, nil, `no value of "tenant", which Config.Payload.Context requires`},
			"empty":           {harebus.WithContextValue(r.ctx, "tenant", ""), nil, `no value of "tenant"`},
			"too long":        {harebus.WithContextValue(tenant, "user", strings.Repeat("x", 9)), nil, "more than 8"},
			"not printable":   {harebus.WithContextValue(tenant, "user", "a\nb"), nil, "printable"},
			"no text":         {tenant, []harebus.SendOption{harebus.WithHeader("user", 7)}, "not text"},
			"not UTF-8":       {harebus.WithContextValue(tenant, "user", "\xff"), nil, "not text"},
			"an empty option": {r.ctx, []harebus.SendOption{harebus.WithHeader("tenant", "")}, `no value of "tenant"`},
		} {
			err := s.Bus().Send(test.ctx, "orders", order{1}, test.opts...)
			if !errors.Is(err, harebus.ErrRefused) || !strings.Contains(err.Error(), test.says) {
				t.Errorf("%s: %v", name, err)
			}
		}
		if n := s.Stats().Published; n != 0 {
			t.Errorf("%d messages were sent", n)
		}
	})
}

// A received message without a required value, or with one that may not travel, is parked at once, whoever has sent it.
func TestContextParked(t *testing.T) {
	for name, test := range map[string]struct {
		headers amqp.Table
		reason  string
	}{
		"missing":       {amqp.Table{}, "missing-context"},
		"empty":         {amqp.Table{"tenant": ""}, "missing-context"},
		"no text":       {amqp.Table{"tenant": int32(7)}, "bad-context"},
		"too long":      {amqp.Table{"tenant": strings.Repeat("x", 257)}, "bad-context"},
		"very long":     {amqp.Table{"tenant": "a", "user": strings.Repeat("x", 50_000)}, "bad-context"},
		"not printable": {amqp.Table{"tenant": "a\x00"}, "bad-context"},
		"a table":       {amqp.Table{"tenant": amqp.Table{"a": "b"}}, "bad-context"},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, r *rig) {
				s := r.traveller(func(context.Context, *harebus.Bus, order) error { t.Error("handled"); return nil })
				r.publish(r.channel(), "orders", amqp.Publishing{Headers: maps.Clone(test.headers), ContentType: "application/json", Type: "Order", Body: []byte(`{}`)})
				parked := r.await("error", 1)[0]
				details, _ := parked.Headers["PikaBus.ErrorDetails"].(string)
				if !strings.Contains(details, test.reason) || strings.Contains(details, "xxx") {
					t.Errorf("parked because of %q", details)
				}
				r.quiet("error")
				if stats := s.Stats(); stats.Retried != 0 || stats.Parked != 1 {
					t.Errorf("stats %+v", stats)
				}
			})
		})
	}
}
