package otelbus

import (
	"context"
	"strings"

	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
)

const (
	// traceparent is the header of the W3C.
	traceparent = "traceparent"
	// massTransit and wolverine are headers of the same content that these buses write
	// instead.
	massTransit, wolverine = "MT-Activity-Id", "parent-id"
	// attemptHeader has the context of the attempt before, in the form of traceparent, and
	// after a blank the id of the message. A handler may pass on the headers of its message
	// with another one, which was not attempted: its id differs.
	attemptHeader = "attempt-traceparent"
	// mostBytes is the length of the longest header that is written or read: the limit of
	// the W3C for baggage.
	mostBytes = 8192
)

// carrier is the header table of a message as a propagator uses it.
type carrier map[string]any

// Get returns the text of a header, or "".
func (c carrier) Get(key string) string {
	if text := c.text(key); text != "" || key != traceparent {
		return text
	}
	if text := c.text(massTransit); text != "" {
		return text
	}
	return c.text(wolverine)
}

func (c carrier) text(key string) string {
	switch value := c[key].(type) {
	case string:
		return bounded(value)
	case []byte:
		return bounded(string(value))
	default:
		return ""
	}
}

// Set writes a header, unless it is too long for one.
func (c carrier) Set(key, value string) {
	if len(value) <= mostBytes {
		c[key] = value
	}
}

// Keys returns the names of all headers.
func (c carrier) Keys() []string {
	keys := make([]string, 0, len(c))
	for key := range c {
		keys = append(keys, key)
	}
	return keys
}

func bounded(text string) string {
	if len(text) > mostBytes {
		return ""
	}
	return text
}

// single is a carrier of one value.
type single struct{ value string }

func (s *single) Get(key string) string {
	if key == traceparent {
		return s.value
	}
	return ""
}

func (s *single) Set(key, value string) {
	if key == traceparent {
		s.value = value
	}
}

func (*single) Keys() []string { return []string{traceparent} }

// markAttempt writes the context of an attempt into a copy of its message.
func markAttempt(ctx context.Context, headers map[string]any, id string) {
	var c single
	propagation.TraceContext{}.Inject(ctx, &c)
	if c.value != "" {
		headers[attemptHeader] = c.value + " " + id
	}
}

// attemptBefore reads the context of the attempt before. It is not valid if there was none.
func attemptBefore(headers map[string]any, id string) trace.SpanContext {
	if _, ok := headers[attemptHeader]; !ok {
		return trace.SpanContext{}
	}
	value, of, _ := strings.Cut(carrier(headers).text(attemptHeader), " ")
	if of != id {
		return trace.SpanContext{}
	}
	return trace.SpanContextFromContext(propagation.TraceContext{}.Extract(context.Background(), &single{value}))
}
