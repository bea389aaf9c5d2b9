package fair

import (
	"fmt"
	"sync"
	"time"
)

const (
	// patience is how long a message may take to be moved.
	patience = 10 * time.Second
	// closed is for how long nothing is moved after the backlog has not taken a message.
	closed = 10 * time.Second
)

// moves are those to the backlog, and what is known about it.
type moves struct {
	mu      sync.Mutex // guards what follows
	moved   uint64
	refused uint64
	err     error // why it did not take the latest message
	next    time.Time
	probing bool // one message is on its way to see whether it takes messages again
}

// begin says whether a message may be moved. While the backlog takes none, it is one now and then.
func (v *moves) begin(now time.Time) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.err == nil {
		return true
	}
	if v.probing || now.Before(v.next) {
		return false
	}
	v.probing = true
	return true
}

func (v *moves) end(now time.Time, err error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.err, v.probing = err, false
	if err == nil {
		v.moved++
		return
	}
	v.refused++
	v.next = now.Add(closed)
}

func (v *moves) trouble(backlog string) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.err == nil {
		return nil
	}
	return fmt.Errorf("fair: the backlog %q takes no messages, so a tenant that floods holds up the others: %w", backlog, v.err)
}
