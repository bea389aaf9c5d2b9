package publish

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/harebus/harebus/internal/session"
)

const (
	// endingPause and longestEnding are the first and the longest pause of declarations that
	// end their connection, which sends or consumes everything else, too.
	endingPause, longestEnding = 10 * time.Second, 5 * time.Minute
)

// endings are connections that have ended while something was declared on them.
type endings struct {
	what string // is declared

	mu        sync.Mutex // guards what follows
	suspicion int        // as of a message; see session.Suspicious
	pause     time.Duration
	until     time.Time // nothing is declared before then
	cause     error
}

// declare calls fn, which declares on s, unless such declarations have ended the connection
// again and again and the pause after that is not over.
func (e *endings) declare(ctx context.Context, s *session.Session, fn func() error) error {
	if err := e.paused(); err != nil {
		return err
	}
	err := fn()
	switch {
	case err == nil:
		e.over()
	case ctx.Err() == nil && !s.Alive():
		<-s.Done()
		e.ended(s.Cause())
	}
	return err
}

func (e *endings) paused() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if left := time.Until(e.until); left > 0 {
		return fmt.Errorf("the connection ends when %s are declared, so they are not for another %v; see the broker's log for the reason: %w",
			e.what, left.Round(time.Second), e.cause)
	}
	return nil
}

func (e *endings) over() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.suspicion, e.pause = 0, 0
}

func (e *endings) ended(cause error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.suspicion += session.Suspicion(cause); e.suspicion < session.Suspicious {
		return
	}
	e.pause = min(max(endingPause, 2*e.pause), longestEnding)
	e.until, e.cause = time.Now().Add(e.pause), cause
}
