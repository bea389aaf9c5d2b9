package wait

import (
	"sync"
	"time"
)

// Trouble is a fault of something that is tried again and again. It is over when an
// attempt succeeds, and also when there has been none for a while.
type Trouble struct {
	mu    sync.Mutex // guards what follows
	err   error
	since time.Time // when it began
	last  time.Time // when it was noted last
}

// Note notes the outcome of an attempt.
func (t *Trouble) Note(err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := time.Now()
	if t.err == nil {
		t.since = now
	}
	t.err, t.last = err, now
}

// Lasts returns the latest error and since when attempts have failed, unless that is
// over: the latest attempt has succeeded, or it is older than an age.
func (t *Trouble) Lasts(age time.Duration) (since time.Time, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if time.Since(t.last) > age {
		t.err = nil
	}
	return t.since, t.err
}
