package schedule

import (
	"crypto/sha256"
	"encoding/binary"
	"time"

	"github.com/google/uuid"
)

// definition is a schedule as this version of the service defines it.
type definition struct {
	name       string
	expression string
	timetable  timetable
	zone       *time.Location
	catchUp    CatchUpPolicy
	within     time.Duration
	overlap    OverlapPolicy
	jitter     time.Duration
	queue      string // of the service
}

// seed is a number that is the same in every instance: of this schedule and due time.
func (d *definition) seed(due time.Time) [32]byte {
	b := append([]byte(d.queue+"\x00"+d.name+"\x00"), make([]byte, 8)...)
	binary.BigEndian.PutUint64(b[len(b)-8:], uint64(due.UnixNano()))
	return sha256.Sum256(b)
}

// id is that of the message for a due time: the same whoever fires it. It begins with the due
// time, as a UUIDv7 does with its own.
func (d *definition) id(due time.Time) string {
	sum := d.seed(due)
	var id uuid.UUID
	copy(id[:], sum[:])
	ms := binary.BigEndian.AppendUint64(nil, uint64(due.UnixMilli()))
	copy(id[:6], ms[2:])
	id[6] = id[6]&0x0f | 0x80
	id[8] = id[8]&0x3f | 0x80
	return id.String()
}

// fires is when a due time is fired: the due time itself, or later by the jitter.
func (d *definition) fires(due time.Time) time.Time {
	if d.jitter <= 0 {
		return due
	}
	sum := d.seed(due)
	return due.Add(time.Duration(binary.BigEndian.Uint64(sum[:8]) % uint64(d.jitter)))
}

// after is the first due time after a time; zero if there is none.
func (d *definition) after(last time.Time) time.Time { return d.timetable.next(last) }

// verdict is what is to be done with a token now.
type verdict struct {
	// due is the due time to fire, if fire, or to leave out; zero if nothing is due.
	due  time.Time
	fire bool
	// missed is how many due times before due were left out.
	missed int
	// skipped says that due is left out because the run before has not ended.
	skipped bool
	// lost says that the run before is taken as ended, because it began too long ago.
	lost bool
	// wake is when the token is to be looked at again; zero if no due time follows.
	wake time.Time
}

// runLimit is how long a run may take before another one is fired all the same.
const runLimit = time.Hour

// plan decides about a token. The watermark of the token counts, and nothing of this instance but
// its clock.
func (d *definition) plan(t *token, now time.Time) verdict {
	first := d.after(t.Last)
	switch {
	case first.IsZero() || t.Paused:
		return verdict{}
	case d.fires(first).After(now):
		return verdict{wake: d.fires(first)}
	}
	v := d.overdue(first, now)
	if v.fire && t.Running != nil {
		limit := max(runLimit, 3*d.after(first).Sub(first))
		if now.Sub(*t.Running) < limit {
			return verdict{due: v.due, missed: v.missed, skipped: true}
		}
		v.lost = true
	}
	return v
}

// overdue chooses among the due times from first until now.
func (d *definition) overdue(first, now time.Time) verdict {
	due, missed := first, 0
	oldest := now.Add(-d.within)
	for steps := 0; ; steps++ {
		next := d.after(due)
		if next.IsZero() || d.fires(next).After(now) || d.catchUp == All && !due.Before(oldest) {
			break
		}
		due, missed = next, missed+1
		if steps == 1000 { // years of seconds: what is missed is counted no further
			far := d.after(earlier(oldest, now.Add(-time.Hour)).Add(-time.Nanosecond))
			if far.After(due) && !d.fires(far).After(now) {
				due = far
			}
		}
	}
	return verdict{due: due, fire: !due.Before(oldest), missed: missed}
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}
