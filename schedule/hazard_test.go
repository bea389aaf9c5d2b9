package schedule

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/harebus/harebus"
)

const tokens = "shop.schedules"

// put publishes messages into a queue, as a plain client.
func (r *rig) put(queue string, messages ...amqp.Publishing) {
	r.t.Helper()
	ch, end := r.channel()
	defer end()
	for _, m := range messages {
		if err := ch.PublishWithContext(r.t.Context(), "", queue, true, false, m); err != nil {
			r.t.Fatal(err)
		}
	}
	if _, err := ch.QueueDeclarePassive(queue, true, false, false, false, nil); err != nil { // they have arrived
		r.t.Fatal(err)
	}
}

// channel is one of a plain client.
func (r *rig) channel() (ch *amqp.Channel, end func()) {
	r.t.Helper()
	conn, err := amqp.DialConfig(r.broker.URL(), amqp.Config{Dial: r.broker.Dial})
	if err != nil {
		r.t.Fatal(err)
	}
	if ch, err = conn.Channel(); err != nil {
		r.t.Fatal(err)
	}
	return ch, func() { _ = conn.Close() }
}

// stored is the message of a token.
func stored(body string) amqp.Publishing {
	return amqp.Publishing{Type: typeToken, MessageId: harebus.NewMessageID(), ContentType: "application/json", DeliveryMode: amqp.Persistent, Body: []byte(body)}
}

// token is the one token of a schedule in the queue.
func (r *rig) token(name string) string {
	r.t.Helper()
	var found []string
	for _, m := range r.broker.Messages(tokens) {
		if strings.Contains(string(m.Body), fmt.Sprintf("%q", name)) && m.Type == typeToken {
			found = append(found, string(m.Body))
		}
	}
	if len(found) != 1 {
		r.t.Fatalf("%d tokens of %s: %v", len(found), name, found)
	}
	return found[0]
}

// TestTokensBehindTheMark: a schedule is not taken for a new one while its token may still come.
func TestTokensBehindTheMark(t *testing.T) {
	t.Parallel()
	now := time.Now()
	l := newLeader()
	l.definitions["x"] = &definition{name: "x", timetable: every(time.Minute), zone: time.UTC, within: time.Hour}
	old := &token{Name: "x", Last: now.Add(-90 * time.Second)}

	first := l.mark(false)
	if complete, _ := l.returned(first); complete || len(l.missing(now)) != 0 {
		t.Fatal("a mark that was sent before this instance was active is enough")
	}
	probe := l.mark(true)
	stale := l.mark(true)
	if complete, _ := l.returned(probe); complete {
		t.Fatal("an earlier probe counts")
	}
	e, what := l.arrive(old, "1", false, now)
	if s, _, _ := l.look(e, now); what != fateCounts || s == nil || s.message == nil || !s.message.At.Equal(now.Add(-30*time.Second)) {
		t.Fatalf("the token that came is not due: %+v", s)
	}
	if complete, changed := l.returned(stale); !complete || !changed || len(l.missing(now)) != 0 {
		t.Fatal("the last probe does not count, or the schedule is missing although its token is here")
	}
}

// holding is a keeper that holds, until it is released.
type holding struct{ released bool }

func (h *holding) Release()    { h.released = true }
func (h *holding) Holds() bool { return !h.released }

// TestTokenWaitsForItsSuccessor: a token that comes back after its successor was confirmed waits until that has come. If a mark that
// is behind the successor comes first, another instance has got the successor, and may have acknowledged it in favour of the token.
func TestTokenWaitsForItsSuccessor(t *testing.T) {
	t.Parallel()
	for _, elsewhere := range []bool{false, true} {
		now := time.Now()
		l := newLeader()
		l.definitions["x"] = &definition{name: "x", timetable: every(time.Hour), zone: time.UTC, within: time.Hour}
		old := &token{Name: "x", Last: now}
		for n := range crowd + 1 {
			l.entries[fmt.Sprint(n)] = &entry{}
		}
		e, _ := l.arrive(old, "1", true, now)
		if !l.gather(e, now) {
			t.Fatal("it does not wait for the others")
		}
		e.hold, e.timer = &holding{}, nil
		if l.gather(e, now) {
			t.Fatal("it waits for the others again")
		}
		s, _, _ := l.look(e, now)
		l.confirmed(s, now)
		successor, what := l.arrive(old, "1", true, now)
		if what != fateEarly || successor.id != s.id {
			t.Fatalf("it does not wait: %v", what)
		}
		waits := &holding{}
		successor.early = append(successor.early, waits)
		if elsewhere {
			l.returned(l.mark(true))
			if _, what := l.arrive(old, "1", true, now); !waits.released || what != fateCounts {
				t.Errorf("without its successor it is %v", what)
			}
			continue
		}
		l.arrive(&s.next, s.id, false, now)
		successor.stop() // as when it is held
		successor.hold = &holding{}
		if _, what := l.arrive(old, "1", true, now); !waits.released || what != fateNeedless {
			t.Errorf("with its successor it is %v", what)
		}
	}
}

