package saga

import (
	"context"
	"fmt"
	"reflect"
	"slices"
	"time"

	"github.com/harebus/harebus"
)

// Instance is one process of a saga while a step of it runs. What its methods send is
// committed together with State. Do not use it after the step has returned.
type Instance[S any] struct {
	// Sender is the bus of the handler.
	harebus.Sender
	// State is kept when the step returns nil. It is zero when the instance begins.
	State S
	// Key is what the step's function made of the message. It is for reading.
	Key string
	// New says that this message has started the instance.
	New bool

	saga     *saga
	run      string
	queue    string
	complete bool
}

// Complete ends the instance when the step returns nil. Its state is removed. Messages for it
// that come later are dropped, and so are its timeouts. A message that can start an instance
// starts another.
func (i *Instance[S]) Complete() { i.complete = true }

// The headers of a timeout.
const (
	headerSaga = "Saga.Name"
	headerKey  = "Saga.Key"
	headerRun  = "Saga.Run"
)

// Timeout sends message to the saga's own queue, for the step that [OnTimeout] makes for its
// type, after the given time. When the instance has ended by then, the message is dropped,
// also if there is another instance with the same key. The time is as exact, and as limited, as that of
// [harebus.Bus.Defer]. There is no need to cancel a timeout.
func (i *Instance[S]) Timeout(ctx context.Context, after time.Duration, message any, opts ...harebus.SendOption) error {
	t := reflect.TypeOf(message)
	for t != nil && t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if !i.saga.timeouts[t] {
		return harebus.NoRetry(fmt.Errorf("saga: %s: timeout %T: no step is for it; register one with OnTimeout", i.saga.name, message))
	}
	opts = append(slices.Clip(opts), harebus.WithHeader(headerSaga, i.saga.name), harebus.WithHeader(headerKey, i.Key), harebus.WithHeader(headerRun, i.run))
	return i.Defer(ctx, i.queue, after, message, opts...)
}
