// Package background keeps a function of the user running while a service does.
package background

import (
	"context"
	"time"

	"github.com/cenkalti/backoff/v4"
	"go.uber.org/zap"

	"github.com/harebus/harebus/internal/foreign"
	"github.com/harebus/harebus/internal/wait"
)

// Task is a function that is kept running.
type Task struct {
	cancel context.CancelCauseFunc
	done   chan struct{}
}

// Keep calls run, and again when it ends before its context does.
func Keep(ctx context.Context, name string, log *zap.Logger, backOff func() backoff.BackOff, run func(context.Context) error) *Task {
	ctx, cancel := context.WithCancelCause(ctx)
	t := &Task{cancel, make(chan struct{})}
	go func() {
		defer close(t.done)
		pauses := wait.NewPauses(log, backOff)
		for {
			_, err := foreign.Apart(context.WithoutCancel(ctx), func() (struct{}, error) { return struct{}{}, run(ctx) })
			if ctx.Err() != nil {
				return
			}
			log.Error(name+" has ended early; running it again", zap.Error(err))
			if !wait.Sleep(ctx, wait.Next(pauses)) {
				return
			}
		}
	}()
	return t
}

// End makes the function return with the cause, and waits for that until ctx ends, but for
// two seconds at least. False means that it has not returned.
func (t *Task) End(ctx context.Context, cause error) bool {
	t.cancel(cause)
	select {
	case <-t.done:
		return true
	case <-ctx.Done():
	}
	const least = 2 * time.Second
	timer := time.NewTimer(least)
	defer timer.Stop()
	select {
	case <-t.done:
		return true
	case <-timer.C:
		return false
	}
}
