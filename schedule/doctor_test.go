package schedule

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/internal/access"
	"github.com/harebus/harebus/internal/doctor"
	"github.com/harebus/harebus/internal/scheduled"
	"github.com/harebus/harebus/seal"
)

// examine runs the doctor for the service of an instance, and returns what it finds.
func (r *rig) examine(i *instance) []doctor.Finding {
	r.t.Helper()
	return r.report(i).Findings
}

func (r *rig) report(i *instance) *doctor.Report {
	r.t.Helper()
	link, err := access.Broker{URLs: []string{r.broker.URL()}, Dial: r.broker.Dial}.Link("doctor")
	if err != nil {
		r.t.Fatal(err)
	}
	defer link.Close()
	setup, err := harebus.New(harebus.Config{URL: r.broker.URL(), Dial: r.broker.Dial})
	if err != nil {
		r.t.Fatal(err)
	}
	defer func() { _ = setup.Close() }() // it has only asked
	report, err := doctor.Examine(r.t.Context(), doctor.Options{
		Link: link, Bus: setup.Bus(), Want: i.setup.Topology(), File: "shop.json", VHost: "/", ErrorQueue: "error", Tokens: i.queue, Now: time.Now,
	})
	if err != nil {
		r.t.Fatal(err)
	}
	return report
}

// TestDoctorOfSealedTokens: what cannot be seen of schedules is said, and does not end the examination.
func TestDoctorOfSealedTokens(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		i := r.hourly("a")
		i.stop()
		sealed := stored(`{"name":"hourly"}`)
		sealed.ContentType = seal.ContentType
		r.put(tokens, sealed)
		report := r.report(i)
		if said := strings.Join(report.Unchecked, "\n"); !strings.Contains(said, `recurring schedules of queue "shop.schedules": read a token: it is sealed`) || report.Passed == 0 {
			t.Errorf("%+v", report)
		}
	})
}

// TestLookWithoutAnInstance: a look ends where messages that have expired are counted and never come, and it shows the token
// that a leader chooses.
func TestLookWithoutAnInstance(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.hourly("a").stop()
		now := time.Now().UTC().Truncate(time.Second)
		for _, body := range []string{
			`{"name":"x","last":%q,"fresh":true}`, `{"name":"x","last":%q,"revision":2,"paused":true}`, `{"name":"x","last":%q,"revision":1}`,
		} {
			r.put(tokens, stored(fmt.Sprintf(body, now.Format(time.RFC3339))))
			now = now.Truncate(time.Hour)
		}
		gone := stored(`{}`)
		gone.Type, gone.Expiration = typeMark, "1"
		r.put(tokens, gone)
		time.Sleep(time.Second)
		link, err := access.Broker{URLs: []string{r.broker.URL()}, Dial: r.broker.Dial}.Link("look")
		if err != nil {
			t.Fatal(err)
		}
		defer link.Close()
		began := time.Now()
		state, err := scheduled.Client{Link: link, Queue: tokens}.Look(t.Context())
		if err != nil || len(state.Tokens) != 1 || time.Since(began) > 10*time.Second {
			t.Fatalf("%+v, %v, after %v", state, err, time.Since(began))
		}
		if x := state.Tokens[0]; x.Fresh || x.Revision != 2 || !x.Paused {
			t.Errorf("%+v", x)
		}
	})
}

// TestContractWithSchedules: what the library sends itself is no part of a service's contract.
func TestContractWithSchedules(t *testing.T) {
	t.Parallel()
	setup, err := harebus.New(harebus.Config{Queue: "shop"})
	if err != nil {
		t.Fatal(err)
	}
	schedules, err := New(setup, Config{})
	if err != nil {
		t.Fatal(err)
	}
	if err := schedules.Add("nightly", "@daily", func(context.Context, *harebus.Bus, Due) error { return nil }); err != nil {
		t.Fatal(err)
	}
	of, err := setup.Contract()
	if err != nil || len(of.Queues) != 0 || len(of.Receives) != 0 {
		t.Errorf("%+v, %v", of, err)
	}
	setup.HandleMessage("PlaceOrder", func(context.Context, *harebus.Bus, *harebus.Message) error { return nil })
	of, err = setup.Contract()
	if err != nil || len(of.Queues) != 1 || of.Queues[0].Name != "shop" || len(of.Receives) != 1 {
		t.Errorf("%+v, %v", of, err)
	}
}

// finding is the one that has all words; the others do not matter.
func (r *rig) finding(i *instance, words ...string) doctor.Finding {
	r.t.Helper()
	all := r.examine(i)
	for _, f := range all {
		found := true
		for _, word := range words {
			found = found && strings.Contains(f.What+": "+f.Why, word)
		}
		if found {
			return f
		}
	}
	r.t.Fatalf("%q is not among %+v", words, all)
	return doctor.Finding{}
}

