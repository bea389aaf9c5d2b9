package schedule

import (
	"errors"
	"fmt"
	"time"

	"github.com/harebus/harebus"
)

// Option changes one schedule. The functions of this package make them.
type Option func(*options)

type options struct {
	definition
	handler []harebus.HandlerOption
	faults  []error
}

// In has the expression read in a time zone, such as that of time.LoadLocation("Europe/Berlin").
// Default: UTC. A time that the clock of the zone skips in spring is due right after the gap; one
// that it shows twice in autumn is due the first time. An expression with a wildcard in the hour
// follows the time that passes.
func In(zone *time.Location) Option {
	return func(o *options) {
		if zone == nil {
			o.faults = append(o.faults, errors.New("In needs a location; time.LoadLocation returned an error"))
			return
		}
		o.zone = zone
	}
}

// CatchUpPolicy says what becomes of due times that passed while no instance ran.
type CatchUpPolicy int8

// The policies.
const (
	// Latest fires the latest of them. The others are counted in Due.Missed.
	Latest CatchUpPolicy = iota
	// All fires each of them, the oldest first.
	All
	// None fires none of them. Since a takeover takes a few seconds, one that is at most a
	// minute old is fired.
	None
)

// CatchUp says what becomes of due times that passed while no instance ran. One that is older
// than within is left out in any case; 0 is 24 hours, and a minute for None. Default: Latest.
func CatchUp(policy CatchUpPolicy, within time.Duration) Option {
	return func(o *options) {
		if policy < Latest || policy > None {
			o.faults = append(o.faults, fmt.Errorf("CatchUp: %d is none of Latest, All and None", policy))
		}
		if within < 0 {
			o.faults = append(o.faults, fmt.Errorf("CatchUp: within, %v, is negative", within))
		}
		o.catchUp, o.within = policy, within
	}
}

// OverlapPolicy says whether a run may begin before the one before has ended.
type OverlapPolicy int8

// The policies.
const (
	// Allow begins each run at its due time.
	Allow OverlapPolicy = iota
	// Skip leaves out due times while the run before has not ended: it is being handled, waits
	// for a retry, or waits in the queue. It has ended when its handler has succeeded, or when
	// its message is parked. One that has not ended after an hour, or after three intervals if
	// that is longer, is taken as ended, with a warning.
	Skip
)

// Overlap says whether a run may begin before the one before has ended. Default: Allow. A message that
// an ErrorHandler discards has not ended for Skip.
func Overlap(policy OverlapPolicy) Option {
	return func(o *options) {
		if policy != Allow && policy != Skip {
			o.faults = append(o.faults, fmt.Errorf("Overlap: %d is none of Allow and Skip", policy))
		}
		o.overlap = policy
	}
}

// Jitter fires each due time later, by up to d, so that not everything begins at the same second.
// How much later is derived from the name and the due time, so it is the same for all instances.
// Due.At is not changed by it. d must be less than the interval of the schedule.
func Jitter(d time.Duration) Option {
	return func(o *options) { o.jitter = d }
}

// Handling passes options of a handler, such as [harebus.WithRetry] and [harebus.WithTimeout], to
// the handler of the schedule.
func Handling(opts ...harebus.HandlerOption) Option {
	return func(o *options) {
		for _, opt := range opts {
			if _, ok := opt.(harebus.TypeOption); ok {
				o.faults = append(o.faults, errors.New("Handling: leave WithType out: the type is made of the schedule's name"))
			}
		}
		o.handler = append(o.handler, opts...)
	}
}

// complete fills in what was left out and checks the rest.
func (o *options) complete() error {
	if o.within == 0 {
		if o.within = 24 * time.Hour; o.catchUp == None {
			o.within = time.Minute
		}
	}
	var err error
	if o.timetable, err = parse(o.expression, o.zone); err != nil {
		return errors.Join(append(o.faults, fmt.Errorf("expression %.60q: %w", o.expression, err))...)
	}
	const samples = 20
	shortest, at := time.Duration(0), o.after(time.Now())
	for range samples {
		next := o.after(at)
		if next.IsZero() {
			break
		}
		if gap := next.Sub(at); shortest == 0 || gap < shortest {
			shortest = gap
		}
		at = next
	}
	if o.jitter < 0 || shortest > 0 && o.jitter >= shortest {
		o.faults = append(o.faults, fmt.Errorf("Jitter: %v is negative or not less than the interval, %v", o.jitter, shortest))
	}
	return errors.Join(o.faults...)
}
