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
	errLate  = fmt.Errorf("not confirmed within %v", Longest)
	errHurry = errors.New("a stop or a pause has begun")
	errLost  = errors.New("the channel of the delivery has ended, so it cannot be acknowledged any more")
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

// patience gives contexts for what waits before its handler: they end with the channel of the
// delivery, and when a stop or a pause begins. mu of the consumer guards it.
type patience struct {
	ctx context.Context
	end context.CancelFunc
}

func newPatience() patience {
	ctx, end := context.WithCancel(context.Background())
	return patience{ctx, end}
}

// patient is the context for the deliveries of a feed, whose channel has a life.
func (c *consumer) patient(life context.Context) context.Context {
	c.mu.Lock()
	defer c.mu.Unlock()
	ctx, end := context.WithCancelCause(life)
	forget := context.AfterFunc(c.patience.ctx, func() { end(errHurry) })
	context.AfterFunc(ctx, func() { forget() })
	return ctx
}

// hurry has nothing wait any longer before its handler. It is called when the consumer is
// cancelled, because the broker would deliver again at once what is given back.
func (c *consumer) hurry() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.patience.end()
	c.patience = newPatience()
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