// TestTwoTokens: of two tokens the later watermark counts, and one that was made because none was
// found never does.
func TestTwoTokens(t *testing.T) {
	t.Parallel()
	now := time.Now()
	a, b := &token{Last: now}, &token{Last: now.Add(time.Second)}
	fresh, older := &token{Last: now.Add(time.Hour), Fresh: true}, &token{Last: now.Add(time.Minute), Fresh: true}
	changed := &token{Last: now, Revision: 1}
	for i, pair := range [][2]*token{{b, a}, {a, fresh}, {older, fresh}, {changed, a}, {b, changed}} {
		if !pair[0].beats(pair[1]) || pair[1].beats(pair[0]) || pair[0].beats(pair[0]) {
			t.Errorf("pair %d: the wrong one counts", i)
		}
	}
}

// TestQueueThatTakesNothing: while the queue of the service is full the tokens wait, and then
// nothing is missing.
func TestQueueThatTakesNothing(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		full := func(c *harebus.Config, _ *Config) {
			c.QueueOptions.Arguments = map[string]any{"x-max-length": 1, "x-overflow": "reject-publish"}
			c.Handling.Timeout = -1
		}
		i := r.instance("a", full)
		gate := make(chan struct{})
		err := i.Add("ten", "*/10 * * * * *", func(ctx context.Context, bus *harebus.Bus, due Due) error {
			<-gate
			return i.note(ctx, bus, due)
		}, CatchUp(All, time.Hour))
		if err != nil {
			t.Fatal(err)
		}
		i.start()
		time.Sleep(5 * time.Second)
		began := time.Now()
		time.Sleep(30 * time.Minute) // ten handlers and the queue are full after two
		if r.logged("cannot be put into the queue") == 0 {
			t.Error("no warning")
		}
		close(gate)
		time.Sleep(time.Minute)
		r.between("ten", "*/10 * * * * *", began, time.Now().Add(-time.Minute))
	})
}

// TestAllAway: due times that passed while no instance ran are caught up by the policy.
func TestAllAway(t *testing.T) {
	for name, c := range map[string]struct {
		policy CatchUpPolicy
		within time.Duration
		want   []int // days ago
		missed []int
	}{
		"all":           {All, 100 * time.Hour, []int{3, 2, 1}, []int{0, 0, 0}},
		"all of a day":  {All, 24 * time.Hour, []int{1}, []int{2}},
		"latest":        {Latest, 0, []int{1}, []int{2}},
		"latest, short": {Latest, time.Hour, nil, nil},
		"none":          {None, 0, nil, nil},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, r *rig) {
				begin := func(name string) *instance {
					i := r.instance(name)
					i.add("daily", "0 12 * * *", CatchUp(c.policy, c.within))
					return i.start()
				}
				a := begin("a")
				time.Sleep(36*time.Hour + 10*time.Second) // one run; it is past noon
				a.stop()
				first, _ := r.seen("daily")
				if len(first) != 2 {
					t.Fatalf("runs before: %v", first)
				}
				time.Sleep(3*24*time.Hour + 6*time.Hour)
				b := begin("b")
				time.Sleep(time.Minute)
				got, _ := r.seen("daily")
				var missed []int
				for _, one := range r.runs[2:] {
					missed = append(missed, one.Missed)
				}
				var want []time.Time
				for _, days := range c.want {
					want = append(want, first[1].Add(time.Duration(4-days)*24*time.Hour))
				}
				if !slices.EqualFunc(got[2:], want, time.Time.Equal) || !slices.Equal(missed, c.missed) {
					t.Errorf("caught up %v, missed %v; want %v, %v", got[2:], missed, want, c.missed)
				}
				time.Sleep(24 * time.Hour)
				if again, _ := r.seen("daily"); len(again) != len(got)+1 {
					t.Errorf("a day later there are %d runs, want %d", len(again), len(got)+1)
				}
				if c.want == nil && r.runs[2].Missed != 3 {
					t.Errorf("the next run says that %d were missed, want 3", r.runs[2].Missed)
				}
				if stats := b.Stats(); stats.Missed != uint64(3-len(c.want)) || !stats.Leads || stats.LeaderChanges != 1 {
					t.Errorf("stats: %+v", stats)
				}
			})
		})
	}
}

