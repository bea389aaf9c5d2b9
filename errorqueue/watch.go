package errorqueue

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Watch calls fn with what is in the queue, and again whenever the number of messages has
// changed, until ctx ends or fn returns an error. It asks for the number every so often, which
// takes nothing out of the queue, and looks only when it differs. Other operators are kept out
// only during a look; while one is at work, there is none.
func (q *Queue) Watch(ctx context.Context, every time.Duration, f Filter, fn func(*Index) error) error {
	if every <= 0 {
		return fmt.Errorf("errorqueue: watch: an interval of %v is not possible", every)
	}
	tick := time.NewTicker(every)
	defer tick.Stop()
	err := q.unlock(ctx)
	for last := -1; err == nil && ctx.Err() == nil; {
		if last, err = q.watchOnce(ctx, last, f, fn); err != nil {
			break
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
		}
	}
	if err != nil && ctx.Err() == nil {
		return fmt.Errorf("errorqueue: watch: %w", err)
	}
	return nil
}

// watchOnce looks if the number of messages is not the last one, and returns the number.
func (q *Queue) watchOnce(ctx context.Context, last int, f Filter, fn func(*Index) error) (int, error) {
	ready, err := q.conn.Ready(ctx)
	if err != nil || ready == last {
		return last, err
	}
	err = q.lock(ctx)
	if errors.Is(err, ErrLocked) {
		return last, nil
	}
	if err != nil {
		return last, err
	}
	x, err := q.Look(ctx, f)
	if unlocked := q.unlock(ctx); err == nil {
		err = unlocked
	}
	if err != nil {
		return last, err
	}
	return x.Seen, fn(x)
}
