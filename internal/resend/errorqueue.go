package resend

import (
	"fmt"
	"sync"
	"time"

	"github.com/harebus/harebus/internal/wait"
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
	// fault is why nothing can be parked. It is over when nothing has been put off for a while:
	// a waiting message returns sooner, and none came, so none waits.
	fault wait.Trouble

	mu    sync.Mutex // guards what follows
	probe time.Time  // there is no attempt before then
	said  time.Time  // the last line in the log
	count int        // messages put off since the fault began
}

// closed says whether it is known that parking is not possible now.
func (p *parking) closed() bool {
	_, err := p.lasts()
	p.mu.Lock()
	defer p.mu.Unlock()
	return err != nil && time.Now().Before(p.probe)
}

func (p *parking) lasts() (since time.Time, err error) { return p.fault.Lasts(2 * longestParking) }

// open notes that the error queue takes messages.
func (p *parking) open() { p.fault.Note(nil) }

// close notes why it does not.
func (p *parking) close(err error) {
	_, before := p.lasts()
	p.fault.Note(err)
	p.mu.Lock()
	defer p.mu.Unlock()
	if before == nil {
		p.count = 0
	}
	p.probe = time.Now().Add(quiet)
}

// putOff counts a message that has to wait, and says for how long, and whether
// that is worth a line in the log.
func (p *parking) putOff() (pause time.Duration, count int, say bool) {
	since, err := p.lasts()
	p.fault.Note(err)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.count++
	if say = time.Since(p.said) > quiet; say {
		p.said = time.Now()
	}
	return min(max(parkingPause, time.Since(since)), longestParking), p.count, say
}

// trouble is why nothing can be parked, for Ready.
func (p *parking) trouble() error {
	since, err := p.lasts()
	if err == nil {
		return nil
	}
	return fmt.Errorf("no message can be parked since %s; those that should be wait in a delay: %w", since.Format(time.RFC3339), err)
}