// TestManyTakeovers: a token that passes from instance to instance without being due stays, however
// often.
func TestManyTakeovers(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		var last *instance
		for n := range 45 {
			next := r.instance(fmt.Sprint(n))
			next.add("weekly", "@weekly")
			next.start()
			if last != nil {
				if n%2 == 0 {
					last.die()
				}
				last.bury()
			}
			last = next
			time.Sleep(10 * time.Second)
		}
		if !strings.Contains(r.token("weekly"), `"fresh":true`) || r.logged("begins anew") != 0 || last.Stats().Tokens != 1 {
			t.Errorf("the token was lost: %s", r.token("weekly"))
		}
		for _, m := range r.broker.Messages(tokens) {
			if m.DeliveryCount > 1 {
				t.Errorf("the broker has counted %d deliveries", m.DeliveryCount)
			}
		}
	})
}

// TestQueueIsDeleted: when the queue of the tokens is deleted the schedules begin anew at their next
// due time. The instance that had the tokens warns of it.
func TestQueueIsDeleted(t *testing.T) {
	for _, instances := range []int{1, 2} {
		t.Run(fmt.Sprint(instances), func(t *testing.T) {
			bubble(t, func(t *testing.T, r *rig) {
				for n := range instances {
					i := r.instance(fmt.Sprint(n))
					i.add("hourly", "@hourly")
					i.start()
				}
				time.Sleep(92 * time.Minute) // between two renewals: one that is under way would save the token
				if err := r.broker.DeleteQueue(tokens); err != nil {
					t.Fatal(err)
				}
				time.Sleep(3 * time.Hour)
				if runs, repeated := r.seen("hourly"); len(runs) != 4 || repeated != 0 {
					t.Errorf("runs: %v, %d repeated", runs, repeated)
				}
				if r.logged("begins anew")+r.logged("it is a new one") < 2 || instances == 1 && r.logged("begins anew") != 1 {
					t.Errorf("no warning in %v", r.logs.All())
				}
			})
		})
	}
}

// TestQueueIsPurged: a purge takes the tokens that nobody holds. The schedules begin anew at their next due time, with a
// warning of the instance that knew them. Tokens that the leader holds are not purged.
func TestQueueIsPurged(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		i := r.instance("a")
		i.add("hourly", "@hourly")
		i.start()
		purge := func() {
			t.Helper()
			ch, end := r.channel()
			defer end()
			if _, err := ch.QueuePurge(tokens, false); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(92 * time.Minute)
		purge() // the leader holds the token
		time.Sleep(time.Hour)
		if runs, _ := r.seen("hourly"); len(runs) != 2 || r.logged("begins anew") != 0 {
			t.Errorf("after a purge while the leader holds the token: %v", runs)
		}
		if err := i.setup.Pause(t.Context()); err != nil {
			t.Fatal(err)
		}
		purge() // nobody does
		if err := i.setup.Resume(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(3 * time.Hour)
		if runs, repeated := r.seen("hourly"); len(runs) != 5 || repeated != 0 || r.logged("begins anew") != 1 {
			t.Errorf("runs: %v, %d repeated; %d warnings", runs, repeated, r.logged("begins anew"))
		}
		r.token("hourly")
	})
}

// TestClockWasWrong: a token with a watermark in the future waits, with a warning; rm mends it.
func TestClockWasWrong(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		i := r.instance("a")
		i.add("hourly", "@hourly")
		i.start()
		time.Sleep(time.Second)
		r.put(tokens, stored(fmt.Sprintf(`{"name":"hourly","last":%q}`, time.Now().Add(24*time.Hour).Format(time.RFC3339Nano))))
		time.Sleep(3 * time.Hour)
		if runs, _ := r.seen("hourly"); len(runs) != 0 || r.logged("watermark in the future") == 0 {
			t.Fatalf("runs %v, %d warnings", runs, r.logged("watermark in the future"))
		}
		if a := r.ask(request{Do: "rm", Name: "hourly"}); a.Error != "" {
			t.Fatal(a.Error)
		}
		time.Sleep(3 * time.Hour)
		if runs, _ := r.seen("hourly"); len(runs) != 3 {
			t.Errorf("after rm: %v", runs)
		}
	})
}

