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

// patience is a timer for how long a message waits at most: half of the time that it has, so that
// the other half is left for its handler.
func patience(ctx context.Context) *time.Timer {
	wait := longest
	if deadline, ok := ctx.Deadline(); ok {
		wait = min(wait, time.Until(deadline)/2)
	}
	return time.NewTimer(wait)
}
