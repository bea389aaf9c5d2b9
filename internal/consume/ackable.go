package consume

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// Longest is how long what has to be done before an ack may take at least, and at most a
// minute more.
const Longest = 5 * time.Minute

var (
	errLate = fmt.Errorf("not confirmed within %v", Longest)
	errLost = errors.New("the channel of the delivery has ended, so it cannot be acknowledged any more")
)

// ackable gives contexts that end with a channel, and after Longest. Those that begin in the
// same minute share one, because a context with a timer for each message would be dear.
type ackable struct {
	life context.Context
	end  context.CancelCauseFunc

	mu      sync.Mutex // guards what follows
	current context.Context
	until   time.Time // current is for what begins before then
}

func newLease(ctx context.Context) *ackable {
	l := &ackable{}
	l.life, l.end = context.WithCancelCause(ctx)
	return l
}

func (l *ackable) take() context.Context {
	const share = time.Minute
	l.mu.Lock()
	defer l.mu.Unlock()
	if now := time.Now(); l.current == nil || now.After(l.until) {
		ctx, cancel := context.WithCancelCause(l.life)
		time.AfterFunc(Longest+share, func() { cancel(errLate) })
		l.current, l.until = ctx, now.Add(share)
	}
	return l.current
}

// WithValues is a context that also has the values of another one.
func WithValues(ctx, values context.Context) context.Context { return both{ctx, values} }

type both struct {
	context.Context
	values context.Context
}

func (b both) Value(key any) any {
	if v := b.Context.Value(key); v != nil {
		return v
	}
	return b.values.Value(key)
}
