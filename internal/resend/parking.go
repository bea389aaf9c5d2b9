package resend

import (
	"fmt"
	"sync"
	"time"
)

const (
	// parkingPause and longestParking are the shortest and the longest time for
	// which a message waits in the delay queues when the error queue does not take
	// it. The longer that lasts, the longer is the wait.
	parkingPause, longestParking = 30 * time.Second, 5 * time.Minute
	// quiet is how long a fault that lasts is not logged again.
	quiet = 15 * time.Second
)

// parking is what is known about the error queue.
type parking struct {
	mu    sync.Mutex // guards what follows
	err   error      // why nothing can be parked; nil while it can
	since time.Time  // when that began
	probe time.Time  // there is no attempt before then
	said  time.Time  // the last line in the log
	last  time.Time  // when a message was put off last
	count int        // messages put off since
}

// closed says whether it is known that parking is not possible now.
func (p *parking) closed() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.err != nil && time.Now().Before(p.probe)
}

// open notes that the error queue takes messages.
func (p *parking) open() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.err, p.count = nil, 0
}

// close notes why it does not.
func (p *parking) close(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.err == nil {
		p.since = time.Now()
	}
	now := time.Now()
	p.err, p.probe, p.last = err, now.Add(quiet), now
}

// putOff counts a message that has to wait, and says for how long, and whether
// that is worth a line in the log.
func (p *parking) putOff() (wait time.Duration, count int, say bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.count, p.last = p.count+1, time.Now()
	if say = time.Since(p.said) > quiet; say {
		p.said = time.Now()
	}
	return min(max(parkingPause, time.Since(p.since)), longestParking), p.count, say
}

// trouble is why nothing can be parked, for Ready.
func (p *parking) trouble() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.err != nil && time.Since(p.last) > 2*longestParking {
		p.err, p.count = nil, 0 // a waiting message returns sooner, and none came: none waits
	}
	if p.err == nil {
		return nil
	}
	return fmt.Errorf("no message can be parked since %s; those that should be wait in a delay: %w", p.since.Format(time.RFC3339), p.err)
}
