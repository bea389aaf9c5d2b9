package safelog

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/harebus/harebus/internal/foreign"
)

// long is how long a call of the user's logger may take before its caller goes on without it.
const long = 5 * time.Second

var (
	errHangs = fmt.Errorf("the logger has not returned within %v; entries are lost until it does", long)
	errLost  = errors.New("an earlier call of the logger has not returned")
)

// gate keeps callers from a logger that does not return. It would hold the goroutine that
// logs, and so a worker or the connection, for ever.
type gate struct {
	behind atomic.Int64 // calls that were left behind and have not returned
	lost   atomic.Int64 // entries since
}

// through calls the logger in a goroutine of its own. When the call takes too long, through
// leaves it behind, and makes no other until it has returned. Nothing is logged for a message
// that is handled, so this costs little.
func through[T any](g *gate, fn func() (T, error)) (T, error) {
	var none T
	if g.behind.Load() > 0 {
		return none, errLost
	}
	ctx, cancel := context.WithTimeoutCause(context.Background(), long, errHangs)
	defer cancel()
	var decided atomic.Bool // the call has ended, or is left behind
	value, err := foreign.Apart(ctx, func() (T, error) {
		defer func() {
			if !decided.CompareAndSwap(false, true) {
				g.behind.Add(-1)
			}
		}()
		return fn()
	})
	if ctx.Err() != nil && decided.CompareAndSwap(false, true) {
		g.behind.Add(1)
	}
	return value, err
}