// TestStrangeMessages: what is none of ours in the queue of the tokens is moved to the error queue,
// and the schedules go on.
func TestStrangeMessages(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		i := r.instance("a")
		i.add("hourly", "@hourly")
		i.start()
		time.Sleep(time.Second)
		strange := []amqp.Publishing{
			{Body: []byte("hello")}, {Type: "Order", Body: []byte("{}")}, stored(`{`), stored(`{"name":"x"}`), stored(`{"last":"2026-01-01T00:00:00Z"}`),
			{Type: typeMark, ContentType: "application/json", Body: []byte(`[]`)}, {Type: typeDone, ContentType: "text/plain", Body: []byte("x")},
		}
		r.put(tokens, strange...)
		r.put(tokens, amqp.Publishing{Type: typeMark, ContentType: "application/json", Body: []byte(`{}`)},
			amqp.Publishing{Type: typeDone, ContentType: "application/json", Body: []byte(`{}`)},
			stored(`{"name":"unknown","last":"2026-01-01T00:00:00Z","running":"2026-01-01T00:00:00Z"}`))
		time.Sleep(3 * time.Hour)
		if n := len(r.broker.Messages("error")); n != len(strange) {
			t.Errorf("%d messages in the error queue, want %d", n, len(strange))
		}
		if runs, _ := r.seen("hourly"); len(runs) != 3 {
			t.Errorf("runs: %v", runs)
		}
	})
}

// TestRollingDeployment: while two versions run, each due time of what both define is fired once.
// What only one of them defines keeps its token, which goes 30 days after nobody defines it.
func TestRollingDeployment(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		version := func(name string, schedules map[string]string) *instance {
			i := r.instance(name)
			for schedule, cron := range schedules {
				i.add(schedule, cron, CatchUp(All, 0))
			}
			return i.start()
		}
		one := map[string]string{"same": "*/10 * * * *", "changed": "@hourly", "removed": "@hourly"}
		two := map[string]string{"same": "*/10 * * * *", "changed": "30 * * * *", "added": "@hourly"}
		began := time.Now()
		a, b := version("a1", one), version("b1", one)
		time.Sleep(100 * time.Minute)
		a.stop()
		a = version("a2", two)
		time.Sleep(2 * time.Hour)
		b.die()
		b.bury()
		version("b2", two)
		time.Sleep(2 * time.Hour)
		a.stop()
		time.Sleep(time.Hour)
		r.complete("same", one["same"], began, time.Now())
		r.token("removed")
		if added, _ := r.seen("added"); len(added) < 2 {
			t.Errorf("added: %v", added)
		}
		if changed, _ := r.seen("changed"); changed[len(changed)-1].Minute() != 30 {
			t.Errorf("changed: %v", changed)
		}
	})
}

// TestTokenThatNobodyDefines: a token without a definition is kept for 30 days, and no longer; a
// definition that comes back ends that.
func TestTokenThatNobodyDefines(t *testing.T) {
	t.Parallel()
	l, now := newLeader(), time.Now()
	e, _ := l.arrive(&token{Name: "x", Last: now.Add(-time.Hour)}, "1", false, now)
	s, _, gone := l.look(e, now)
	if gone || s == nil || s.message != nil || !s.next.Orphan.Equal(now) {
		t.Fatalf("a token without a definition: %+v, gone %v", s, gone)
	}
	l.confirmed(s, now)
	e, _ = l.arrive(&s.next, s.id, false, now)
	if s, _, gone := l.look(e, now.Add(29*24*time.Hour)); gone || s == nil || s.message != nil {
		t.Fatalf("after 29 days: %+v, gone %v", s, gone)
	}
	if _, _, gone := l.look(e, now.Add(31*24*time.Hour)); !gone {
		t.Fatal("after 31 days it is not gone")
	}
	l.definitions["x"] = &definition{name: "x", timetable: every(time.Hour), zone: time.UTC, within: time.Hour}
	if s, _, gone := l.look(e, now.Add(time.Minute)); gone || s == nil || s.next.Orphan != nil || s.message == nil {
		t.Fatalf("with a definition: %+v", s)
	}
}

