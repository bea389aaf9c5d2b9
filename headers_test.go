package harebus_test

import (
	"context"
	"fmt"
	"maps"
	"math"
	"reflect"
	"regexp"
	"runtime"
	"strings"
	"testing"
	"testing/quick"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/harebus/harebus"
)

func TestParseCount(t *testing.T) {
	t.Parallel()
	for _, three := range []any{int8(3), uint8(3), int16(3), uint16(3), int32(3), uint32(3), int64(3), "3", "+3", " 3\n", []byte("3")} {
		if n, err := harebus.ParseCount(three); n != 3 || err != nil {
			t.Errorf("%T %v is %d, %v", three, three, n, err)
		}
	}
	for _, bad := range []any{
		nil, "", "x", "3.0", "0x3", "3 4", "-1", int8(-1), int64(math.MinInt64), int64(math.MaxInt64), uint32(math.MaxUint32), 1.0, float32(1),
		true, time.Unix(3, 0), amqp.Table{}, []any{int8(1)}, "99999999999999999999", []byte{0xff}, "1000001", amqp.Decimal{Value: 3}, long,
	} {
		if n, err := harebus.ParseCount(bad); n != 0 || err == nil {
			t.Errorf("%T %.30v is %d, %v", bad, bad, n, err)
		} else if len(err.Error()) > 400 {
			t.Errorf("%T: an error of %d bytes", bad, len(err.Error()))
		}
	}
}

// TestParseCountRange: whatever comes in, what comes out is a small count.
func TestParseCountRange(t *testing.T) {
	t.Parallel()
	small := func(n int64, text string) bool {
		a, errA := harebus.ParseCount(n)
		b, errB := harebus.ParseCount(text)
		return a >= 0 && a <= 1_000_000 && b >= 0 && b <= 1_000_000 && (errA == nil) == (n >= 0 && n <= 1_000_000) && (errB == nil || b == 0)
	}
	if err := quick.Check(small, nil); err != nil {
		t.Error(err)
	}
}

// TestForeignMessage: a message that has AMQP properties and nothing of ours.
func TestForeignMessage(t *testing.T) {
	t.Parallel()
	sent := time.Unix(1700000000, 0)
	m, err := harebus.ReadMessage(&amqp.Delivery{
		Headers: amqp.Table{"x-request-id": "r", "tenant": int32(5)}, ContentType: "text/plain", ContentEncoding: "utf-8",
		CorrelationId: "c", ReplyTo: "back", MessageId: "m", Timestamp: sent, Type: "T", UserId: "u", AppId: "a", Priority: 3,
		Exchange: "PikaBusTopic", RoutingKey: "k", Redelivered: true, Body: []byte("b"),
	})
	if err != nil {
		t.Fatal(err)
	}
	got := []any{
		m.ID, m.CorrelationID, m.Type, m.Intent, m.ReplyTo, m.OriginatingAddress, m.ContentType, m.ContentEncoding, m.TimeSent.Unix(),
		m.DeferredUntil.IsZero(), m.Attempt, m.SourceQueue, m.Queue, m.Exchange, m.RoutingKey, m.Redelivered, string(m.Body), m.Properties.UserID, m.Properties.AppID,
	}
	want := []any{
		"m", "c", "T", harebus.IntentEvent, "back", "", "text/plain", "utf-8", sent.Unix(),
		true, 1, "", "queue", "PikaBusTopic", "k", true, "b", "u", "a",
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %v\nwant %v", got, want)
	}
	if custom := m.CustomHeaders(); len(custom) != 2 || custom["tenant"] != int32(5) {
		t.Errorf("custom headers %v", custom)
	}
}

// TestHeaderBeatsProperty: peers look at headers only.
func TestHeaderBeatsProperty(t *testing.T) {
	t.Parallel()
	m, err := harebus.ReadMessage(&amqp.Delivery{
		Headers: amqp.Table{
			prefixed("MessageId"): "h", prefixed("CorrelationId"): "h", prefixed("MessageType"): "h", prefixed("ReplyToAddress"): "h",
			prefixed("ContentType"): "h", prefixed("ContentEncoding"): "h", prefixed("TimeSent"): "2026-11-21",
		},
		MessageId: "p", CorrelationId: "p", Type: "p", ReplyTo: "p", ContentType: "p", ContentEncoding: "p", Timestamp: time.Unix(1, 0),
	})
	if err != nil {
		t.Fatal(err)
	}
	if got := m.ID + m.CorrelationID + m.Type + m.ReplyTo + m.ContentType + m.ContentEncoding; got != "hhhhhh" || m.TimeSent.Year() != 2026 {
		t.Errorf("got %s, %v", got, m.TimeSent)
	}
}

