package schedule

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/harebus/harebus"
)

// TestQueueWithOtherArguments: a queue of that name which is not ours is refused at the start, with its name and what differs.
func TestQueueWithOtherArguments(t *testing.T) {
	for name, args := range map[string]amqp.Table{
		"many consumers": {"x-queue-type": "quorum", "x-delivery-limit": 1_000_000},
		"maximum length": {"x-queue-type": "quorum", "x-delivery-limit": 1_000_000, "x-single-active-consumer": true, "x-max-length": 1},
		"other type":     {"x-single-active-consumer": true},
		"no argument":    nil,
		"low limit":      {"x-queue-type": "quorum", "x-delivery-limit": 20, "x-single-active-consumer": true},
		"expiry":         {"x-queue-type": "quorum", "x-delivery-limit": 1_000_000, "x-single-active-consumer": true, "x-expires": 1000},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, r *rig) {
				ch, end := r.channel()
				defer end()
				if _, err := ch.QueueDeclare(tokens, true, false, false, false, args); err != nil {
					t.Fatal(err)
				}
				i := r.instance("a")
				i.add("hourly", "@hourly")
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				err := i.setup.Start(ctx)
				if err == nil || !strings.Contains(err.Error(), tokens) || !strings.Contains(err.Error(), "inequivalent arg") {
					t.Errorf("started: %v", err)
				}
			})
		})
	}
}

// TestQueueOfTheServiceIsGone: when the queue of the service is deleted the due times after that are fired all the same.
func TestQueueOfTheServiceIsGone(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		i := r.instance("a")
		i.add("ten", "*/10 * * * * *", CatchUp(All, time.Hour))
		i.start()
		time.Sleep(5 * time.Second)
		began := time.Now()
		for range 5 {
			time.Sleep(time.Minute)
			if err := r.broker.DeleteQueue("shop"); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(2 * time.Minute)
		r.between("ten", "*/10 * * * * *", began, time.Now().Add(-10*time.Second))
	})
}

// TestTwoServicesInOneQueue: the one that leads says that the schedules of the other are not fired.
func TestTwoServicesInOneQueue(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		for _, service := range []string{"shop", "stock"} {
			i := r.instance(service, func(c *harebus.Config, own *Config) { c.Queue, own.Queue = service, "schedules" })
			i.add(service, "@hourly")
			i.start()
			time.Sleep(2 * time.Minute)
		}
		time.Sleep(100 * time.Minute)
		said := r.logs.FilterMessageSnippet("two services have their schedules in one queue").All()
		if len(said) != 2 || said[0].ContextMap()["other"] != "stock" {
			t.Errorf("said in 100 minutes: %+v", said)
		}
		if shop, _ := r.seen("shop"); len(shop) != 1 {
			t.Errorf("the service that leads has the runs %v", shop)
		}
	})
}

// TestPauseOutlivesItsLeader: a schedule that one leader has paused stays so for the next one, which resumes it.
func TestPauseOutlivesItsLeader(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		begin := func(name string) *instance {
			i := r.instance(name)
			i.add("hourly", "@hourly", CatchUp(All, 0))
			return i.start()
		}
		a := begin("a")
		b := begin("b")
		time.Sleep(90 * time.Minute)
		for _, do := range []string{"pause", "pause"} {
			if answer := r.ask(request{Do: do, Name: "hourly"}); answer.Error != "" {
				t.Fatal(answer.Error)
			}
		}
		a.die()
		a.bury()
		time.Sleep(3 * time.Hour)
		if got := r.ask(request{Do: "ls"}); len(got.Tokens) != 1 || !got.Tokens[0].Paused || got.Tokens[0].Next != nil {
			t.Errorf("the next leader: %+v", got)
		}
		b.stop()
		begin("c")
		time.Sleep(time.Minute)
		if got := r.ask(request{Do: "resume", Name: "hourly"}); got.Error != "" {
			t.Fatal(got.Error)
		}
		time.Sleep(2 * time.Hour)
		if runs, _ := r.seen("hourly"); len(runs) != 3 {
			t.Errorf("runs: %v; want one before the pause and two after it", runs)
		}
	})
}

// TestRemovedButDefined: harebus schedule rm of a schedule that the service defines lets it begin anew, once.
func TestRemovedButDefined(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		i := r.instance("a")
		i.add("hourly", "@hourly")
		i.add("other", "@hourly")
		i.start()
		time.Sleep(90 * time.Minute)
		for range 3 {
			if answer := r.ask(request{Do: "rm", Name: "hourly"}); answer.Error != "" {
				t.Fatal(answer.Error)
			}
			time.Sleep(2 * time.Minute)
		}
		if !strings.Contains(r.token("hourly"), `"fresh":true`) {
			t.Errorf("the token is %s", r.token("hourly"))
		}
		time.Sleep(2 * time.Hour)
		for _, name := range []string{"hourly", "other"} {
			if runs, repeated := r.seen(name); len(runs) != 3 || repeated != 0 {
				t.Errorf("%s: runs %v, %d repeated", name, runs, repeated)
			}
		}
	})
}

// TestNames: a name is whatever a wire name can be, and no two are mixed up.
func TestNames(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		names := []string{"müll/été.report", "*", "#", "a.b", "a/b", "a b", `"quoted"`, "%s%d", "harebus.schedule.due:x", strings.Repeat("x", longestName)}
		i := r.instance("a")
		for _, name := range names {
			i.add(name, "@hourly", Overlap(Skip))
		}
		i.start()
		time.Sleep(2*time.Hour + time.Minute)
		for _, name := range names {
			if runs, repeated := r.seen(name); len(runs) != 2 || repeated != 0 {
				t.Errorf("%q: runs %v, %d repeated", name, runs, repeated)
			}
		}
		if n := len(r.broker.Messages("error")); n != 0 {
			t.Errorf("%d messages in the error queue", n)
		}
	})
}

// TestLongIntervals: an interval may be longer than any delay of the broker, and than what a duration holds three times.
func TestLongIntervals(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		i := r.instance("a")
		for _, interval := range []string{"17520h", "876000h", "2562047h"} {
			i.add(interval, "@every "+interval, Overlap(Skip))
		}
		i.start()
		time.Sleep(time.Hour)
		a := r.ask(request{Do: "ls"})
		for _, token := range a.Tokens {
			interval, err := time.ParseDuration(token.Name)
			if err != nil || token.Next == nil || !token.Next.Equal(token.Last.Add(interval)) {
				t.Errorf("%s: next %v after %v, %v", token.Name, token.Next, token.Last, err)
			}
		}
		if len(a.Tokens) != 3 || len(r.noted()) != 0 {
			t.Errorf("%d tokens, runs %v", len(a.Tokens), r.noted())
		}
	})
}

// TestTooManySchedules: the one that is too many is refused, at the call.
func TestTooManySchedules(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		i := r.instance("a")
		for n := range most {
			i.leader.definitions[fmt.Sprint(n)] = &definition{}
		}
		if err := i.Add("x", "@daily", i.note); err == nil || !strings.Contains(err.Error(), "20000 schedules, which is the most") {
			t.Errorf("one more: %v", err)
		}
	})
}
