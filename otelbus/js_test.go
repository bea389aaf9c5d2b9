//go:build oteljs

package otelbus_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"io"
	"os/exec"
	"testing"
	"time"

	"go.opentelemetry.io/otel/baggage"
	"go.opentelemetry.io/otel/propagation"
	sdk "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/brokertest"
	"github.com/harebus/harebus/otelbus"
)

// jsSpan is a line of testdata/peer.js: a message that it got, or a span.
type jsSpan struct {
	Got, Baggage, State       string
	Kind, Trace, Span, Parent string
}

// TestOpenTelemetryJS: a service with OpenTelemetry's instrumentation for JavaScript continues the trace of what harebus sends,
// with its baggage and its vendor's state, and harebus continues the trace of what that service sends.
func TestOpenTelemetryJS(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	broker := brokertest.New()
	defer broker.Close()
	address, err := broker.Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	spans := tracetest.NewSpanRecorder()
	telemetry, err := otelbus.New(otelbus.Config{
		TracerProvider: sdk.NewTracerProvider(sdk.WithSpanProcessor(spans)),
		Propagator:     propagation.NewCompositeTextMapPropagator(propagation.TraceContext{}, propagation.Baggage{}),
	})
	if err != nil {
		t.Fatal(err)
	}
	setup, err := harebus.New(harebus.Config{URL: broker.URL(), Dial: broker.Dial, Queue: "answers", Observers: []harebus.Observer{telemetry}})
	if err != nil {
		t.Fatal(err)
	}
	answered := make(chan trace.SpanContext, 1)
	harebus.Handle(setup, func(ctx context.Context, _ *harebus.Bus, _ OrderPlaced) error {
		answered <- trace.SpanContextFromContext(ctx)
		return nil
	})
	if err := setup.Start(ctx); err != nil {
		t.Fatal(err)
	}
	defer setup.Close()

	peer := exec.CommandContext(ctx, "../scripts/otel-js", "testdata/peer.js", "amqp://guest:guest@"+address.String(), "js", "answers")
	input, output, failures := try(t, peer.StdinPipe), try(t, peer.StdoutPipe), new(bytes.Buffer)
	peer.Stderr = failures
	if err := peer.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(output)
	next := func() (one jsSpan) {
		t.Helper()
		if !lines.Scan() {
			t.Fatalf("the peer ended: %v\n%s", peer.Wait(), failures)
		}
		if err := json.Unmarshal(lines.Bytes(), &one); err != nil {
			t.Fatalf("%s: %v", lines.Bytes(), err)
		}
		return one
	}
	next() // it is ready

	tenant, err := baggage.Parse("tenant=oslo")
	if err != nil {
		t.Fatal(err)
	}
	state, err := trace.ParseTraceState("vendor=x")
	if err != nil {
		t.Fatal(err)
	}
	outside := trace.NewSpanContext(trace.SpanContextConfig{TraceID: trace.TraceID{1}, SpanID: trace.SpanID{2}, TraceFlags: trace.FlagsSampled, TraceState: state})
	from := trace.ContextWithSpanContext(baggage.ContextWithBaggage(ctx, tenant), outside)
	if err := setup.Bus().Send(from, "js", PlaceOrder{7}, harebus.WithMessageID("from go")); err != nil {
		t.Fatal(err)
	}
	if got := next(); got.Got != "from go" || got.Baggage != "oslo" || got.State != "x" {
		t.Errorf("the peer got %+v", got)
	}
	var handled trace.SpanContext
	select {
	case handled = <-answered:
	case <-ctx.Done():
		t.Fatal("no answer")
	}
	if err := input.Close(); err != nil {
		t.Fatal(err)
	}
	js := map[string]jsSpan{}
	for lines.Scan() {
		var one jsSpan
		if err := json.Unmarshal(lines.Bytes(), &one); err != nil {
			t.Fatalf("%s: %v", lines.Bytes(), err)
		}
		js[one.Kind] = one
	}
	if err := peer.Wait(); err != nil {
		t.Fatalf("%v\n%s", err, failures)
	}
	ours := map[string]sdk.ReadOnlySpan{}
	for _, span := range spans.Ended() {
		ours[span.Name()] = span
	}
	sent, process := ours["send js"], ours["process answers"]
	if sent == nil || process == nil {
		t.Fatalf("spans: %v", ours)
	}
	if consumer := js["CONSUMER"]; consumer.Trace != sent.SpanContext().TraceID().String() || consumer.Parent != sent.SpanContext().SpanID().String() {
		t.Errorf("the peer's span %+v does not continue %v", consumer, sent.SpanContext())
	}
	if producer := js["PRODUCER"]; producer.Trace != handled.TraceID().String() || producer.Span != process.Parent().SpanID().String() || producer.Parent != js["CONSUMER"].Span {
		t.Errorf("%v with the parent %v does not continue the peer's span %+v", handled, process.Parent(), producer)
	}
}

func try[T io.Closer](t *testing.T, pipe func() (T, error)) T {
	t.Helper()
	end, err := pipe()
	if err != nil {
		t.Fatal(err)
	}
	return end
}
