package harebus_test

import (
	"context"
	"errors"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/harebus/harebus"
)

// offline is a setup that must not connect.
func offline(t *testing.T, change func(*harebus.Config)) *harebus.Setup {
	t.Helper()
	cfg := harebus.Config{Queue: "orders", Dial: func(string, string) (net.Conn, error) {
		t.Error("it connects")
		return nil, net.ErrClosed
	}}
	if change != nil {
		change(&cfg)
	}
	s, err := harebus.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func invoke(t *testing.T, s *harebus.Setup, message any, opts ...harebus.SendOption) *harebus.Invocation {
	t.Helper()
	i, err := s.Invoke(t.Context(), message, opts...)
	if err != nil {
		t.Fatal(err)
	}
	return i
}

// TestInvokeSeesEverySend: by whatever bus and transaction the handler sends, with the ids that a consumer would make.
func TestInvokeSeesEverySend(t *testing.T) {
	t.Parallel()
	s := offline(t, nil)
	due := time.Now().Add(time.Hour)
	harebus.Handle(s, func(ctx context.Context, bus *harebus.Bus, o order) error {
		return errors.Join(
			bus.Send(ctx, "stock", o, harebus.WithHeader("tenant", "a")),
			bus.Publish(ctx, "order.placed", o),
			bus.Defer(ctx, "later", time.Hour, o),
			bus.Reply(ctx, answer(o)),
			s.Bus().Send(ctx, "outer", o),
			bus.Send(ctx, "now", o, harebus.Immediately()),
			bus.Transaction(ctx, func(ctx context.Context, tx *harebus.Tx) error { return tx.Send(ctx, "committed", o) }),
			expectErr(bus.Transaction(ctx, func(ctx context.Context, tx *harebus.Tx) error {
				return errors.Join(tx.Send(ctx, "rolled-back", o), errBoom)
			})),
		)
	})
	opts := []harebus.SendOption{harebus.WithReplyTo("shop"), harebus.WithMessageID("m1"), harebus.WithCorrelationID("c1")}
	i := invoke(t, s, order{7}, opts...)
	if i.Err != nil {
		t.Fatal(i.Err)
	}
	var got []string
	for _, sent := range i.Sent {
		got = append(got, strings.Join([]string{sent.Operation.String(), sent.Exchange, sent.RoutingKey, sent.Type, string(sent.Body)}, " "))
		if sent.CorrelationID != "c1" || sent.OriginatingAddress != "orders" {
			t.Errorf("%s: correlation id %q, from %q", sent.RoutingKey, sent.CorrelationID, sent.OriginatingAddress)
		}
	}
	want := []string{
		`send PikaBusDirect stock Order {"ID":7}`, `publish PikaBusTopic order.placed Order {"ID":7}`,
		`defer PikaBusDirect later Order {"ID":7}`, `reply PikaBusDirect shop Answer {"ID":7}`,
		`send PikaBusDirect outer Order {"ID":7}`, `send PikaBusDirect now Order {"ID":7}`,
		`send PikaBusDirect committed Order {"ID":7}`,
	}
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if at := i.Sent[2].DeferredUntil; at.Before(due) || at.After(due.Add(time.Minute)) {
		t.Errorf("deferred until %v", at)
	}
	if i.Sent[0].Headers["tenant"] != "a" {
		t.Errorf("headers %v", i.Sent[0].Headers)
	}
	if again := invoke(t, s, order{7}, opts...); again.Sent[0].ID != i.Sent[0].ID {
		t.Error("the second attempt makes another id")
	}
}

// TestInvokeMakesTheIDsOfAConsumer: a test may compare the ids of what a handler sends with those of its receiver.
func TestInvokeMakesTheIDsOfAConsumer(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		s := r.setup(r.config("orders"))
		harebus.Handle(s, func(ctx context.Context, bus *harebus.Bus, o order) error { return bus.Send(ctx, "out", o) })
		r.bound(r.channel(), "out")
		id := harebus.WithMessageID("m1")
		i := invoke(t, s, order{7}, id)
		r.start(s)
		if err := s.Bus().Send(r.ctx, "orders", order{7}, id); err != nil {
			t.Fatal(err)
		}
		if sent := r.await("out", 1)[0]; sent.MessageId != i.Sent[0].ID {
			t.Errorf("Invoke makes %q, a consumer %q", i.Sent[0].ID, sent.MessageId)
		}
	})
}

var errBoom = errors.New("boom")

// expectErr is nil if err is errBoom.
func expectErr(err error) error {
	if errors.Is(err, errBoom) {
		return nil
	}
	return errors.Join(errors.New("another error than boom"), err)
}

