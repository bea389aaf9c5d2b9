package proof

import (
	"context"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"
)

// Load sends messages of all kinds to a service at a steady rate.
type Load struct {
	Service *Service
	// Run starts the ids of all messages.
	Run string
	// Key is the key of all messages.
	Key string
	// Kinds are drawn from; when empty most messages are plain and some are of
	// every other kind.
	Kinds []Kind
	// Rate is how many are sent a second, by so many Publishers. When they do not
	// keep up, the excess is not made up for later.
	Rate, Publishers int
	// Timeout is how long a send may take; a minute if zero.
	Timeout time.Duration
	// EverySecond, if any, is called about once a second.
	EverySecond func()
}

// Send sends until ctx ends, and returns when all sends that had begun have
// returned.
func (l Load) Send(ctx context.Context) {
	if l.Timeout == 0 {
		l.Timeout = time.Minute
	}
	var publishers sync.WaitGroup
	var seq atomic.Int64
	tokens := make(chan struct{}, l.Rate)
	for p := range l.Publishers {
		publishers.Go(func() {
			for range tokens {
				l.sendOne(ctx, p, int(seq.Add(1)))
			}
		})
	}
	l.pace(ctx, tokens)
	close(tokens)
	publishers.Wait()
}

// sendOne gets its time even when ctx ends meanwhile.
func (l Load) sendOne(ctx context.Context, publisher, n int) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), l.Timeout)
	defer cancel()
	kind := l.kind()
	var delay time.Duration
	if kind == Later {
		delay = time.Duration(100+rand.IntN(3000)) * time.Millisecond //nolint:gosec // nothing secret
	}
	_ = l.Service.Send(ctx, Work{ID: NewID(l.Run, publisher, n, kind), Key: l.Key, Seq: n, Kind: kind}, delay) // in the book
}

func (l Load) pace(ctx context.Context, tokens chan<- struct{}) {
	const tick = 10 * time.Millisecond
	ticker := time.NewTicker(tick)
	defer ticker.Stop()
	began := time.Now()
	given, told := 0, began
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-ticker.C:
			due := int(now.Sub(began).Seconds() * float64(l.Rate))
			for ; given < due; given++ {
				select {
				case tokens <- struct{}{}:
				default:
				}
			}
			if l.EverySecond != nil && now.Sub(told) >= time.Second {
				told = now
				l.EverySecond()
			}
		}
	}
}

func (l Load) kind() Kind {
	if len(l.Kinds) > 0 {
		return l.Kinds[rand.IntN(len(l.Kinds))] //nolint:gosec // nothing secret
	}
	switch n := rand.IntN(100); { //nolint:gosec // nothing secret
	case n < 3:
		return Failing
	case n < 6:
		return Flaky
	case n < 12:
		return Parent
	case n < 20:
		return Later
	default:
		return Plain
	}
}
