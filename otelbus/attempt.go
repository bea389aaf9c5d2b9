package otelbus

import (
	"context"
	"slices"
	"strings"
	"sync"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/trace"

	"github.com/harebus/harebus"
)

// attempt is one attempt to handle a message.
type attempt struct {
	ctx context.Context // with its span
	// known says that the message came with a trace context.
	known bool

	mu   sync.Mutex // guards what follows
	made []trace.Link
}

// mostLinks is how many links an SDK keeps of a span.
const mostLinks = 128

// add notes a message that waits for the commit.
func (a *attempt) add(span trace.Span) {
	if sc := span.SpanContext(); sc.IsSampled() {
		a.mu.Lock()
		defer a.mu.Unlock()
		if len(a.made) < mostLinks {
			a.made = append(a.made, trace.Link{SpanContext: sc})
		}
	}
}

// take returns the messages that wait for the commit.
func (a *attempt) take() []trace.Link {
	a.mu.Lock()
	defer a.mu.Unlock()
	made := a.made
	a.made = nil
	return made
}

// incoming is what the spans and metrics of a queue share.
type incoming struct {
	queue string
	name  string // of the span
	start []trace.SpanStartOption

	inFlight, consumed *count
}

func (m *metrics) newIncoming(queue string) incoming {
	queue = strings.Clone(queue)
	attributes := ofQueue(queue)
	return incoming{
		queue: queue, name: process + " " + queue,
		start:    []trace.SpanStartOption{trace.WithSpanKind(trace.SpanKindConsumer), trace.WithAttributes(append(attributes, operationProcess)...)},
		inFlight: m.inFlight.with(attributes...), consumed: m.consumed.with(attributes...),
	}
}

func ofQueue(queue string) []attribute.KeyValue {
	return []attribute.KeyValue{system, keyOperation.String(process), keyDestination.String(queue)}
}

// ended is what has become of an attempt.
type ended struct {
	queue   string
	outcome harebus.AttemptOutcome
}

func (e ended) folded() ended { return ended{OtherName, e.outcome} }

func (m *metrics) newAttempt(e ended) *count {
	return m.attempts.with(append(ofQueue(e.queue), keyOutcome.String(e.outcome.String()))...)
}

// handled is a message type of a queue, and how its handling has failed; "" is not at all.
type handled struct{ queue, messageType, failure string }

func (h handled) folded() handled {
	if h.failure != "" {
		h.failure = OtherName
	}
	return handled{h.queue, OtherName, h.failure}
}

func newHandled(h handled) []metric.RecordOption {
	attributes := append(ofQueue(strings.Clone(h.queue)), keyType.String(strings.Clone(h.messageType)))
	return recorded(appendText(attributes, keyError, h.failure)...)
}

func (o *Observer) startAttempt(ctx context.Context, e *harebus.Observation) context.Context {
	m := e.Incoming
	s := &step{incoming: o.queues.get(o.queueName(harebus.OpHandle, m.Queue)), attempt: &attempt{}}
	ctx = o.cfg.Propagator.Extract(ctx, carrier(m.Headers))
	sent, before := trace.SpanContextFromContext(ctx), attemptBefore(m.Headers, m.ID)
	s.attempt.known = sent.IsValid()
	start := slices.Clip(s.incoming.start)
	if before.IsValid() {
		start = append(start, trace.WithLinks(trace.Link{SpanContext: before}))
	}
	if o.startsTrace(m, before) {
		start = append(start, trace.WithNewRoot())
		if sent.IsValid() {
			start = append(start, trace.WithLinks(trace.Link{SpanContext: sent}))
		}
	}
	o.begin(ctx, s, s.incoming.name, start...)
	s.attempt.ctx = s.Context
	s.incoming.inFlight.Add(1)
	return s
}

// startsTrace says whether an attempt has a trace of its own: because the message was sent
// long ago, or because it comes from the error queue. A message that comes from there has
// been attempted, but counts as new.
func (o *Observer) startsTrace(m *harebus.Message, before trace.SpanContext) bool {
	redriven := before.IsValid() && m.Attempt == 1 && m.SourceQueue == ""
	old := !m.TimeSent.IsZero() && time.Since(m.TimeSent) > o.cfg.NewTraceAfter
	return redriven || old || o.cfg.NewTraceAfter < 0
}

func (o *Observer) endAttempt(s *step, e *harebus.Observation, err error) {
	failure := errorType(err)
	if s.span.IsRecording() {
		s.span.SetAttributes(o.ofAttempt(e)...)
		o.judge(s.span, e, failure, err)
	}
	s.span.End()
	queue := s.incoming.queue
	s.incoming.inFlight.Add(-1)
	s.incoming.consumed.Add(1)
	o.attempts.get(ended{queue, e.Outcome}).Add(1)
	if e.HandlingTime <= 0 {
		return // no handler was called, so the type can be any text
	}
	o.metrics.process.Record(s, e.HandlingTime.Seconds(), o.handling.get(handled{queue, e.Incoming.Type, failure})...)
	if e.CriticalTime > 0 {
		o.metrics.critical.Record(s, e.CriticalTime.Seconds(), o.handling.get(handled{queue, e.Incoming.Type, ""})...)
	}
}

// ofAttempt are the attributes of an attempt.
func (o *Observer) ofAttempt(e *harebus.Observation) []attribute.KeyValue {
	const most = 9
	m := e.Incoming
	found := append(make([]attribute.KeyValue, 0, most), keyAttempt.Int(m.Attempt), keyOutcome.String(e.Outcome.String()))
	if m.RoutingKey != m.Queue {
		found = appendText(found, keyRoutingKey, m.RoutingKey)
	}
	found = appendText(found, keyMessage, m.ID)
	found = appendText(found, keyConversation, m.CorrelationID)
	found = appendText(found, keyType, m.Type)
	if m.Redelivered {
		found = append(found, keyRedelivered.Bool(true))
	}
	return o.appendServer(found, e.Address)
}

// judge notes why an attempt failed. Only a failure that is final is an error: after any
// other the message is handled again.
func (o *Observer) judge(span trace.Span, e *harebus.Observation, failure string, err error) {
	if err == nil {
		return
	}
	span.SetAttributes(keyError.String(failure))
	span.AddEvent("exception", trace.WithAttributes(keyExceptionType.String(typeName(err)), keyExceptionText.String(shortText(err))))
	if e.Outcome == harebus.AttemptParked || e.Outcome == harebus.AttemptDiscarded {
		span.SetStatus(codes.Error, shortText(err))
	}
}
