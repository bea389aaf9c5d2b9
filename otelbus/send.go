package otelbus

import (
	"cmp"
	"context"
	"slices"
	"strings"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/trace"

	"github.com/harebus/harebus"
)

// route is an operation that sends, and where to.
type route struct {
	operation   harebus.Operation
	destination string
}

func (r route) folded() route { return route{r.operation, OtherName} }

// outgoing is what the spans of a route share.
type outgoing struct {
	route
	name  string // of the span
	start []trace.SpanStartOption
}

func newOutgoing(r route) outgoing {
	r.destination = strings.Clone(r.destination)
	name := r.operation.String()
	if r.destination != "" && r.destination != replyName && r.destination != OtherName {
		name += " " + r.destination
	}
	kind := trace.SpanKindProducer
	if r.operation == harebus.OpCommit || r.operation == harebus.OpForward {
		kind = trace.SpanKindClient
	}
	return outgoing{r, name, []trace.SpanStartOption{trace.WithSpanKind(kind), trace.WithAttributes(r.attributes()...)}}
}

func (r route) attributes() []attribute.KeyValue {
	all := []attribute.KeyValue{system, keyOperation.String(r.operation.String())}
	return appendText(all, keyDestination, r.destination)
}

// sending is a route, and how a message that took it has failed; "" is not at all.
type sending struct {
	route
	failure string
}

func (s sending) folded() sending {
	if s.failure != "" {
		s.failure = OtherName
	}
	return sending{s.route.folded(), s.failure}
}

// sent is what the metrics of a sending share.
type sent struct {
	record   []metric.RecordOption
	messages *count
}

func (m *metrics) newSent(s sending) sent {
	attributes := appendText(s.route.attributes(), keyError, s.failure)
	return sent{recorded(attributes...), m.sent.with(attributes...)}
}

// route gives an operation that sends a name that few operations have.
func (o *Observer) route(e *harebus.Observation) outgoing {
	name := e.RoutingKey
	switch {
	case e.Operation == harebus.OpReply:
		name = replyName
	case e.Operation == harebus.OpPublish && o.cfg.Destination == nil:
		name = cmp.Or(e.Exchange, "amq.default")
	default:
		name = o.queueName(e.Operation, name)
	}
	return o.routes.get(route{e.Operation, name})
}

func (o *Observer) startSend(ctx context.Context, e *harebus.Observation) context.Context {
	s := &step{began: time.Now(), outgoing: o.route(e)}
	o.begin(ctx, s, s.outgoing.name, s.outgoing.start...)
	o.cfg.Propagator.Inject(s.Context, carrier(e.Headers))
	return s
}

// startCopy is for a message that is sent again, to be handled later or to the error queue.
// The copy keeps the context of the sending, and has that of the attempt beside it.
func (o *Observer) startCopy(ctx context.Context, e *harebus.Observation) context.Context {
	s := &step{began: time.Now(), outgoing: o.route(e)}
	tried, _ := ctx.Value(attemptKey{}).(*attempt)
	if tried == nil { // the message came too early, or is parked later than it failed
		ctx = o.cfg.Propagator.Extract(ctx, carrier(e.Incoming.Headers))
	} else {
		markAttempt(tried.ctx, e.Headers, e.Incoming.ID)
		if !tried.known {
			o.cfg.Propagator.Inject(tried.ctx, carrier(e.Headers))
		}
	}
	o.begin(ctx, s, s.outgoing.name, s.outgoing.start...)
	return s
}

func (o *Observer) endSend(s *step, e *harebus.Observation, err error) {
	failure := errorType(err)
	if s.span.IsRecording() {
		s.span.SetAttributes(o.ofMessage(s, e)...)
		finish(s.span, failure, err)
	}
	s.span.End()
	if e.Buffered {
		if tried, _ := s.Context.Value(attemptKey{}).(*attempt); tried != nil {
			tried.add(s.span)
		}
		return
	}
	o.count(s, failure, 1)
}

// ofMessage are the attributes of a message that was sent.
func (o *Observer) ofMessage(s *step, e *harebus.Observation) []attribute.KeyValue {
	const most = 7
	kind, conversation, messageType := operationSend, e.CorrelationID, e.Type
	if e.Buffered {
		kind = operationCreate
	}
	if e.Incoming != nil {
		conversation, messageType = e.Incoming.CorrelationID, e.Incoming.Type
	}
	found := append(make([]attribute.KeyValue, 0, most), kind)
	if e.RoutingKey != s.outgoing.destination {
		found = appendText(found, keyRoutingKey, e.RoutingKey)
	}
	found = appendText(found, keyMessage, e.MessageID)
	found = appendText(found, keyConversation, conversation)
	found = appendText(found, keyType, messageType)
	return o.appendServer(found, e.Address)
}

func (o *Observer) appendServer(to []attribute.KeyValue, address string) []attribute.KeyValue {
	if address == "" {
		return to
	}
	at := o.servers.get(address)
	return append(to, at[0], at[1])
}

func appendText(to []attribute.KeyValue, key attribute.Key, text string) []attribute.KeyValue {
	if text == "" {
		return to
	}
	return append(to, key.String(text))
}

// finish sets the status of the span of an operation that has failed.
func finish(span trace.Span, failure string, err error) {
	if err == nil {
		return
	}
	span.SetAttributes(keyError.String(failure))
	span.SetStatus(codes.Error, shortText(err))
}

func (o *Observer) startBatch(ctx context.Context, e *harebus.Observation) context.Context {
	s := &step{began: time.Now(), outgoing: o.routes.get(route{operation: e.Operation})}
	start := s.outgoing.start
	if tried, _ := ctx.Value(attemptKey{}).(*attempt); tried != nil {
		if made := tried.take(); len(made) > 0 {
			start = append(slices.Clip(start), trace.WithLinks(made...))
		}
	}
	o.begin(ctx, s, s.outgoing.name, start...)
	return s
}

func (o *Observer) endBatch(s *step, e *harebus.Observation, err error) {
	failure := errorType(err)
	if s.span.IsRecording() {
		s.span.SetAttributes(o.appendServer([]attribute.KeyValue{operationSend, keyBatch.Int(e.Messages)}, e.Address)...)
		finish(s.span, failure, err)
	}
	s.span.End()
	o.count(s, failure, e.Messages)
}

// count notes that messages were sent, and how long that took.
func (o *Observer) count(s *step, failure string, messages int) {
	of := o.sending.get(sending{s.outgoing.route, failure})
	o.metrics.operation.Record(s, time.Since(s.began).Seconds(), of.record...)
	of.messages.Add(int64(messages))
}
