package otelbus_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/cenkalti/backoff/v4"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/otelbus"
	"github.com/harebus/harebus/seal"
)

// card is what a sealed message carries. Nobody but its handler may see it.
const card = "canary-4111-1111"

// payment is a message with a secret.
type payment struct{ Card string }

// MessageType is the wire name.
func (payment) MessageType() string { return "Payment" }

// However a sealed message fails, nothing of it is in spans or metrics, unless the policy lets details through.
func TestNoSecrets(t *testing.T) {
	for name, fail := range map[string]func(*harebus.Message) error{
		"handler":  func(m *harebus.Message) error { return fmt.Errorf("charge %s: declined", m.Body) },
		"no retry": func(m *harebus.Message) error { return harebus.NoRetry(fmt.Errorf("charge %s: declined", m.Body)) },
		"panic":    func(m *harebus.Message) error { panic("bad " + string(m.Body)) },
		"decoder": func(m *harebus.Message) error {
			var into struct{ Card int }
			return m.Decode(&into)
		},
		"reject": func(m *harebus.Message) error {
			return &harebus.RejectError{Reason: "bad-payload", Err: errors.New(string(m.Body))}
		},
		"postpone": func(m *harebus.Message) error {
			if m.Headers["PikaBus.DeferredTime"] == nil {
				return harebus.Postpone(time.Second, errors.New(string(m.Body)))
			}
			return harebus.NoRetry(errors.New(string(m.Body)))
		},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, r *rig) {
				if shown := r.payments(fail, seal.Policy{Types: []string{"*"}}); strings.Contains(shown, card) {
					t.Errorf("telemetry shows what the message carries:\n%s", shown)
				}
			})
		})
	}
	t.Run("details", func(t *testing.T) { // which shows that the test would see it
		bubble(t, func(t *testing.T, r *rig) {
			shown := r.payments(func(m *harebus.Message) error { return errors.New(string(m.Body)) }, seal.Policy{Types: []string{"*"}, Details: true})
			if !strings.Contains(shown, card) {
				t.Error("Policy.Details lets no details through")
			}
		})
	})
}

// payments sends a payment whose handling fails until it is parked, and returns everything that telemetry has of it.
func (r *rig) payments(fail func(*harebus.Message) error, policy seal.Policy) string {
	r.t.Helper()
	reader := sdkmetric.NewManualReader()
	telemetry, err := otelbus.New(otelbus.Config{TracerProvider: r.tracer, MeterProvider: sdkmetric.NewMeterProvider(sdkmetric.WithReader(reader))})
	r.do(err)
	key, err := seal.NewKey("2026-11", bytes.Repeat([]byte{1}, 32))
	r.do(err)
	keys, err := seal.NewKeyring(key)
	r.do(err)
	cfg := harebus.Config{URL: r.broker.URL(), Dial: r.broker.Dial, Queue: "payments", Observers: []harebus.Observer{telemetry}}
	cfg.Payload.Guards = []harebus.Guard{seal.New(keys, policy)}
	cfg.Retry = harebus.RetryConfig{MaxRetries: 2, BackOff: func() backoff.BackOff { return backoff.NewConstantBackOff(time.Second) }}
	s, err := harebus.New(cfg)
	r.do(err)
	s.HandleMessage("Payment", func(_ context.Context, _ *harebus.Bus, m *harebus.Message) error { return fail(m) })
	r.start(s)
	r.do(s.Bus().Send(r.ctx, "payments", payment{card}))
	time.Sleep(time.Hour) // virtual
	if n := len(r.broker.Messages("error")); n != 1 {
		r.t.Errorf("%d messages are parked", n)
	}
	r.do(s.Close())
	var all metricdata.ResourceMetrics
	r.do(reader.Collect(r.ctx, &all))
	spans := tracetest.SpanStubsFromReadOnlySpans(r.spans.Ended())
	if len(spans) < 3 || len(all.ScopeMetrics) == 0 {
		r.t.Errorf("%d spans, %d scopes of metrics", len(spans), len(all.ScopeMetrics))
	}
	var shown strings.Builder
	for _, span := range spans {
		fmt.Fprintf(&shown, "%+v\n", span)
	}
	for _, scope := range all.ScopeMetrics {
		for _, m := range scope.Metrics {
			fmt.Fprintf(&shown, "%+v\n", m)
		}
	}
	return shown.String()
}
