package ledger

import (
	"fmt"
	"slices"
	"time"
)

// The promises about a run as a whole (see the invariants of the same names).
const (
	recoverWithin = 15 * time.Second
	recoverTo     = 0.8
	bystanderGap  = time.Second
)

// checkRun checks the promises about the run as a whole. Those about single
// messages are checked elsewhere.
func (b *Book) checkRun(want *Expect) []Violation {
	var found []Violation
	for _, what := range b.left {
		found = append(found, Violation{Invariant: Leak, Text: what})
	}
	if want.Recovered {
		found = append(found, b.checkLiveness()...)
	}
	if want.Bystander != "" {
		found = append(found, b.checkBystander(want.Bystander)...)
	}
	return found
}

// checkLiveness compares the rate of confirms before the first fault with that of
// the best second within the time to recover after the last.
func (b *Book) checkLiveness() []Violation {
	fail := func(format string, args ...any) []Violation {
		return []Violation{{Invariant: Liveness, Text: fmt.Sprintf(format, args...)}}
	}
	begin := slices.IndexFunc(b.faults, func(e Event) bool { return e.Op == FaultBegin })
	if begin < 0 || b.faults[len(b.faults)-1].Op != FaultEnd || len(b.confirms) == 0 {
		return fail("no fault that begins and ends, or nothing confirmed: there is nothing to compare")
	}
	from, to, healed := b.confirms[0], b.faults[begin].T, b.faults[len(b.faults)-1].T
	calm := to.Sub(from).Seconds()
	if calm < 1 {
		return fail("the first fault came %.1f s after the first confirm: there is nothing to compare with", calm)
	}
	before := float64(b.confirmedBetween(from, to)) / calm
	best := 0
	for second := healed; second.Before(healed.Add(recoverWithin)); second = second.Add(time.Second / 4) {
		best = max(best, b.confirmedBetween(second, second.Add(time.Second)))
	}
	if float64(best) < recoverTo*before {
		return fail("%d messages confirmed in the best second after the faults, %.0f a second before them", best, before)
	}
	return nil
}

// confirmedBetween counts the confirms from one moment to another.
func (b *Book) confirmedBetween(from, to time.Time) int {
	n := 0
	for _, at := range b.confirms {
		if !at.Before(from) && at.Before(to) {
			n++
		}
	}
	return n
}

// checkBystander demands that no send with this key failed, and that its
// messages kept taking effect.
func (b *Book) checkBystander(key string) []Violation {
	var found []Violation
	var effects []time.Time
	for _, id := range b.order {
		m := b.entries[id]
		if m.key != key {
			continue
		}
		if m.ok == 0 {
			found = append(found, Violation{Invariant: Isolation, ID: id, Text: "a bystander's message was not confirmed", History: m.events})
		}
		if len(m.effects) > 0 {
			effects = append(effects, m.effects[0].T)
		}
	}
	if len(effects) == 0 {
		return append(found, Violation{Invariant: Isolation, Text: "no bystander's message took effect"})
	}
	slices.SortFunc(effects, time.Time.Compare)
	for i := 1; i < len(effects); i++ {
		if gap := effects[i].Sub(effects[i-1]); gap > bystanderGap {
			found = append(found, Violation{Invariant: Isolation, Text: fmt.Sprintf("the bystander's messages stood still for %v", gap)})
		}
	}
	return found
}
