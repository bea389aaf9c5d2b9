package schedule

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.uber.org/zap"

	"github.com/harebus/harebus"
)

// Stats are counts of this instance since the schedules were made. Observers are told of the same events one by one: see
// [harebus.OpDue] and [harebus.OpLead].
type Stats struct {
	// Fired is the number of due times that this instance has fired, Late that of those that it
	// fired more than ten seconds after their time.
	Fired, Late uint64
	// Missed is the number of due times that were left out because they passed while no instance
	// ran (see [CatchUp]), Skipped that of those left out because the run before had not ended
	// (see [Overlap]).
	Missed, Skipped uint64
	// LeaderChanges is how often this instance has become the leader.
	LeaderChanges uint64
	// Leads says that it is the leader.
	Leads bool
	// Schedules is the number of schedules that it defines, Tokens that of the tokens it has in
	// hand; 0 if it does not lead.
	Schedules, Tokens int
}

// Stats returns the counts. It may be called at any time.
func (s *Schedules) Stats() Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	stats := s.counts
	stats.Leads, stats.Schedules, stats.Tokens = s.leader.complete, len(s.leader.definitions), len(s.leader.entries)
	return stats
}

// tardy is how late a due time counts as late.
const tardy = 10 * time.Second

// count counts a step that was confirmed and has moved the watermark. mu is held.
func (s *Schedules) count(one *step) {
	v := &one.verdict
	log := s.log.With(zap.String("schedule", one.next.Name), zap.Time("due", v.due))
	s.counts.Missed += uint64(one.missed())
	switch {
	case v.skipped:
		s.counts.Skipped++
		log.Info("a due time is left out, because the run before has not ended")
	case v.fire:
		s.counts.Fired++
		if one.late = max(s.clock().Sub(one.definition.fires(v.due)), 0); one.late > tardy {
			s.counts.Late++
		}
	}
	if v.missed > 0 && !v.skipped {
		log.Warn("due times were left out", zap.Int("missed", v.missed))
	}
	if v.lost {
		log.Warn("the run before has not ended for long; it is taken as ended", zap.Timep("run", one.entry.token.Running))
	}
}

// missed is how many due times the step leaves out that no run has held up.
func (s *step) missed() int {
	if v := &s.verdict; v.fire || v.skipped {
		return v.missed
	}
	return s.verdict.missed + 1
}

var errSkipped = errors.New("schedule: the due time is left out, because the run before has not ended")

// tell tells the observers of the setup what count has counted. An observer may take long.
func (s *Schedules) tell(ctx context.Context, one *step) {
	v, missed := &one.verdict, one.missed()
	due := &harebus.DueTime{Schedule: one.next.Name, At: v.due, Late: one.late, Skipped: v.skipped, Missed: missed}
	if !v.fire {
		due.Late = -1
	}
	var err error
	switch {
	case v.skipped:
		err = errSkipped
	case missed > 0:
		err = fmt.Errorf("schedule: %d due times are left out, because they passed while no instance ran", missed)
	}
	s.setup.Bus().Observe(ctx, harebus.Observation{Operation: harebus.OpDue, Queue: s.setup.Queue(), Due: due}, err)
}
