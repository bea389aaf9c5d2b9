package otelbus_test

import (
	"fmt"
	"io"
	"slices"

	"go.opentelemetry.io/otel/codes"
	sdk "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
)

// tree prints spans as a tree for each trace, in the order of their start: the name of each, its outcome if it is an attempt,
// "ERROR" if it has that status, and the spans that it has links to.
func tree(w io.Writer, spans []sdk.ReadOnlySpan) {
	slices.SortStableFunc(spans, func(a, b sdk.ReadOnlySpan) int { return a.StartTime().Compare(b.StartTime()) })
	children := map[trace.SpanID][]sdk.ReadOnlySpan{}
	names := map[trace.SpanID]string{}
	for _, span := range spans {
		names[span.SpanContext().SpanID()] = label(span)
		children[span.Parent().SpanID()] = append(children[span.Parent().SpanID()], span)
	}
	var show func(span sdk.ReadOnlySpan, depth string)
	show = func(span sdk.ReadOnlySpan, depth string) {
		line := depth + label(span)
		if span.Status().Code == codes.Error {
			line += " ERROR " + span.Status().Description
		}
		for _, link := range span.Links() {
			line += " → " + names[link.SpanContext.SpanID()]
		}
		fmt.Fprintln(w, line)
		for _, child := range children[span.SpanContext().SpanID()] {
			show(child, depth+"  ")
		}
	}
	for i, root := range children[trace.SpanID{}] {
		fmt.Fprintf(w, "trace %d\n", i+1)
		show(root, "  ")
	}
}

// label is the name of a span, and of an attempt its number and its outcome.
func label(span sdk.ReadOnlySpan) string {
	about := values(span)
	if about["harebus.attempt"] == "" {
		return span.Name()
	}
	return fmt.Sprintf("%s (%s: %s)", span.Name(), about["harebus.attempt"], about["harebus.outcome"])
}

// values are the attributes of a span.
func values(span sdk.ReadOnlySpan) map[string]string {
	found := map[string]string{}
	for _, one := range span.Attributes() {
		found[string(one.Key)] = one.Value.String()
	}
	return found
}
