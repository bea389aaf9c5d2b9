package limit

import (
	"context"
	"errors"
	"time"
)

const (
	// longest is how long a message without a time limit waits in its worker at most, so that the
	// broker's consumer timeout does not pass meanwhile.
	longest = 10 * time.Minute
	// least is how long a message is postponed at least.
	least = time.Second
)

var (
	errLimited = errors.New("limit: the message has waited for half of its time limit, and the limits allow no more yet")
	errOpen    = errors.New("limit: the circuit breaker is open")
)

// waitKey is that of the time by which the waiting of a message ends, in its context.
type waitKey struct{}

// patience is a timer for how long a message waits at most: half of the time that it has, so that
// the other half is left for its handler. The breakers and limiters within get the context that is
// returned, so that they share that half.
func patience(ctx context.Context) (context.Context, *time.Timer) {
	by, ok := ctx.Value(waitKey{}).(time.Time)
	if !ok {
		wait := longest
		if deadline, ok := ctx.Deadline(); ok {
			wait = min(wait, time.Until(deadline)/2)
		}
		by = time.Now().Add(wait)
		ctx = context.WithValue(ctx, waitKey{}, by)
	}
	return ctx, time.NewTimer(time.Until(by))
}
