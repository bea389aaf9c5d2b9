package schedule

import (
	"fmt"
	"testing"
	"time"
)

// TestManySchedules: each gets its token and is fired once, together with all others, also by an instance that has taken over.
func TestManySchedules(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		const schedules = 500
		begin := func(name string) *instance {
			i := r.instance(name)
			for n := range schedules {
				i.add(fmt.Sprint("schedule ", n), "0 * * * *")
			}
			return i.start()
		}
		a := begin("a")
		time.Sleep(10 * time.Second)
		if stats := a.Stats(); stats.Tokens != schedules {
			t.Fatalf("%d tokens", stats.Tokens)
		}
		r.allFired(schedules, time.Hour)
		a.die()
		a.bury()
		b := begin("b")
		time.Sleep(3 * time.Second)
		if stats := b.Stats(); stats.Tokens != schedules || !stats.Leads {
			t.Errorf("three seconds after the takeover: %+v", stats)
		}
		b.mu.Lock()
		if b.wrote > schedules/2 { // for each token a write and the wait for its confirm would take minutes
			t.Errorf("the takeover took %d writes to the broker", b.wrote)
		}
		b.mu.Unlock()
		for _, m := range r.broker.Messages(tokens) {
			if m.DeliveryCount > 0 {
				t.Fatalf("a token was not published anew: %+v", m)
			}
		}
		r.allFired(schedules, time.Hour)
	})
}

// allFired lets time pass, and fails unless so many schedules were fired once meanwhile, and soon.
func (r *rig) allFired(schedules int, d time.Duration) {
	r.t.Helper()
	r.mu.Lock()
	r.runs = nil
	r.mu.Unlock()
	time.Sleep(d)
	r.mu.Lock()
	defer r.mu.Unlock()
	seen := map[string]bool{}
	for _, one := range r.runs {
		if late := one.when.Sub(one.At); late > 10*time.Second || seen[one.Schedule] {
			r.t.Fatalf("%s: %v late, or twice", one.Schedule, late)
		}
		seen[one.Schedule] = true
	}
	if len(seen) != schedules {
		r.t.Errorf("%d were fired", len(seen))
	}
}
