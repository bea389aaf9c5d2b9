// Package otelbus makes OpenTelemetry traces and metrics of what a service does on the bus.
//
// An [Observer] goes into Config.Observers of the setup:
//
//	telemetry, err := otelbus.New(otelbus.Config{})
//	…
//	setup, err := harebus.New(harebus.Config{
//		Queue:     "orders",
//		Observers: []harebus.Observer{telemetry},
//	})
//
// The package uses the API of OpenTelemetry only. The program chooses the SDK, its
// exporters and its sampling. docs/telemetry.md describes spans, metrics, the board and
// the alerts.
package otelbus

import (
	"context"
	"strings"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"

	"github.com/harebus/harebus"
)

// scopeName is the instrumentation scope of all spans and metrics.
const scopeName = "github.com/harebus/harebus/otelbus"

// Config says where traces and metrics go. The zero value of every field means the
// default that its comment gives.
type Config struct {
	// TracerProvider makes the spans. Default: the global one of package otel.
	TracerProvider trace.TracerProvider
	// MeterProvider makes the metrics. Default: the global one of package otel.
	MeterProvider metric.MeterProvider
	// Propagator writes the trace context into the headers of messages and reads it
	// there. Default: propagation.TraceContext{}, which is traceparent and tracestate.
	// Baggage is passed on only if the propagator does so, such as
	// propagation.NewCompositeTextMapPropagator(propagation.TraceContext{}, propagation.Baggage{}).
	Propagator propagation.TextMapPropagator
	// NewTraceAfter starts a new trace for an attempt to handle a message that was sent
	// longer ago. The new trace has links to the sending and to the attempt before. It is
	// for messages that were deferred or waited for long, because a trace of days is hard
	// to find and to read. A message that was taken from the error queue starts a new trace
	// in any case. Default: 10 minutes. Negative: each attempt has a trace of its own.
	NewTraceAfter time.Duration
	// Destination is the name of a queue or a topic in spans and metrics. The function
	// must give a few names only; at most 200 are told apart, and all others are
	// [OtherName]. It is called with a queue for OpSend, OpDefer, OpRequest, OpHandle, OpConsume, OpRetry,
	// OpPostpone and OpPark, and with a topic for OpPublish. Default: the name of the queue, without the digits of a queue
	// of one instance, and the name of the exchange for a topic, because topics can hold ids.
	Destination func(op harebus.Operation, name string) string
}

// OtherName stands for the names of destinations and message types that are not told
// apart any more, because there are too many.
const OtherName = "_other"

// replyName is the destination of all replies: their queues often exist for one requester
// alone.
const replyName = "(reply)"

const defaultNewTraceAfter = 10 * time.Minute

// Observer makes spans and metrics of the operations of a setup. One Observer can serve
// several setups.
type Observer struct {
	cfg     Config
	tracer  trace.Tracer
	metrics *metrics

	routes      *table[route, outgoing]
	sending     *table[sending, sent]
	queues      *table[string, incoming]
	attempts    *table[ended, *count]
	handling    *table[handled, []metric.RecordOption]
	connections *table[string, connection]
	connects    *table[connecting, *count]
	consumers   *table[string, *count]
	outboxes    *table[string, outbox]
	schedules   *table[string, schedule]
	leads       *table[string, *count]
	servers     *table[string, server]
}

