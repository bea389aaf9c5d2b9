package batch

import (
	"context"
	"time"
)

// limited is the context of a batch. It ends with that of the message that has the shortest time
// limit, and has none of its values.
type limited struct {
	context.Context
	by context.Context
}

// shared makes the context of a batch. The caller calls end.
func shared[T any](items []Item[T]) (ctx context.Context, end func()) {
	tightest := items[0]
	for _, i := range items[1:] {
		limit, ok := i.ctx.Deadline()
		if least, limited := tightest.ctx.Deadline(); ok && (!limited || limit.Before(least)) {
			tightest = i
		}
	}
	by := tightest.ctx
	ctx, cancel := context.WithCancelCause(context.Background())
	stop := context.AfterFunc(by, func() { cancel(context.Cause(by)) })
	return limited{ctx, by}, func() { stop(); cancel(nil) }
}

// Deadline is the shortest time limit.
func (l limited) Deadline() (time.Time, bool) { return l.by.Deadline() }

// Err tells the end of the time from the end of a stop.
func (l limited) Err() error {
	if l.Context.Err() == nil {
		return nil
	}
	if err := l.by.Err(); err != nil {
		return err
	}
	return l.Context.Err()
}
