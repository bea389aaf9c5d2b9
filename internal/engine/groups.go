package engine

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/harebus/harebus/internal/consume"
)

// Groups are the consumers of several queues.
type Groups []*consume.Group

// Pause pauses them at the same time, and returns when no handler runs any more.
func (gs Groups) Pause(ctx context.Context) error {
	errs := make(chan error, len(gs))
	for _, g := range gs {
		go func() { errs <- g.Pause(ctx) }()
	}
	var err error
	for range gs {
		err = errors.Join(err, <-errs)
	}
	return err
}

// Resume ends a pause.
func (gs Groups) Resume() {
	for _, g := range gs {
		g.Resume()
	}
}

// Busy is how many messages are being handled.
func (gs Groups) Busy() (n int64) {
	for _, g := range gs {
		n += g.Busy()
	}
	return n
}

// Handling says in words how many messages are being handled.
func (gs Groups) Handling() error { return fmt.Errorf("%d messages are being handled", gs.Busy()) }

// Paused says whether everything is paused.
func (gs Groups) Paused() bool {
	return len(gs) > 0 && !slices.ContainsFunc(gs, func(g *consume.Group) bool { return !g.Paused() })
}

// Oldest is the age of the message that has been in a handler for longest.
func (gs Groups) Oldest() (oldest time.Duration) {
	for _, g := range gs {
		oldest = max(oldest, g.Oldest())
	}
	return oldest
}

// Inside says whether the caller is inside a handler: handles reports that a task is the caller's, or the
// goroutine is that of a busy worker.
func (gs Groups) Inside(handles func(consume.Task) bool) bool {
	return slices.ContainsFunc(gs, func(g *consume.Group) bool { return g.Inside(handles) })
}
