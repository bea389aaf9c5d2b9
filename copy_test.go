package harebus_test

import (
	"context"
	"fmt"
	"reflect"
	"strings"
	"testing"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/harebus/harebus"
)

// TestCopiesAreOfWhatCame: what middleware and handlers do to a message changes
// neither its retries nor what is parked.
func TestCopiesAreOfWhatCame(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		headers := amqp.Table{"secret": "sealed", "gone": "here", "list": []any{"a"}, "table": amqp.Table{"k": "v"}, "raw": []byte("raw")}
		cfg := r.config("orders")
		cfg.Retry.MaxRetries = 1
		cfg.Handling.Middleware = []harebus.Middleware{func(next harebus.HandlerFunc) harebus.HandlerFunc {
			return func(ctx context.Context, bus *harebus.Bus, m *harebus.Message) error {
				for name, want := range headers {
					if !reflect.DeepEqual(m.Headers[name], want) {
						t.Errorf("attempt %d: header %s is %v", m.Attempt, name, m.Headers[name])
					}
				}
				m.Headers["secret"], m.Headers["new"] = "opened", true
				m.Headers["list"].([]any)[0] = "changed"
				m.Headers["table"].(amqp.Table)["k"] = "changed"
				m.Headers["raw"].([]byte)[0] = 'X'
				delete(m.Headers, "gone")
				m.Body, m.Properties.Type = []byte(`{"ID":9}`), "Changed"
				return next(ctx, bus, m)
			}
		}}
		s := r.setup(cfg)
		harebus.Handle(s, func(_ context.Context, _ *harebus.Bus, o order) error {
			return fmt.Errorf("order %d fails", o.ID)
		})
		r.start(s)
		sent := plain(`{"ID":1}`)
		sent.Headers = headers
		r.publish(r.channel(), "orders", sent)
		contains(t, r.details(), "order 9 fails")
		m := r.await("error", 1)[0]
		for name, want := range headers {
			if !reflect.DeepEqual(m.Headers[name], want) {
				t.Errorf("parked: header %s is %v, want %v", name, m.Headers[name], want)
			}
		}
		if m.Headers["new"] != nil || m.Type != "Order" || string(m.Body) != `{"ID":1}` {
			t.Errorf("parked: new header %v, type %q, body %s", m.Headers["new"], m.Type, m.Body)
		}
	})
}

// TestLeftOutStaysNamed: the details of the last failure still name what the copy of
// the first one had no room for, and nothing else is lost on the way.
func TestLeftOutStaysNamed(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		cfg := r.config("orders")
		cfg.Retry.MaxRetries = 3
		s := r.setup(cfg)
		var seen []bool
		s.HandleMessage("Order", func(_ context.Context, _ *harebus.Bus, m *harebus.Message) error {
			_, ok := m.Headers["large"]
			seen = append(seen, ok)
			return errNo
		})
		r.start(s)
		sent := plain(`{}`)
		sent.Headers = amqp.Table{"large": strings.Repeat("x", 90<<10), "half": strings.Repeat("y", 128<<10-(90<<10)-300), "small": "z"}
		r.publish(r.channel(), "orders", sent)
		r.details()
		m := r.await("error", 1)[0]
		details, _ := m.Headers[prefixed("ErrorDetails")].(string)
		contains(t, details, "left out", `"large"`, errNo.Error())
		if m.Headers[prefixed("LeftOut")] != `"large"` || m.Headers["small"] != "z" || m.Headers["half"] == nil {
			t.Errorf("left out %v, small %v", m.Headers[prefixed("LeftOut")], m.Headers["small"])
		}
		if !reflect.DeepEqual(seen, []bool{true, false, false, false}) {
			t.Errorf("the large header was there at attempts %v", seen)
		}
	})
}

// TestLeftOutIsBounded: many failures, each of which leaves something out.
func TestLeftOutIsBounded(t *testing.T) {
	t.Parallel()
	headers := amqp.Table{}
	for round := range 50 {
		for i := range 20 {
			headers[fmt.Sprint("r", round, "ü", i)] = strings.Repeat("x", 8<<10)
		}
		headers[prefixed("ErrorDetails")] = strings.Repeat("d", harebus.MaxErrorDetails)
		harebus.Fit(headers)
		list, _ := headers[prefixed("LeftOut")].(string)
		if len(list) > 410 || !strings.HasPrefix(list, `"r0`) {
			t.Fatalf("round %d: %d bytes: %.100s", round, len(list), list)
		}
	}
}

// TestCustomHeadersCanBeSent: what a handler may pass on is neither the broker's nor
// refused by WithHeaders.
func TestCustomHeadersCanBeSent(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.bound(r.channel(), "out")
		s := r.setup(r.config("orders"))
		s.HandleMessage("Order", func(ctx context.Context, bus *harebus.Bus, m *harebus.Message) error {
			return bus.Send(ctx, "out", order{2}, harebus.WithHeaders(m.CustomHeaders()))
		})
		r.start(s)
		sent := plain(`{}`)
		sent.Headers = amqp.Table{
			"tenant": "a", "x-request-id": "b", "x-stream-filter-value": "c", "": "empty", "\xff": "not text", "price": amqp.Decimal{Scale: 2, Value: 5},
			"x-received-from": []any{amqp.Table{"uri": "amqp://up"}}, "x-shovelled": []any{amqp.Table{"src-queue": "q"}}, "x-shovelled-timestamp": int64(1),
			"x-stream-offset": int64(7), "x-acquired-count": int64(1), "x-delivery-count": int64(1), "x-opt-deaths": "x", "x-death": []any{amqp.Table{}},
			"x-first-death-queue": "q", "CC": []any{"victim"}, "BCC": []any{"victim"}, "x-delay": int32(1), "x-match": "all", "x-routed-by": "node",
		}
		r.publish(r.channel(), "orders", sent)
		m := r.await("out", 1)[0]
		for name := range m.Headers {
			if _, ok := sent.Headers[name]; ok && name != "tenant" && name != "x-request-id" && name != "x-stream-filter-value" {
				t.Errorf("header %q was passed on", name)
			}
		}
		if m.Headers["tenant"] != "a" || m.Headers["x-request-id"] != "b" || m.Headers["x-stream-filter-value"] != "c" {
			t.Errorf("got %v", m.Headers)
		}
	})
}
