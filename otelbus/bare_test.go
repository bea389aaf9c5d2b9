package otelbus_test

import (
	"context"
	"testing"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
)

// BenchmarkBareSDK is what the SDK alone takes for the same two spans and three measurements: the least that an
// observer can cost.
func BenchmarkBareSDK(b *testing.B) {
	cfg := costs()["all"]
	tracer, meter := cfg.TracerProvider.Tracer("bare"), cfg.MeterProvider.Meter("bare")
	histogram, err := meter.Float64Histogram("bare.duration")
	if err != nil {
		b.Fatal(err)
	}
	fixed := []attribute.KeyValue{attribute.String("messaging.system", "rabbitmq"), attribute.String("messaging.operation.name", "send"), attribute.String("messaging.destination.name", "orders")}
	record := []metric.RecordOption{metric.WithAttributeSet(attribute.NewSet(fixed...))}
	starts := [][]trace.SpanStartOption{
		{trace.WithSpanKind(trace.SpanKindProducer), trace.WithAttributes(fixed...)},
		{trace.WithSpanKind(trace.SpanKindConsumer), trace.WithAttributes(fixed...)},
	}
	b.ReportAllocs()
	for b.Loop() {
		c := propagation.MapCarrier{}
		ctx, span := tracer.Start(context.Background(), "send orders", starts[0]...)
		propagation.TraceContext{}.Inject(ctx, c)
		span.SetAttributes(attribute.String("messaging.operation.type", "send"), attribute.String("messaging.message.id", "id-1"),
			attribute.String("messaging.message.conversation_id", "conversation-1"), attribute.String("harebus.message.type", "PlaceOrder"),
			attribute.String("server.address", "localhost"), attribute.Int("server.port", 5672))
		span.End()
		histogram.Record(ctx, time.Millisecond.Seconds(), record...)

		ctx, span = tracer.Start(propagation.TraceContext{}.Extract(context.Background(), c), "process orders", starts[1]...)
		span.SetAttributes(attribute.Int("harebus.attempt", 1), attribute.String("harebus.outcome", "handled"), attribute.String("messaging.message.id", "id-1"),
			attribute.String("messaging.message.conversation_id", "conversation-1"), attribute.String("harebus.message.type", "PlaceOrder"),
			attribute.String("server.address", "localhost"), attribute.Int("server.port", 5672))
		span.End()
		histogram.Record(ctx, time.Millisecond.Seconds(), record...)
		histogram.Record(ctx, time.Millisecond.Seconds(), record...)
	}
}
