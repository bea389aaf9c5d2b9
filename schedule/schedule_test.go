package schedule

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/harebus/harebus"
)

// TestOnceForTheService: whatever number of instances runs, each due time is handled once, at its
// time.
func TestOnceForTheService(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		began := time.Now()
		for _, name := range []string{"a", "b", "c"} {
			i := r.instance(name)
			i.add("daily", "0 3 * * *")
			i.start()
		}
		time.Sleep(2 * 24 * time.Hour)
		r.complete("daily", "0 3 * * *", began, time.Now())
		if _, repeated := r.seen("daily"); repeated != 0 {
			t.Errorf("%d runs were repeated", repeated)
		}
		for _, one := range r.runs {
			if late := one.when.Sub(one.At); late > 100*time.Millisecond {
				t.Errorf("%v was handled %v late", one.At, late)
			}
		}
	})
}

// TestFaultySchedules: every fault is reported by the call, and names what is wrong.
func TestFaultySchedules(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		i := r.instance("a")
		i.add("twice", "@daily")
		for name, c := range map[string]struct {
			err  error
			want []string
		}{
			"twice":       {i.Add("twice", "@daily", i.note), []string{"already"}},
			"no name":     {i.Add("", "@daily", i.note), []string{"it is empty"}},
			"long name":   {i.Add(strings.Repeat("x", 300), "@daily", i.note), []string{"300 bytes"}},
			"line break":  {i.Add("a\nb", "@daily", i.note), []string{"control"}},
			"not UTF-8":   {i.Add("a\xffb", "@daily", i.note), []string{"UTF-8"}},
			"zero byte":   {i.Add("a\x00b", "@daily", i.note), []string{"control"}},
			"too long":    {i.Add(strings.Repeat("x", 201), "@daily", i.note), []string{"201 bytes, more than 200"}},
			"no handler":  {i.Add("x", "@daily", nil), []string{"handler is nil"}},
			"no zone":     {i.Add("x", "@daily", i.note, In(nil)), []string{"time.LoadLocation"}},
			"all at once": {i.Add("x", "@daily x", nil, In(nil), CatchUp(9, -1), Overlap(7)), []string{"@daily x", "handler", "LoadLocation", "9 is none", "negative", "7 is none"}},
			"jitter":      {i.Add("x", "* * * * *", i.note, Jitter(time.Minute)), []string{"not less than the interval"}},
			"type":        {i.Add("x", "@daily", i.note, Handling(harebus.WithTimeout(1), harebus.WithType("y"))), []string{"leave WithType out"}},
			"no message":  {i.AddMessage("x", "@daily", Self(), nil), []string{"function"}},
			"nowhere":     {i.AddMessage("x", "@daily", Destination{}, func(Due) any { return nil }), []string{"Self, Queue or Topic"}},
			"bad queue":   {i.AddMessage("x", "@daily", Queue("amq.x"), func(Due) any { return nil }), []string{"amq."}},
		} {
			for _, want := range c.want {
				if c.err == nil || !strings.Contains(c.err.Error(), want) {
					t.Errorf("%s: %v, want %q", name, c.err, want)
				}
			}
		}
		setup, err := harebus.New(harebus.Config{})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := New(setup, Config{}); !errors.Is(err, harebus.ErrNoQueue) {
			t.Errorf("without a queue: %v", err)
		}
		if _, err := New(i.setup, Config{}); err == nil || !strings.Contains(err.Error(), "already") {
			t.Errorf("twice: %v", err)
		}
	})
}

// TestMessages: a schedule can send a message to another queue, a topic, or a handler of the service,
// always under the same id for a due time.
func TestMessages(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		i := r.instance("a", func(c *harebus.Config, _ *Config) { c.Subscriptions = []string{"stock.#"} })
		var got []string
		for _, kind := range []string{"self", "queue", "topic"} {
			i.setup.HandleMessage(kind, func(_ context.Context, _ *harebus.Bus, m *harebus.Message) error {
				got = append(got, kind)
				return nil
			})
		}
		for kind, to := range map[string]Destination{"self": Self(), "queue": Queue("shop"), "topic": Topic("stock.check")} {
			if err := i.AddMessage(kind, "@hourly", to, func(due Due) any { return command{kind} }); err != nil {
				t.Fatal(err)
			}
		}
		i.start()
		time.Sleep(2*time.Hour + time.Second)
		slices.Sort(got)
		if want := []string{"queue", "queue", "self", "self", "topic", "topic"}; !slices.Equal(got, want) {
			t.Errorf("got %v", got)
		}
	})
}

// command is a message of the type that it names.
type command struct{ Kind string }

func (c command) MessageType() string { return c.Kind }
