package scheduled

import (
	"strings"
	"time"

	"github.com/harebus/harebus/topology"
)

// Summary is what matters about the schedules of a service together.
type Summary struct {
	Leader    string   `json:"leader"` // empty if none runs
	Schedules int      `json:"schedules"`
	Paused    int      `json:"paused"`
	Overdue   []string `json:"overdue,omitempty"`
	// Next is the schedule that is due next, and At when.
	Next string     `json:"next,omitempty"`
	At   *time.Time `json:"at,omitempty"`
}

// Summary counts.
func (s *State) Summary(now time.Time) Summary {
	sum := Summary{Leader: s.Leader, Schedules: len(s.Tokens)}
	for i := range s.Tokens {
		t := &s.Tokens[i]
		switch {
		case t.Paused:
			sum.Paused++
			continue
		case t.Overdue(now):
			sum.Overdue = append(sum.Overdue, t.Name)
		}
		if t.Next != nil && (sum.At == nil || t.Next.Before(*sum.At)) {
			sum.Next, sum.At = t.Name, t.Next
		}
	}
	return sum
}

// Holds says whether a queue is by its name and its arguments one of tokens.
func Holds(q topology.Queue) bool {
	single, _ := q.Arguments["x-single-active-consumer"].(bool)
	return single && strings.HasSuffix(q.Name, Suffix)
}

// Remarks are what is unusual about a schedule.
func (s *State) Remarks(t *Token, now time.Time) (remarks []string) {
	if t.Paused {
		remarks = append(remarks, "paused")
	}
	if t.Running != nil {
		remarks = append(remarks, "runs since "+t.Running.UTC().Format(time.RFC3339))
	}
	if s.Undefined(t) {
		remarks = append(remarks, "not defined by the leader")
	}
	if t.Future(now) {
		remarks = append(remarks, "in the future: a clock was wrong; rm mends it")
	}
	if t.Overdue(now) {
		remarks = append(remarks, "overdue")
	}
	return remarks
}