// TestInvokeFailures: the decision is the policy's, and what was sent does not leave.
func TestInvokeFailures(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name    string
		message any
		fn      func(context.Context, *harebus.Bus, order) error
		want    string
		text    string
		sent    int
	}{
		{"error", order{}, func(context.Context, *harebus.Bus, order) error { return errBoom }, "retry in", "boom", 0},
		{"no-retry", order{}, func(context.Context, *harebus.Bus, order) error { return harebus.NoRetry(errBoom) }, "park", "boom", 0},
		{"panic", order{}, func(context.Context, *harebus.Bus, order) error { panic("oh") }, "retry in", "oh", 0},
		{"sent-before", order{}, func(ctx context.Context, bus *harebus.Bus, o order) error {
			return errors.Join(bus.Send(ctx, "q", o), bus.Send(ctx, "now", o, harebus.Immediately()), errBoom)
		}, "retry in", "boom", 1},
		{"last-attempt", &harebus.Message{Type: "Order", Body: []byte(`{}`), Attempt: 6}, func(context.Context, *harebus.Bus, order) error {
			return errBoom
		}, "park", "boom", 0},
		{"bad-payload", &harebus.Message{Type: "Order", Body: []byte(`{`)}, nil, "park", "bad-payload", 0},
		{"unknown-type", answer{}, nil, "retry in", "unknown-type", 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			s := offline(t, nil)
			fn := test.fn
			if fn == nil {
				fn = func(context.Context, *harebus.Bus, order) error { return nil }
			}
			harebus.Handle(s, fn)
			i := invoke(t, s, test.message)
			if i.Err == nil || !strings.Contains(i.Err.Error(), test.text) || !strings.HasPrefix(i.Decision.String(), test.want) {
				t.Errorf("error %v, decision %v", i.Err, i.Decision)
			}
			if len(i.Sent) != test.sent {
				t.Errorf("%d messages sent, want %d", len(i.Sent), test.sent)
			}
		})
	}
}

// TestInvokeGivesTheMessage: as Incoming, through middleware, in the setup's codecs.
func TestInvokeGivesTheMessage(t *testing.T) {
	t.Parallel()
	var seen []string
	s := offline(t, func(cfg *harebus.Config) {
		cfg.Handling.Middleware = []harebus.Middleware{func(next harebus.HandlerFunc) harebus.HandlerFunc {
			return func(ctx context.Context, bus *harebus.Bus, m *harebus.Message) error {
				seen = append(seen, "middleware "+m.Type)
				return next(ctx, bus, m)
			}
		}}
	})
	harebus.Handle(s, func(ctx context.Context, _ *harebus.Bus, _ order) error {
		m := harebus.Incoming(ctx)
		seen = append(seen, m.ID, m.Queue, m.ReplyTo, string(m.Body))
		return nil
	})
	s.HandleMessage("Raw", func(_ context.Context, _ *harebus.Bus, m *harebus.Message) error {
		seen = append(seen, m.ContentType, string(m.Body), m.CustomHeaders()["k"].(string))
		return nil
	})
	i := invoke(t, s, order{7}, harebus.WithMessageID("m1"), harebus.WithReplyTo("shop"))
	if i.Err != nil || i.Message.ID != "m1" {
		t.Errorf("error %v, message %+v", i.Err, i.Message)
	}
	i = invoke(t, s, &harebus.Message{Type: "Raw", ContentType: "text/plain", Body: []byte("hi"), Headers: map[string]any{"k": "v"}})
	if i.Err != nil || i.Message.ID == "" || i.Message.Attempt != 1 {
		t.Errorf("error %v, message %+v", i.Err, i.Message)
	}
	want := []string{"middleware Order", "m1", "orders", "shop", `{"ID":7}`, "middleware Raw", "text/plain", "hi", "v"}
	if !slices.Equal(seen, want) {
		t.Errorf("got %q, want %q", seen, want)
	}
}

func TestInvokeRefuses(t *testing.T) {
	t.Parallel()
	s := offline(t, nil)
	harebus.Handle(s, func(context.Context, *harebus.Bus, order) error { return nil })
	if _, err := s.Invoke(t.Context(), struct{ F func() }{}, harebus.WithType("Order")); !errors.Is(err, harebus.ErrRefused) {
		t.Errorf("what cannot be encoded: %v", err)
	}
	harebus.Handle(s, func(context.Context, *harebus.Bus, order) error { return nil })
	if _, err := s.Invoke(t.Context(), order{}); err == nil || !strings.Contains(err.Error(), "one already") {
		t.Errorf("a second handler of a type: %v", err)
	}
	if _, err := offline(t, func(cfg *harebus.Config) { cfg.Queue = "" }).Invoke(t.Context(), order{}); !errors.Is(err, harebus.ErrNoQueue) {
		t.Errorf("no queue: %v", err)
	}
}
