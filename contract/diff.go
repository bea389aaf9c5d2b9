package contract

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// Change is one difference between two versions of a contract.
type Change struct {
	// Breaking says that a service on the other side, which keeps to the old version, can fail.
	Breaking bool `json:"breaking"`
	// Operation is what has changed: receive "PlaceOrder", queue "orders".
	Operation string `json:"operation"`
	// Field is where in the message: /payload/lines/*/price. It is empty for the operation itself.
	Field string `json:"field,omitempty"`
	// Text says what was, and what is now: type "integer" → "string".
	Text string `json:"text"`
}

// String is the change in one line.
func (c Change) String() string { return strings.TrimSpace(c.Operation+" "+c.Field) + ": " + c.Text }

// Diff compares two versions of the document of a service. What the service receives may become more, and what it sends may
// become less. Whatever the services on the other side can notice of the contrary is breaking:
//
//   - An operation is gone: a message, a handler or a queue, or the type, the exchange or the topic has another name.
//   - A queue is bound to another exchange, or a topic is not bound to it any more ([Extension]).
//   - The content type has changed.
//   - In a message that is received, a field is required now, or a type, format, enum or bound allows less.
//   - In a message that is sent, a field that was always there can be missing now, or a type, format, enum or bound allows more.
//
// What Diff cannot compare, such as two different values of allOf, counts as breaking. The changes are sorted, those that
// break first.
func Diff(before, after *Document) ([]Change, error) {
	var changes []Change
	known := map[string]*operation{}
	for i := range after.operations {
		known[after.operations[i].key()] = &after.operations[i]
	}
	for i := range before.operations {
		was := &before.operations[i]
		is := known[was.key()]
		if is == nil {
			changes = append(changes, Change{true, was.String(), "", after.gone(was)})
			continue
		}
		delete(known, was.key())
		found, err := compare(before, after, was, is)
		if err != nil {
			return nil, fmt.Errorf("contract: compare %s: %w", was, err)
		}
		changes = append(changes, found...)
	}
	for _, is := range known {
		changes = append(changes, Change{false, is.String(), "", "added"})
	}
	changes = append(changes, rebound(before, after)...)
	slices.SortFunc(changes, func(a, b Change) int {
		if a.Breaking != b.Breaking {
			return map[bool]int{true: -1, false: 1}[a.Breaking]
		}
		return cmp.Or(cmp.Compare(a.Operation, b.Operation), cmp.Compare(a.Field, b.Field), cmp.Compare(a.Text, b.Text))
	})
	return changes, nil
}

// gone says where an operation that is gone may be now.
func (d *Document) gone(was *operation) string {
	for i := range d.operations {
		if is := &d.operations[i]; is.action == was.action && is.message == was.message {
			return "gone; the message is now in " + is.place
		}
	}
	return "gone"
}

// compare compares one operation in both versions.
func compare(before, after *Document, was, is *operation) ([]Change, error) {
	var changes []Change
	if was.contentType != is.contentType {
		changes = append(changes, Change{true, was.String(), "", fmt.Sprintf("content type %q → %q", was.contentType, is.contentType)})
	}
	for _, part := range []struct {
		name    string
		was, is any
	}{{"/headers", was.headers, is.headers}, {"/payload", was.payload, is.payload}} {
		less, err := comparison{from: before, to: after, closed: was.action == "receive"}.fits(part.was, part.is)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", part.name, err)
		}
		more, err := comparison{from: after, to: before}.fits(part.is, part.was)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", part.name, err)
		}
		breaking, others := less, swapped(more)
		if was.action == "send" {
			breaking, others = others, breaking
		}
		for _, m := range breaking {
			changes = append(changes, Change{!m.harmless, was.String(), part.name + m.field, m.text()})
		}
		for _, m := range others {
			if !slices.Contains(breaking, m) {
				changes = append(changes, Change{false, was.String(), part.name + m.field, m.text()})
			}
		}
	}
	return changes, nil
}