// healthy fails unless the doctor finds nothing: the queue of the tokens is in the topology of the service, too, and as wanted.
func (r *rig) healthy(i *instance) {
	r.t.Helper()
	if all := r.examine(i); len(all) > 0 {
		r.t.Fatalf("found: %+v", all)
	}
}

// remove carries out harebus schedule rm as the doctor prints it.
func (r *rig) remove(fix string) {
	r.t.Helper()
	command, _, _ := strings.Cut(fix, "   (")
	name, ok := strings.CutPrefix(command, "harebus schedule rm shop ")
	if !ok {
		r.t.Fatalf("the fix is %q", fix)
	}
	if a := r.ask(request{Do: "rm", Name: name}); a.Error != "" {
		r.t.Fatal(a.Error)
	}
	time.Sleep(2 * time.Second)
}

// TestDoctor plants each fault of schedules, does what the doctor prints, and the doctor finds nothing more.
func TestDoctor(t *testing.T) {
	for name, plant := range map[string]func(*testing.T, *rig, *instance){
		"token without a definition": func(_ *testing.T, r *rig, i *instance) {
			r.put(tokens, stored(fmt.Sprintf(`{"name":"old","last":%q}`, time.Now().Add(-time.Hour).Format(time.RFC3339Nano))))
			time.Sleep(time.Second)
			r.remove(r.finding(i, `schedule "old"`, "not defined by the version", "30 days").Fix)
		},
		"token from the future": func(_ *testing.T, r *rig, i *instance) {
			r.put(tokens, stored(fmt.Sprintf(`{"name":"hourly","last":%q}`, time.Now().Add(24*time.Hour).Format(time.RFC3339Nano))))
			time.Sleep(time.Second)
			r.remove(r.finding(i, `schedule "hourly"`, "in the future", "not fired before").Fix)
		},
		"no instance": func(t *testing.T, r *rig, i *instance) {
			i.stop()
			time.Sleep(2 * time.Hour)
			fix := r.finding(i, "no instance leads", "none of its 2 schedules").Fix
			if late := r.finding(i, `schedule "hourly"`, "was due at", "no instance runs"); fix != "start the service" || late.Fix != fix {
				t.Fatalf("the fixes are %q and %q", fix, late.Fix)
			}
			r.hourly("b")
		},
		"a stranger consumes": func(t *testing.T, r *rig, i *instance) {
			i.stop()
			ch, end := r.channel()
			if _, err := ch.Consume(tokens, "", false, false, false, false, nil); err != nil {
				t.Fatal(err)
			}
			r.hourly("b")
			time.Sleep(time.Minute)
			if f := r.finding(i, "nobody leads", "consumers do not answer"); !strings.HasPrefix(f.Fix, "rabbitmqctl list_consumers -p /") {
				t.Errorf("the fix is %q", f.Fix)
			}
			end() // as the fix says
		},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, r *rig) {
				i := r.hourly("a")
				time.Sleep(time.Minute)
				r.healthy(i)
				plant(t, r, i)
				time.Sleep(time.Minute)
				r.healthy(i)
			})
		})
	}
}

func (r *rig) hourly(name string) *instance {
	r.t.Helper()
	i := r.instance(name)
	i.add("hourly", "@hourly")
	i.add("jittered", "@hourly", Jitter(50*time.Minute))
	return i.start()
}

// TestDoctorSeesThatNothingIsFired: a leader whose messages are refused is found, until there is room for them.
func TestDoctorSeesThatNothingIsFired(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		i := r.instance("a", func(c *harebus.Config, own *Config) {
			c.QueueOptions.Arguments = map[string]any{"x-max-length": 1, "x-overflow": "reject-publish"}
			c.Handling.Timeout = -1
			own.Queue = "shop.tokens"
		})
		gate := make(chan struct{})
		free := sync.OnceFunc(func() { close(gate) })
		defer free()
		err := i.Add("ten", "*/10 * * * * *", func(ctx context.Context, bus *harebus.Bus, due Due) error {
			<-gate
			return i.note(ctx, bus, due)
		})
		if err != nil {
			t.Fatal(err)
		}
		i.start()
		time.Sleep(30 * time.Minute)
		if f := r.finding(i, `schedule "ten" of queue "shop.tokens"`, "has not fired it", "full or gone"); !strings.HasPrefix(f.Fix, "harebus topology apply shop.json   (") {
			t.Errorf("the fix is %q", f.Fix)
		}
		free()
		time.Sleep(time.Minute)
		r.healthy(i)
	})
}
