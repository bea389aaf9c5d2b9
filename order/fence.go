package order

import "context"

type fenceKey struct{}

// Fence is the fencing number of the owner of an ordered queue, in the context of a handler: each owner has a higher one than
// those before it, also when the parking queue was deleted in between: it is at least the time in milliseconds. A database that keeps the highest number it has seen with each row, and refuses a lower one, is safe from the
// late effects of a process that was frozen or cut off:
//
//	UPDATE accounts SET balance = $1, fence = $2 WHERE id = $3 AND fence <= $2
//
// It is 0 where the queue is not an ordered one.
func Fence(ctx context.Context) int64 {
	n, _ := ctx.Value(fenceKey{}).(int64)
	return n
}

// WithFence is a context whose Fence is n, for tests of handlers.
func WithFence(ctx context.Context, n int64) context.Context {
	return context.WithValue(ctx, fenceKey{}, n)
}
