package session

import (
	"context"
	"fmt"
	"sync"
	"time"
)

const (
	// endingPause and longestEnding are the first and the longest pause of declarations that
	// end their connection, which sends or consumes everything else, too.
	endingPause, longestEnding = 10 * time.Second, 5 * time.Minute
	// longestMere is the longest one after an end without an exception, which is nearly always
	// a fault of the network: when that is over, it should not last.
	longestMere = 30 * time.Second
)

// Endings are connections that have ended while something was declared on them, or consumed
// from. After two exceptions, or three ends, in a row it is left alone for a while, and then
// for longer.
type Endings struct {
	What string // was done: "delay queues are declared"
	// OnlyExceptions has ends without an exception not count.
	OnlyExceptions bool

	mu        sync.Mutex // guards what follows
	suspicion int        // as of a message
	latest    *Session   // the one whose end was counted last
	pause     time.Duration
	until     time.Time // nothing is declared before then
	cause     error
}

// Try calls fn, which does that on s, unless the pause is not over.
func (e *Endings) Try(ctx context.Context, s *Session, fn func() error) error {
	if err := e.Paused(); err != nil {
		return err
	}
	err := fn()
	switch {
	case err == nil:
		e.over()
	case ctx.Err() == nil && !s.Alive():
		<-s.Done()
		e.ended(s)
	}
	return err
}

// Paused is why it is not done now; nil if it may be.
func (e *Endings) Paused() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if left := time.Until(e.until); left > 0 {
		return fmt.Errorf("the connection ends when %s, which is not done for another %v; see the broker's log for the reason: %w",
			e.What, left.Round(time.Second), e.cause)
	}
	return nil
}

func (e *Endings) over() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.suspicion, e.pause = 0, 0
}

// ended counts the end of a session once, however many declarations it has interrupted.
func (e *Endings) ended(s *Session) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.latest == s {
		return
	}
	e.latest = s
	cause := s.Cause()
	n, longest := Suspicion(cause), longestEnding
	if n == mereEnd {
		longest = longestMere
	}
	if n == mereEnd && e.OnlyExceptions {
		return
	}
	if e.suspicion += n; e.suspicion < Suspicious || n == 0 {
		return
	}
	e.pause = min(max(endingPause, 2*e.pause), longest)
	e.until, e.cause = time.Now().Add(e.pause), cause
}

// Left is how much of the pause is left.
func (e *Endings) Left() time.Duration {
	e.mu.Lock()
	defer e.mu.Unlock()
	return max(time.Until(e.until), 0)
}

// Suspected says whether the latest attempts have ended their connections.
func (e *Endings) Suspected() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.suspicion >= Suspicious
}
