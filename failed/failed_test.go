package failed_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
	"go.uber.org/goleak"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/brokertest"
	"github.com/harebus/harebus/failed"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type order struct{ ID string }

func (order) MessageType() string { return "Order.v2" }

// seen is a part of an event.
func seen(e failed.Event) string {
	return fmt.Sprintf("%s of %s in %s: %s after %d", e.Type, e.MessageID, e.Queue, e.Kind, e.Attempts)
}

// bubble runs a test with a service whose handler of orders fails, and a queue that has subscribed to failures.
func bubble(t *testing.T, cfg harebus.HandlingConfig, test func(t *testing.T, ctx context.Context, b *brokertest.Broker, s *harebus.Setup)) {
	t.Helper()
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := brokertest.New()
		t.Cleanup(b.Close)
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
		t.Cleanup(cancel)
		if cfg.GivenUp == nil {
			cfg.GivenUp = failed.Publish
		}
		s, err := harebus.New(harebus.Config{Queue: "orders", Dial: b.Dial, Handling: cfg})
		if err != nil {
			t.Fatal(err)
		}
		harebus.Handle(s, func(_ context.Context, _ *harebus.Bus, o order) error {
			switch o.ID {
			case "panic":
				panic("secret")
			case "final":
				return harebus.NoRetry(errors.New("secret " + o.ID))
			}
			return errors.New("secret " + o.ID)
		})
		if err := s.Start(ctx); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		})
		test(t, ctx, b, s)
	})
}