// TestTokenIsRemoved: a token that nobody has defined for almost 30 days is still there, and an hour later it is removed, which
// the log says once.
func TestTokenIsRemoved(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		i := r.instance("a")
		i.add("stays", "@weekly")
		i.start()
		time.Sleep(time.Minute)
		long := time.Now().Add(time.Hour - 30*24*time.Hour).Format(time.RFC3339)
		r.put(tokens, stored(fmt.Sprintf(`{"name":"goes","last":%q,"orphan":%q}`, long, long)))
		time.Sleep(50 * time.Minute)
		if r.token("goes"); r.logged("is removed") != 0 {
			t.Error("it is removed before the 30 days are over")
		}
		time.Sleep(30 * time.Minute)
		r.token("stays")
		if n := len(r.broker.Messages(tokens)); n != 1 || i.Stats().Tokens != 1 || r.logged("is removed") != 1 {
			t.Errorf("%d messages in the queue, %d tokens, said %d times", n, i.Stats().Tokens, r.logged("is removed"))
		}
	})
}

// TestTwoSetups: two setups of one service in one process share the schedules.
func TestTwoSetups(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		began := time.Now()
		for _, name := range []string{"a", "b"} {
			i := r.instance(name)
			i.add("five", "*/5 * * * *", Jitter(time.Minute))
			i.start()
		}
		time.Sleep(3 * time.Hour)
		r.complete("five", "*/5 * * * *", began, time.Now().Add(-time.Minute))
		jittered := false
		for _, one := range r.runs {
			late := one.when.Sub(one.At)
			jittered = jittered || late > time.Second
			if late > time.Minute+time.Second {
				t.Errorf("the jitter is %v", late)
			}
		}
		if !jittered {
			t.Error("there is no jitter")
		}
	})
}

// TestOverlap: while a run has not ended, because it is retried or takes long, due times are left
// out and counted; a run that is parked has ended, and one that was purged does not block for ever.
func TestOverlap(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		i := r.instance("a", func(c *harebus.Config, _ *Config) { c.Retry.MaxRetries = 2 })
		calls, parked := 0, 0
		gaveUp := harebus.WithGivenUp(func(context.Context, *harebus.Bus, *harebus.Message, error) error { parked++; return nil })
		err := i.Add("ten", "*/10 * * * *", func(ctx context.Context, bus *harebus.Bus, due Due) error {
			switch calls++; calls {
			case 1: // three failures: it is parked within a minute
				_ = i.note(ctx, bus, due)
				return errors.New("failed")
			case 2, 3:
				return errors.New("failed")
			case 4: // longer than two intervals
				time.Sleep(25 * time.Minute)
			}
			return i.note(ctx, bus, due)
		}, Overlap(Skip), Handling(harebus.WithTimeout(0), gaveUp))
		if err != nil {
			t.Fatal(err)
		}
		i.start()
		began := time.Now()
		time.Sleep(65 * time.Minute)
		got, _ := r.seen("ten")
		var minutes []int
		for _, at := range got {
			minutes = append(minutes, int(at.Sub(began).Minutes()))
		}
		if want := []int{10, 20, 50, 60}; !slices.Equal(minutes, want) {
			t.Errorf("runs at the minutes %v, want %v", minutes, want)
		}
		if r.runs[2].Missed != 2 || i.Stats().Skipped != 2 {
			t.Errorf("missed %d, skipped %d; want 2", r.runs[2].Missed, i.Stats().Skipped)
		}
		if parked != 1 {
			t.Errorf("the function for a message that is given up was called %d times", parked)
		}
	})
}

// TestOverlapOfALostRun: a run whose message was purged does not block the schedule for ever.
func TestOverlapOfALostRun(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		i := r.instance("a")
		i.add("ten", "*/10 * * * *", Overlap(Skip))
		i.start()
		time.Sleep(time.Second)
		at := time.Now().Truncate(time.Minute)
		r.put(tokens, stored(fmt.Sprintf(`{"name":"ten","last":%q,"running":%q}`, at.Format(time.RFC3339), at.Format(time.RFC3339))))
		time.Sleep(65 * time.Minute)
		if got, _ := r.seen("ten"); len(got) != 1 || r.logged("taken as ended") != 1 {
			t.Errorf("runs %v, %d warnings", got, r.logged("taken as ended"))
		}
	})
}