// TestDifferencesAreLogged: where header and property differ, the header counts, and
// whoever looks for the reason finds it in the log.
func TestDifferencesAreLogged(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		core, logs := observer.New(zap.DebugLevel)
		cfg := r.config("orders")
		cfg.Logger = zap.New(core)
		s := r.setup(cfg)
		harebus.Handle(s, func(context.Context, *harebus.Bus, order) error { return nil })
		r.start(s)
		differing := plain(`{}`)
		differing.Headers, differing.Type, differing.MessageId = amqp.Table{prefixed("MessageType"): "Order", prefixed("MessageId"): "a"}, "Other\n", "b"
		same := plain(`{}`)
		same.Headers, same.MessageId = amqp.Table{prefixed("MessageType"): "Order", prefixed("MessageId"): "c"}, "c"
		r.publish(r.channel(), "orders", differing, same)
		r.quiet()
		entries := logs.FilterMessageSnippet("differ").All()
		if len(entries) != 1 || entries[0].Level != zap.DebugLevel {
			t.Fatalf("logged %v", entries)
		}
		contains(t, fmt.Sprint(entries[0].ContextMap()), `MessageType is "Order", the property "Other\n"`, `MessageId is "a", the property "b"`)
		if s.Stats().Handled != 2 {
			t.Errorf("handled %d", s.Stats().Handled)
		}
	})
}

// TestOptionsMerge: later options win, and nobody's map is kept or changed.
func TestOptionsMerge(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.declare(r.channel(), "out")
		first, second := map[string]any{"a": 1, "b": 1, "list": []any{"x"}}, map[string]any{"b": 2}
		keep := maps.Clone(first)
		cfg := r.config("")
		cfg.Publish.Middleware = []harebus.SendMiddleware{adding("added", true)}
		tx := r.setup(cfg).Bus().Begin()
		opts := []harebus.SendOption{harebus.WithHeaders(first), harebus.WithHeaders(second), harebus.WithHeader("c", 3), harebus.WithHeaders(nil)}
		for range 2 {
			if err := tx.Send(r.ctx, "out", order{1}, opts...); err != nil {
				t.Fatal(err)
			}
		}
		if !reflect.DeepEqual(first, keep) || len(second) != 1 {
			t.Errorf("the caller's maps have become %v and %v", first, second)
		}
		first["a"], second["b"] = "changed", "changed"
		first["list"].([]any)[0] = "changed"
		if err := tx.Commit(r.ctx); err != nil {
			t.Fatal(err)
		}
		ids := map[any]bool{}
		for _, m := range r.await("out", 2) {
			for name, want := range map[string]any{"a": int64(1), "b": int64(2), "c": int64(3), "added": true} {
				if m.Headers[name] != want {
					t.Errorf("header %s is %v, want %v", name, m.Headers[name], want)
				}
			}
			if list, _ := m.Headers["list"].([]any); len(list) != 1 || list[0] != "x" {
				t.Errorf("the list is %v", m.Headers["list"])
			}
			ids[m.MessageId] = true
		}
		if len(ids) != 2 {
			t.Error("two messages with one id")
		}
	})
}

// TestOptions checks what each option does to the message.
func TestOptions(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		ch := r.channel()
		r.declare(ch, "out")
		if err := ch.ExchangeDeclare("other", "direct", true, false, false, false, nil); err != nil {
			t.Fatal(err)
		}
		if err := ch.QueueBind("out", "out", "other", false, nil); err != nil {
			t.Fatal(err)
		}
		err := r.setup(r.config("orders")).Bus().Send(r.ctx, "out", order{1},
			harebus.WithMessageID("id"), harebus.WithType("Other"), harebus.WithCorrelationID("corr"), harebus.WithReplyTo("there"),
			harebus.WithAppID("app"), harebus.WithExchange("other"), harebus.WithPriority(9), harebus.WithExpiration(1500*time.Millisecond))
		if err != nil {
			t.Fatal(err)
		}
		m := r.await("out", 1)[0]
		got := []any{m.MessageId, m.Type, m.CorrelationId, m.ReplyTo, m.AppId, m.Exchange, m.Priority, m.Expiration, m.Headers[prefixed("OriginatingAddress")]}
		want := []any{"id", "Other", "corr", "there", "app", "other", uint8(9), "1500", "orders"}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("got  %v\nwant %v", got, want)
		}
	})
}

