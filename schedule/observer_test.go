package schedule

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/harebus/harebus"
)

// watcher notes what it is told of schedules.
type watcher struct {
	r    *rig
	seen []string
}

func (w *watcher) ObserveStart(ctx context.Context, _ harebus.Observation) context.Context {
	return ctx
}

func (w *watcher) ObserveEnd(_ context.Context, o harebus.Observation, err error) {
	w.r.mu.Lock()
	defer w.r.mu.Unlock()
	switch o.Operation {
	case harebus.OpLead:
		w.seen = append(w.seen, "leads "+o.Queue)
	case harebus.OpDue:
		d := o.Due
		w.seen = append(w.seen, fmt.Sprintf("%s %s late %v, missed %d, skipped %v, error %v", d.Schedule, d.At.UTC().Format("15:04"), d.Late.Round(time.Second), d.Missed, d.Skipped, err != nil))
	default:
	}
}

// TestObserver: observers are told of each due time that is fired or left out, and of takeovers.
func TestObserver(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		w := &watcher{r: r}
		with := func(c *harebus.Config, _ *Config) { c.Observers = []harebus.Observer{w} }
		begin := func(name string) *instance {
			i := r.instance(name, with)
			i.add("hourly", "0 * * * *")
			i.add("short", "0 * * * *", CatchUp(Latest, time.Minute))
			err := i.Add("long", "*/20 * * * *", func(ctx context.Context, _ *harebus.Bus, _ Due) error {
				select {
				case <-time.After(25 * time.Minute):
				case <-ctx.Done():
				}
				return nil
			}, Overlap(Skip), Handling(harebus.WithTimeout(0)))
			if err != nil {
				t.Fatal(err)
			}
			return i.start()
		}
		a := begin("a") // at midnight
		time.Sleep(95 * time.Minute)
		a.stop()
		time.Sleep(94 * time.Minute) // until 03:09
		begin("b")
		time.Sleep(time.Minute)
		want := []string{
			"leads shop",
			"long 00:20 late 0s, missed 0, skipped false, error false",
			"long 00:40 late 0s, missed 0, skipped true, error true",
			"hourly 01:00 late 0s, missed 0, skipped false, error false",
			"short 01:00 late 0s, missed 0, skipped false, error false",
			"long 01:00 late 0s, missed 0, skipped false, error false",
			"long 01:20 late 0s, missed 0, skipped true, error true",
			"leads shop",
			"hourly 03:00 late 9m0s, missed 1, skipped false, error true",
			"short 03:00 late 0s, missed 2, skipped false, error true",
			"long 03:00 late 9m0s, missed 4, skipped false, error true",
		}
		slices.Sort(want)
		r.mu.Lock()
		defer r.mu.Unlock()
		slices.Sort(w.seen)
		if !slices.Equal(w.seen, want) {
			t.Errorf("told:\n%q\nwant:\n%q", w.seen, want)
		}
	})
}