// New makes an Observer. It fails if the MeterProvider refuses a metric.
func New(cfg Config) (*Observer, error) {
	if cfg.TracerProvider == nil {
		cfg.TracerProvider = otel.GetTracerProvider()
	}
	if cfg.MeterProvider == nil {
		cfg.MeterProvider = otel.GetMeterProvider()
	}
	if cfg.Propagator == nil {
		cfg.Propagator = propagation.TraceContext{}
	}
	if cfg.NewTraceAfter == 0 {
		cfg.NewTraceAfter = defaultNewTraceAfter
	}
	m, err := newMetrics(cfg.MeterProvider.Meter(scopeName))
	if err != nil {
		return nil, err
	}
	other := func(string) string { return OtherName }
	return &Observer{
		cfg: cfg, tracer: cfg.TracerProvider.Tracer(scopeName), metrics: m,
		routes: newTable(newOutgoing, route.folded), sending: newTable(m.newSent, sending.folded),
		queues: newTable(m.newIncoming, other), attempts: newTable(m.newAttempt, ended.folded),
		handling:    newTable(newHandled, handled.folded),
		connections: newTable(m.newConnection, other), connects: newTable(m.newConnect, connecting.folded),
		consumers: newTable(m.newConsumer, other), servers: newTable(newServer, other),
		outboxes: newTable(m.newOutbox, other), schedules: newTable(m.newSchedule, other), leads: newTable(m.newLead, other),
	}, nil
}

// step is an operation under way. It is the context of what happens inside it.
type step struct {
	context.Context // with the span

	span     trace.Span
	began    time.Time
	outgoing outgoing
	incoming incoming
	attempt  *attempt // of OpHandle
}

// begin starts the span of a step. ObserveEnd ends it.
func (o *Observer) begin(ctx context.Context, s *step, name string, start ...trace.SpanStartOption) {
	s.Context, s.span = o.tracer.Start(ctx, name, start...) //nolint:spancheck // the end comes in another call
}

// attemptKey is the key of the attempt in the context of a handler.
type attemptKey struct{}

// Value returns the attempt, too.
func (s *step) Value(key any) any {
	if key == (attemptKey{}) && s.attempt != nil {
		return s.attempt
	}
	return s.Context.Value(key)
}

// ObserveStart starts the span of an operation, and writes its context into the message
// that the operation sends.
func (o *Observer) ObserveStart(ctx context.Context, e harebus.Observation) context.Context {
	switch e.Operation {
	case harebus.OpSend, harebus.OpPublish, harebus.OpDefer, harebus.OpReply, harebus.OpRequest:
		return o.startSend(ctx, &e)
	case harebus.OpCommit, harebus.OpForward:
		return o.startBatch(ctx, &e)
	case harebus.OpHandle:
		return o.startAttempt(ctx, &e)
	case harebus.OpRetry, harebus.OpPostpone, harebus.OpPark:
		return o.startCopy(ctx, &e)
	default:
		o.lasts(&e, 1)
		return ctx
	}
}

// ObserveEnd ends the span, and counts the operation.
func (o *Observer) ObserveEnd(ctx context.Context, e harebus.Observation, err error) {
	s, _ := ctx.(*step)
	switch e.Operation {
	case harebus.OpHandle:
		o.endAttempt(s, &e, err)
	case harebus.OpCommit, harebus.OpForward:
		o.endBatch(s, &e, err)
	case harebus.OpSend, harebus.OpPublish, harebus.OpDefer, harebus.OpReply, harebus.OpRequest, harebus.OpRetry, harebus.OpPostpone, harebus.OpPark:
		o.endSend(s, &e, err)
	case harebus.OpBacklog:
		o.looked(e.Backlog)
	case harebus.OpDue:
		o.due(e.Due)
	case harebus.OpLead:
		o.leads.get(o.queueName(harebus.OpLead, e.Queue)).Add(1)
	default:
		o.lasts(&e, -1)
		o.connected(&e, err)
	}
}

// queueName is the name of a queue in spans and metrics.
func (o *Observer) queueName(op harebus.Operation, queue string) string {
	if o.cfg.Destination != nil {
		return o.cfg.Destination(op, queue)
	}
	return ofService(queue)
}

// ofService is the name of a queue without the digits that end the name of one that belongs
// to a single instance of a service: a dot and twelve of them.
func ofService(queue string) string {
	const digits = 12
	end := len(queue) - digits
	if end < 1 || queue[end-1] != '.' || strings.Trim(queue[end:], "0123456789abcdef") != "" {
		return queue
	}
	return queue[:end] + "*"
}