// TestPrefix: another prefix is written and read throughout.
func TestPrefix(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		cfg := r.config("orders")
		cfg.Payload.HeaderPrefix = "Acme-"
		cfg.Retry.MaxRetries = 1
		s := r.setup(cfg)
		attempts := 0
		s.HandleMessage("Order", func(_ context.Context, _ *harebus.Bus, m *harebus.Message) error {
			attempts = m.Attempt
			return errNo
		})
		r.start(s)
		if err := s.Bus().Send(r.ctx, "orders", order{1}, harebus.WithHeader("PikaBus.Mine", 1)); err != nil {
			t.Fatal(err)
		}
		m := r.await("error", 1)[0]
		for name := range m.Headers {
			if !strings.HasPrefix(name, "Acme-") && name != "PikaBus.Mine" {
				t.Errorf("header %s", name)
			}
		}
		if attempts != 2 || m.Headers["Acme-ErrorRetries"] != int8(2) {
			t.Errorf("%d attempts, counter %v", attempts, m.Headers["Acme-ErrorRetries"])
		}
	})
}

func TestDerivedID(t *testing.T) {
	t.Parallel()
	// Fixed for ever: a service that is updated in the middle of a redelivery
	// must make the same id as before.
	if got := harebus.DerivedID("a", "b"); got != "99075cf8-d17e-5c8d-883a-74c4b9e137aa" {
		t.Errorf("the id derived from a and b has become %s", got)
	}
	// The time of an incoming id of version 7 or 8 comes first.
	const in, want = "0192c0de-0000-7000-8000-000000000001", "0192c0de-0000-839d-a93e-59138e0b2dda"
	got := harebus.DerivedID(in, "b")
	if got != want {
		t.Errorf("the id derived from %s and b has become %s", in, got)
	}
	if next := harebus.DerivedID(got, "c"); next[:14] != want[:14] || next == got {
		t.Errorf("the id derived from a derived one is %s", next)
	}
	for _, other := range []string{"0192c0de-0000-4000-8000-000000000001", "0192c0de000070008000000000000001", strings.Repeat("x", 36)} {
		if id := harebus.DerivedID(other, "b"); id[14] != '5' {
			t.Errorf("the id derived from %s is %s, not of version 5", other, id)
		}
	}
	if harebus.DerivedID("ab", "c") == harebus.DerivedID("a", "bc") || harebus.DerivedID("a") == harebus.DerivedID("a", "") {
		t.Error("different parts make the same id")
	}
	if !regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$`).MatchString(harebus.NewMessageID()) {
		t.Error("a new id is not a UUID of version 7")
	}
}

// adding is send middleware that adds a header.
func adding(key string, value any) harebus.SendMiddleware {
	return func(next harebus.SendFunc) harebus.SendFunc {
		return func(ctx context.Context, m *harebus.Outgoing) error {
			m.Headers[key] = value
			return next(ctx, m)
		}
	}
}

// TestMessageIDKeepsLittle: whoever remembers ids to recognise duplicates must not keep
// everything that came with them.
func TestMessageIDKeepsLittle(t *testing.T) {
	const messages, size = 50, 1 << 20
	heap := func() int64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	before := heap()
	var ids []string
	for range messages {
		all := strings.Repeat("x", size)
		m, err := harebus.ReadMessage(&amqp.Delivery{Headers: amqp.Table{"PikaBus.MessageId": all[:36]}})
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, m.ID)
	}
	if grown := heap() - before; grown > messages*size/4 {
		t.Errorf("%d ids keep %d bytes", len(ids), grown)
	}
	runtime.KeepAlive(ids)
}