// watcher subscribes to all failures with a queue of its own.
func watcher(t *testing.T, b *brokertest.Broker) {
	t.Helper()
	s, err := harebus.New(harebus.Config{Queue: "watcher", Subscriptions: []string{failed.Prefix + "#"}, Dial: b.Dial})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Init(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// events waits until there are n events, and reads them.
func events(t *testing.T, b *brokertest.Broker, n int) (all []failed.Event, raw []brokertest.Message) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	if err := b.WaitQueue(ctx, "watcher", func(q brokertest.Queue) bool { return q.Ready >= n }); err != nil {
		t.Fatal(err)
	}
	if err := b.WaitQuiet(ctx, "watcher", "error"); err != nil {
		t.Fatal(err)
	}
	raw = b.Messages("watcher")
	for _, m := range raw {
		var e failed.Event
		if err := json.Unmarshal(m.Body, &e); err != nil {
			t.Fatal(err)
		}
		all = append(all, e)
	}
	return all, raw
}

// TestPublish: each message that is parked makes one event, with its ids, the reason and the group of the parked copy, and nothing of
// its body or of the text of the error.
func TestPublish(t *testing.T) {
	bubble(t, harebus.HandlingConfig{Unhandled: harebus.UnhandledPark}, func(t *testing.T, ctx context.Context, b *brokertest.Broker, s *harebus.Setup) {
		watcher(t, b)
		for id, message := range map[string]any{"m1": order{"final"}, "m2": order{"panic"}, "m3": json.RawMessage(`{"ID": 7}`), "m4": order{"retried"}} {
			if err := s.Bus().Send(ctx, "orders", message, harebus.WithMessageID(id), harebus.WithType("Order.v2"), harebus.WithCorrelationID("c-"+id)); err != nil {
				t.Fatal(err)
			}
		}
		if err := s.Bus().Send(ctx, "orders", []int{1}, harebus.WithMessageID("m5"), harebus.WithType("un#known")); err != nil {
			t.Fatal(err)
		}
		if err := s.Bus().Send(ctx, "orders", []int{1}, harebus.WithMessageID("m6"), harebus.WithType(harebus.NoType)); err != nil {
			t.Fatal(err)
		}
		all, raw := events(t, b, 6)
		parked := map[string]amqp.Table{}
		for _, m := range b.Messages("error") {
			parked[m.MessageId] = m.Headers
		}
		want := map[string]string{
			"m1": "Order.v2 of m1 in orders: error after 1", "m2": "Order.v2 of m2 in orders: panic after 6", "m3": "Order.v2 of m3 in orders: bad-payload after 1",
			"m4": "Order.v2 of m4 in orders: error after 6", "m5": "un#known of m5 in orders: unknown-type after 1", "m6": " of m6 in orders: no-type after 1",
		}
		topics := map[string]string{"m5": "failed.un-known", "m6": "failed.-"}
		if len(all) != len(want) || len(parked) != len(want) {
			t.Fatalf("%d events, %d parked", len(all), len(parked))
		}
		for i, e := range all {
			if got := seen(e); got != want[e.MessageID] {
				t.Errorf("%s, want %s", got, want[e.MessageID])
			}
			headers := parked[e.MessageID]
			if e.Group == "" || e.Group != headers["PikaBus.ErrorGroup"] || e.Kind != headers["PikaBus.ErrorKind"] {
				t.Errorf("%s: group %s, kind %s; parked with %v, %v", e.MessageID, e.Group, e.Kind, headers["PikaBus.ErrorGroup"], headers["PikaBus.ErrorKind"])
			}
			if topic, ok := topics[e.MessageID]; ok && raw[i].RoutingKey != topic || !ok && raw[i].RoutingKey != "failed.Order-v2" {
				t.Errorf("%s: topic %s", e.MessageID, raw[i].RoutingKey)
			}
			if text := string(raw[i].Body) + fmt.Sprint(raw[i].Headers); strings.Contains(text, "secret") || strings.Contains(text, "final") {
				t.Errorf("the event quotes: %s", text)
			}
			if e.CorrelationID == "" || e.Time.IsZero() || e.CorrelationID != raw[i].CorrelationId {
				t.Errorf("%+v", e)
			}
		}
	})
}

// TestPublishToNobody: without a subscriber, and for an event that nobody can handle, the message is parked all the same, and
// nothing goes round in circles.
func TestPublishToNobody(t *testing.T) {
	bubble(t, harebus.HandlingConfig{Unhandled: harebus.UnhandledPark}, func(t *testing.T, ctx context.Context, b *brokertest.Broker, s *harebus.Setup) {
		if err := s.Bus().Send(ctx, "orders", order{"final"}); err != nil {
			t.Fatal(err)
		}
		if err := s.Bus().Send(ctx, "orders", failed.Event{}); err != nil {
			t.Fatal(err)
		}
		if err := b.WaitQuiet(ctx, "error"); err != nil { // the watcher is not to see these
			t.Fatal(err)
		}
		watcher(t, b)
		if err := s.Subscribe(ctx, failed.Prefix+"#"); err != nil { // to what it has no handler for
			t.Fatal(err)
		}
		if err := s.Bus().Send(ctx, "orders", order{"final"}); err != nil {
			t.Fatal(err)
		}
		if err := b.WaitQuiet(ctx, "watcher", "error"); err != nil {
			t.Fatal(err)
		}
		if n := len(b.Messages("error")); n != 4 { // two orders, two events
			t.Errorf("%d messages parked", n)
		}
		if n := len(b.Messages("watcher")); n != 1 {
			t.Errorf("%d events", n)
		}
	})
}

// TestGivenUpOfAllFails: whatever the function does, the message is parked, and what it sent is not.
func TestGivenUpOfAllFails(t *testing.T) {
	calls := 0
	cfg := harebus.HandlingConfig{GivenUp: func(ctx context.Context, bus *harebus.Bus, f harebus.Failed) error {
		calls++
		if err := failed.Publish(ctx, bus, f); err != nil {
			return err
		}
		panic("no")
	}}
	bubble(t, cfg, func(t *testing.T, ctx context.Context, b *brokertest.Broker, s *harebus.Setup) {
		watcher(t, b)
		if err := s.Bus().Send(ctx, "orders", order{"final"}); err != nil {
			t.Fatal(err)
		}
		if err := b.WaitQuiet(ctx, "error"); err != nil { // the queue of the watcher is empty
			t.Fatal(err)
		}
		if n := len(b.Messages("error")); n != 1 || calls != 1 {
			t.Errorf("%d messages parked, %d calls", n, calls)
		}
	})
}

// TestTopic: whatever a type is called, its topic is one word behind the prefix.
func TestTopic(t *testing.T) {
	t.Parallel()
	for of, want := range map[string]string{
		"PlaceOrder": "failed.PlaceOrder", "": "failed.-", "a.b#*": "failed.a-b--", "ü\x00": "failed.--", strings.Repeat("a", 300): "failed." + strings.Repeat("a", 100),
	} {
		if got := failed.Topic(of); got != want {
			t.Errorf("%q: %q, want %q", of, got, want)
		}
	}
}
