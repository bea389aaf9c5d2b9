// Package observe calls several observers at the start and at the end of operations.
// Observers are foreign code: one that panics, ends its goroutine or does not return
// harms neither the operation nor the other observers.
package observe

import (
	"context"
	"fmt"
	"maps"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
)

// Patience is how long an operation waits for one call of an observer.
const Patience = 5 * time.Second

var errLate = fmt.Errorf("no answer within %v; the observer is told nothing more until the call has returned", Patience)

// Event describes an operation. String names it for the log.
type Event interface{ String() string }

// Observer is told of operations, which an E describes.
type Observer[E Event] interface {
	ObserveStart(ctx context.Context, event E) context.Context
	ObserveEnd(ctx context.Context, event E, err error)
}

// Group is several observers.
type Group[E Event] struct {
	seats []*seat[E]
	how   Config[E]
	calls sync.Pool // of *call[E]
}

// Config is how a [Group] treats its observers.
type Config[E Event] struct {
	Log *zap.Logger
	// Carrier gives an event a map of its own in which one observer can leave headers,
	// and returns it, or nil if the operation carries none.
	Carrier func(*E) map[string]any
	// Headers are those that can be sent, of what an observer has left. Like Shown, it
	// is called in the goroutine of the observer.
	Headers func(left map[string]any) map[string]any
	// Shown is the error of an operation as observers see it.
	Shown func(error) error
}

// seat is the place of one observer.
type seat[E Event] struct {
	observer Observer[E]
	late     atomic.Int64 // calls that have not returned in time
}

// New makes a group of observers.
func New[E Event, O Observer[E]](observers []O, how Config[E]) *Group[E] {
	g := &Group[E]{how: how}
	g.calls.New = func() any { return newCall[E]() }
	for _, o := range observers {
		g.seats = append(g.seats, &seat[E]{observer: o})
	}
	return g
}

// Any says whether there is an observer.
func (g *Group[E]) Any() bool { return len(g.seats) > 0 }

// Operation is an operation that has started. It is nil if there is no observer.
type Operation[E Event] struct {
	// Event is what the observers get at the end.
	Event E
	// Headers are what the observers have left; a later one overwrites an earlier one.
	Headers map[string]any

	group    *Group[E]
	contexts []context.Context // what each observer returned; nil: its end is not told
}

// Start tells the observers of the start of an operation, in their order. The context it
// returns ends as ctx does and has the values that the observers have added.
func (g *Group[E]) Start(ctx context.Context, event E) (context.Context, *Operation[E]) {
	if !g.Any() {
		return ctx, nil
	}
	return g.start(ctx, event)
}

func (g *Group[E]) start(ctx context.Context, event E) (context.Context, *Operation[E]) {
	o := &Operation[E]{Event: event, group: g, contexts: make([]context.Context, len(g.seats))}
	for i := range g.seats {
		seen := event
		carrier := g.how.Carrier(&seen) // of this observer alone, because it may write late
		own, left, ok := g.call(i, job[E]{ctx: ctx, event: seen, carrier: carrier})
		if !ok {
			continue
		}
		if own == nil {
			own = ctx
		}
		if o.contexts[i] = own; own != ctx {
			ctx = valued{ctx, context.WithoutCancel(own)} //nolint:fatcontext // one for each observer
		}
		o.add(left)
	}
	return ctx, o
}

func (o *Operation[E]) add(headers map[string]any) {
	if len(o.Headers) == 0 {
		o.Headers = headers
		return
	}
	maps.Copy(o.Headers, headers)
}

// End tells the observers of the end of the operation, in reverse order.
func (o *Operation[E]) End(err error) {
	if o == nil {
		return
	}
	for i := len(o.contexts) - 1; i >= 0; i-- {
		if own := o.contexts[i]; own != nil {
			o.group.call(i, job[E]{ctx: own, event: o.Event, end: true, err: err})
		}
	}
}

// valued is a context with values of another one. That the other has ended does not
// count: an observer must not cut off an operation.
type valued struct {
	context.Context
	values context.Context
}

// Value looks among the other's values first.
func (v valued) Value(key any) any {
	if value := v.values.Value(key); value != nil {
		return value
	}
	return v.Context.Value(key)
}
