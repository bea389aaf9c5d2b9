package declare

import (
	"context"
	"math/rand/v2"
	"time"

	"github.com/harebus/harebus/internal/session"
)

// Refresh declares everything again once or twice a minute until ctx ends: somebody may
// have deleted a binding, and the broker does not report that. The pauses differ, so that a
// hundred instances of a service do not declare at the same time. up returns the session
// that is up; an error means that there is none, which others report. then is called on
// the session after each declaration. When a declaration has ended its connection, the
// next ones are made apart, and the pauses grow to some minutes.
func (d *Declarer) Refresh(ctx context.Context, up func() (*session.Session, error), then func(context.Context, *session.Session)) {
	for p := new(pace); ; {
		most := p.next(d.seclusion.needed.Load())
		if !d.pause(ctx, most/2+rand.N(most/2)) {
			return
		}
		on, err := up()
		if err != nil {
			continue
		}
		if d.seclusion.needed.Load() {
			if err = d.apart(ctx); err == nil && on.Alive() && d.seclusion.needed.Load() {
				err = d.inTurn(ctx, on, func() error { return d.exclusive(ctx, on, nil) }, nil)
			}
		} else {
			err = d.Again(ctx, on, time.Now())
		}
		if err != nil && ctx.Err() == nil && on.Alive() {
			d.warn("cannot declare the topology again; consuming goes on", err)
		}
		then(ctx, on)
	}
}

// Soon makes Refresh declare at once. It does not block.
func (d *Declarer) Soon() {
	select {
	case d.wanted <- struct{}{}:
	default: // asked already
	}
}

// pause waits for long, or until Soon is called. It returns false when ctx ends.
func (d *Declarer) pause(ctx context.Context, long time.Duration) bool {
	t := time.NewTimer(long)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-d.wanted:
		return true
	case <-ctx.Done():
		return false
	}
}
