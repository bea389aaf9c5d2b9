package otelbus

import (
	"strings"
	"time"

	"github.com/harebus/harebus"
)

// tardy is how late a due time of a schedule counts as late, as in schedule.Stats.
const tardy = 10 * time.Second

// schedule is what has become of the due times of one schedule.
type schedule struct{ fired, late, missed, skipped *count }

func (m *metrics) newSchedule(name string) schedule {
	of := keySchedule.String(strings.Clone(name))
	with := func(outcome string) *count { return m.due.with(of, keyOutcome.String(outcome)) }
	return schedule{with("fired"), m.late.with(of), with("missed"), with("skipped")}
}

func (m *metrics) newLead(queue string) *count { return m.leads.with(keyDestination.String(queue)) }

// due counts a due time.
func (o *Observer) due(of *harebus.DueTime) {
	if of == nil {
		return
	}
	s := o.schedules.get(of.Schedule)
	s.missed.Add(int64(of.Missed))
	switch {
	case of.Skipped:
		s.skipped.Add(1)
	case of.Late >= 0:
		s.fired.Add(1)
	}
	if of.Late > tardy {
		s.late.Add(1)
	}
}
