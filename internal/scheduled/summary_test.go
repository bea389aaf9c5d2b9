package scheduled_test

import (
	"strings"
	"testing"
	"time"

	"github.com/harebus/harebus/internal/scheduled"
	"github.com/harebus/harebus/topology"
)

// TestSummary: what is paused is neither overdue nor next.
func TestSummary(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	at := func(d time.Duration) *time.Time { when := now.Add(d); return &when }
	s := scheduled.State{Leader: "host-1", Defined: map[string]bool{"late": true, "soon": true, "later": true, "paused": true}, Tokens: []scheduled.Token{
		{Name: "late", Next: at(-2 * time.Minute)}, {Name: "later", Next: at(time.Hour)}, {Name: "paused", Next: at(-time.Hour), Paused: true}, {Name: "soon", Next: at(time.Minute)},
	}}
	sum := s.Summary(now)
	if sum.Leader != "host-1" || sum.Schedules != 4 || sum.Paused != 1 || strings.Join(sum.Overdue, " ") != "late" || sum.Next != "late" || !sum.At.Equal(now.Add(-2*time.Minute)) {
		t.Errorf("%+v", sum)
	}
	if got := strings.Join(s.Remarks(&s.Tokens[0], now), ", ") + "; " + strings.Join(s.Remarks(&s.Tokens[2], now), ", "); got != "overdue; paused" {
		t.Error(got)
	}
	if sum := (&scheduled.State{}).Summary(now); sum.Schedules != 0 || sum.At != nil || sum.Overdue != nil {
		t.Errorf("without tokens: %+v", sum)
	}
}

// TestHolds: only a queue with one active consumer holds tokens.
func TestHolds(t *testing.T) {
	t.Parallel()
	single := map[string]any{"x-single-active-consumer": true}
	for _, c := range []struct {
		queue topology.Queue
		want  bool
	}{
		{topology.Queue{Name: "shop.schedules", Arguments: single}, true},
		{topology.Queue{Name: "shop.schedules"}, false},
		{topology.Queue{Name: "shop.schedules", Arguments: map[string]any{"x-single-active-consumer": "true"}}, false},
		{topology.Queue{Name: "shop", Arguments: single}, false},
	} {
		if got := scheduled.Holds(c.queue); got != c.want {
			t.Errorf("%+v: %t", c.queue, got)
		}
	}
}
