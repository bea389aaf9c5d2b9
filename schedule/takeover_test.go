package schedule

import (
	"testing"
	"time"

	"github.com/harebus/harebus"
)

// leadsWithin fails the test unless the instance leads after so long at most.
func (i *instance) leadsWithin(limit time.Duration) {
	i.r.t.Helper()
	began := time.Now()
	for !i.Stats().Leads {
		if time.Since(began) > limit {
			i.r.t.Fatalf("%s does not lead after %v", i.name, limit)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// TestTakeover: the next instance leads a second after the connections of the leader have ended.
func TestTakeover(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		a := r.hourly("a")
		b := r.hourly("b")
		a.leadsWithin(time.Minute)
		a.die()
		b.leadsWithin(time.Second)
		a.bury()
		c := r.hourly("c")
		b.stop()
		c.leadsWithin(time.Second)
	})
}

// TestFrozenLeader: a leader that is frozen for less than its heartbeats still leads when it wakes. One that is frozen for longer
// is replaced within two heartbeats, and does no harm when it wakes.
func TestFrozenLeader(t *testing.T) {
	for name, frozen := range map[string]time.Duration{"short": 3 * time.Second, "long": 40 * time.Second} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, r *rig) {
				begin := func(name string) *instance {
					i := r.instance(name, func(c *harebus.Config, _ *Config) { c.Connect.Heartbeat = 5 * time.Second })
					i.add("two", "*/2 * * * * *", CatchUp(All, time.Hour))
					return i.start()
				}
				a := begin("a")
				a.leadsWithin(time.Minute)
				b := begin("b")
				time.Sleep(5 * time.Second)
				began := time.Now()
				a.freeze(frozen)
				if long := frozen > 10*time.Second; long {
					b.leadsWithin(10 * time.Second)
				}
				time.Sleep(2 * time.Minute)
				if b.Stats().Leads == a.Stats().Leads {
					t.Error("both lead, or none")
				}
				r.between("two", "*/2 * * * * *", began, time.Now().Add(-2*time.Second))
			})
		})
	}
}

// TestIdle: what is not due costs one message in five minutes, and nothing is looked at in between.
func TestIdle(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		i := r.instance("a")
		i.add("yearly", "@yearly")
		i.start()
		time.Sleep(12 * time.Minute) // between two of them
		before := i.setup.Stats().Published
		time.Sleep(time.Hour)
		if n := i.setup.Stats().Published - before; n != 12 {
			t.Errorf("%d messages in an hour, want 12", n)
		}
	})
}
