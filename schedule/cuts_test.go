package schedule

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"
)

// TestCuts: the connections of instances are cut, one by one, so that a leader that can no longer
// acknowledge still publishes, beside the next one. Nothing is missing or early, and what comes twice has the same id.
func TestCuts(t *testing.T) {
	t.Parallel()
	const seeds = 40
	cuts := 0
	for seed := range seeds {
		inBubble(t, func(t *testing.T, r *rig) {
			chance := rand.New(rand.NewPCG(uint64(seed), 1))
			for n := range 3 {
				i := r.instance(fmt.Sprint(n))
				i.add("two", "*/2 * * * * *", CatchUp(All, time.Hour))
				i.start()
			}
			time.Sleep(10 * time.Second)
			began := time.Now()
			for range 20 {
				time.Sleep(time.Duration(chance.IntN(4000)) * time.Millisecond)
				all := r.broker.Connections()
				if len(all) == 0 {
					continue
				}
				one := all[chance.IntN(len(all))].Name
				if chance.IntN(3) > 0 && !strings.Contains(one, "consume") {
					continue
				}
				cuts += r.broker.CutConnections(one)
			}
			until := time.Now()
			time.Sleep(30 * time.Second)
			r.between("two", "*/2 * * * * *", began, until)
		})
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
	if cuts < seeds {
		t.Errorf("%d cuts", cuts)
	}
}

// TestClockChanges: the watermark decides, and not what the clock of an instance has shown before: a clock
// that is set back fires nothing again, and one that is set forward catches up.
func TestClockChanges(t *testing.T) {
	t.Parallel()
	last := time.Date(2026, 3, 2, 12, 0, 0, 0, time.UTC)
	d := &definition{name: "x", timetable: every(10 * time.Minute), zone: time.UTC, within: 24 * time.Hour}
	current := &token{Name: "x", Last: last}
	for back := range 60 {
		if v := d.plan(current, last.Add(-time.Duration(back)*time.Minute)); !v.due.IsZero() || !v.wake.Equal(last.Add(10*time.Minute)) {
			t.Fatalf("with a clock set back by %d minutes: %+v", back, v)
		}
	}
	if v := d.plan(current, last.Add(24*time.Hour)); !v.fire || !v.due.Equal(last.Add(24*time.Hour)) || v.missed != 143 {
		t.Errorf("with a clock set forward by a day: %+v", v)
	}
	every1 := &definition{name: "x", timetable: every(time.Second), zone: time.UTC, within: time.Hour}
	if v := every1.plan(current, last.Add(10*365*24*time.Hour)); !v.fire || v.missed == 0 || last.Add(10*365*24*time.Hour).Sub(v.due) > time.Second {
		t.Errorf("ten years of seconds: %+v", v)
	}
}
