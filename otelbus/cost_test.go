package otelbus_test

import (
	"context"
	"testing"
	"time"

	"go.opentelemetry.io/otel/metric"
	metricnoop "go.opentelemetry.io/otel/metric/noop"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	sdk "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
	tracenoop "go.opentelemetry.io/otel/trace/noop"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/otelbus"
)

// discard is a processor that does nothing with a span.
type discard struct{}

func (discard) OnStart(context.Context, sdk.ReadWriteSpan) {}
func (discard) OnEnd(sdk.ReadOnlySpan)                     {}
func (discard) Shutdown(context.Context) error             { return nil }
func (discard) ForceFlush(context.Context) error           { return nil }

// costs are what can be switched on.
func costs() map[string]otelbus.Config {
	sampled := func(share float64) trace.TracerProvider {
		return sdk.NewTracerProvider(sdk.WithSpanProcessor(discard{}), sdk.WithSampler(sdk.TraceIDRatioBased(share)))
	}
	measured := func() metric.MeterProvider {
		return sdkmetric.NewMeterProvider(sdkmetric.WithReader(sdkmetric.NewManualReader()))
	}
	return map[string]otelbus.Config{
		"none":        {TracerProvider: tracenoop.NewTracerProvider(), MeterProvider: metricnoop.NewMeterProvider()},
		"metrics":     {TracerProvider: tracenoop.NewTracerProvider(), MeterProvider: measured()},
		"traces":      {TracerProvider: sampled(1), MeterProvider: metricnoop.NewMeterProvider()},
		"one percent": {TracerProvider: sampled(0.01), MeterProvider: measured()},
		"all":         {TracerProvider: sampled(1), MeterProvider: measured()},
	}
}

// sendAndHandle tells an observer of a message that is sent, and then handled.
func sendAndHandle(o *otelbus.Observer) {
	ctx := context.Background()
	headers := map[string]any{}
	sent := harebus.Observation{Operation: harebus.OpSend, Exchange: "PikaBusDirect", RoutingKey: "orders", Headers: headers}
	sending := o.ObserveStart(ctx, sent)
	sent.MessageID, sent.CorrelationID, sent.Type, sent.Size, sent.Address = "id-1", "conversation-1", "PlaceOrder", 256, "localhost:5672"
	o.ObserveEnd(sending, sent, nil)

	in := harebus.Observation{Operation: harebus.OpHandle, Size: 256, Address: "localhost:5672", Incoming: &harebus.Message{
		ID: "id-1", CorrelationID: "conversation-1", Type: "PlaceOrder", Queue: "orders", RoutingKey: "orders", Attempt: 1, Headers: headers,
	}}
	handling := o.ObserveStart(ctx, in)
	in.Outcome, in.HandlingTime, in.CriticalTime = harebus.AttemptHandled, time.Millisecond, time.Millisecond
	o.ObserveEnd(handling, in, nil)
}

// Costs are of the observer alone, and of what the SDK does for it.
func BenchmarkSendAndHandle(b *testing.B) {
	for name, cfg := range costs() {
		b.Run(name, func(b *testing.B) {
			o, err := otelbus.New(cfg)
			if err != nil {
				b.Fatal(err)
			}
			b.ReportAllocs()
			for b.Loop() {
				sendAndHandle(o)
			}
		})
	}
}

// TestAllocations: a message that is sent and handled costs at most so many allocations. Without traces they are those of the
// Observer alone.
func TestAllocations(t *testing.T) {
	most := map[string]float64{"none": 8, "metrics": 8, "traces": 40, "one percent": 40, "all": 40}
	for name, cfg := range costs() {
		o, err := otelbus.New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		sendAndHandle(o)
		n := testing.AllocsPerRun(100, func() { sendAndHandle(o) })
		t.Logf("%s: %v", name, n)
		if n > most[name] {
			t.Errorf("%s: %v allocations, more than %v", name, n, most[name])
		}
	}
}
