// Package engine is what runs between the first use of a service and its stop: two
// connections, a publisher, consumers, and what serves them in the background.
package engine

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/harebus/harebus/internal/background"
	"github.com/harebus/harebus/internal/publish"
	"github.com/harebus/harebus/internal/replies"
	"github.com/harebus/harebus/internal/session"
	"github.com/harebus/harebus/internal/wait"
)

// ErrTooLong is why the contexts of handlers end when a stop takes too long.
var ErrTooLong = errors.New("harebus: the shutdown timeout has passed")

// Engine holds connections, consumers and goroutines.
type Engine struct {
	Publish, Consume *session.Link
	Publisher        *publish.Publisher
	Replies          *replies.Queue // to requests
	// Groups are the consumers of each queue, and Tasks what else is ended by a stop. They
	// are set while the engine is started, before anybody else has it.
	Groups Groups
	Tasks  []*background.Task

	serving sync.WaitGroup
	halt    context.CancelFunc      // ends what serves
	abandon context.CancelCauseFunc // ends the contexts of the handlers; nil before Begin
}

// Begin makes the context of the handlers, and that of what serves the consumers.
func (e *Engine) Begin(ctx context.Context) (handling, serving context.Context) {
	handling, e.abandon = context.WithCancelCause(context.WithoutCancel(ctx))
	serving, e.halt = context.WithCancel(handling)
	return handling, serving
}

// Serve runs a function in the background. It must return when the serving context of Begin
// ends.
func (e *Engine) Serve(run func()) { e.serving.Go(run) }

// Stop ends the consumers, waits for their handlers, ends the tasks and closes the
// connections. When ctx ends or the timeout passes, it ends the contexts of the handlers. It
// returns how many handlers have not returned, and whether all tasks have ended.
func (e *Engine) Stop(ctx context.Context, timeout time.Duration, waits wait.Teller) (handlers int64, ended bool) {
	defer e.close()
	if e.abandon == nil {
		return 0, true
	}
	ctx, cancel := context.WithTimeoutCause(ctx, timeout, ErrTooLong)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { e.abandon(context.Cause(ctx)) })
	defer stop()
	e.halt()
	for _, g := range e.Groups {
		g.Halt()
	}
	tell := waits.While("handlers to return before stopping", e.Groups.Handling)
	for _, g := range e.Groups {
		g.Wait()
	}
	e.serving.Wait()
	tell()
	e.abandon(session.ErrStopped)
	ended = true
	for _, t := range e.Tasks {
		ended = t.End(ctx, session.ErrStopped) && ended
	}
	return e.Groups.Busy(), ended
}

func (e *Engine) close() {
	e.Replies.Close()
	e.Consume.Close()
	e.Publish.Close()
}
