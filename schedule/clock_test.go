package schedule

import (
	"testing"
	"time"
)

// skew makes the clock of an instance wrong from now on.
func (i *instance) skew(by time.Duration) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.wrong = by
}

// TestClockOfTheLeader: when the clock of the leader is set back by an hour nothing is fired again, and its tokens are renewed as
// before. The next leader, whose clock is right, goes on where it was.
func TestClockOfTheLeader(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		begin := func(name string) *instance {
			i := r.instance(name)
			i.add("five", "*/5 * * * *", CatchUp(All, 3*time.Hour))
			return i.start()
		}
		a := begin("a")
		a.leadsWithin(time.Minute)
		began := time.Now()
		time.Sleep(33 * time.Minute)
		a.skew(-time.Hour)
		before, published := len(r.noted()), a.setup.Stats().Published
		time.Sleep(40 * time.Minute)
		if n := len(r.noted()) - before; n != 0 {
			t.Errorf("%d runs while the clock is an hour back", n)
		}
		if n := a.setup.Stats().Published - published; n < 7 || n > 10 {
			t.Errorf("%d messages in 40 minutes, want one in five minutes", n)
		}
		if r.logged("watermark in the future") == 0 {
			t.Error("no warning of the watermark")
		}
		b := begin("b")
		a.stop()
		b.leadsWithin(2 * time.Second)
		time.Sleep(20 * time.Minute)
		r.complete("five", "*/5 * * * *", began, time.Now())
	})
}

// TestClockSetForward: what came due by the new clock is caught up by the policy, within five minutes. When the clock is right again
// the schedule waits for the time that it has fired already.
func TestClockSetForward(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		i := r.instance("a")
		i.add("hourly", "30 * * * *")
		i.start()
		time.Sleep(time.Minute)
		i.skew(24 * time.Hour)
		time.Sleep(6 * time.Minute)
		if len(r.noted()) != 1 || r.noted()[0].Missed != 23 {
			t.Fatalf("runs after a day that was not: %+v", r.noted())
		}
		i.skew(0)
		time.Sleep(12 * time.Hour)
		if len(r.noted()) != 1 || r.logged("watermark in the future") == 0 {
			t.Errorf("%d runs, %d warnings", len(r.noted()), r.logged("watermark in the future"))
		}
		time.Sleep(24 * time.Hour)
		if len(r.noted()) < 12 {
			t.Errorf("%d runs", len(r.noted()))
		}
	})
}

// TestAttemptsAfterTheClockWasSetBack: a token whose successor was refused does not wait for the hour to come again.
func TestAttemptsAfterTheClockWasSetBack(t *testing.T) {
	t.Parallel()
	l, now := newLeader(), time.Now()
	l.definitions["x"] = &definition{name: "x", timetable: every(time.Minute), zone: time.UTC, within: time.Hour}
	e, _ := l.arrive(&token{Name: "x", Last: now.Add(-2 * time.Hour)}, "1", false, now)
	e.failed(now)
	if s, wake, _ := l.look(e, now); s != nil || !wake.After(now) {
		t.Fatalf("an attempt at once: %+v, %v", s, wake)
	}
	if s, _, _ := l.look(e, now.Add(-time.Hour)); s == nil || s.message == nil {
		t.Errorf("no attempt when the clock is an hour back: %+v", s)
	}
}
