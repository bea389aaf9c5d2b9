package schedule

import (
	"fmt"
	"testing"
	"time"
)

// TestManySchedules: each gets its token and is fired once, together with all others.
func TestManySchedules(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		const schedules = 1_000
		i := r.instance("a")
		for n := range schedules {
			i.add(fmt.Sprint("schedule ", n), "0 * * * *")
		}
		i.start()
		time.Sleep(10 * time.Second)
		if stats := i.Stats(); stats.Tokens != schedules {
			t.Fatalf("%d tokens", stats.Tokens)
		}
		time.Sleep(time.Hour)
		seen := map[string]bool{}
		for _, one := range r.runs {
			if late := one.when.Sub(one.At); late > 10*time.Second || seen[one.Schedule] {
				t.Fatalf("%s: %v late, or twice", one.Schedule, late)
			}
			seen[one.Schedule] = true
		}
		if len(seen) != schedules {
			t.Errorf("%d were fired", len(seen))
		}
	})
}
